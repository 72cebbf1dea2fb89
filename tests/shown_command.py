"""What a page of the app offers to type."""

from streamlit.testing.v1 import AppTest


def shown_command(page: AppTest) -> str:
    """The command line of a page."""
    return next(code.value for code in page.code if code.value.startswith("vssm "))
