"""`vssm show RESULT ...`: what result files hold."""

import json
from collections.abc import Iterator
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from workbench import figures, places
from workbench.cli.measure import summary, told
from workbench.figures.label import label
from workbench.results import Result, load


def parser() -> ArgumentParser:
    """Its options."""
    made = ArgumentParser(description="Print what result files hold; with --out, draw them.")
    made.add_argument(
        "result", nargs="+", help="result files (.npz), of one kind to be drawn; a folder is listed"
    )
    made.add_argument("--out", default=None, help="folder for figures and tables")
    made.add_argument("--json", action="store_true", help="print JSON")
    made.add_argument("--open", action="store_true", help="show the first figure; with --out")
    return made


def command(args: Namespace) -> int:
    """Print numbers, captions and versions; draw."""
    if args.open and not args.out:
        raise ValueError("--open shows what is drawn to a folder: give --out FOLDER as well")
    args.result = [str(places.found(path)) for path in args.result]
    files = list(_files(args.result))
    results = [load(file) for file in files]
    kinds = {result.kind for result in results}
    if len(kinds) > 1 and (args.out or not _folders(args.result)):
        raise ValueError(f"results of the kinds {', '.join(sorted(kinds))} are shown apart")
    with figures.complete(", ".join(map(str, files))):
        if args.json:
            print(json.dumps([summary(result) for result in results], indent=2))
        elif _folders(args.result) and not args.out:
            for file, result in zip(files, results, strict=True):
                print(f"{file}  {result.kind}  {label(result)}")
        else:
            _print(results)
        written = figures.files.publish(results, Path(args.out), hashed=True) if args.out else []
    if written:
        told(written, args.open)
    return 0


def _folders(given: list[str]) -> bool:
    return any(Path(path).is_dir() for path in given)


def _files(given: list[str]) -> Iterator[str | Path]:
    """The files that are named, and in place of a folder the results in it."""
    for path in given:
        if not Path(path).is_dir():
            yield path
            continue
        found = sorted(file for file in Path(path).glob("*.npz") if file.is_file())
        if not found:
            raise ValueError(f"the folder {path} has no result file (*.npz) in it")
        yield from found


def _print(results: list[Result]) -> None:
    pictures = figures.of(results[0].kind)
    for result in results:
        print(pictures.report(result) + "\n")
    for caption in dict.fromkeys(sheet.caption for sheet in pictures.sheets(results)):
        print(caption)
    versions = results[0].meta["provenance"].get("versions", {})
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
