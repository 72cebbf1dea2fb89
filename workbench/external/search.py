"""Which models a repository holds, read from its source: nothing of it runs."""

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

REQUIRED = object()
"""The default of an argument without one."""

_SCANS = re.compile(r"(?!.*(norm|conv1d|generation))(.*selective_scan.*|(.*\.)?mamba_ssm\b.*)")
"""External names that a scan comes from."""

_SIZES = ["pico", "nano", "micro", "tiny", "mini", "lite", "light", "small"]
_SIZE = re.compile(rf"_?({'|'.join(_SIZES)}|middle|medium|base|large|huge|patch\d+|\d+)(?![a-z])")
_ASIDE = re.compile(
    r"(?<![a-z])(tests?|demo|main|train\w*|detect\w*|segment\w*|analy\w*|video(_\w+)?|backbones?|"
    r"pretrain\w*|distill\w*|finetune\w*|encoder|decoder)(?![a-z])"
)
"""Parts of paths and names of models that are made for something else than single images."""

_SKIPPED = {"site-packages", "node_modules", "__pycache__", "build", "dist", "docs"}


@dataclass(eq=False)
class Definition:
    """A class or function of a file.

    Attributes:
        names: what is referred to in its body, by last names; `called` is what is called.
        returned: what it calls and returns.
        own: arguments of its own, or of its `__init__`, with literal defaults, `REQUIRED` or None.
        open: whether it takes further keywords.
    """

    source: "Source"
    node: ast.ClassDef | ast.FunctionDef
    names: set[str] = field(default_factory=set)
    bases: list[str] = field(default_factory=list)
    returned: set[str] = field(default_factory=set)
    own: dict[str, Any] | None = None
    open: bool = False
    registered: bool = False

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def is_class(self) -> bool:
        return isinstance(self.node, ast.ClassDef)

    @property
    def label(self) -> str:
        return f"{self.source.module}:{self.name}"


