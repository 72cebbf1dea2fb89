"""The scan as it goes: a state that walks over the cells, and how far back it remembers."""

from collections.abc import Sequence

import numpy as np
from streamlit.components.v2 import component

_HTML = """
<div class="around"><div class="walks"></div></div>
<div class="controls">
  <button class="play" type="button"></button>
  <input class="step" type="range" min="0" step="1" aria-label="Step of the scan">
  <output></output>
  <label>Speed <select><option value="0.25">¼</option><option value="0.5">½</option>
    <option value="1">1</option><option value="2">2</option><option value="4">4</option>
  </select></label>
</div>
"""

_CSS = """
.around { display: block; container-type: inline-size; }
.walks { display: grid; gap: 1rem; font-family: var(--st-font); max-width: 88rem;
  grid-template-columns: repeat(min(var(--walks), 2), 1fr); }
@container (min-width: 38rem) {
  .walks { grid-template-columns: repeat(min(var(--walks), 4), 1fr); }
}
figure { margin: 0; max-width: 26rem; }
.frame { position: relative; aspect-ratio: 1; border-radius: 6px; overflow: hidden;
  background: rgb(30 30 60); }
.frame > * { position: absolute; inset: 0; width: 100%; height: 100%; }
canvas { image-rendering: pixelated; }
figcaption { color: color-mix(in srgb, var(--st-text-color) 75%, transparent); font-size: .8rem;
  margin-top: .35rem; line-height: 1.35; white-space: pre-line; }
.controls { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem .8rem;
  margin-top: .7rem; font: .85rem var(--st-font); color: var(--st-text-color); }
.step { flex: 1 1 8rem; accent-color: var(--st-primary-color); }
output { min-width: 6.5em; font-variant-numeric: tabular-nums; }
button, select { font: inherit; color: inherit; cursor: pointer;
  background: var(--st-secondary-background-color); border: 1px solid var(--st-border-color);
  border-radius: 6px; padding: .25rem .7rem; }
button { min-width: 5em; }
label { display: flex; align-items: center; gap: .4rem; }
"""

_JS = """
const SECONDS = 8;  // for one walk over the whole image
const DARK = [10, 8, 30, 196], GLOW = [255, 176, 64, 66];  // over what is forgotten, and just read
export default function ({ data, parentElement }) {
  const one = (name) => parentElement.querySelector(name);
  const button = one(".play"), bar = one(".step"), speed = one("select"), told = one("output");
  const { rows, columns } = data, fine = Math.ceil(480 / Math.max(rows, columns));
  const walks = data.walks.map((walk) => {
    const figure = document.createElement("figure"), frame = document.createElement("div");
    const canvas = document.createElement("canvas"), caption = document.createElement("figcaption");
    [canvas.width, canvas.height] = [columns * fine, rows * fine];
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Scan order of ${walk.name}`);
    if (data.photo) {
      const photo = new Image();
      [photo.src, photo.alt] = [data.photo, ""];
      frame.append(photo);
    }
    frame.className = "frame";
    frame.append(canvas);
    caption.textContent = walk.caption;
    caption.title = data.help;
    figure.append(frame, caption);
    return { ...walk, figure, context: canvas.getContext("2d") };
  });
  one(".walks").style.setProperty("--walks", walks.length);
  one(".walks").replaceChildren(...walks.map((walk) => walk.figure));
  const steps = Math.max(...walks.map((walk) => walk.steps));
  const small = new OffscreenCanvas(columns, rows), cells = small.getContext("2d");

  const colour = (memory) => DARK.reduce((found, dark, k) =>
    found + Math.round(dark + memory * (GLOW[k] - dark)) * 2 ** (8 * k), 0);
  const colours = Uint32Array.from({ length: 256 }, (_, i) => colour(i / 255));

  const draw = (share) => {
    for (const { order, steps, halflife, context } of walks) {
      const image = cells.createImageData(columns, rows), now = Math.floor(share * steps);
      const pixels = new Uint32Array(image.data.buffer).fill(colours[0]), read = [];
      order.forEach((cell, i) => {  // windows have a state each, and go side by side
        const age = now - i % steps;
        if (cell < 0 || age < 0) return;
        if (!age) read.push(cell);
        pixels[cell] = colours[Math.round(255 * 2 ** (-age / Math.max(halflife, 1e-3)))];
      });
      cells.putImageData(image, 0, 0);
      context.imageSmoothingEnabled = false;
      context.shadowColor = "transparent";
      context.clearRect(0, 0, columns * fine, rows * fine);
      context.drawImage(small, 0, 0, columns * fine, rows * fine);
      context.lineWidth = Math.max(fine / 10, 4);
      for (const [colour, blur] of [["#000", 0], ["#3cf03c", fine / 4]]) {
        [context.strokeStyle, context.shadowColor, context.shadowBlur] = [colour, colour, blur];
        for (const cell of read) context.strokeRect(
          cell % columns * fine, Math.floor(cell / columns) * fine, fine, fine);
      }
    }
  };

  // Where it stands is kept from one drawing of the page to the next.
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const kept = parentElement.walk ??= { playing: !still, share: still ? 0.4 : 0, speed: "1" };
  const turn = kept.turn = {};
  let last = null, drawn = null;
  const show = () => {
    const step = Math.min(Math.floor(kept.share * steps), steps - 1);
    if (step === drawn) return;
    drawn = bar.value = step;
    told.textContent = `step ${step + 1} of ${steps}`;
    draw((step + 0.5) / steps);
  };
  const frame = (time) => {
    if (kept.turn !== turn || !kept.playing || !button.isConnected) return;
    const { top, bottom } = one(".walks").getBoundingClientRect();
    const seen = last !== null && bottom > 0 && top < innerHeight;
    if (seen) kept.share = (kept.share + (time - last) / 1000 / SECONDS * kept.speed) % 1;
    last = time;
    if (seen) show();
    setTimeout(requestAnimationFrame, 1000 / 24, frame);  // more would only warm the machine
  };
  const play = (playing) => {
    const starts = playing && (!kept.playing || drawn === null);
    kept.playing = playing;
    last = null;
    button.textContent = playing ? "Pause" : "Play";
    if (starts) requestAnimationFrame(frame);
  };
  bar.max = steps - 1;
  speed.value = kept.speed;
  button.onclick = () => play(!kept.playing);
  speed.onchange = () => { kept.speed = speed.value; };
  bar.oninput = () => {
    play(false);
    kept.share = (Number(bar.value) + 0.5) / steps;
    show();
  };
  play(kept.playing);
  show();
}
"""

_component = component("scan_walk", html=_HTML, css=_CSS, js=_JS)


def scan_walk(
    key: str,
    cells: tuple[int, int],
    walks: Sequence[tuple[str, np.ndarray, float, str]],
    photo: str | None = None,
    help: str = "",
) -> None:
    """Draw every direction's walk, side by side, with what plays and moves them all.

    Args:
        cells: rows and columns of the image's grid.
        walks: (name, cell read at each step or -1, half-life in steps, caption) of each direction;
            the cells as (steps) or (windows, steps) for windows with a state each.
        photo: the `src` of what lies below.
        help: on the captions.
    """
    _component(
        key=key,
        data={
            "rows": cells[0],
            "columns": cells[1],
            "photo": photo,
            "help": help,
            "walks": [
                {
                    "name": name,
                    "order": order.reshape(-1).tolist(),
                    "steps": order.shape[-1],
                    "halflife": halflife,
                    "caption": caption,
                }
                for name, order, halflife, caption in walks
            ],
        },
    )
