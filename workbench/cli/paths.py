"""`vssm paths [PATTERN]`: which scan paths there are, and pictures of them."""

import json
import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def parser() -> ArgumentParser:
    """Its options."""
    made = ArgumentParser(description="List scan paths; with --draw, draw them.")
    made.add_argument("pattern", nargs="?", default="*", help="such as 'hilbert*', or a set")
    made.add_argument("--grid", type=str, default="8,8", help="rows,columns of the grid")
    made.add_argument("--draw", default=None, help="the picture's file: .pdf, .png or .svg")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def command(args: Namespace) -> int:
    """Print a line for each path, and draw."""
    from workbench.paths import PADDING, SET_SOURCES, SETS, gallery

    try:
        height, width = (int(part) for part in args.grid.replace("x", ",").split(","))
        if min(height, width) < 1:
            raise ValueError
    except ValueError:
        raise ValueError(f"grid {args.grid!r} is not rows,columns such as 8,8") from None
    families, refused = gallery(height, width, args.pattern)
    file = Path(args.draw) if args.draw else None
    if file and file.suffix not in (".pdf", ".png", ".svg"):
        raise ValueError(f"--draw {file} must end in .pdf, .png or .svg")
    if file and not families:
        raise ValueError(next(iter(refused.values())))

    rows = []
    for family, paths in families.items():
        for path in paths:
            visited, padding = int((path.inverse >= 0).sum()), int((path.order == PADDING).sum())
            rows.append(
                {
                    "path": path.name,
                    "sets": [name for name, members in SETS.items() if path.name in members],
                    "cells": visited,
                    "padding": padding,
                    "jumps": path.jumps,
                    "source": family.source,
                    "order": path.order.tolist(),
                }
            )
    if args.json:
        print(json.dumps({"grid": [height, width], "paths": rows, "refused": refused}))
    else:
        width_of_source = max((len(row["source"]) for row in rows), default=0)
        print(f"{'path':34}{'covers':23}jumps  {'source':{width_of_source}}  sets")
        for row in rows:
            covers = "all cells" if row["cells"] == height * width else f"{row['cells']} cells"
            covers += f" + {row['padding']} padding" if row["padding"] else ""
            print(
                f"{row['path']:34}{covers:23}{row['jumps']:5}  {row['source']:{width_of_source}}  "
                f"{', '.join(row['sets']) or '-'}"
            )
        for name, reason in refused.items():
            print(f"{name:34}{reason.removeprefix(f'scan path {name!r} ')}")
        if args.pattern == "*":
            print(f"\n{'set':16} paths  source")
            for name, members in SETS.items():
                print(f"{name:16} {len(members):5}  {SET_SOURCES[name]}")
    if file:
        from workbench.figures import paths as pictures
        from workbench.figures.files import save_figure

        sheet = pictures.sheet(families, refused)
        stem, formats = file.with_suffix(""), (file.suffix[1:],)
        written = save_figure(sheet.draw(), stem, sheet.caption, formats)
        print("wrote " + ", ".join(str(path) for path in written), file=sys.stderr)
    return 0
