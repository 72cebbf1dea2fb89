"""First paint of every page of the app, time of a click, and memory over many clicks.

    python benchmarks/app.py --out benchmarks/results/app

Starts the app and drives it with headless chromium. First paint: from asking for the address until
the page's heading is there, and until nothing runs any more; after each page was opened once. A
click: on another cell of the photograph on the page about receptive fields, until its map is shown.
Memory: resident size of the server's process; it remembers the maps of the last 200 clicks.
"""

import argparse
import json
import os
import platform
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright
from processor import processor

ROOT = Path(__file__).parents[1]
PAGES = ("", "resolution", "scan-maps", "sensitivity", "results", "story")
PATIENCE = 120_000  # ms


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(port: int) -> subprocess.Popen:
    """The app's server, once it answers."""
    command = [sys.executable, "-m", "workbench.app.server", "--port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1).close()
            return server
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the app did not start")


def megabytes(pid: int) -> float:
    """Resident size of a process (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def settle(tab: Page) -> None:
    """Wait until the script of the page has ended."""
    tab.wait_for_function(
        "document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning'"
    )


def paint(browser: Browser, address: str) -> tuple[float, float]:
    """Seconds until the heading is there, and until the page is complete."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.set_default_timeout(PATIENCE)
    start = time.perf_counter()
    tab.goto(address, wait_until="commit")
    tab.get_by_role("heading", level=2).wait_for()
    first = time.perf_counter() - start
    settle(tab)
    whole = time.perf_counter() - start
    tab.close()
    return first, whole


def click(tab: Page, cell: tuple[int, int], cells: int) -> float:
    """Click on a cell of the photograph; seconds until its map is there."""
    photograph = tab.get_by_role(
        "img", name=re.compile("receptive field over it|as the model")
    ).first
    box = photograph.bounding_box()
    row, column = ((i + 0.5) / cells for i in cell)
    start = time.perf_counter()
    photograph.click(position={"x": box["width"] * column, "y": box["height"] * row})
    tab.mouse.move(5, 5)  # else it says what the mouse is over
    text = tab.get_by_text(f"Cell {cell[0]}, {cell[1]} of {cells} x {cells}. Move").first
    expect(text).to_be_visible(timeout=PATIENCE)
    return time.perf_counter() - start


def clicks(browser: Browser, address: str, count: int, pid: int) -> dict:
    """Click many times, each time on another cell and image; memory at every tenth click."""
    images = sorted(path.name for path in (ROOT / "samples" / "images").glob("*.jpg"))
    draw = random.Random(0)
    seconds, memory = [], []
    cells, each = 16, max(1, count // len(images))  # stage 1 of vmamba_nano at 64 px
    for image in images:
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(PATIENCE)
        tab.goto(f"{address}/?model=vmamba_nano&size=64&beside=&stage=1&image={image}")
        tab.get_by_role("img", name=re.compile("as the model|over it")).first.wait_for()
        settle(tab)
        for number in draw.sample(range(cells * cells), each):
            seconds.append(click(tab, divmod(number, cells), cells))
            if len(seconds) % 10 == 0:
                memory.append({"clicks": len(seconds), "megabytes": round(megabytes(pid))})
                print(memory[-1], flush=True)
        tab.close()
    return {"seconds": seconds, "memory": memory}


def machine() -> dict:
    """Processor, load and versions."""
    names = ("streamlit", "torch", "numba", "numpy")
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in names} | {"python": platform.python_version()},
    }


def written(found: dict) -> str:
    """The measurements as a page."""
    facts = found["machine"]
    about = (
        f"{facts['processor']}, {facts['cores']} cores, load {facts['load']} before, "
        + ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    )
    lines = [f"# The app\n\n{__doc__}\n{about}.\n", "| page | heading (s) | complete (s) |"]
    lines.append("|---|--:|--:|")
    for page, (first, whole) in found["paint"].items():
        lines.append(f"| {page} | {first:.2f} | {whole:.2f} |")
    click = found["click"]
    lines.append(
        f"\nA click to its map, {click['count']} clicks: median {click['median']:.2f} s, 90 % "
        f"within {click['ninth_decile']:.2f} s.\n"
    )
    lines += ["| clicks | server's memory (MB) |", "|--:|--:|"]
    lines += [f"| {row['clicks']} | {row['megabytes']} |" for row in found["memory"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clicks", type=int, default=200)
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    args = parser.parse_args()
    facts, port = machine(), free_port()
    server = started(port)
    address = f"http://127.0.0.1:{port}"
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium") or shutil.which("chromium-browser"),
                args=["--no-sandbox", "--disable-dev-shm-usage"],
            )
            for page in PAGES:
                paint(browser, f"{address}/{page}")
            times = {
                page or "erf": tuple(
                    statistics.median(column)
                    for column in zip(
                        *(paint(browser, f"{address}/{page}") for _ in range(3)), strict=True
                    )
                )
                for page in PAGES
            }
            found = clicks(browser, address, args.clicks, server.pid)
            browser.close()
    finally:
        server.terminate()
        server.wait(20)
    seconds = found["seconds"]
    measured = {
        "machine": facts,
        "paint": times,
        "click": {
            "count": len(seconds),
            "median": statistics.median(seconds),
            "ninth_decile": statistics.quantiles(seconds, n=10)[-1],
        },
        "memory": found["memory"],
    }
    print(written(measured))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix(".json").write_text(json.dumps(measured, indent=2) + "\n")
        args.out.with_suffix(".md").write_text(written(measured))


if __name__ == "__main__":
    main()
