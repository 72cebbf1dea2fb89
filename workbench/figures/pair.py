"""The browser's part of a photograph with its map, for the app and for pages of their own.

`js` is a module whose default function draws `data` into `parentElement`, a shadow root that holds
`html`; it returns what to call when the element goes away.
"""

from importlib.resources import files

PAIR = {
    kind: (files("workbench.figures") / f"pair.{kind}").read_text()
    for kind in ("html", "css", "js")
}
