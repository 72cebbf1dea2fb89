"""`vssm export RESULT ...`: receptive fields as a page that follows the mouse, or as a GIF."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

if TYPE_CHECKING:
    from workbench.results import Erf


def parser() -> ArgumentParser:
    """Its options."""
    made = ArgumentParser(
        description="Write receptive fields for a project page or slides: with --html as one "
        "interactive file, for which the maps of all cells are measured anew; with --gif as an "
        "animation, one result after the other, several models side by side, every model on one "
        "colour scale."
    )
    made.add_argument("result", nargs="+", help="results of vssm erf (.npz), in this order")
    made.add_argument("--html", default=None, help="the page to write")
    made.add_argument("--gif", default=None, help="the animation to write")
    made.add_argument(
        "--weights", nargs="+", default=[], help="of the results in turn, where not found by name"
    )
    return made


def command(args: Namespace) -> int:
    """Write each file whole or not at all."""
    from workbench import places
    from workbench.figures.animation import gif
    from workbench.results import Erf, atomic_write, load

    if not (args.html or args.gif):
        raise ValueError("there is nothing to write: give --html PAGE or --gif FILE")
    results = [load(places.found(path)) for path in args.result]
    for path, result in zip(args.result, results, strict=True):
        if not isinstance(result, Erf):
            raise ValueError(f"{path} is a result of {result.kind}; only those of erf are exported")
    fields = [result for result in results if isinstance(result, Erf)]
    written = {args.gif: gif(fields)} if args.gif else {}
    if args.html:
        written[args.html] = _page(args, fields).encode()
    for name, content in written.items():
        with atomic_write(Path(name)) as beside:
            beside.write_bytes(content)
        print(f"wrote {name}", file=sys.stderr)
    return 0


def _page(args: Namespace, results: "Sequence[Erf]") -> str:
    """Measure all cells."""
    from tqdm.auto import tqdm

    from workbench.methods.erf.interactive import offered, page
    from workbench.study import pairs

    given = args.weights or [None]
    models = [
        _model_of(result, weights)
        for result, (_, weights) in zip(results, pairs(args.result, given), strict=True)
    ]
    with tqdm(unit=" cells", file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        cells = [
            offered(result, model, len(results), progress)
            for result, model in zip(results, models, strict=True)
        ]
    return page(results, cells)


def _model_of(result, weights):
    """The model of a result, which must have the weights that were measured."""
    from workbench.weights import create_model, facts_of
    from workbench.weights.files import file_of

    facts, size = result.meta["facts"], tuple(result.meta["preprocessing"]["size"])
    name = str(facts["weights"])
    if weights is None and name not in ("random", "official"):
        weights = file_of(facts) or name
    seed = int(facts.get("seed") or 0)
    model = create_model(facts["model"], weights or name, seed=seed, img_size=size)
    if facts_of(model)["weights_sha256"] != facts["weights_sha256"]:
        raise ValueError(
            f"the result of {facts['model']} was measured with other weights than {weights or name}"
            "; name them with --weights"
        )
    return model
