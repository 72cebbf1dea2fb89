"""`vssm models [PATTERN]`: which models there are."""

import fnmatch
import json

from jsonargparse import ArgumentParser, Namespace


def parser() -> ArgumentParser:
    """Its options."""
    made = ArgumentParser(description="List models.")
    made.add_argument("pattern", nargs="?", default=None, help="such as '*_nano'; any timm model")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def command(args: Namespace) -> int:
    """Print a line for each model."""
    import timm
    import torch

    from workbench.models import REGISTERED

    ours = [name for name in timm.list_models() if name in REGISTERED]
    names = ours if args.pattern is None else fnmatch.filter(timm.list_models(), args.pattern)
    if not names:
        raise ValueError(f"no model matches {args.pattern!r}; `vssm models` lists our families")
    rows = []
    for name in names:
        config = timm.get_pretrained_cfg(name)
        parameters = None
        if name in ours:
            with torch.device("meta"):
                parameters = sum(p.numel() for p in timm.create_model(name).parameters())
        rows.append(
            {
                "model": name,
                "parameters": parameters,
                "input": config.input_size[-1] if config else None,
                "weights_licence": (config and config.license) or "",
            }
        )
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        millions = f"{row['parameters'] / 1e6:.1f} M" if row["parameters"] else ""
        print(
            f"{row['model']:34} {millions:>9}  {row['input'] or '':>4} px  {row['weights_licence']}"
        )
    return 0
