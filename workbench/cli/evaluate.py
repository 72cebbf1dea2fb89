"""`vssm evaluate`: accuracy on labelled images."""

import dataclasses
import json
import sys

from jsonargparse import ArgumentParser, Namespace

from workbench.cli.options import add_fields, read_fields
from workbench.fields import read_size


def parser() -> ArgumentParser:
    """Its options."""
    made = ArgumentParser(description="Accuracy of models on labelled images, one crop each.")
    from workbench.study import Study

    keep = ("model", "weights", "entry", "images", "data", "limit", "seed", "device")
    add_fields(made, Study, skip={f.name for f in dataclasses.fields(Study)} - {*keep})
    made.add_argument("--json", action="store_true", help="print JSON")
    made.add_argument("--size", nargs="+", type=str, default=[], help="one or many sizes")
    return made


def command(args: Namespace) -> int:
    """Print top-1 of every model at every size."""
    from tqdm.auto import tqdm

    from workbench import distributed
    from workbench.devices import usable
    from workbench.images import preprocessing_for
    from workbench.study import Study, pairs
    from workbench.train import accuracy
    from workbench.weights import facts_of

    study = read_fields(args, Study, size=None)
    device = usable(study.device or distributed.device())
    images = study.open_images()
    rows = []
    for name, weights in pairs(study.model, study.weights):
        one = dataclasses.replace(study, model=(name,), weights=(weights,))
        for size in [read_size(size) for size in args.size] or [None]:
            (model,) = one.subjects(size)
            model.to(device)
            preprocessing = preprocessing_for(model, size)
            with tqdm(total=len(images), desc=f"{name} {size or ''}", file=sys.stderr) as bar:
                correct, count = accuracy(
                    model,
                    images,
                    preprocessing,
                    progress=lambda done, _, b=bar: b.update(done - b.n),
                )
            facts = facts_of(model)
            rows.append(
                {
                    "model": name,
                    "weights": facts["weights"],
                    "size": list(preprocessing.size),
                    "correct": correct,
                    "images": count,
                    "top1": round(100 * correct / count, 2),
                }
            )
            if not args.json:
                print(
                    f"{name:20} {preprocessing.size[0]:>4} px  {rows[-1]['top1']:6.2f} % top-1  "
                    f"({correct} of {count})  {facts['weights_label']}"
                )
    if args.json:
        print(json.dumps(rows, indent=2))
    return 0
