"""The app: `vssm app`, or `streamlit run app.py`."""

import streamlit as st

from workbench.app import session

st.set_page_config(page_title="vssm-workbench", layout="wide")
page = st.navigation(
    [st.Page("workbench/app/erf.py", title="Effective receptive field", default=True)]
)
session.sidebar()
page.run()
