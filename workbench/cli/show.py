"""`vssm show RESULT ...`: what result files hold."""

import json
import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from workbench import figures
from workbench.cli.measure import summary
from workbench.results import load


def parser() -> ArgumentParser:
    """Its options."""
    made = ArgumentParser(description="Print what result files hold; with --out, draw them.")
    made.add_argument("result", nargs="+", help="result files (.npz), of one kind to be drawn")
    made.add_argument("--out", default=None, help="folder for figures and tables")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def command(args: Namespace) -> int:
    """Print numbers, captions and versions; draw."""
    results = [load(file) for file in args.result]
    kinds = {result.kind for result in results}
    if len(kinds) > 1:
        raise ValueError(f"results of the kinds {', '.join(sorted(kinds))} are shown apart")
    if args.json:
        print(json.dumps([summary(result) for result in results], indent=2))
    else:
        pictures = figures.of(kinds.pop())
        for result in results:
            print(pictures.report(result) + "\n")
        for sheet in pictures.sheets(results):
            print(sheet.caption)
        versions = results[0].meta["provenance"].get("versions", {})
        print(", ".join(f"{name} {version}" for name, version in versions.items()))
    if args.out:
        files = figures.files.publish(results, Path(args.out))
        print("wrote " + ", ".join(map(str, files)), file=sys.stderr)
    return 0
