"""What stands on the first page before Streamlit has started in the browser: stored receptive
fields of the networks that a first visit compares, where the page will draw the same.

They are part of the HTML that the server answers with, and go when the page is complete.
"""

import html
import os
import re
from dataclasses import replace
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workbench.app.erf_panels import finding
from workbench.figures import overlay
from workbench.figures.label import label
from workbench.images import Preprocessing, open_images
from workbench.methods.erf.figure import shown
from workbench.places import SAMPLES
from workbench.results import Erf, load
from workbench.weights.files import file_of

STORED = SAMPLES / "results" / "first"
OWN = ("VSSM_WEIGHTS", "VSSM_IMAGES")
"""Where one of these is set, the page begins with something else."""
SIDE = 448

TEMPLATE = """
<style>
#first-paint { --ink: light-dark(#31333f, #fafafa); --paper: light-dark(#fff, #17141c);
  --side: light-dark(#f5f4f7, #211e27); color-scheme: light dark; color: var(--ink);
  position: fixed; inset: 0; z-index: 1; overflow: hidden;
  padding: 4.5rem min(3rem, 4vw) 0 calc(300px + min(3rem, 4vw));
  background: linear-gradient(90deg, var(--side) 300px, var(--paper) 0);
  font: 16px/1.6 "Source Sans", system-ui, sans-serif; }
#first-paint h2 { font-size: 2.25rem; line-height: 1.2; margin: 1rem 0; }
#first-paint p { margin: 0 0 1rem; }
#first-paint p + p { margin-top: 6rem; }
#first-paint main { display: grid; grid-template-columns: repeat(3, 1fr); gap: 2rem; }
#first-paint img { width: 100%; display: block; border-radius: 4px; margin-top: 1rem;
  image-rendering: pixelated; }
#first-paint small { display: block; }
@media (max-width: 767px) {
  #first-paint { padding-inline: 4vw; background: var(--paper); }
  #first-paint p + p { margin-top: 1rem; }
  #first-paint main { gap: .5rem; }
  #first-paint small { display: none; }
}
</style>
<div id="first-paint" aria-hidden="true">
<h2>Effective receptive field</h2>
<p>Which pixels does one output unit depend on? Move the mouse: the maps show its gradient at every
pixel. A click measures.</p>
<p>{finding}</p>
<main>{panels}</main>
</div>
<script>
(function wait(began) {
  const state = document.querySelector("[data-testid=stApp]")?.dataset.testScriptState;
  const done = state === "notRunning" && document.querySelector("h2 span");
  if (done || Date.now() - began > 20000) document.getElementById("first-paint").remove();
  else setTimeout(wait, 50, began);
})(Date.now());
</script>
"""


class FirstPaint:
    """Adds the pictures to the HTML of the first page, where it is asked for without choices."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.added = app, page().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        plain = scope["type"] == "http" and scope["path"] == "/" and not scope["query_string"]
        if not plain or not self.added:
            await self.app(scope, receive, send)
            return
        begun: Message = {}

        async def add(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = message  # its length is known with the body
                return
            body, headers = message.get("body", b""), dict(begun["headers"])
            if b"<body>" in body:
                body = body.replace(b"<body>", b"<body>" + self.added)
                headers[b"content-length"] = str(len(body)).encode()
                headers.pop(b"etag", None)
            if begun:
                await send({**begun, "headers": [*headers.items()]})
                begun = {}
            await send({**message, "body": body})

        own = [(key, value) for key, value in scope["headers"] if key not in _WHOLE]
        await self.app({**scope, "headers": own}, receive, add)


_WHOLE = (b"accept-encoding", b"if-none-match", b"if-modified-since", b"range")
"""Headers for which the answer would be another one than the HTML itself."""


def page() -> str:
    """HTML of the stored fields; empty where the page shows others."""
    if any(name in os.environ for name in OWN):
        return ""
    found = map(load, sorted(STORED.glob("*.npz")))
    fields = [result for result in found if isinstance(result, Erf)]
    if not fields or not all(_is_current(result) for result in fields):
        return ""
    said = re.sub(r"\*\*(.*?)\*\*", r"<b>\1</b>", html.escape(finding(fields)))
    panels = "".join(map(_panel, fields))
    return TEMPLATE.replace("{finding}", said).replace("{panels}", panels)


def _is_current(result: Erf) -> bool:
    """Whether the weights that ship are those that were measured."""
    file = file_of(result.meta["facts"])
    return file is not None and Path(file).is_file()


def _panel(result: Erf) -> str:
    samples, (name,) = open_images("samples"), result.meta["images"]["names"]
    seen = Preprocessing.of(result.meta["preprocessing"])  # the same part of it, sharp for the eye
    photo = replace(seen, size=(SIDE, SIDE)).picture(samples.load(samples.names.index(name)))
    map_ = overlay.colours(shown(result))
    title = html.escape(str(result.meta["facts"]["model"]))
    pictures = [overlay.data_url(photo, photo=True), overlay.data_url(map_)]
    drawn = "".join(f'<img src="{picture}" alt="">' for picture in pictures)
    return f"<section><b>{title}</b><small>{html.escape(label(result))}</small>{drawn}</section>"
