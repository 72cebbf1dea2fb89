"""The app: `vssm app`, or `streamlit run app.py`."""

import streamlit as st

from workbench.app import sidebar

st.set_page_config(page_title="vssm-workbench", layout="wide")
# Streamlit's own margins push the pictures out of sight.
st.html("<style>.stMainBlockContainer { padding: 2.5rem min(3rem, 4vw); }</style>")
page = st.navigation(
    [
        st.Page("workbench/app/erf.py", title="Effective receptive field", default=True),
        st.Page("workbench/app/scan_maps.py", title="Scan maps", url_path="scan-maps"),
        st.Page("workbench/app/resolution.py", title="Resolution", url_path="resolution"),
        st.Page("workbench/app/sensitivity.py", title="Sensitivity", url_path="sensitivity"),
    ]
)
sidebar.draw()
page.run()
