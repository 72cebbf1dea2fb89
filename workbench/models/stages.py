"""Intermediate feature maps, by timm's `forward_intermediates` convention, for our families."""

from collections.abc import Sequence

from timm.models._features import feature_take_indices
from torch import Tensor


class StagesMixin:
    """`forward_intermediates` for a network of stages.

    The network offers `stem(x)`, `stage(i, x)`, `after_stage(i, x)`, `final_norm(x)` and
    `as_map(x) -> (b, c, h, w)`, and has one `feature_info` entry for each stage.
    """

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ):
        """Return the maps of the chosen stages, each before its downsample.

        Args:
            x: (b, 3, h, w).
            indices: stages, or the number of last stages; None for all.
            norm: apply the network's final norm to the last stage's map.
            stop_early: leave out the stages after the last chosen one.
            output_fmt: "NCHW" only.

        Returns:
            A list of (b, c, h, w) maps; without `intermediates_only` a pair of the final features
            and that list.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', not {output_fmt!r}")
        stages = len(self.feature_info)
        take, last = feature_take_indices(stages, indices)
        maps = []
        x = self.stem(x)
        for i in range(last + 1 if stop_early else stages):
            x = self.stage(i, x)
            if i in take:
                normed = self.final_norm(x) if norm and i == stages - 1 else x
                maps.append(self.as_map(normed))
            if i < stages - 1:
                x = self.after_stage(i, x)
        if intermediates_only:
            return maps
        return self.final_norm(x), maps

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the head; the stages stay (needed by timm's `features_only`)."""
        take, _ = feature_take_indices(len(self.feature_info), indices)
        if prune_head:
            self.reset_classifier(0, "")
        return take
