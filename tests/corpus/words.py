"""YAML files and options of the command line: of wrong types, unknown, twice, endless."""

import os
from collections.abc import Iterator
from pathlib import Path

from corpus.case import Case
from workbench import paper
from workbench.cli import main

GOOD = (
    "figures: {a: {method: paths}}",
    "figures: {a: {method: erf, models: [vim_nano], stage: 2}}",
    "defaults: {images: samples}\nfigures: {a-1: {method: erf, models: [vim_nano, vmamba_nano]}}",
    "width: 3.5\nformats: [pdf]\nfigures: {a: {method: scan-maps, models: vim_nano}}",
    "venue: neurips\nfigures: {a: {method: resolution, models: [vim_nano], sizes: [32, 64]}}",
    "defaults: &d {method: erf, models: [x]}\nfigures: {a: {<<: *d, stage: 1}, b: *d}",
    "figures: {a: {method: erf, models: [x], config: {resamples: 20}, size: [64, 96]}}",
)
KEYS = (
    *("models", "weights", "images", "limit", "size", "seed", "config", "draw", "compare"),
    *("stage", "before_after", "method"),
)
VALUES = ("{a: {b: 1}}", "[[1]]", "2020-01-01", "!!binary aGVsbG8=", ".nan", "1.5e400")
BAD = (
    *("figures: [", "figures: {a: 1}", "figures: 3", "[]", "", "\t", "a: b: c", "? [a]\n: b"),
    *("figures: {a: {method: paths}}\nfigures: {}", "figures: {a: {method: paths, method: erf}}"),
    *("formats: 5\nfigures: {a: {method: paths}}", "width: -1\nfigures: {a: {method: paths}}"),
    *("width: .nan\nfigures: {a: {method: paths}}", "venue: [1]\nfigures: {a: {method: paths}}"),
    *("defaults: [1]\nfigures: {a: {method: paths}}", "figures: &f {a: *f}"),
    "figures: {a: !!python/object/apply:os.system ['touch MARK']}",
    "a: &a [" + "x," * 20 + "]\nb: &b [" + "*a," * 20 + "]\nc: &c [" + "*b," * 20 + "]\n"
    "d: &d [" + "*c," * 20 + "]\nfigures: {a: {method: paths, config: {x: *d}}}",
    "[" * 3000,
    "a: " + "9" * 5000,
    *(f"figures: {{{name!r}: {{method: paths}}}}" for name in ("../x", "/tmp/x", "a/b", ".", "..")),
    *(f"figures: {{{name!r}: {{method: paths}}}}" for name in ("results", "manifest.json", "a\\b")),
    "figures: {a: {method: paths, grid: [0, 4]}}",
    "figures: {a: {method: paths, grid: [1000000, 1000000]}}",
    "figures: {a: {method: erf, models: [x], size: 1000000000}}",
    "figures: {a: {method: erf, models: [x], draw: {wide: 1}}}",
)
OPTIONS = (
    *("--size -1", "--size 0", "--size big", "--size 1000000000", "--limit 0", "--limit -2"),
    *("--device foo", "--device mps", "--device cuda:99", "--device meta", "--stage 99"),
    *("--resamples -1", "--chunk 0", "--position nowhere", "--split sideways", "--model none_such"),
    *("--images /nowhere", "--images /dev/zero", "--weights /dev/zero", "--weights /nowhere.pth"),
    *(
        "--entry none --weights samples/weights/vim_nano.imagenette64.safetensors",
        "--seed x",
        "--layer 99",
    ),
    *("--config /dev/zero", "--config /nowhere.yaml", "--modle x", "--confidence 7"),
)


def cases(folder: Path, seed: int) -> Iterator[Case]:
    def yaml(name: str, text: str, good: bool | None) -> Case:
        path = folder / f"{name.replace(' ', '-')}.yaml"
        text = text.replace("MARK", str(folder / "mark"))
        return Case(
            f"yaml/{name}", lambda: path.write_text(text), lambda: bool(paper.read(path)), good
        )

    for number, text in enumerate(GOOD):
        yield yaml(f"good {number}", text, True)
    for number, text in enumerate(BAD):
        yield yaml(f"bad {number}", text, False)
    for key in KEYS:
        for number, value in enumerate(VALUES):
            text = f"figures:\n  a:\n    models: [x]\n    method: erf\n    {key}: {value}\n"
            if key in ("models", "method"):
                text = text.replace(f"    {key}: {'[x]' if key == 'models' else 'erf'}\n", "", 1)
            yield yaml(f"{key} {number}", text, None)
    pipe = folder / "pipe.yaml"
    yield Case("yaml/pipe", lambda: os.mkfifo(pipe), lambda: bool(paper.read(pipe)), False)

    def option(text: str) -> Case:
        given = {"--model": "vim_nano", "--images": "samples", "--size": "32", "--limit": "1"}
        words = text.split()
        rest = [w for k, v in given.items() if k not in words for w in (k, v)]
        out = folder / text.replace(" ", "-").replace("/", "-")

        def run() -> bool:
            code = main(["erf", *rest, *words, "--out", str(out)])
            if code == 2:
                raise ValueError("refused")
            return code == 0

        return Case(f"options/{text}", lambda: None, run, False)

    for text in OPTIONS:
        yield option(text)
