"""Pictures that play: several tracks side by side, with one button, one scrub bar and one speed."""

from collections.abc import Sequence
from typing import NamedTuple

from streamlit.components.v2 import component

_HTML = """
<div class="bar">
  <button type="button"></button>
  <input type="range" min="0" step="1" aria-label="Frame">
  <select aria-label="Speed">
    <option value="0.5">½ ×</option><option value="1" selected>1 ×</option>
    <option value="2">2 ×</option><option value="4">4 ×</option>
  </select>
  <output></output>
</div>
<div class="tracks"></div>
<div class="scale"><div class="shades"></div><div class="ticks"></div><div class="unit"></div></div>
"""

_CSS = """
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem .8rem; margin-bottom: .8rem;
  font-family: var(--st-font); font-size: .9rem; color: var(--st-text-color); }
button, select { font: inherit; color: inherit; cursor: pointer; padding: .25rem .6rem;
  background: var(--st-secondary-background-color); border: 1px solid var(--st-border-color);
  border-radius: 6px; }
button { min-width: 4.8rem; }
input { flex: 1 1 6rem; min-width: 0; max-width: 22rem; accent-color: var(--st-primary-color); }
output { min-width: 8.5rem; font-variant-numeric: tabular-nums; }
:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
.tracks { display: grid; gap: 1.2rem 1rem; font-family: var(--st-font);
  grid-template-columns: repeat(auto-fill, minmax(max(9rem, 30%), 1fr)); }
figure { margin: 0; min-width: 0; }
.frame { display: grid; border-radius: 4px; overflow: hidden; background: #000; }
img { grid-area: 1 / 1; width: 100%; display: block; image-rendering: pixelated; opacity: 0;
  transition: opacity var(--fade); }
img.under { image-rendering: auto; }
img.now, img.under { opacity: 1; }
figcaption { color: color-mix(in srgb, var(--st-text-color) 75%, transparent); font-size: .8rem;
  margin-top: .4rem; line-height: 1.35; }
figcaption b { display: block; color: var(--st-text-color); font-weight: 600; }
.scale { font-family: var(--st-font); font-size: .75rem; max-width: 22rem; margin-top: 1rem;
  color: color-mix(in srgb, var(--st-text-color) 75%, transparent); }
.shades { height: 8px; border-radius: 2px; }
.ticks { position: relative; height: 1.4em; }
.ticks span { position: absolute; transform: translateX(-50%); }
.ticks span:first-child { transform: none; }
.ticks span:last-child { transform: translateX(-100%); }
[hidden] { display: none; }
@media (prefers-reduced-motion: reduce) { img { transition: none; } }
"""

_JS = """
export default function ({ data, parentElement }) {
  const one = (name) => parentElement.querySelector(name);
  const button = one("button"), range = one("input"), output = one("output"), speed = one("select");
  const make = (name, parts) => Object.assign(document.createElement(name), parts);
  const tracks = data.tracks.map((track) => {
    const figure = make("figure"), frame = make("div", { className: "frame" });
    const note = make("span"), caption = make("figcaption");
    const pictures = track.pictures.map((src) => make("img", { src, alt: "" }));
    if (track.under) frame.append(make("img", { src: track.under, alt: "", className: "under" }));
    frame.append(...pictures);
    frame.setAttribute("role", "img");
    caption.append(make("b", { textContent: track.name }), note);
    figure.append(frame, caption);
    return { ...track, figure, frame, pictures, note };
  });
  one(".tracks").replaceChildren(...tracks.map((track) => track.figure));
  one(".tracks").style.setProperty("--fade", data.seconds < 0.5 ? "0s" : ".25s");
  one(".scale").hidden = !data.bar;
  if (data.bar) {
    one(".shades").style.background = `linear-gradient(to right, ${data.bar.stops.join(",")})`;
    one(".ticks").replaceChildren(...data.bar.ticks.map(([textContent, place]) => {
      const tick = make("span", { textContent });
      tick.style.left = `${100 * place}%`;
      return tick;
    }));
    one(".unit").textContent = data.unit;
  }

  const last = data.labels.length - 1;
  let now = Math.min(parentElement.now ?? data.start, last), timer = null;
  range.max = last;
  const show = () => {
    parentElement.now = now;  // kept from one drawing of the page to the next
    range.value = now;
    output.textContent = data.labels[now];
    range.setAttribute("aria-valuetext", data.labels[now]);
    for (const { name, frame, pictures, note, captions } of tracks) {
      const at = (list) => list[Math.min(now, list.length - 1)];
      for (const picture of pictures) picture.classList.toggle("now", picture === at(pictures));
      frame.setAttribute("aria-label", `${name}, ${data.labels[now]}`);
      note.textContent = at(captions);
    }
    button.textContent = timer ? "Pause" : "Play";
  };
  const stop = () => { clearTimeout(timer); timer = null; };
  const wait = () => {
    timer = setTimeout(() => {
      now += 1;
      if (now < last) wait(); else timer = null;
      show();
    }, 1000 * data.seconds / speed.value);
  };
  button.onclick = () => {
    if (timer) stop();
    else {
      if (now === last) now = 0;
      wait();
    }
    show();
  };
  range.oninput = () => { stop(); now = Number(range.value); show(); };
  show();
  return stop;
}
"""

_component = component("player", html=_HTML, css=_CSS, js=_JS)


class Track(NamedTuple):
    """What changes in one place.

    name: above the caption.
    pictures: the `src` of each frame, or of one that stays.
    captions: a line for each frame, or one that stays.
    under: the `src` of a picture below them, where they are partly clear.
    """

    name: str
    pictures: Sequence[str]
    captions: Sequence[str] = ("",)
    under: str | None = None


def player(
    key: str,
    tracks: Sequence[Track],
    labels: Sequence[str],
    seconds: float = 1.0,
    bar: dict | None = None,
    unit: str = "",
    start: int = 0,
) -> None:
    """Show one frame of all tracks; nothing moves before it is asked to.

    Args:
        labels: the name of each frame.
        seconds: of a frame, at speed 1.
        start: the frame to show.
        bar, unit: colour bar of the pictures (see `overlay.bar`) and what their values are.
    """
    _component(
        key=key,
        data={
            "tracks": [track._asdict() for track in tracks],
            "labels": list(labels),
            "seconds": seconds,
            "bar": bar,
            "unit": unit,
            "start": start,
        },
    )