class Source:
    """A file; `path` is relative to the repository.

    Attributes:
        definitions: by name.
        imports: local name -> (module, name), or (module, None).
        stars: modules of which all is imported.
    """

    def __init__(self, path: Path, code: bytes) -> None:
        self.path, self.code = path, code
        parts = path.with_suffix("").parts
        self.parts = parts[:-1] if parts[-1] == "__init__" else parts
        self.module = ".".join(self.parts)

    @cached_property
    def tree(self) -> ast.Module:
        """Empty for a file that is no Python of today."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(self.code)
        except (SyntaxError, ValueError, RecursionError):
            return ast.Module([], [])

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        kinds = (ast.ClassDef, ast.FunctionDef)
        return {
            node.name: _definition(self, node)
            for node in _top(self.tree.body)
            if isinstance(node, kinds)
        }

    @cached_property
    def imports(self) -> dict[str, tuple[str, str | None]]:
        found: dict[str, tuple[str, str | None]] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found[alias.asname or alias.name.partition(".")[0]] = (alias.name, None)
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                for alias in node.names:
                    found.setdefault(alias.asname or alias.name, (module, alias.name))
        return found

    @property
    def stars(self) -> list[str]:
        return [module for module, name in self.imports.values() if name == "*"]


class Repository:
    """The files of a folder and the models in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.sources = [
            Source(file.relative_to(self.folder), file.read_bytes()) for file in _files(self.folder)
        ]
        self._by_end: dict[str, list[Source]] = {}
        for source in self.sources:
            self._by_end.setdefault(source.parts[-1] if source.parts else "", []).append(source)

    @cached_property
    def candidates(self) -> list[Definition]:
        """What makes a model without being told anything, the likeliest first.

        Classes and factories whose code reaches a selective scan; where there are none, all. A part
        of another model only where that cannot be built.
        """
        complete = [d for d in self._models if not self.required(d)]
        for around in (self._models, complete):
            parts = {part for d in around if d.is_class for part in self.inside(d)}
            if found := [d for d in complete if d not in parts]:
                return sorted(found, key=self._rank)
        return []

    @cached_property
    def incomplete(self) -> list[Definition]:
        """Models that need arguments, the likeliest first."""
        parts = {part for d in self._models if d.is_class for part in self.inside(d)}
        found = [d for d in self._models if self.required(d) and d not in parts]
        return sorted(found, key=self._rank)

    @cached_property
    def _models(self) -> list[Definition]:
        for sources in (self._on_scans(), self.sources):
            made = [d for source in sources for d in source.definitions.values()]
            made = [d for d in made if self._makes_model(d)]
            scanning = [d for d in made if sources is self.sources or self.reaches(d)]
            if scanning:
                return scanning
        return []

    def required(self, definition: Definition) -> list[str]:
        """The arguments that have no default."""
        return [k for k, v in self.parameters(definition).items() if v is REQUIRED]

    def _on_scans(self) -> list[Source]:
        """The files that name a scan, or a file that does, by their bytes: parsing takes longer."""
        found: dict[Source, None] = {}
        words = {b"mamba_ssm", b"selective_scan"}
        while words:
            new = [s for s in self.sources if s not in found and any(w in s.code for w in words)]
            found.update(dict.fromkeys(new))
            words = {s.parts[-1].encode() for s in new if s.parts}
        return list(found)

    def named(self, name: str) -> list[Definition]:
        """The definitions that `VSSM`, `vmamba:VSSM` or `models/vmamba.py:VSSM` may mean.

        Raises:
            ValueError: when there is none.
        """
        place, _, last = name.rpartition(":")
        place = place.removesuffix(".py").strip("./").replace("/", ".")
        found = [
            d
            for d in self._definitions()
            if d.name == last and f".{d.source.module}".endswith(f".{place}".rstrip("."))
        ]
        if not found:
            known = {d.name for d in self._definitions() if self._makes_model(d)}
            near = get_close_matches(last, known, 3, 0.4) or [d.label for d in self.candidates[:5]]
            hint = f"; there are {', '.join(near)}" if near else ""
            raise ValueError(f"{self.folder.name} has no class or function {name!r}{hint}")
        return sorted(found, key=lambda d: (not self._makes_model(d), self._rank(d)))

    def target(self, definition: Definition) -> Definition:
        """The class that a factory returns an instance of; a class itself."""
        seen: set[Definition] = set()  # two factories may name each other
        while not definition.is_class:
            seen.add(definition)
            found = (self.lookup(definition.source, name) for name in definition.returned)
            made = next((d for d in found if isinstance(d, Definition) and d not in seen), None)
            if made is None:
                break
            definition = made
        return definition

    def parameters(self, definition: Definition) -> dict[str, Any]:
        """Arguments and their defaults, with those that a class passes on to its bases."""
        found: dict[str, Any] = {}
        chain = [definition, *self._ancestors(definition)] if definition.is_class else [definition]
        if not definition.is_class and definition.open:
            made = self.target(definition)
            passed = {} if made is definition else self.parameters(made)
            found |= {k: v for k, v in passed.items() if v is not REQUIRED}
        for part in reversed(chain):
            if part.own is not None:
                found = {**(found if part.open else {}), **part.own}
                if part.is_class and part is not definition and definition.own is not None:
                    found = {k: v for k, v in found.items() if v is not REQUIRED}
        return found

    def imported(self, source: Source) -> Iterator[tuple[Source, str, list[Source]]]:
        """(file, module, the repository's files of that name) for all that is imported from
        `source` on."""
        seen, waiting = {source}, [source]
        while waiting:
            here = waiting.pop()
            modules = {module for module, _ in here.imports.values()} | set(here.stars)
            modules |= {f"{module}.{name}" for module, name in here.imports.values() if name}
            for module in sorted(modules):
                found = self.find(here, module)
                yield here, module, found
                waiting += [s for s in found[:1] if s not in seen]
                seen.update(found[:1])

    def find(self, source: Source, module: str) -> list[Source]:
        """The files that a module's name may mean in a file, the nearest first."""
        level = len(module) - len(module.lstrip("."))
        parts = tuple(filter(None, module.split(".")))
        if level:
            inside = source.path.parent.parts
            parts = (*inside[: len(inside) - level + 1], *parts)
            end = parts[-1] if parts else ""
            return [s for s in self._by_end.get(end, []) if s.parts == parts]
        found = [s for s in self._by_end.get(parts[-1], []) if s.parts[-len(parts) :] == parts]
        return sorted(found, key=lambda s: -_common(s.path.parts, source.path.parts))

    def lookup(self, source: Source, name: str) -> Definition | str | None:
        """What a name in a file is: a definition, or the dotted name of something external."""
        return self._lookup(source, name, set())

    def _lookup(self, source: Source, name: str, seen: set) -> Definition | str | None:
        if (source, name) in seen:
            return None
        seen.add((source, name))
        if name in source.definitions:
            return source.definitions[name]
        places = [source.imports[name]] if name in source.imports else []
        places += [(module, name) for module in source.stars]
        for module, inner in places:
            files = self.find(source, module)
            if not files and not (inner and self.find(source, f"{module}.{inner}")):
                if module not in source.stars or _SCANS.fullmatch(f"{module}.{inner}"):
                    return f"{module}.{inner}" if inner else module
            elif inner and files and (found := self._lookup(files[0], inner, seen)) is not None:
                return found
        return None

    def reaches(self, definition: Definition) -> bool:
        """Whether its code refers to a selective scan, through whatever else it refers to."""
        found = (
            self.lookup(part.source, name)
            for part in (definition, *self.inside(definition, (*definition.bases,)))
            for name in (*part.names, *part.bases)
        )
        return any(isinstance(each, str) and _SCANS.fullmatch(each) for each in found)

    def inside(self, definition: Definition, further: tuple[str, ...] = ()) -> set[Definition]:
        """The definitions that its body (and `further` names) refers to, and those theirs."""
        found: set[Definition] = set()
        waiting = [(definition, {*definition.names, *further})]
        while waiting:
            part, names = waiting.pop()
            for name in names:
                other = self.lookup(part.source, name)
                if isinstance(other, Definition) and other not in found:
                    found.add(other)
                    waiting.append((other, {*other.names, *other.bases}))
        return found - {definition}

    def _definitions(self) -> Iterator[Definition]:
        for source in self.sources:
            yield from source.definitions.values()

    def _ancestors(self, definition: Definition) -> list[Definition]:
        found = [definition]
        for each in found:  # grows
            bases = (self.lookup(each.source, base) for base in each.bases)
            found += [b for b in bases if isinstance(b, Definition) and b not in found]
        return found[1:]

    def _makes_model(self, definition: Definition) -> bool:
        if definition.is_class:
            chain = (definition, *self._ancestors(definition))
            return bool(definition.bases) and any(_has_forward(d.node) for d in chain)
        made = self.target(definition)
        return made.is_class and self._makes_model(made)

    def _rank(self, definition: Definition) -> tuple:
        path, name = str(definition.source.path.with_suffix("")).lower(), definition.name.lower()
        bare = _SIZE.sub("", name)
        title = self.folder.name.lower()
        words = (bare, path.rpartition("/")[2])
        like = sum(SequenceMatcher(None, title, word).ratio() for word in words)
        sizes = (i for i, size in enumerate(_SIZES) if size in name)
        frames = any(re.search("frame|slice|tubelet", p) for p in self.parameters(definition))
        return (
            len(_ASIDE.findall(path)) + len(_ASIDE.findall(name)) + 2 * frames,
            not definition.registered,
            -round(like, 1),
            next(sizes, len(_SIZES)),
            definition.is_class,
            len(definition.source.path.parts),
            path,
            definition.node.lineno,
        )


