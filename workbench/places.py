"""Where the files are that come with the project: sample images, weights, results."""

from pathlib import Path

_HERE = Path(__file__).parent
SAMPLES = next(
    (folder for folder in (_HERE / "samples", _HERE.parent / "samples") if folder.is_dir()),
    _HERE / "samples",
)
"""The folder `samples`: inside the package once it is installed, beside it in the repository."""


def found(path: str | Path) -> Path:
    """A path as it is given, or, where there is nothing, below the samples by a name such as
    samples/weights/vim_nano.imagenette64.safetensors.
    """
    path = Path(path).expanduser()
    if not path.is_absolute() and path.parts[:1] == ("samples",) and not path.exists():
        return SAMPLES.joinpath(*path.parts[1:])
    return path


def named(path: str | Path) -> str:
    """The shortest name that finds a file again: below the samples, below the working folder, or
    as it is.
    """
    path = Path(path)
    if path.is_absolute() and path.is_relative_to(SAMPLES):
        return str(Path("samples") / path.relative_to(SAMPLES))
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
