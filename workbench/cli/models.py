"""`vssm models [PATTERN]`: which models there are."""

import fnmatch
import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from workbench.results import ResultError, atomic_write


def parser() -> ArgumentParser:
    """Its options."""
    made = ArgumentParser(description="List models, and where their weights come from.")
    made.add_argument(
        "pattern", nargs="?", default=None, help="part of a name, or a pattern such as '*_nano'"
    )
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def command(args: Namespace) -> int:
    """Print a line for each model."""
    known = listed()
    if args.pattern is None:
        names = [name for name, row in known.items() if row["parameters"]]
    else:
        pattern = args.pattern if set("*?[") & set(args.pattern) else f"*{args.pattern}*"
        names = fnmatch.filter(known, pattern)
    if not names:
        raise ValueError(f"no model matches {args.pattern!r}; `vssm models` lists our families")
    rows = [{"model": name, **known[name]} for name in names]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        millions = f"{row['parameters'] / 1e6:.1f} M" if row["parameters"] else ""
        print(
            f"{row['model']:34} {millions:>9}  {row['input'] or '':>4} px  "
            f"{row['weights']:12} {row['weights_licence']}".rstrip()
        )
    return 0


def listed() -> dict[str, dict[str, Any]]:
    """Every model by name: `parameters` (of our families), `input` in pixels, `weights` (trained
    here, published, or random) and `weights_licence`; kept on disk, as importing timm takes
    seconds.
    """
    sources = sorted((Path(__file__).parents[1] / "models").glob("*.py"))
    key = hashlib.sha256(f"{version('timm')} {version('torch')}".encode())
    for file in (Path(__file__), *sources):
        key.update(file.read_bytes())
    user = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    kept = Path(user).expanduser() / "vssm-workbench" / f"models-{key.hexdigest()[:16]}.json"
    try:
        return json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = _looked_up()
    try:
        with atomic_write(kept) as unfinished:
            unfinished.write_text(json.dumps(found), encoding="utf-8")
    except ResultError:  # looked up again next time
        pass
    return found


def _looked_up() -> dict[str, dict[str, Any]]:
    import timm
    import torch

    from workbench.models import REGISTERED

    found = {}
    for name in timm.list_models():
        config = timm.get_pretrained_cfg(name)
        parameters = None
        if name in REGISTERED:
            with torch.device("meta"):
                parameters = sum(p.numel() for p in timm.create_model(name).parameters())
        published = "published" if config and config.has_weights else "random"
        found[name] = {
            "parameters": parameters,
            "input": config.input_size[-1] if config else None,
            "weights": "trained here" if config and config.file else published,
            "weights_licence": (config and config.license) or "",
        }
    return found
