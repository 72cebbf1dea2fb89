"""The app: `streamlit run app.py`. `vssm app` serves the same, and answers its own page only."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).parent / "workbench" / "app" / "main.py"))
