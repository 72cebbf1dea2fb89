"""`vssm train`: train a model; the same command goes on after a stop."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from workbench.cli.options import add_fields, read_fields


def parser() -> ArgumentParser:
    """Its options."""
    from workbench.train import TrainConfig

    made = ArgumentParser(description="Train a model; the same command goes on after a stop.")
    made.add_argument("--config", action="config", help="a YAML file with these options")
    made.add_argument("--model", required=True, help="the name of a registered model")
    made.add_argument(
        "--weights",
        default="random",
        help="to start from: random, a file, or auto: what ships with the project",
    )
    made.add_argument("--data", required=True, help="an .npz pack or a folder of class folders")
    made.add_argument("--out", default="out/train", help="folder for checkpoint, curve, weights")
    made.add_argument("--device", default=None, help="cpu, cuda, cuda:1; a GPU if there is one")
    add_fields(made, TrainConfig)
    return made


def command(args: Namespace) -> int:
    """Train, with a progress bar."""
    import torch
    from tqdm.auto import tqdm

    from workbench.devices import usable
    from workbench.images import open_images
    from workbench.train import TrainConfig, Trainer, read_data
    from workbench.weights import create_model
    from workbench.weights.files import built_with

    config = read_fields(args, TrainConfig)
    images = open_images(args.data)
    for line in (f"reading {images.describe()}", *images.left_out):
        print(line, file=sys.stderr)
    data = read_data(images, config.load_size)
    model = create_model(
        args.model,
        args.weights,
        seed=config.seed,
        num_classes=data.classes,
        img_size=config.size,
        **built_with(config.scan_paths),
    )
    start = model.provenance.sha256
    device = usable(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    trainer = Trainer(model, data, config, Path(args.out), device, start)
    if trainer.step:
        print(f"going on at step {trainer.step} of {trainer.steps}", file=sys.stderr)
    with tqdm(total=trainer.steps, initial=trainer.step, unit="step", file=sys.stderr) as bar:

        def progress(step: int, steps: int, loss: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

        try:
            trainer.run(progress)
        except KeyboardInterrupt:
            trainer.save()
            raise
    print(f"wrote {trainer.out / 'weights.safetensors'}", file=sys.stderr)
    return 0
