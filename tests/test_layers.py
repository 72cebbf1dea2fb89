"""Who may import whom: the layout in CONTRIBUTING.md, checked on the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    *sorted(
        path
        for folder in ("kernels", "workbench", "analyses")
        for path in (ROOT / folder).rglob("*.py")
    ),
]

# A layer may import itself and the layers before it.
LAYERS = (
    (
        "workbench.kernels",
        "workbench.files",
        "workbench.archives",
        "workbench.yamlfile",
        "workbench.places",
        "workbench.devices",
        "workbench.paths",
        "workbench.results",
        "workbench.distributed",
        "workbench.memory",
        "workbench.statistics",
        "workbench.hooks",
        "workbench.former",
        "workbench.position",
    ),
    ("workbench.scan", "workbench.attention"),
    # A model reads its own published file, with what is built on the models.
    ("workbench.models", "workbench.weights", "workbench.images"),
    ("workbench.trace",),
    ("workbench.layout", "workbench.geometry", "workbench.external"),
    ("workbench.mixing",),
    ("workbench.attacks", "workbench.perturbations"),
    ("workbench.methods", "workbench.figures", "workbench.fields"),
    ("workbench.runner", "workbench.train"),
    ("workbench.study",),
    ("workbench",),
    ("workbench.app", "workbench.cli", "analyses"),
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return f"workbench.{name}" if parts[0] == "kernels" else name


def imports(path: Path) -> set[str]:
    """Modules imported anywhere in a file, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(module: str) -> int | None:
    """Place of a module in LAYERS by its longest matching prefix; None for other packages."""
    best, place = "", None
    for i, names in enumerate(LAYERS):
        for name in names:
            if (module == name or module.startswith(name + ".")) and len(name) > len(best):
                best, place = name, i
    return place


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    own = layer(module_name(path))
    assert own is not None
    for module in imports(path):
        other = layer(module)
        assert other is None or other <= own, f"{path.name} imports {module}"


def test_streamlit_stays_in_the_app_and_triton_in_its_folder() -> None:
    for path in SOURCES:
        name = str(path.relative_to(ROOT))
        packages = {module.partition(".")[0] for module in imports(path)}
        if "streamlit" in packages:
            assert name.startswith("workbench/app/")
        if "triton" in packages:
            assert name.startswith("kernels/gpu/")


def test_hooks_are_registered_in_one_place() -> None:
    places = [path for path in SOURCES if ".register_forward" in path.read_text()]
    assert [path.name for path in places] == ["hooks.py"]


def test_figures_draw_results_and_compute_nothing() -> None:
    allowed = {"numpy", "matplotlib", "PIL", "workbench"}
    allowed |= {
        "base64",
        "collections",
        "contextlib",
        "csv",
        "dataclasses",
        "functools",
        "importlib",
        "io",
        "pathlib",
    }
    allowed |= {"gzip", "json", "textwrap", "types", "typing", "zlib"}
    folder = ROOT / "workbench"
    for path in (*(folder / "figures").glob("*.py"), *(folder / "methods").glob("*/figure.py")):
        for module in imports(path):
            assert module.partition(".")[0] in allowed, f"{path} imports {module}"
            if module.startswith("workbench."):
                known = (
                    "workbench.figures",
                    "workbench.results",
                    "workbench.methods",
                    "workbench.files",
                )
                assert module.startswith(known), f"{path} imports {module}"