def _files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).parts
        hidden = any(part.startswith(".") or part in _SKIPPED for part in parts[:-1])
        if not hidden and file.is_file():
            yield file


def _top(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, also inside `if` and `try`."""
    for node in body:
        yield node
        for part in ("body", "orelse", "handlers", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.ExceptHandler):
                yield from _top(getattr(node, part, []))


def _definition(source: Source, node: ast.ClassDef | ast.FunctionDef) -> Definition:
    made = Definition(source, node)
    assigned: dict[str, str] = {}
    for inner in (each for part in node.body for each in ast.walk(part)):
        if isinstance(inner, ast.Name):
            made.names.add(inner.id)
        elif isinstance(inner, ast.Attribute):
            made.names.add(inner.attr)
        elif isinstance(inner, ast.Assign) and isinstance(inner.value, ast.Call):
            for target in inner.targets:
                if isinstance(target, ast.Name):
                    assigned.setdefault(target.id, _last(inner.value.func))
    made.names.discard(node.name)
    made.registered = any("register" in ast.unparse(each) for each in node.decorator_list)
    if isinstance(node, ast.ClassDef):
        made.bases = [base for base in map(_last, node.bases) if base and base != "Function"]
        functions = [f for f in node.body if isinstance(f, ast.FunctionDef)]
        start = next((f for f in functions if f.name == "__init__"), None)
        made.open = start is None or start.args.kwarg is not None
        made.own = None if start is None else _arguments(start, 1)
    else:
        made.own, made.open = _arguments(node, 0), node.args.kwarg is not None
        for inner in ast.walk(node):
            if isinstance(inner, ast.Return) and isinstance(inner.value, ast.Call):
                made.returned.add(_last(inner.value.func))
            elif isinstance(inner, ast.Return) and isinstance(inner.value, ast.Name):
                made.returned.add(assigned.get(inner.value.id, ""))
    return made


def _arguments(function: ast.FunctionDef, skip: int) -> dict[str, Any]:
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    pairs = list(zip(positional, defaults, strict=True))[skip:]
    found = {arg.arg: REQUIRED if default is None else _literal(default) for arg, default in pairs}
    for arg, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        found[arg.arg] = REQUIRED if default is None else _literal(default)
    return found


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _last(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _has_forward(node: ast.ClassDef | ast.FunctionDef) -> bool:
    functions = (f for f in node.body if isinstance(f, ast.FunctionDef))
    return any(f.name == "forward" and f.args.args[:1] and f.args.args[0].arg == "self"
               for f in functions)  # fmt: skip


def _common(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
