"""From a repository to a model: by an adapter, or found in its files."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.external.adapter import check_adapter, read_adapter
from workbench.external.building import build, look_at, module_of
from workbench.external.explain import explained, no_network, watched_weights
from workbench.external.imports import check_folder, stand_in
from workbench.external.model import ExternalModel
from workbench.external.search import Definition, Repository
from workbench.external.theirs import TheirFiles, folders, forks, imported, their_files
from workbench.weights import Provenance, load_into
from workbench.weights.files import read_state_dict

logger = logging.getLogger("workbench")

_TRIED = 8
"""So many models are tried before it is given up."""


def load(
    repo: str | Path,
    adapter: str | Path | None = None,
    *,
    model: str | None = None,
    size: int | tuple[int, int] | None = None,
    weights: str | Path | None = None,
    entry: str | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = logger.info,
) -> ExternalModel:
    """The model of somebody's repository, unedited, on any machine.

    Runs the repository's code with all rights of the user.

    Args:
        repo: a clone, or the folder that the repository's own scripts are run from.
        adapter: a Python file with make(); see `workbench.external.adapter`. Without one the models
            of the repository are looked for, and the first that can be built with its default
            arguments, takes an image and fits the weights is taken.
        model: the class or function to take, as `VSSM` or `vmamba:VSSM`, where there is no adapter.
        size: of the images by which the model is looked at first, in pixels; by default what the
            model is made for, or another that it takes.
        weights: a checkpoint for the model; by default it stays as it is built.
        entry: the key of the checkpoint to use.
        seed: of random weights; the global random state is left alone.
        tell: is told what is being done, a line each.

    Raises:
        ValueError: when the repository cannot be imported, no model can be built, none takes an
            image, or the weights do not fit; one sentence with what to do.
    """
    check_folder(repo)
    if adapter is not None:
        check_adapter(adapter)
    if adapter is not None and model is not None:
        raise ValueError("an adapter makes the model: leave out --model, or --adapter")
    given = (size, size) if isinstance(size, int) else size
    folder = Path(repo).resolve()
    start = _Start(folder, given, None if weights is None else Path(weights), entry, seed, tell)
    return start.adapted(Path(adapter)) if adapter is not None else start.found(model)


class _Start:
    """What both ways have in common; see `load`."""

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int] | None,
        weights: Path | None,
        entry: str | None,
        seed: int,
        tell: Callable[[str], None],
    ) -> None:
        self.folder, self.size, self.tell, self.seed = folder, size, tell, seed
        self.weights, self.entry = weights, entry

    def adapted(self, file: Path) -> ExternalModel:
        """By an adapter."""
        with self._inside([self.folder, *forks(self.folder)]) as (stand_ins, theirs):
            with explained(file.name, theirs), watched_weights() as own, no_network():
                parts = read_adapter(file)
                made = parts.make()
            made = module_of(made, f"make() of {file.name}")
            size = self.size or (224, 224)
            found = look_at(made, parts, size, stand_ins.imported, theirs, self.tell)
            return self._finished(found, type(made).__name__, bool(own))

    def found(self, name: str | None) -> ExternalModel:
        """Looked for."""
        self.tell(f"{self.folder.name}: looking for models")
        repository = Repository(self.folder)
        known = repository.candidates
        tried = known if name is None else repository.named(name)[:1]
        failures: list[ValueError] = []
        for candidate in [c for c in tried if not repository.required(c)][:_TRIED]:
            try:
                return self._tried(repository, candidate, [c for c in known if c is not candidate])
            except ValueError as error:
                failures.append(error)
                self.tell(f"{candidate.label}: {error}")
        incomplete = [*filter(repository.required, tried), *repository.incomplete]
        if incomplete and (not failures or tried[0] in repository.inside(incomplete[0])):
            names = ", ".join(repository.required(incomplete[0]))
            raise ValueError(
                f"{incomplete[0].label} has no default for {names}: write an adapter whose make() "
                "calls it with them (docs/your-model.md)"
            )
        if not failures:
            raise ValueError(
                f"no file in {self.folder.name} has a torch.nn.Module with a forward(): give the "
                "folder that has the model's code, or write an adapter (docs/your-model.md)"
            )
        more = f" (and {len(failures) - 1} other models failed)" if failures[1:] else ""
        raise ValueError(f"{failures[0]}{more}")

    def _tried(
        self, repository: Repository, candidate: Definition, others: list[Definition]
    ) -> ExternalModel:
        self.tell(f"{self.folder.name}: importing {candidate.label}")
        paths = folders(repository, candidate.source)
        with self._inside(paths) as (stand_ins, theirs):
            with explained(candidate.label, theirs), no_network():
                make = imported(repository, candidate, theirs, paths[0])
            with watched_weights() as own:
                found, call = build(
                    make, candidate.label, repository.parameters(candidate), self.size,
                    stand_ins.imported, theirs, self.tell,
                )  # fmt: skip
            line = f"{self.folder.name}: {call}, by images of {_pixels(found.native_size)}"
            if others:
                first = [o.label if o.name == candidate.name else o.name for o in others[:3]]
                names = ", ".join(dict.fromkeys(first))
                line += f"; one of {len(others) + 1} models, --model NAME takes another: {names}"
                line += " ..." if others[3:] else ""
            return self._finished(found, candidate.name, bool(own), line)

    @contextmanager
    def _inside(self, paths: list[Path]) -> Iterator[tuple[Any, TheirFiles]]:
        with (
            stand_in(*paths, installed=False) as stand_ins,
            their_files(self.folder, stand_ins) as theirs,
            torch.random.fork_rng(devices=[]),
        ):
            torch.default_generator.manual_seed(self.seed)
            yield stand_ins, theirs

    def _finished(
        self, found: ExternalModel, name: str, own_weights: bool, *notes: str
    ) -> ExternalModel:
        """With the checkpoint in it, and what is to be said of it."""
        made: nn.Module = found.model
        facts: dict[str, Any] = {}
        said = [*notes, *found.notes]
        if self.weights is not None:
            state, facts = read_state_dict(self.weights, self.entry)
            said += load_into(made, state).notes
        source = "from make()" if own_weights else "random"
        source = source if self.weights is None else str(self.weights)
        found.pretrained_cfg = getattr(made, "pretrained_cfg", None)
        read = {key: facts.get(key) for key in ("file", "sha256", "entry")}
        found.provenance = Provenance(name, source, **read, seed=self.seed, notes=said)
        return found


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"
