"""`vssm export RESULT ... --html PAGE`: receptive fields that follow the mouse, in one file."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def parser() -> ArgumentParser:
    """Its options."""
    made = ArgumentParser(
        description="Write receptive fields as one interactive file, for a project page: the maps "
        "of all cells are measured anew and stored in it."
    )
    made.add_argument("result", nargs="+", help="results of vssm erf (.npz), side by side")
    made.add_argument("--html", required=True, help="the file to write")
    made.add_argument(
        "--weights", nargs="+", default=[], help="of the results in turn, where not found by name"
    )
    return made


def command(args: Namespace) -> int:
    """Measure all cells, and write the page whole or not at all."""
    from tqdm.auto import tqdm

    from workbench import places
    from workbench.methods.erf.interactive import offered, page
    from workbench.results import Erf, atomic_write, load
    from workbench.study import pairs

    results = [load(places.found(path)) for path in args.result]
    for path, result in zip(args.result, results, strict=True):
        if not isinstance(result, Erf):
            raise ValueError(f"{path} is a result of {result.kind}; only those of erf are exported")
    given = args.weights or [None]
    models = [
        _model_of(result, weights)
        for result, (_, weights) in zip(results, pairs(args.result, given), strict=True)
    ]
    with tqdm(unit=" cells", file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        fields = [result for result in results if isinstance(result, Erf)]
        cells = [
            offered(result, model, len(fields), progress)
            for result, model in zip(fields, models, strict=True)
        ]
        text = page(fields, cells)
    file = Path(args.html)
    with atomic_write(file) as beside:
        beside.write_text(text)
    print(f"wrote {file}", file=sys.stderr)
    return 0


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
