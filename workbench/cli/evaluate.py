"""`vssm evaluate`: accuracy on labelled images."""

import json
import sys

from jsonargparse import ArgumentParser, Namespace

from workbench.cli.options import add_models, read_size


def parser() -> ArgumentParser:
    """Its options."""
    made = ArgumentParser(description="Accuracy of models on labelled images, one crop each.")
    add_models(made)
    made.add_argument("--data", required=True, help="an .npz pack or a folder of class folders")
    made.add_argument("--size", nargs="+", type=str, default=None, help="one or many sizes")
    return made


def command(args: Namespace) -> int:
    """Print top-1 of every model at every size."""
    from tqdm import tqdm

    from workbench.images import open_images, preprocessing_for
    from workbench.study import pairs
    from workbench.train import accuracy
    from workbench.weights import create_model, facts_of

    images = open_images(args.data, args.limit)
    rows = []
    for name, weights in pairs(args.model, args.weights):
        for size in [read_size(size) for size in args.size or [None]]:
            model = create_model(name, weights, seed=args.seed, img_size=size)
            model.to(args.device or "cpu")
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
