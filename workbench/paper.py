"""All figures and tables of a paper from one YAML file; only what changed is made again.

    venue: neurips                # a width of VENUES, or width: inches
    defaults: {images: samples}   # of every figure below
    figures:
      fields: {method: erf, models: [vmamba_nano, vim_nano], config: {stage: 3}}

Every figure gets a folder of its name with pictures, captions and tables. `results/` keeps what was
measured, `manifest.json` what everything was made from, with hashes, seconds and versions.
"""

import dataclasses
import difflib
import hashlib
import inspect
import json
import time
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench import distributed, figures, methods, places
from workbench.fields import checked
from workbench.figures import paths as path_pictures
from workbench.figures import summary as summary_pictures
from workbench.figures.files import FORMATS, publish, save_figure, save_text
from workbench.figures.width import VENUES, scaled
from workbench.files import printable
from workbench.former import OPTIONS
from workbench.paths import gallery
from workbench.results import Result, content_hash, load, provenance, safe_name
from workbench.study import Study, announce
from workbench.summary import Panel, summarise
from workbench.yamlfile import Lined, line_of, read_yaml

PATHS, SUMMARY = "paths", "summary"
"""In the place of a method: scan paths over a grid, which need no model; chosen numbers of stored
results of any method, see `workbench.summary`."""


@dataclass(frozen=True)
class Figure(Study):
    """What a figure of the file shows: the options of a study, and these. Fields of the method's
    configuration, and options of its comparison and drawing, may stand beside them, as on the
    command line.

    Attributes:
        method: erf, scan-maps, resolution ..., or paths or summary.
        config: fields of the method's configuration.
        compare: options of the method's `compare`, such as the baseline of robustness.
        draw: options of the figure, such as `published` of resolution.
        stored: result files, or patterns such as out/resolution-*.npz, that are drawn instead of
            measuring.
        pattern, grid: of paths.
        panels: of summary, by title: the method and number of each, and columns of its table.
    """

    method: str = ""
    before_after: bool | None = False
    config: dict[str, Any] = field(default_factory=dict)
    compare: dict[str, Any] = field(default_factory=dict)
    draw: dict[str, Any] = field(default_factory=dict)
    stored: tuple[str, ...] = ()
    pattern: str = "*"
    grid: tuple[int, int] = (8, 8)
    panels: tuple[Panel, ...] = ()


@dataclass(frozen=True)
class Paper:
    """A file that was read: figures by name, their width in inches and formats."""

    figures: dict[str, Figure]
    width: float | None = None
    formats: tuple[str, ...] = FORMATS


def read(file: str | Path) -> Paper:
    """Read a YAML file.

    Raises:
        ValueError: for what is not YAML, unknown keys (with the nearest known one), and values of
            the wrong type.
        OSError: when the file cannot be read.
    """
    found = read_yaml(file)
    if not isinstance(found, Lined) or not isinstance(found.get("figures"), Lined):
        raise ValueError(f"{file} has no `figures:`, a mapping of names to what they show")
    _known(found, ("venue", "width", "formats", "defaults", "figures"), str(file))
    defaults = found.get("defaults") or Lined()
    if not isinstance(defaults, Lined):
        raise ValueError(f"{file}{line_of(found, 'defaults')}: defaults must be a mapping")
    figures = {}
    for key, entry in found["figures"].items():
        name, line = str(key), line_of(found["figures"], key)
        where = f"figure {printable(name, 60)} of {file}"
        if name in _TAKEN or safe_name(name) != name:
            raise ValueError(
                f"{where}{line}: a figure's name is that of its folder in --out; letters, digits, "
                f"_, - and . make one, and {', '.join(_TAKEN)} are taken"
            )
        if not isinstance(entry, Lined) or "method" not in entry:
            raise ValueError(f"{where}{line} names no method")
        figures[name] = _figure(entry.over(defaults), where)
    return Paper(figures, _width(found, str(file)), _formats(found, str(file)))


_TAKEN = ("results", "manifest.json")


def _width(found: Lined, file: str) -> float | None:
    """Inches."""
    if "venue" in found:
        venue = found["venue"]
        _known([venue], VENUES, f"venue of {file}{line_of(found, 'venue')}")
        return VENUES[venue]
    width = found.get("width")
    number = isinstance(width, int | float) and not isinstance(width, bool)
    if width is not None and not (number and 0.5 <= width <= 100):
        raise ValueError(
            f"{file}{line_of(found, 'width')}: width must be 0.5 to 100 inches, not "
            f"{printable(width, 60)}"
        )
    return width


