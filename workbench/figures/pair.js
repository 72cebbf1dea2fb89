// A photograph and its map, see workbench/app/click_map.py and workbench/methods/erf/interactive.py.
export default function ({ data, parentElement, setTriggerValue }) {
  const one = (name) => parentElement.querySelector(name);
  const photo = one(".photo"), map = one(".map"), veil = one("img.veil"), range = one("input");
  const sheets = [one("canvas.veil"), one("canvas.map")];
  photo.src = data.photo;
  photo.alt = data.photo_alt;
  veil.hidden = !data.veil;
  if (data.veil) veil.src = data.veil;
  range.value = localStorage.getItem("vssm-veil") ?? 0.7;
  range.parentElement.hidden = !data.veil && !data.cells;
  const fade = () => { for (const one of [veil, sheets[0]]) one.style.opacity = range.value; };
  range.oninput = () => { localStorage.setItem("vssm-veil", range.value); fade(); };
  fade();
  one(".unit").textContent = data.unit;
  map.src = data.map;
  map.alt = data.map_alt;
  one(".bar").style.background = `linear-gradient(to right, ${data.bar.stops.join(",")})`;
  one(".ticks").replaceChildren(...data.bar.ticks.map(([text, place]) => {
    const tick = document.createElement("span");
    tick.textContent = text;
    tick.style.left = `${100 * place}%`;
    return tick;
  }));

  // What is measured of the cells, kept from one drawing of the page to the next.
  if (!parentElement.known || parentElement.known.key !== data.cells?.key)
    parentElement.known = { key: data.cells?.key, cells: [], maps: [], left: 1 };
  const known = parentElement.known;
  let mounted = true;
  const ask = async () => {
    if (!mounted || !known.key || !known.left || parentElement.known !== known) return;
    const { stored } = data.cells, server = `/_cells/${known.key}?have=${known.cells.length}`;
    let answer = await fetch(stored ?? server).catch(() => null);
    if (!answer?.ok || !mounted) return;  // then a click measures
    if (stored) answer = new Response(answer.body.pipeThrough(new DecompressionStream("gzip")));
    const body = new Uint8Array(await answer.arrayBuffer());
    const end = body.indexOf(10);
    const told = JSON.parse(new TextDecoder().decode(body.subarray(0, end)));
    const [height, width] = told.side;
    told.cells.forEach((cell, i) => {
      const start = end + 1 + i * height * width;
      known.cells.push(cell);
      known.maps.push(body.subarray(start, start + height * width));
    });
    if (told.cells.length) known.side = told.side;
    known.left = told.left;
    one(".pair").dataset.left = told.left;
    setTimeout(ask, 200);
  };
  ask();

  const shades = atob(data.colours);  // red, green, blue of 256 values
  const shade = (value, opacity) => (opacity << 24 | shades.charCodeAt(3 * value + 2) << 16
    | shades.charCodeAt(3 * value + 1) << 8 | shades.charCodeAt(3 * value)) >>> 0;
  const tables = [(value) => value, () => 255].map((opacity) =>
    Uint32Array.from({ length: 256 }, (_, value) => shade(value, opacity(value))));
  const under = ([row, column]) => [row, column].map((part, i) => {
    const { size, stride, offset, cells } = data.cells;
    const cell = Math.round((part * size[i] - 0.5 - offset[i]) / stride[i] - 1e-9);
    return Math.min(Math.max(cell, 0), cells[i] - 1);
  });
  const nearest = (cell) => {
    let best = 0, least = Infinity;
    known.cells.forEach(([row, column], i) => {
      const far = (row - cell[0]) ** 2 + (column - cell[1]) ** 2;
      if (far < least) [best, least] = [i, far];
    });
    return best;
  };
  const hover = (at) => {
    const shows = Boolean(at && data.cells && known.maps.length);
    for (const sheet of sheets) sheet.hidden = !shows;
    veil.hidden = shows || !data.veil;
    photo.classList.toggle("pale", shows || Boolean(data.veil));  // its colours are no heat
    one(".below").textContent = data.below;
    if (!shows) return show(false);
    const number = nearest(under(at)), values = known.maps[number], [height, width] = known.side;
    show(false, known.cells[number].map((cell, i) =>
      (data.cells.offset[i] + cell * data.cells.stride[i] + 0.5) / data.cells.size[i]));
    sheets.forEach((sheet, which) => {
      if (sheet.width !== width) [sheet.width, sheet.height] = [width, height];
      const picture = new ImageData(width, height), table = tables[which];
      const pixels = new Uint32Array(picture.data.buffer);
      for (let i = 0; i < values.length; i++) pixels[i] = table[values[i]];
      sheet.getContext("2d").putImageData(picture, 0, 0);
    });
    const [row, column] = known.cells[number], [rows, columns] = data.cells.cells;
    sheets[1].setAttribute("aria-label", `Receptive field under the mouse: ${row}, ${column}`);
    const some = known.cells.length, rest = some < rows * columns
      ? `The nearest of ${some} measured so far.` : "A click keeps it.";
    one(".below").textContent = `Cell ${row}, ${column} of ${rows} x ${columns}. ${rest}`;
  };
  const heard = (event) => {
    if (event.detail === window.kept) place = window.kept ?? data.centre;
    hover(event.detail);
  };
  window.addEventListener("vssm-hover", heard);

  let place = data.centre;
  const marks = parentElement.querySelectorAll(".mark"), cell = one(".cell");
  const show = (waiting, at = place) => {
    for (const mark of [...marks, cell]) mark.classList.toggle("waiting", waiting);
    for (const mark of marks) {
      mark.style.top = `${100 * at[0]}%`;
      mark.style.left = `${100 * at[1]}%`;
    }
    cell.style.top = `${100 * (at[0] - data.step[0] / 2)}%`;
    cell.style.left = `${100 * (at[1] - data.step[1] / 2)}%`;
    cell.style.height = `${100 * data.step[0]}%`;
    cell.style.width = `${100 * data.step[1]}%`;
  };
  const tell = (at) => window.dispatchEvent(new CustomEvent("vssm-hover", { detail: at }));
  const go = (row, column) => {
    const inside = (x) => Math.min(Math.max(x, 0), 1);
    place = [inside(row), inside(column)];
    if (data.cells?.stored) return tell(window.kept = place);
    show(true);
    setTriggerValue("place", place);
  };
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  for (const img of [photo, map]) {
    const over = (event) => {
      const box = img.getBoundingClientRect();
      return [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
    };
    img.parentElement.onpointermove = (event) => tell(over(event));
    img.parentElement.onpointerleave = () => tell(window.kept ?? null);
    img.parentElement.ondragover = (event) => event.preventDefault();
    img.parentElement.ondrop = (event) => {
      event.preventDefault();
      const file = event.dataTransfer.files[0];
      if (!file || data.cells?.stored) return;
      show(true);
      const reader = new FileReader();
      reader.onload = () => setTriggerValue("dropped", [file.name, reader.result]);
      reader.onerror = () => show(false);  // a folder, say
      if (file.size <= data.most) reader.readAsDataURL(file);
      else setTriggerValue("dropped", [file.name, ""]);
    };
    img.parentElement.onclick = (event) => go(...over(event));
    img.onkeydown = (event) => {
      const move = moves[event.key];
      if (!move || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      const [row, column] = place;
      go(row + move[0] * data.step[0], column + move[1] * data.step[1]);
    };
  }
  hover(null);
  return () => {
    mounted = false;
    window.removeEventListener("vssm-hover", heard);
  };
}
