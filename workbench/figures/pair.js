// A photograph and its maps, see workbench/app/click_map.py and workbench/methods/erf/interactive.py.
export default function ({ data, parentElement, setTriggerValue }) {
  const one = (name) => parentElement.querySelector(name);
  const all = (name) => [...parentElement.querySelectorAll(name)];
  const photo = one(".photo"), veil = one("img.veil"), range = one("input"), more = one(".more");
  for (const host of [one(".pair"), more]) host.classList.toggle("blocks", Boolean(data.blocks));
  photo.src = data.photo;
  photo.alt = data.photo_alt;
  veil.hidden = !data.veil;
  if (data.veil) veil.src = data.veil;
  range.value = localStorage.getItem("vssm-veil") ?? 0.7;
  range.parentElement.hidden = !data.veil && !data.cells;
  const fade = () => { for (const sheet of all(".veil")) sheet.style.opacity = range.value; };
  range.oninput = () => { localStorage.setItem("vssm-veil", range.value); fade(); };
  fade();

  // The first map stands beside the photograph, further ones below it.
  while (more.children.length > data.maps.length - 1) more.lastChild.remove();
  while (more.children.length < data.maps.length - 1) {
    const figure = document.createElement("figure"), note = document.createElement("figcaption");
    note.append(document.createElement("span"));
    figure.append(one(".one .frame").cloneNode(true), note);
    more.append(figure);
  }
  const maps = all("img.map"), sheets = [one("canvas.veil"), ...all("canvas.map")];
  data.maps.forEach(({ src, alt, note, help }, i) => {
    maps[i].src = src;
    maps[i].alt = alt;
    if (!i) return;
    const text = more.children[i - 1].querySelector("span");
    text.textContent = note;
    text.title = help;
  });
  const words = (units) => all(".unit").forEach((text, i) => { text.textContent = units[i] ?? ""; });
  words(data.units);
  one(".bar").style.background = `linear-gradient(to right, ${data.bar.stops.join(",")})`;
  one(".ticks").replaceChildren(...data.bar.ticks.map(([text, place]) => {
    const tick = document.createElement("span");
    tick.textContent = text;
    tick.style.left = `${100 * place}%`;
    return tick;
  }));

  // What is measured of the cells, kept from one drawing of the page to the next.
  if (!parentElement.known || parentElement.known.key !== data.cells?.key)
    parentElement.known = { key: data.cells?.key, cells: [], maps: [], units: [], left: 1 };
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
    const [many, height, width] = told.shape;
    told.cells.forEach((cell, i) => {
      const map = (k) => body.subarray(end + 1 + k * height * width).subarray(0, height * width);
      known.cells.push(cell);
      known.maps.push(Array.from({ length: many }, (_, k) => map(i * many + k)));
    });
    known.units.push(...told.units);
    if (told.cells.length) known.side = [height, width];
    known.left = told.left;
    one(".pair").dataset.left = told.left;
    setTimeout(ask, 200);
  };
  ask();

  const table = Uint8Array.from(atob(data.colours), (byte) => byte.charCodeAt(0));
  const shades = new Uint32Array(table.buffer);  // red, green, blue, opacity of 256 values
  const opaque = shades.map((shade) => (shade | 255 << 24) >>> 0);
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
  const paint = (sheet, values, colours) => {
    const [height, width] = known.side, picture = new ImageData(width, height);
    if (sheet.width !== width || sheet.height !== height)
      [sheet.width, sheet.height] = [width, height];
    const pixels = new Uint32Array(picture.data.buffer);
    for (let i = 0; i < values.length; i++) pixels[i] = colours[values[i]];
    sheet.getContext("2d").putImageData(picture, 0, 0);
  };
  const ranks = (values) => {  // how many are smaller, over the most
    const below = new Uint32Array(257);
    for (const value of values) below[value + 1]++;
    for (let i = 1; i < 257; i++) below[i] += below[i - 1];
    const most = Math.max(below[values.reduce((a, b) => Math.max(a, b))], 1);
    return values.map((value) => Math.round(255 * below[value] / most));
  };
  const densities = (values) => {  // over their mean, up to 256 times, by the fourth root
    const counts = new Uint32Array(256);
    for (const value of values) counts[value]++;
    const sizes = Array.from(counts, (_, i) => (i / 255) ** (1 / data.power));
    const mean = sizes.reduce((sum, size, i) => sum + size * counts[i], 0) / values.length;
    const shade = (size) => mean && Math.round(255 * Math.min(size / mean / 256, 1) ** 0.25);
    const shaded = sizes.map(shade);
    return values.map((value) => shaded[value]);
  };
  const scaled = { rank: ranks, density: densities }[data.scale];
  const hover = (at) => {
    const shows = Boolean(at && data.cells && known.maps.length);
    for (const sheet of sheets) sheet.hidden = !shows;
    veil.hidden = shows || !data.veil;
    photo.classList.toggle("pale", shows || Boolean(data.veil));  // its colours are no heat
    one(".below").textContent = data.below;
    if (!shows) {
      words(data.units);
      return show(false);
    }
    const number = nearest(under(at)), found = known.maps[number];
    const stack = scaled ? found.map(scaled) : found;
    show(false, known.cells[number].map((cell, i) =>
      (data.cells.offset[i] + cell * data.cells.stride[i] + 0.5) / data.cells.size[i]));
    paint(sheets[0], stack[0], shades);
    stack.forEach((values, i) => paint(sheets[i + 1], values, opaque));
    words(known.units[number] ?? data.units);
    const [row, column] = known.cells[number], [rows, columns] = data.cells.cells;
    data.maps.forEach(({ alt }, i) =>
      sheets[i + 1].setAttribute("aria-label", `${alt}, under the mouse: ${row}, ${column}`));
    const some = known.cells.length, rest = some === rows * columns ? "A click keeps it."
      : `The nearest of ${some} measured${known.left ? " so far" : ""}; a click measures any.`;
    one(".below").textContent = `Cell ${row}, ${column} of ${rows} x ${columns}. ${rest}`;
  };
  const heard = (event) => {
    if (event.detail === window.kept) place = window.kept ?? data.centre;
    hover(event.detail);
  };
  window.addEventListener("vssm-hover", heard);

  let place = data.centre;
  const marks = all(".mark"), cell = one(".cell");
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
    tell(data.cells?.stored ? window.kept = place : place);
    if (data.cells?.stored) return;
    show(true);
    setTriggerValue("place", place);
  };
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  for (const img of [photo, ...maps]) {
    const over = (event) => {
      const box = img.getBoundingClientRect();
      return [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
    };
    const frame = img.parentElement;
    frame.onpointerdown = frame.onpointermove = (event) => tell(over(event));
    frame.onpointerleave = () => tell(window.kept ?? null);
    frame.ondragover = (event) => event.preventDefault();
    frame.ondrop = (event) => {
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
    frame.onclick = (event) => go(...over(event));
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