def _formats(found: Lined, file: str) -> tuple[str, ...]:
    formats = found.get("formats", FORMATS)
    if not isinstance(formats, list | tuple) or not formats:
        raise ValueError(
            f"{file}{line_of(found, 'formats')}: formats must be a list such as [pdf, png], not "
            f"{printable(formats, 60)}"
        )
    _known(formats, FORMATS, f"formats of {file}{line_of(found, 'formats')}")
    return tuple(formats)


def make(
    paper: Paper,
    out: Path,
    results: Path | None = None,
    device: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Measure, draw and tabulate what is not there yet; return the paths of all files.

    Args:
        results: the folder of what is measured, by default `results` in `out`.
        force: measure and draw everything again.

    Raises:
        ValueError, OSError: naming the figure; those before it are there.
    """
    distributed.join()
    manifest = Manifest(out / "manifest.json")
    files = []
    for i, (name, figure) in enumerate(paper.figures.items(), 1):
        announce(f"[{i}/{len(paper.figures)}] {name}")
        started = time.perf_counter()
        try:
            found = _measured(figure, results or out / "results", device, force)
        except (ValueError, OSError) as error:
            kind = OSError if isinstance(error, OSError) else ValueError
            raise kind(f"figure {name}: {error}") from error
        if distributed.rank() > 0:
            continue
        inputs = [content_hash(result.meta) for result in found]
        key = content_hash([figure, paper.width, paper.formats, inputs, provenance()])
        if force or not manifest.holds(name, key):
            made = _draw(figure, found, paper, out / name)
            manifest.add(name, key, found, made, time.perf_counter() - started)
        files += manifest.files(name)
    return files


class Manifest:
    """What was made from what; one JSON file beside the figures."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["figures"]
        except (OSError, ValueError, KeyError, TypeError):
            self.entries = {}

    def files(self, name: str) -> list[Path]:
        """The files of a figure."""
        return [self.path.parent / file for file in self.entries[name]["files"]]

    def holds(self, name: str, key: str) -> bool:
        """Whether a figure was made from just this, and its files are as they were."""
        entry = self.entries.get(name, {})
        return entry.get("key") == key and all(
            (self.path.parent / file).is_file() and _sha256(self.path.parent / file) == digest
            for file, digest in entry["files"].items()
        )

    def add(
        self, name: str, key: str, results: list[Result], files: list[Path], seconds: float
    ) -> None:
        """Note a figure and write the file."""
        self.entries[name] = {
            "key": key,
            "seconds": round(seconds, 1),
            "inputs": [_origin(result) for result in results],
            "files": {str(f.relative_to(self.path.parent)): _sha256(f) for f in files},
        }
        text = json.dumps({**provenance(), "figures": self.entries}, indent=2, sort_keys=True)
        save_text(text, self.path)


def _origin(result: Result) -> dict[str, Any]:
    meta = result.meta
    return {
        "result": content_hash(meta),
        "model": meta["model"],
        "weights": meta["facts"].get("weights"),
        "weights_sha256": meta["facts"].get("weights_sha256"),
        "images": meta["images"]["source"],
        "images_fingerprint": meta["images"]["fingerprint"],
        "images_used": meta["images_used"],
        "config": meta["config"],
    }


def _measured(figure: Figure, results: Path, device: str | None, force: bool) -> list[Result]:
    if figure.method not in methods.METHODS:
        return stored_results(figure)
    method = methods.get(figure.method)
    if figure.stored:
        return method.compare(stored_results(figure), **figure.compare)
    own = {"out": results / figure.method, "device": device, "force": force}
    config = _config(method.Config, figure.config, seed=figure.seed)
    return dataclasses.replace(figure, **own).run(method, config, **figure.compare)


def stored_results(figure: Figure) -> list[Result]:
    """The results that a figure draws without measuring, in the order of its patterns and of names.

    Raises:
        ValueError: for a pattern that finds nothing, and a result of another method.
    """
    found = []
    for pattern in figure.stored:
        path = places.found(pattern)
        files = [path] if path.exists() else sorted(path.parent.glob(path.name))
        if not files:
            raise ValueError(f"there is no stored result {pattern}")
        for file in files:
            result = load(file)
            own = result.meta.get("method", result.kind)
            if figure.method not in (SUMMARY, own):
                raise ValueError(f"{file} is a result of {own}, not of {figure.method}")
            found.append(result)
    return found


def _draw(figure: Figure, results: list[Result], paper: Paper, out: Path) -> list[Path]:
    if figure.method in methods.METHODS:
        return publish(results, out, paper.formats, paper.width, **figure.draw)
    tables: dict[str, str] = {}
    if figure.method == SUMMARY:
        summary = summarise(results, figure.panels)
        sheet, tables = summary_pictures.sheet(summary), summary_pictures.tables(summary)
    else:
        sheet = path_pictures.sheet(*gallery(*figure.grid, figure.pattern))
    drawn = scaled(sheet.draw(), paper.width) if paper.width else sheet.draw()
    made = save_figure(drawn, out / sheet.name, sheet.caption, paper.formats)
    return made + [save_text(text, out / name) for name, text in tables.items()]


def _figure(entry: Lined, where: str) -> Figure:
    method = str(entry["method"]).replace("_", "-")
    known = (*methods.METHODS, PATHS, SUMMARY)
    _known([method], known, f"method of {where}{line_of(entry, 'method')}")
    parts = {"config": {}, "compare": {}, "draw": {}}
    if method in methods.METHODS:
        parts = {
            "config": typing.get_type_hints(methods.get(method).Config),
            "compare": _options(methods.get(method).compare),
            "draw": _options(figures.of(method).sheets),
        }
    own = typing.get_type_hints(Figure)
    if method != SUMMARY:
        own.pop("panels")
    entry = entry.renamed(OPTIONS)
    _known(entry, ["models", *own, *(name for part in parts.values() for name in part)], where)
    entry = entry.renamed({"models": "model"})
    entry["method"] = method
    others: dict[str, Any] = {}
    for part, hints in parts.items():
        given = entry.pop(part, None) or Lined()
        if not isinstance(given, Lined):
            raise ValueError(
                f"{where}{line_of(entry, part)}: {part} must be a mapping, not "
                f"{printable(given, 60)}"
            )
        beside = [key for key in hints if key in entry and key not in own]
        given = Lined({key: entry.pop(key) for key in beside}, lines=entry.lines).over(given)
        given = given.renamed(OPTIONS)
        _known(given, hints, f"{part} of {where}")
        others[part] = {key: _value(given, key, hints[key], where) for key in given}
    if method == SUMMARY:
        others["panels"] = _panels(entry.pop("panels", None), where)
    figure = dataclasses.replace(_parsed(Figure, entry, where), **others)
    if not all(1 <= side <= 512 for side in figure.grid):
        raise ValueError(f"{where}{line_of(entry, 'grid')}: grid must be 1 to 512 cells a side")
    if method == SUMMARY and not figure.stored:
        raise ValueError(f"{where} needs stored results")
    if method in methods.METHODS:
        if not (figure.model or figure.stored or figure.repo is not None):
            raise ValueError(f"{where} names no models")
        _config(methods.get(method).Config, Lined(others["config"], lines=entry.lines), where)
    return figure


def _panels(given: Any, where: str) -> tuple[Panel, ...]:
    """What a summary shows."""
    if not isinstance(given, Lined) or not given:
        raise ValueError(
            f"{where} needs panels: a mapping of titles to what they show, such as "
            "top-1 (%): {method: resolution, number: top1, size: 64}"
        )
    panels = []
    for title, entry in given.items():
        panel = f"panel {printable(title, 60)} of {where}{line_of(given, title)}"
        if not isinstance(entry, Lined) or not {"method", "number"} <= entry.keys():
            raise ValueError(f"{panel} must be a mapping with a method and a number")
        method = str(entry["method"]).replace("_", "-")
        _known([method], methods.METHODS, f"method of {panel}")
        rest = {str(key): entry[key] for key in entry if key not in ("method", "number")}
        panels.append(Panel(str(title), method, str(entry["number"]), rest))
    return tuple(panels)


def _value(given: Mapping[str, Any], key: str, hint: Any, where: str) -> Any:
    """One value of the type that its field has."""
    try:
        return checked(key, given[key], hint)
    except ValueError as error:
        raise ValueError(f"{where}{line_of(given, key)}: {printable(error)}") from error


def _options(function: Callable) -> dict[str, Any]:
    """The arguments of a function after its first one, each with its type."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return {parameter.name: parameter.annotation for parameter in parameters}


def _config(kind: type, given: Mapping[str, Any], where: str = "", seed: int = 0) -> Any:
    names = [field.name for field in dataclasses.fields(kind)]
    _known(given, names, where)
    seeded = Lined({"seed": seed} if "seed" in names else {})
    lines = given.lines if isinstance(given, Lined) else {}
    return _parsed(kind, Lined(given, lines=lines).over(seeded), where)


def _parsed(kind: type, given: Lined, where: str) -> Any:
    """A dataclass of what is given, every value checked against the type of its field."""
    hints = typing.get_type_hints(kind)
    values = {key: _value(given, key, hints[key], where) for key in given}
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {printable(error)}") from error


def _known(given: Iterable[str], known: Iterable[str], where: str) -> None:
    known = list(known)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            rest = f"; the nearest is {near[0]}" if near else f"; there are {', '.join(known)}"
            shown = printable(key, 60)
            raise ValueError(f"{where}{line_of(given, key)}: {shown} is not known{rest}")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
