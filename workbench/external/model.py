"""An external model as the workbench sees it: images in, scores out, its scans open to hooks."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workbench.external.adapter import Adapter, class_scores
from workbench.external.directions import direction_names
from workbench.external.learn import Facts, learn, one_map
from workbench.external.redirect import redirected
from workbench.external.sites import Scans, StandInScan, opened, scans_of
from workbench.external.stages import Stage, stages_of
from workbench.hooks import outputs, stop_after
from workbench.paths import ScanPath

logger = logging.getLogger("workbench")


class ExternalModel(nn.Module):
    """`model`, built inside `stand_in`, with a `StandInScan` for every scan call it makes.

    Sites are named by module, call and direction, as in
    `model.layers.0.blocks.1.self_attention.scans.0/column`. Paths are learned once for every image
    size, at the first pass in which somebody listens to the scans.

    Args:
        model: the external model.
        adapter: how to use it.
        size: height and width of the images by which it is looked at first.
        imported: the stand-ins that its code imported, to say why no scan was called.
        tell, hurry: see `learn`.

    Attributes:
        model: the external model.
        stand_ins: names of the stand-ins that its scans call.
        feature_info: its stages, as timm's models have it.
        num_classes: what the model says, None where the adapter makes the scores.
        native_size: by which it was looked at.
        notes: what a user is to know, such as why there are no scans.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: Adapter,
        size: tuple[int, int],
        imported: Sequence[str] = (),
        tell: Callable[[str], None] = logger.info,
        hurry: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.adapter = model.eval(), adapter
        self.eval()
        classes = getattr(model, "num_classes", None)
        self.num_classes = classes if adapter.score is class_scores else None
        self._facts: dict[tuple[int, int], Facts] = {}
        first = next(model.parameters(), torch.zeros(()))
        facts = self._facts_at(
            torch.zeros(1, 3, *size, device=first.device, dtype=first.dtype), tell, hurry
        )
        self.native_size = size
        self.notes = [] if facts.calls else [_no_scans(model, imported)]
        self.functions = facts.functions
        self.stand_ins = tuple(dict.fromkeys(call.stand_in for call in facts.calls))
        self._attach(facts)
        self._keep_paths(facts, size)
        self._stages = stages_of(facts, size)
        self.feature_info = [
            {"num_chs": stage.width, "reduction": stage.reduction, "module": stage.module}
            for stage in self._stages
        ]

    def forward(self, image: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, classes)."""
        size = (image.shape[-2], image.shape[-1])
        scans = [module for module in self.modules() if isinstance(module, StandInScan)]
        if any(scan.observed for scan in scans):
            self._facts_at(image)
        for scan in scans:
            scan.paths = scan.paths_at.get(size, ())
        for module in self.modules():
            if isinstance(module, Scans):
                module.next = 0
        args, kwargs = self.adapter.arguments(image)
        with redirected(), opened(self.functions):
            return self.adapter.scores(self.model(*args, **kwargs))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Sequence[int],
        norm: bool = False,
        stop_early: bool = True,
        output_fmt: str = "NCHW",
        intermediates_only: bool = True,
    ) -> list[Tensor]:
        """The maps (b, c, rows, columns) after the stages `indices`; as timm's models have it.

        Raises:
            ValueError: for `norm`, as the final norm of an external model is not known.
        """
        if norm:
            raise ValueError("the final norm of a external model is not known; leave norm out")
        chosen = [self._stages[i] for i in indices]
        modules = {stage.output: self.get_submodule(stage.output) for stage in chosen}
        with outputs(modules) as found, stop_after(modules.values() if stop_early else ()):
            self(x)
        return [self._as_map(stage, one_map(found[stage.output]), x) for stage in chosen]

    def _as_map(self, stage: Stage, output: Tensor, x: Tensor) -> Tensor:
        """(b, c, rows, columns) from the output of a stage in its own layout."""
        output = output.movedim(stage.call.channels, 1)
        if output.ndim == 4:
            return output
        call = self._facts_at(x).calls[stage.place]
        if call.grid is None or call.cells is None:
            raise ValueError(f"the output of {stage.output} is no map of the image: {call.reason}")
        real = (call.cells >= 0).to(output.device)
        return output[:, :, real].unflatten(2, call.grid)

    def _facts_at(
        self, image: Tensor, tell: Callable[[str], None] = logger.info, hurry: bool = False
    ) -> Facts:
        """What is known of the scans at the size of `image`; learned now where nothing is."""
        size = (image.shape[-2], image.shape[-1])
        if size not in self._facts:
            with redirected():
                facts = learn(self.model, self.adapter, image[:1], tell, hurry)
            self._facts[size] = facts
            if len(self._facts) > 1:  # the scans have their names from the first size
                self._keep_paths(facts, size)
        return self._facts[size]

    def _attach(self, facts: Facts) -> None:
        """Give every calling module its `Scans`, whose directions are named by their paths."""
        names: dict[int, tuple[str, ...]] = {}
        like: dict[tuple[int, int], tuple[str, ...]] = {}
        # From large grids to small ones, on which several names fit.
        for i in sorted(
            range(len(facts.calls)), key=lambda i: -math.prod(facts.calls[i].grid or ())
        ):
            call = facts.calls[i]
            if call.grid is None or call.orders is None:
                names[i] = tuple(f"direction-{k}" for k in range(call.groups))
                continue
            key = (call.groups, call.number)
            names[i] = direction_names(call.orders, call.grid, like.get(key, ()))
            like[key] = names[i]
        for i, call in enumerate(facts.calls):
            module = self.model.get_submodule(call.module)
            scans = scans_of(module)
            if scans is None:
                scans = Scans()
                module.add_module("traced_scans" if hasattr(module, "scans") else "scans", scans)
            scans.append(StandInScan(names[i]))

    def _keep_paths(self, facts: Facts, size: tuple[int, int]) -> None:
        for call in facts.calls:
            scans = scans_of(self.model.get_submodule(call.module))
            if scans is None or call.number >= len(scans):
                continue  # made at this size only
            scan: Any = scans[call.number]
            scan.paths_at[size] = ()
            if call.grid is None or call.orders is None:
                logger.warning(
                    "No path over the image is known of %s, call %d: %s.",
                    call.module, call.number, call.reason,
                )  # fmt: skip
            elif call.groups == len(scan.directions):
                scan.paths_at[size] = tuple(
                    ScanPath(name, *call.grid, order)
                    for name, order in zip(scan.directions, call.orders, strict=True)
                )


def _no_scans(model: nn.Module, imported: Sequence[str]) -> str:
    why = "it imports no module that has one"
    if imported:
        why = (
            f"it imported {', '.join(imported)}, but ran something else, perhaps a scan of its own "
            "in plain PyTorch"
        )
    return (
        f"{type(model).__name__} calls no selective scan ({why}): it has receptive fields, but no "
        "scan maps"
    )
