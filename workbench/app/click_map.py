"""A photograph and its map, both of which report the place that is clicked.

A place is (row, column) in fractions of the image, so that it means the same on every grid.
"""

from collections.abc import Callable

import streamlit as st
from streamlit.components.v2 import component

Place = tuple[float, float]

_HTML = """
<div class="pair">
  <figure>
    <div class="frame">
      <img class="photo" tabindex="0"><i class="cell"></i><i class="mark"></i>
    </div>
    <figcaption class="below"></figcaption>
  </figure>
  <figure>
    <div class="frame">
      <img class="map" tabindex="0"><i class="mark"></i><div class="hint"></div>
    </div>
    <figcaption>
      <div class="bar"></div><div class="ticks"></div><div class="unit"></div>
    </figcaption>
  </figure>
</div>
"""

_CSS = """
.pair { display: flex; flex-wrap: wrap; gap: 1rem; font-family: var(--st-font); }
figure { margin: 0; flex: 1 1 12rem; max-width: 30rem; min-width: 0; }
.frame { position: relative; aspect-ratio: 1; overflow: hidden; border-radius: 4px;
  background: var(--st-secondary-background-color); }
img { width: 100%; height: 100%; display: block; cursor: crosshair; border-radius: 4px; }
img.map { image-rendering: pixelated; }
img:focus-visible { outline: 3px solid var(--st-primary-color); outline-offset: -3px; }
i { position: absolute; pointer-events: none; box-sizing: border-box; }
.cell { border: 1px dashed white; box-shadow: 0 0 0 1px rgb(0 0 0 / .5); }
.mark { width: 15px; height: 15px; transform: translate(-50%, -50%);
  background: linear-gradient(white, white) 50% / 100% 1px no-repeat,
    linear-gradient(white, white) 50% / 1px 100% no-repeat; filter: drop-shadow(0 0 1px black); }
.waiting { opacity: .5; }
.hint { position: absolute; inset: 0; display: flex; align-items: center; text-align: center;
  justify-content: center; padding: 1rem; color: var(--st-text-color); font-size: .9rem;
  border: 1px dashed color-mix(in srgb, var(--st-text-color) 30%, transparent); border-radius: 4px;
  box-sizing: border-box; }
[hidden] { display: none !important; }
figcaption { color: color-mix(in srgb, var(--st-text-color) 75%, transparent); font-size: .8rem;
  margin-top: .4rem; line-height: 1.35; }
.bar { height: 10px; border-radius: 2px; }
.ticks { position: relative; height: 1.3em; }
.ticks span { position: absolute; transform: translateX(-50%); }
.ticks span:first-child { transform: none; }
.ticks span:last-child { transform: translateX(-100%); }
"""

_JS = """
export default function ({ data, parentElement, setTriggerValue }) {
  const one = (name) => parentElement.querySelector(name);
  const photo = one(".photo"), map = one(".map");
  photo.src = data.photo;
  photo.alt = data.photo_alt;
  map.hidden = one(".bar").hidden = !data.map;
  one(".hint").hidden = Boolean(data.map);
  one(".hint").textContent = data.hint;
  one(".below").textContent = data.below;
  one(".unit").textContent = data.map ? data.unit : "";
  if (data.map) {
    map.src = data.map;
    map.alt = data.map_alt;
    one(".bar").style.background = `linear-gradient(to right, ${data.bar.stops.join(",")})`;
  }
  one(".ticks").replaceChildren(...(data.map ? data.bar.ticks : []).map(([text, place]) => {
    const tick = document.createElement("span");
    tick.textContent = text;
    tick.style.left = `${100 * place}%`;
    return tick;
  }));

  let place = data.centre;
  const marks = parentElement.querySelectorAll(".mark"), cell = one(".cell");
  const show = (waiting) => {
    for (const mark of [...marks, cell]) {
      mark.hidden = !place;
      mark.classList.toggle("waiting", waiting);
    }
    marks[1].hidden = !place || !data.map;
    if (!place) return;
    for (const mark of marks) {
      mark.style.top = `${100 * place[0]}%`;
      mark.style.left = `${100 * place[1]}%`;
    }
    cell.style.top = `${100 * (place[0] - data.step[0] / 2)}%`;
    cell.style.left = `${100 * (place[1] - data.step[1] / 2)}%`;
    cell.style.height = `${100 * data.step[0]}%`;
    cell.style.width = `${100 * data.step[1]}%`;
  };
  const go = (row, column) => {
    const inside = (x) => Math.min(Math.max(x, 0), 1);
    place = [inside(row), inside(column)];
    show(true);
    setTriggerValue("place", place);
  };
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  for (const img of [photo, map]) {
    img.onclick = (event) => {
      const box = img.getBoundingClientRect();
      go((event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width);
    };
    img.onkeydown = (event) => {
      const move = moves[event.key];
      if (!move || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      const [row, column] = place ?? [0.5, 0.5];
      go(row + move[0] * data.step[0], column + move[1] * data.step[1]);
    };
  }
  show(false);
}
"""

_component = component("click_map", html=_HTML, css=_CSS, js=_JS)


def click_map(
    key: str,
    on_place: Callable[[Place], None],
    *,
    photo: str,
    photo_alt: str,
    map: str | None = None,
    map_alt: str = "",
    bar: dict | None = None,
    unit: str = "",
    below: str = "",
    hint: str = "",
    centre: Place | None = None,
    step: Place = (0.1, 0.1),
) -> None:
    """Show the pair and call `on_place` with the place of a click or an arrow key.

    Args:
        photo, map: the `src` of the two pictures; without a map its pane shows `hint`.
        photo_alt, map_alt: what they show, in words.
        bar, unit: colour bar of the map (see `overlay.bar`) and what its values are.
        below: a line under the photograph.
        centre: where the cross is; None for no cross.
        step: size of a cell, and how far an arrow key goes.
    """

    def report() -> None:
        place = st.session_state[key].place
        if place is not None:
            on_place((float(place[0]), float(place[1])))

    _component(
        key=key,
        on_place_change=report,
        data={
            "photo": photo,
            "photo_alt": photo_alt,
            "map": map,
            "map_alt": map_alt,
            "bar": bar,
            "unit": unit,
            "below": below,
            "hint": hint,
            "centre": centre,
            "step": step,
        },
    )
