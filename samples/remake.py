"""Make everything again that depends on the weights and photographs that ship.

    python samples/remake.py imagenette_val_224.npz imagenette_val_128.npz \\
        tinyimagenet20_val_64.npz

Every result in `samples/results` whose weights or photographs are others by now is measured again
with the configuration that it says of itself; results of sample images take the first ones. Those
of training come from its snapshots: `training.py`, those of other scan paths from `scan_paths.py`.
Numbers on the lenses come from `analyses/configs/lenses.yaml` (with tinyimagenet20_val_64.npz).
Then the figures of README and docs are drawn by `analyses/configs/docs.yaml` and `scan_paths.yaml`,
their tables written by `tables.py`, and the app is photographed with headless chromium. It takes
hours, says where it is, and goes on where it was stopped.
"""

import argparse
import contextlib
import io
import re
import shutil
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import tables
from PIL import Image

from workbench import create_model, methods, open_images, paper, run
from workbench.models.family import SHIPPED
from workbench.results import Resolution, Result, load
from workbench.weights import facts_of
from workbench.weights.files import finest_size

ROOT = Path(__file__).parents[1]
STORED = ROOT / "samples" / "results"
BUILT = ROOT / "out" / "remake"
PICTURES = ROOT / "docs" / "pictures"
FIGURES = {
    "erf-nano": "erf-nano/erf",
    "erf": "erf/erf",
    "erf-splits": "erf/erf-splits",
    "erf-training": "erf-training/erf",
    "scan-maps": "scan-maps/scan-maps-vmamba_nano",
    "resolution": "resolution/resolution",
    "robustness-vmamba_nano": "robustness/robustness-vmamba_nano",
    "sensitivity-vmamba_nano": "sensitivity/sensitivity-vmamba_nano",
    "sensitivity-vim_nano": "sensitivity/sensitivity-vim_nano",
    "sensitivity-mambavision_nano": "sensitivity/sensitivity-mambavision_nano",
    "quantize-vmamba_nano": "quantize/quantize-vmamba_nano",
    "state-vim_nano": "state/state-vim_nano",
    "decompose-along-vmamba_nano": "decompose/decompose-along-vmamba_nano",
    "scan-paths": "ablation/summary",
    "scan-paths-fields": "ablation-fields/erf",
}
"""Pictures of docs, and what the files of `CONFIGS` call them."""
CONFIGS = ("docs.yaml", "scan_paths.yaml")
APP = {
    "app-erf": "",
    "app-scan-maps": "scan-maps",
    "app-sensitivity": "sensitivity",
    "app-resolution": "resolution",
    "app-story": "story",
    "app-results": "results?result=erf.npz",
}
"""Pictures of docs, and the pages of the app that they show."""


def images_of(result: Result, packs: list[Path]) -> tuple[Any, int]:
    """The images of a stored result as they are today, and how many of them."""
    source, count = result.meta["images"]["source"], result.meta["images"]["count"]
    pack = next((pack for pack in packs if source.startswith(pack.name)), None)
    if pack is None and ".npz" in source:
        sys.exit(f"a result is of {source}: give that pack")
    return pack or "samples", count


def again(file: Path, packs: list[Path]) -> None:
    """Measure a stored result again, if it would be another one."""
    old = load(file)
    meta = old.meta
    method, (source, count) = methods.get(meta["method"]), images_of(old, packs)
    model, images = create_model(meta["model"], "auto"), open_images(source, count)
    weights = facts_of(model)["weights_sha256"]
    if weights == meta["facts"]["weights_sha256"] and images.names == meta["images"]["names"]:
        print(f"{file.name} is as it would be", flush=True)
        return
    own = {field.name for field in fields(method.Config)} - {"native"}
    config = {key: value for key, value in meta["config"].items() if key in own}
    if isinstance(old, Resolution):
        config |= {"sizes": tuple(map(int, old.sizes)), "object_size": (meta["object_size"],)}
    labelled = images.labels is not None and source != "samples"
    print(f"{file.name}: {method.name} of {meta['model']} on {images.describe()}", flush=True)
    options = {"out": BUILT / method.name, "progress": True, "labelled": labelled}
    if file.parent.name == "first":  # as the page shows it
        options["size"] = finest_size(SHIPPED / facts_of(model)["weights_label"])
    run(method, meta["model"], images, **options, **config).save(file, compressed=True)


def corrected() -> None:
    """Holm's correction of the stored sensitivities, over the comparisons of all their models."""
    files = sorted((STORED / "sensitivity").glob("*.npz"))
    method = methods.get("sensitivity")
    for file, result in zip(files, method.compare([load(file) for file in files]), strict=True):
        result.save(file, compressed=True)


def through_lenses(packs: list[Path]) -> None:
    """The tables of the lenses."""
    file = paper.read(ROOT / "analyses" / "configs" / "lenses.yaml")
    given = {pack.name: str(pack) for pack in packs}
    for name, figure in file.figures.items():
        sources = tuple(given.get(source, source) for source in figure.images)
        file.figures[name] = replace(figure, images=sources)
    paper.make(file, BUILT / "lenses")
    for name in file.figures:
        shutil.copy(BUILT / "lenses" / name / f"{name}.csv", STORED / "lenses")


def keep(picture: Image.Image, name: str) -> None:
    """Among the pictures of docs, in 256 colours."""
    method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    small = picture.convert("RGB").quantize(256, method, kmeans=2, dither=dither)
    small.save(PICTURES / f"{name}.png", optimize=True)


def drawn() -> None:
    """The figures and tables of docs."""
    tables.main()
    for config in CONFIGS:
        paper.make(paper.read(ROOT / "analyses" / "configs" / config), BUILT / "figures")
    for name, made in FIGURES.items():
        keep(Image.open(BUILT / "figures" / f"{made}.png"), name)


def photographed() -> None:
    """The pages of the app, light and dark."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from playwright.sync_api import sync_playwright

    from app import free_port, settle, started

    port = free_port()
    server = started(port)
    with contextlib.ExitStack() as stack:
        stack.callback(server.terminate)
        driver = stack.enter_context(sync_playwright())
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, page in APP.items():
            for scheme, suffix in (("light", ""), ("dark", "-dark")):
                tab = browser.new_page(
                    viewport={"width": 1440, "height": 1100}, color_scheme=scheme
                )
                tab.set_default_timeout(120_000)
                tab.goto(f"http://127.0.0.1:{port}/{page}")
                tab.get_by_role("heading", level=2).wait_for()
                settle(tab)
                tab.wait_for_timeout(5000)  # fields of all cells
                keep(Image.open(io.BytesIO(tab.screenshot())), f"{name}{suffix}")
                tab.close()
                print(f"{name}{suffix}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packs", nargs="*", type=Path, help="the validation packs")
    parser.add_argument(
        "--only", default="", help="results whose path has this in it; lenses; figures; app"
    )
    args = parser.parse_args()
    names = [file.relative_to(STORED).as_posix() for file in sorted(STORED.rglob("*.npz"))]
    chosen = [name for name in names if re.search(args.only, name)]
    for name in chosen:
        if not name.startswith("training/"):
            again(STORED / name, args.packs)
    if any(name.startswith("sensitivity/") for name in chosen):
        corrected()
    if re.search(args.only, "lenses"):
        through_lenses(args.packs)
    if re.search(args.only, "figures"):
        drawn()
    if re.search(args.only, "app"):
        photographed()


if __name__ == "__main__":
    main()
