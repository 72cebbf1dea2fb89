"""How a result shows itself: in a notebook, at the prompt, as a figure, as a table."""

import base64
import html
import io
import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_FOLDED = ("config", "preprocessing", "facts", "dtype", "device", "hash", "provenance")


class Shown:
    """What the figures of its kind say of a result; they are above the results, and imported when
    one is asked for.
    """

    kind: str
    meta: dict[str, Any]

    def plot(self) -> "Figure":
        """The first of its figures.

        Raises:
            ValueError: for a kind that is not drawn, and a result that lacks what is drawn.
        """
        pictures = import_module("workbench.figures")
        with pictures.complete(f"this {self.kind} result"):
            return next(iter(pictures.of(self.kind).sheets([self]))).draw()

    def to_pandas(self) -> "pd.DataFrame":
        """Its first table: a row for each number, with its interval where it has one.

        Raises:
            ValueError: as `plot`.
        """
        import pandas as pd

        pictures = import_module("workbench.figures")
        with pictures.complete(f"this {self.kind} result"):
            table = pictures.csv_table(self)
        return pd.read_csv(io.StringIO(table))

    def _told(self, count: int) -> str:
        """The first lines of its report."""
        pictures = import_module("workbench.figures")
        try:
            with pictures.complete(self.kind):
                title = import_module("workbench.methods").title(self.kind)
                lines = pictures.of(self.kind).report(self).splitlines()
            return "\n".join([f"{title}: {lines[0]}", *lines[1:count]])
        except (ValueError, KeyError):  # not drawn, or put together by hand
            return f"{type(self).__name__} of {self.meta.get('model', 'a model')}"

    def __repr__(self) -> str:
        return self._told(3)

    def _repr_png_(self) -> bytes | None:
        try:
            return import_module("workbench.figures.files").figure_bytes(self.plot(), "png", 110)
        except ValueError:
            return None

    def _repr_html_(self) -> str | None:
        picture = self._repr_png_()
        if picture is None:
            return None
        folded = {name: self.meta[name] for name in _FOLDED if name in self.meta}
        images = {k: v for k, v in self.meta.get("images", {}).items() if k != "names"}
        text = html.escape(json.dumps({**folded, "images": images}, indent=1))
        return (
            f'<img alt="{html.escape(self.kind)}" '
            f'src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
            f"<pre>{html.escape(self._told(6))}</pre>"
            f"<details><summary>where this comes from</summary><pre>{text}</pre></details>"
        )
