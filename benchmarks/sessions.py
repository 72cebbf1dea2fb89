"""Many visitors of the app at once: is every answer right, and how long does it take?

    python benchmarks/sessions.py --out benchmarks/results/sessions

Starts the app and opens sessions as browsers do, over its websocket, without browsers that would
take the processor from it. All begin at once, each on one of four models with one panel; when a
page is complete, the next choice is made: a click on another cell, at random. An answer is the map
that the page got for that model and cell; right is what `workbench.erf` measures, drawn as the page
draws it. Memory: resident size of the server's process at its highest.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import websockets
from processor import processor
from streamlit.components.v2.bidi_component.main import _make_trigger_id
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from app import free_port, megabytes, started

MODELS = ("vmamba_nano", "vim_nano", "mambavision_nano", "resnet_nano")
IMAGE = "springer_spaniel.jpg"
CELLS = 4
"""Rows, and columns, of the last stage at 64 px of all but Vim, whose cells lie within these."""


class Session:
    """A visitor: what the page holds, and the messages that make it."""

    def __init__(self, socket: Any, model: str) -> None:
        self.socket, self.model = socket, model
        self.query = urlencode({"model": model, "image": IMAGE, "size": 64, "beside": ""})
        self.panel: Any = None
        self.fragment = ""

    async def ask(self, place: tuple[float, float]) -> tuple[float, str]:
        """Seconds until the page is complete for a place, and the picture of its map."""
        message, start = BackMsg(), time.perf_counter()
        script = message.rerun_script
        if self.panel is None:
            self.query += "&" + urlencode({"position": "{:.4f},{:.4f}".format(*place)})
        else:
            script.fragment_id = self.fragment
            script.widget_states.widgets.add(id=self.panel.id, json_value="{}")
            script.widget_states.widgets.add(
                id=_make_trigger_id(self.panel.id, "events"),
                json_trigger_value=json.dumps([{"event": "place", "value": place}]),
            )
        script.query_string = self.query
        await self.socket.send(message.SerializeToString())
        while True:
            told = ForwardMsg.FromString(await self.socket.recv())
            kind = told.WhichOneof("type")
            if kind == "script_finished":
                data = json.loads(self.panel.json or self.panel.mixed.json)
                return time.perf_counter() - start, data["maps"][0]["src"]
            if kind == "page_info_changed":
                self.query = told.page_info_changed.query_string
            element = told.delta.new_element if kind == "delta" else None
            if element is not None and element.WhichOneof("type") == "exception":
                raise SystemExit(element.exception.message)
            if element is not None and element.WhichOneof("type") == "bidi_component":
                self.panel, self.fragment = element.bidi_component, told.delta.fragment_id


async def visit(port: int, number: int, choices: int, wanted: dict) -> list[tuple[float, bool]]:
    """Seconds of every choice of a visitor, and whether its answer was right."""
    rng, model = random.Random(number), MODELS[number % len(MODELS)]
    address = f"ws://127.0.0.1:{port}/_stcore/stream"
    found = []
    options: dict[str, Any] = {"max_size": None, "subprotocols": ["streamlit"]}
    async with websockets.connect(address, origin=f"http://127.0.0.1:{port}", **options) as socket:
        session = Session(socket, model)
        for _ in range(choices):
            cell = rng.randrange(CELLS), rng.randrange(CELLS)
            took, map_ = await session.ask(tuple((c + 0.5) / CELLS for c in cell))
            asked = parse_qs(session.query)["position"][0]
            assert asked == "{:.4f},{:.4f}".format(*((c + 0.5) / CELLS for c in cell))
            found.append((took, map_ == wanted[model, cell]))
    return found


def answers() -> dict[tuple[str, tuple[int, int]], str]:
    """The picture of the map of every cell of every model, without the app."""
    from workbench import create_model, erf
    from workbench.figures import overlay
    from workbench.images import SAMPLES

    found = {}
    for name in MODELS:
        model = create_model(name, "auto", img_size=64)
        for cell in ((row, column) for row in range(CELLS) for column in range(CELLS)):
            at = ",".join(f"{(c + 0.5) / CELLS:.6f}" for c in cell)
            result = erf(model, SAMPLES / IMAGE, position=at, size=64)
            found[name, cell] = overlay.pair(result, "")["maps"][0]["src"]
    return found


async def all_at_once(port: int, pid: int, sessions: int, choices: int, wanted: dict) -> dict:
    """What the visitors found together."""
    most = [megabytes(pid)]

    async def watch() -> None:
        while True:
            most[0] = max(most[0], megabytes(pid))
            await asyncio.sleep(0.2)

    watching = asyncio.create_task(watch())
    found = await asyncio.gather(*(visit(port, i, choices, wanted) for i in range(sessions)))
    watching.cancel()
    first = [session[0][0] for session in found]
    later = [took for session in found for took, _ in session[1:]]
    right = [right for session in found for _, right in session]
    return {
        "sessions": sessions,
        "answers": len(right),
        "right": sum(right),
        "first page (s, median)": round(statistics.median(first), 2),
        "choice (s, median)": round(statistics.median(later), 2),
        "all (s, median)": round(statistics.median(first + later), 2),
        "choice (s, 90 %)": round(statistics.quantiles(later, n=10)[-1], 2),
        "memory (MB)": round(most[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 20])
    parser.add_argument("--choices", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write STEM.md and STEM.json")
    args = parser.parse_args()
    wanted, load = answers(), os.getloadavg()[0]
    rows = []
    for count in args.sessions:
        port = free_port()
        server = started(port)
        try:
            rows.append(asyncio.run(all_at_once(port, server.pid, count, args.choices, wanted)))
        finally:
            server.terminate()
            server.wait(60)
        print(rows[-1], flush=True)
    if args.out:
        lines = ["| " + " | ".join(rows[0]) + " |", "|--:" * len(rows[0]) + "|"]
        lines += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
        about = f"{processor()}, {os.cpu_count()} cores, load {load:.1f} before."
        text = f"# Many visitors\n\n{__doc__}\n{about}\n\n" + "\n".join(lines) + "\n"
        args.out.with_suffix(".md").write_text(text)
        args.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
