"""The app: `vssm app`, or `streamlit run app.py`."""

import os

import streamlit as st

# Before torch is loaded: its threads then sleep while they wait for each other instead of spinning,
# without which a click takes ten times as long whenever another program uses the processor.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from workbench.app import sidebar

st.set_page_config(page_title="vssm-workbench", layout="wide")
# Streamlit's own margins push the pictures out of sight.
st.html("<style>.stMainBlockContainer { padding: 2.5rem min(3rem, 4vw); }</style>")
page = st.navigation(
    [st.Page("workbench/app/erf.py", title="Effective receptive field", default=True)]
)
sidebar.draw()
page.run()
