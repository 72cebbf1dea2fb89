"""`vssm figures CONFIG.yaml`: all figures and tables of a paper."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def parser() -> ArgumentParser:
    """Its options."""
    made = ArgumentParser(description="All figures and tables of a paper from one YAML file.")
    made.add_argument("file", help="a YAML file, such as those in analyses/configs")
    made.add_argument("--out", default="out/figures", help="folder for figures and tables")
    made.add_argument("--results", default=None, help="folder of results, in --out by default")
    made.add_argument("--device", default=None, help="cpu, cuda, cuda:1; a GPU if there is one")
    made.add_argument("--force", action="store_true", help="measure and draw everything again")
    return made


def command(args: Namespace) -> int:
    """Make what is not there yet."""
    from workbench import distributed
    from workbench.memory import keep_freed_memory
    from workbench.paper import make, read

    keep_freed_memory()
    out = Path(args.out)
    results = Path(args.results) if args.results else None
    files = make(read(args.file), out, results, args.device, args.force)
    if distributed.rank() == 0:
        print(f"{len(files)} files in {out}, made from what {out / 'manifest.json'} says")
    return 0
