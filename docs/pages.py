"""The files of the site: Markdown and pictures at their places in the repository, so that a link
means the same in both, and the reference, which is made from docstrings.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

import workbench
from workbench.methods import METHODS, folder, title

ROOT = Path(__file__).parents[1]
SHOWN = [
    "*.md",
    "CITATION.cff",
    "docs/*.md",
    "docs/pictures/*",
    "examples/*.*",
    "analyses/configs/*",
    "benchmarks/results/*.md",
    "samples/images/labels.csv",
]
CONTRACT = "\n## What every method is\n"


@event_priority(100)  # before the notebooks are looked for
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages, in the place of those that mkdocs found in docs/, beside what the theme brings."""
    shown = [path.relative_to(ROOT).as_posix() for glob in SHOWN for path in ROOT.glob(glob)]
    place = (str(ROOT), config.site_dir, config.use_directory_urls)
    return Files(
        [
            *(file for file in files if file.src_dir != config.docs_dir),
            *(File(path, *place) for path in sorted(shown)),
            *(File.generated(config, f"api/{page}", content=text) for page, text in reference()),
        ]
    )


def reference() -> list[tuple[str, str]]:
    """Pages and their Markdown: every public name, in the words of its docstring."""
    methods = {name.replace("-", "_") for name in METHODS}
    of_methods = {name for name in workbench.__all__ if name.endswith("Config")} | methods
    names = sorted({*workbench.__all__} - of_methods)
    library = "".join(f"::: workbench.{name}\n\n" for name in names)
    contract = _module("workbench.methods.method", heading_level="3")
    return [
        ("library.md", f"# The library: workbench\n\n{library}"),
        ("methods.md", "# Methods\n" + "".join(map(_method, METHODS)) + CONTRACT + contract),
        ("results.md", "# Results: workbench.results\n" + _module("workbench.results")),
        ("scan.md", "# The scan: workbench.kernels\n" + _module("workbench.kernels")),
    ]


def _method(name: str) -> str:
    config = name.replace("-", " ").title().replace(" ", "") + "Config"
    return f"""
## {title(name)}
{_module(folder(name), members="false")}
::: workbench.{config}
    options: {{heading_level: 3}}
"""


def _module(name: str, **options: str) -> str:
    """A module without a heading, as the page or the section has one."""
    hidden = {"show_root_heading": "false", "show_root_toc_entry": "false", **options}
    return f"\n::: {name}\n    options: {{{', '.join(f'{k}: {v}' for k, v in hidden.items())}}}\n"
