"""The pictures that can be chosen, small and to be clicked on; each is fetched when it is seen."""

import functools
import io
from collections.abc import Callable, Sequence

import streamlit as st
from PIL import ImageOps
from starlette.requests import Request
from starlette.responses import Response
from streamlit.components.v2 import component

from workbench.app import session
from workbench.images import BadImage, open_images

SIDE = 64  # pixels

_HTML = """<div class="pictures" role="radiogroup" aria-label="Pictures"></div>"""

_CSS = """
.pictures { position: relative; display: grid; gap: 4px;
  grid-template-columns: repeat(auto-fill, minmax(2.5rem, 1fr)); max-height: 10rem;
  overflow-y: auto; padding: 3px; scrollbar-width: thin; }
label { position: relative; aspect-ratio: 1; cursor: pointer; }
img { width: 100%; height: 100%; object-fit: cover; border-radius: 4px; display: block;
  background: var(--st-border-color); pointer-events: none; }
input { position: absolute; opacity: 0; margin: 0; inset: 0; width: 100%; height: 100%;
  cursor: pointer; }
:checked + img { outline: 3px solid var(--st-primary-color); outline-offset: -1px; }
:focus-visible + img { outline: 3px double var(--st-text-color); outline-offset: -1px; }
label:hover img { filter: brightness(1.15); }
"""

_JS = """
export default function ({ data, parentElement, setTriggerValue }) {
  const host = parentElement.querySelector(".pictures"), said = JSON.stringify(data.pictures);
  if (host.said !== said) {
    host.said = said;
    const fetched = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) if (isIntersecting) {
        target.lastChild.src = target.source;
        fetched.unobserve(target);
      }
    });
    host.replaceChildren(...data.pictures.map(([name, source]) => {
      const label = document.createElement("label"), picture = new Image();
      const input = document.createElement("input");
      Object.assign(input, { type: "radio", name: "picture", value: name, title: name });
      input.setAttribute("aria-label", name);
      picture.alt = "";
      label.append(input, picture);
      label.source = source;
      fetched.observe(label);
      return label;
    }));
  }
  for (const input of host.querySelectorAll("input")) {
    input.checked = input.value === data.chosen;
    input.onchange = () => setTriggerValue("chosen", input.value);
    if (input.checked && host.chosen !== data.chosen) {
      const { offsetTop: top, offsetHeight: height } = input.parentElement;
      if (top < host.scrollTop || top + height > host.scrollTop + host.clientHeight)
        host.scrollTop = top - height / 2;
      host.chosen = data.chosen;
    }
  }
}
"""

_component = component("picture_choice", html=_HTML, css=_CSS, js=_JS)


def picture_choice(
    key: str,
    on_choice: Callable[[str], None],
    pictures: Sequence[tuple[str, str, int]],
    chosen: str,
) -> None:
    """Show pictures and call `on_choice` with the name of the one that is clicked.

    Args:
        pictures: (name, "samples" or "mine", number there) of each.
        chosen: the name of the one that is marked.
    """

    def report() -> None:
        name = st.session_state[key].chosen
        if name in {name for name, _, _ in pictures}:
            on_choice(name)

    _component(
        key=key,
        on_chosen_change=report,
        data={
            "pictures": [(name, f"/_pictures/{kind}/{i}") for name, kind, i in pictures],
            "chosen": chosen,
        },
    )


@functools.lru_cache(maxsize=2000)
def thumbnail(kind: str, number: int) -> bytes | None:
    """A square JPEG of the middle of a picture; None where there is none."""
    images = open_images("samples") if kind == "samples" else session.own_images()
    if images is None or not 0 <= number < len(images):
        return None
    try:
        picture, _ = images.read(number)
    except (BadImage, MemoryError):
        return None
    buffer = io.BytesIO()
    ImageOps.fit(picture, (SIDE, SIDE)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def answer(request: Request) -> Response:
    """The thumbnail of a kind and number."""
    found = thumbnail(request.path_params["kind"], request.path_params["number"])
    if found is None:
        return Response(status_code=404)
    return Response(
        found, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=60"}
    )
