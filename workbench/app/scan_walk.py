"""The scan as it goes: a state that walks over the cells, and how far back it remembers."""

from collections.abc import Sequence

import numpy as np
from streamlit.components.v2 import component

_HTML = """
<button class="play" type="button"></button>
<div class="walks"></div>
"""

_CSS = """
.walks { display: flex; flex-wrap: wrap; gap: 1rem; font-family: var(--st-font); }
figure { margin: 0; width: 11rem; }
canvas { width: 100%; display: block; border-radius: 4px; image-rendering: pixelated; }
figcaption { color: color-mix(in srgb, var(--st-text-color) 75%, transparent); font-size: .8rem;
  margin-top: .3rem; line-height: 1.35; }
.play { font: inherit; font-family: var(--st-font); color: var(--st-text-color); cursor: pointer;
  background: var(--st-secondary-background-color); border: 1px solid var(--st-border-color);
  border-radius: 6px; padding: .2rem .8rem; margin-bottom: .6rem; }
"""

_JS = """
const SECONDS = 8;  // for one walk over the whole image
export default function ({ data, parentElement }) {
  const button = parentElement.querySelector(".play");
  const walks = data.walks.map((walk) => {
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas"), caption = document.createElement("figcaption");
    canvas.width = data.columns;
    canvas.height = data.rows;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Scan order of ${walk.name}`);
    caption.textContent = walk.caption;
    figure.append(canvas, caption);
    return { ...walk, figure, context: canvas.getContext("2d") };
  });
  parentElement.querySelector(".walks").replaceChildren(...walks.map((walk) => walk.figure));

  const draw = (share) => {
    for (const { order, halflife, context } of walks) {
      const image = context.createImageData(data.columns, data.rows);
      const now = Math.floor(share * order.length);
      order.forEach((cell, step) => {
        if (cell < 0) return;
        const age = now - step;
        const memory = age < 0 ? 0 : 2 ** (-age / Math.max(halflife, 1e-3));
        const colour = age === 0 ? [60, 240, 60]
          : [30 + 225 * memory, 30 + 140 * memory, 60 + 20 * memory];
        image.data.set([...colour, 255], 4 * cell);
      });
      context.putImageData(image, 0, 0);
    }
  };
  let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches, share = 0, last = null;
  const label = () => { button.textContent = playing ? "Pause" : "Play"; };
  const frame = (time) => {
    if (!button.isConnected) return;
    if (playing && last !== null) share = (share + (time - last) / 1000 / SECONDS) % 1;
    last = time;
    draw(share);
    requestAnimationFrame(frame);
  };
  button.onclick = () => { playing = !playing; label(); };
  label();
  requestAnimationFrame(frame);
}
"""

_component = component("scan_walk", html=_HTML, css=_CSS, js=_JS)


def scan_walk(
    key: str, cells: tuple[int, int], walks: Sequence[tuple[str, np.ndarray, float, str]]
) -> None:
    """Draw every direction's walk, side by side, with a button to pause.

    Args:
        cells: rows and columns of the image's grid.
        walks: (name, cell read at each step or -1, half-life in steps, caption) of each direction.
    """
    _component(
        key=key,
        data={
            "rows": cells[0],
            "columns": cells[1],
            "walks": [
                {"name": name, "order": order.tolist(), "halflife": halflife, "caption": caption}
                for name, order, halflife, caption in walks
            ],
        },
    )
