"""One method on several models and the same images, and the options that every run shares."""

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.files import printable
from workbench.methods.method import Method
from workbench.results import Result

if TYPE_CHECKING:  # options are read before it is known that anything is measured
    from torch import nn

    from workbench.images import Images

Size = int | tuple[int, int]


@dataclass(frozen=True)
class Study:
    """What is measured, and where: the same words in the library, on the command line and in YAML.

    Attributes:
        model: one or many names, see `vssm models`; of a repository's models VSSM, or vmamba:VSSM.
        weights: for each model, or one for all: a file, a folder, hf-hub:owner/name, official,
            random, or auto: what ships with the project, else random.
        entry: which of the dictionaries in a checkpoint, such as model_ema, or ema.state_dict.
        images: samples, a folder, image files or an .npz pack.
        data: labelled images, in place of `images`: right answers are counted.
        size: of the input in pixels, 224 or 224,320 (height, width); by default the models' own.
        limit: take so many images at most.
        seed: of random weights and resampling.
        before_after: measure every trained model before training too (the same seed, untrained).
        out: folder for results and figures.
        device: cpu, cuda, cuda:1; a GPU if there is one.
        force: measure again what is stored.
        repo: a clone whose code runs with your rights; its models are found, or named by model.
        adapter: a file that makes its model where it cannot be found; docs/your-model.md.
    """

    model: tuple[str, ...] = ()
    weights: tuple[str, ...] = ("auto",)
    images: tuple[str, ...] | Any = ("samples",)
    data: str | None = None
    size: Size | None = None
    limit: int | None = None
    seed: int = 0
    before_after: bool | None = None
    out: Path | None = None
    device: str | None = None
    force: bool = False
    repo: str | None = None
    adapter: str | None = None
    entry: str | None = None

    def run(self, method: Method, config: Any = None, **compared: Any) -> list[Result]:
        """Run a method on every model; with the same options a stopped study goes on.

        All models are built, and everything that can be wrong with the input is looked for, before
        the first image is measured.

        Args:
            config: by default the method's, with the seed of the study.
            compared: options of the method's `compare`.

        Raises:
            ValueError: when something of the input does not fit, in a sentence.
        """
        from workbench import distributed
        from workbench.devices import usable

        distributed.join()
        if self.device is not None:
            usable(self.device)
        config = method.Config() if config is None else config
        images = self.open_images()
        size = self.size or method.own_size(config)
        both = method.before_after if self.before_after is None else self.before_after
        subjects = self.subjects(size, both)
        started = [
            self._start(method, model, images, variant)
            for variant in method.variants(config)
            for model in subjects
        ]
        return method.compare([finish() for finish in started], **compared)

    def open_images(self) -> "Images":
        """The images, at most `limit` of them."""
        from workbench.images import open_images

        source = self.data or self.images
        if isinstance(source, tuple | list) and len(source) == 1:
            (source,) = source
        images = open_images(source, self.limit)
        for sentence in images.left_out:
            announce(f"{images.title}: {printable(sentence)}")
        return images

    def subjects(self, size: Size | None = None, both: bool = False) -> "list[nn.Module]":
        """The models, built for a size, each after its untrained twin where `both` are asked for.

        Raises:
            ValueError: for neither or both of `model` and `repo`, for other than one weight for all
                or one for each, and as `create_model`.
        """
        from workbench.weights import facts_of

        names, build = self._models()
        found = []
        for name, source in pairs(names, self.weights):
            model = build(name, source, seed=self.seed, img_size=size, entry=self.entry)
            if both and facts_of(model)["training"] == "after training":
                found.append(build(name, "random", seed=self.seed, img_size=size))
            found.append(model)
        return found

    def check_models(self) -> None:
        """Raise ValueError when models are not named rightly; nothing is built."""
        self._models()

    def _models(self) -> tuple[tuple[str, ...], "Callable[..., nn.Module]"]:
        """The models' names, and what builds one from name, weights, seed and img_size."""
        if self.adapter is not None and (self.repo is None or self.model):
            raise ValueError(
                "--adapter makes the model of a repository: give --repo with it, and no --model"
            )
        if not self.model and self.repo is None:
            raise ValueError("give models by --model, or a repository by --repo")
        if self.repo is None:
            from workbench.weights import create_model

            return self.model, create_model
        from workbench import external

        external.check(self.repo, self.adapter)
        return self.model or (Path(self.repo).resolve().name,), self._external

    def _external(
        self,
        name: str,
        weights: str,
        *,
        seed: int,
        img_size: Size | None = None,
        entry: str | None = None,
    ) -> "nn.Module":
        from workbench import external

        given = None if weights in ("auto", "random") else weights
        assert self.repo is not None
        return external.load(
            self.repo, self.adapter, model=name if self.model else None, size=img_size,
            weights=given, entry=entry, seed=seed, tell=announce,
        )  # fmt: skip

    def _start(
        self, method: Method, model: "nn.Module", images: "Images", config: Any
    ) -> Callable[[], Result]:
        """Look at the input of one model, and give what measures it."""
        from workbench import distributed
        from workbench.runner import Bar, joined, parts, prepared_for
        from workbench.weights import facts_of

        facts = facts_of(model)
        preprocessing = prepared_for(method, model, images, config, self.size)
        bar = Bar(facts["model"])
        coming = parts(
            method,
            model,
            images,
            config,
            preprocessing=preprocessing,
            out=self.out,
            labelled=self.data is not None,
            facts=facts,
            device=self.device or distributed.device(),
            progress=bar,
            force=self.force,
        )

        def finish() -> Result:
            announce(f"{facts['model']}: {facts['weights_label']}; {preprocessing.describe()}")
            provenance: Any = model.provenance
            for note in provenance.notes:
                announce(f"  {note}")
            if facts["licence"]:
                announce(f"  licence of the weights: {facts['licence']}")
            found = []
            with closing(bar):
                for part in coming:
                    found.append(part)
                    if line := method.told(found, config):
                        announce(line)
            result = joined(method, found, config, self.out)
            for image, reason in result.meta["skipped"].items():
                announce(f"  left out: {printable(image)} {printable(reason)}")
            return result

        return finish


def pairs(models: Sequence[str], weights: Sequence[str]) -> list[tuple[str, str]]:
    """Each model with its weights; a single weight stands for all models.

    Raises:
        ValueError: when there are neither as many weights as models nor one.
    """
    if len(weights) not in (1, len(models)):
        raise ValueError(
            f"{len(models)} models but {len(weights)} weights: give one weight for all models or "
            "one for each"
        )
    if len(weights) == 1:
        weights = list(weights) * len(models)
    return list(zip(models, weights, strict=True))


def announce(text: str) -> None:
    """Tell the person at the terminal, once for all processes."""
    from workbench import distributed

    if distributed.rank() == 0:
        print(text, file=sys.stderr)
