"""Resolution: what models predict at other image sizes, what it costs, how far scans remember.

`measure` looks at one model at one size, `sweep` goes over sizes, `curve` makes the curve of their
points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from workbench.methods.method import Method, Run
from workbench.methods.resolution.config import ResolutionConfig
from workbench.results import Resolution as Result
from workbench.results import content_hash, file_name

if TYPE_CHECKING:
    from torch import nn

    from workbench.images import Images, Preprocessing
    from workbench.methods.resolution.sweep import Step


class Resolution(Method):
    name = "resolution"
    Config = ResolutionConfig

    def variants(self, config: ResolutionConfig) -> Sequence[ResolutionConfig]:
        """One for each protocol."""
        return [replace(config, object_size=(one,)) for one in dict.fromkeys(config.object_size)]

    def parts(
        self,
        run: Run,
        model: nn.Module,
        images: Images,
        config: ResolutionConfig,
        preprocessing: Preprocessing,
        labelled: bool = False,
    ) -> Iterator[Step]:
        """A step for each size; what the model was built for is the native one."""
        config = replace(config, native=config.native or preprocessing.size[0])
        return self._file("sweep").sweep(run, self, model, images, config, labelled)

    def told(self, parts: Sequence[Step], config: ResolutionConfig) -> str:
        """The numbers of the last step."""
        figure, step = self._file("figure"), parts[-1]
        if step.reason:
            names = [part.point.meta["model"] for part in parts if part.point]
            return figure.missing(names[0] if names else "", step.size, step.reason)
        # the native size is all that a point is compared with
        shown = parts[:1] if len(parts) < 2 else [parts[0], step]
        return figure.line(self.join(shown, config), step.size)

    def join(self, parts: Sequence[Step], config: ResolutionConfig) -> Result:
        """The curve of the steps."""
        return self._file("sweep").curve_of(parts, config.confidence)

    def file_name(self, result: Result) -> str:
        """`resolution-<model>-<hash8>.npz`; hash8 stands for model, images and protocol, not for
        the sizes: more go to the same file.
        """
        meta = result.meta
        hash8 = content_hash([meta["facts"], meta["config"], meta["images"], meta["dtype"]])
        return file_name(self.name, meta["model"], hash8)

    def compare(self, results: Sequence[Result]) -> list[Result]:
        """Differences of accuracy to the first model, protocol by protocol."""
        groups: dict[str, list[Result]] = {}
        for result in results:
            groups.setdefault(result.meta["object_size"], []).append(result)
        compare = self._file("curve").compare
        return [found for group in groups.values() for found in compare(group)]


method = Resolution()
