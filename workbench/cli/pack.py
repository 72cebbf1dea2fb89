"""`vssm pack FOLDER OUT.npz`: one file of a folder of images, with their labels."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from workbench.fields import read_size


def parser() -> ArgumentParser:
    """Its options."""
    made = ArgumentParser(description="Make one file of a folder of images, with their labels.")
    made.add_argument("images", nargs="+", help="a folder, of class folders if there are classes")
    made.add_argument("out", help="the pack to write, ending in .npz")
    made.add_argument("--size", type=str, default=None, help="in pixels, by default as they are")
    made.add_argument("--labels", default=None, help="a CSV file with columns file and label")
    made.add_argument("--limit", type=int, default=None, help="take so many images at most")
    return made


def command(args: Namespace) -> int:
    """Write the pack."""
    out = Path(args.out)
    if out.suffix != ".npz":
        raise ValueError(f"the pack {out} must end in .npz")
    size = None if args.size is None else read_size(args.size)
    from workbench.images import open_images
    from workbench.images.packing import label, pack

    source = args.images[0] if len(args.images) == 1 else args.images
    images = open_images(source, args.limit)
    if args.labels is not None:
        images = label(images, Path(args.labels))
    for sentence in (*images.left_out, *pack(images, out, size)):
        print(f"left out: {sentence}", file=sys.stderr)
    print(f"{out}: {open_images(out).describe()}, {out.stat().st_size / 2**20:.1f} MB")
    return 0
