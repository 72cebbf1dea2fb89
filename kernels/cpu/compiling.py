"""How numba compiles the kernels of this folder, and where the machine code is kept.

Numba files what it compiled under the text of the file a function stands in, and does not notice
that a function it calls, in another file, has changed. Here the machine code therefore lies in a
folder named after the text of all files of this package: any change makes a new one.
"""

import functools
import hashlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from numba import config, njit, types

__all__ = ["compiled", "register", "warm_up"]

_SIGNATURE = (types.intp, types.intp, types.int64[::1])

_kernels: list = []
_compiling = threading.Lock()
_ready = False


def _cache_places() -> list[Path]:
    """Folders that may hold machine code, the preferred first."""
    package = Path(__file__).parent
    name = "vssm-" + hashlib.sha256(bytes(package)).hexdigest()[:12]
    if config.CACHE_DIR:  # the variable NUMBA_CACHE_DIR
        return [Path(config.CACHE_DIR) / name]
    user = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return [package / "__pycache__", Path(user).expanduser() / name]


def _cache_folder(places: Iterable[Path]) -> Path | None:
    """The folder for the machine code of these files, in the first place that can be written to.

    Those of other versions are removed from there. None where nothing can be written.
    """
    text = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    name = f"numba-{text.hexdigest()[:16]}"
    for place in places:
        try:
            (place / name).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place / name).close()
        except OSError:
            continue
        for other in place.glob("numba-*"):
            if other.name != name:
                shutil.rmtree(other, ignore_errors=True)
        return place / name
    return None


_FOLDER = _cache_folder(_cache_places())


def compiled(function: Callable) -> Callable:
    """Let numba compile a function for the kernels, or load it from the disk.

    No fast-math: NaN and infinity must come through. `lanes` allows fused multiply-add by itself.
    """
    jit = functools.partial(njit, nogil=True, error_model="numpy")
    if _FOLDER is None:
        return jit(function)
    before, config.CACHE_DIR = config.CACHE_DIR, str(_FOLDER)  # read while it decorates
    try:
        return jit(function, cache=True)
    finally:
        config.CACHE_DIR = before


def register(kernel: Callable) -> None:
    """Name a compiled kernel(first, stop, numbers) that `threads.run` will be given."""
    _kernels.append(kernel)


def warm_up() -> None:
    """Compile every kernel, or load it from the disk; later calls return at once.

    The first scan does this by itself. Call it to choose the moment, behind a spinner for example.
    """
    global _ready
    if _ready:
        return
    with _compiling:
        if _ready:
            return
        notice = threading.Timer(
            2.5,  # reading the cache takes a second or two on a busy machine
            print,
            ["Compiling the CPU scan for this machine (once, about 10 s) ..."],
            {"file": sys.stderr, "flush": True},
        )
        notice.daemon = True
        notice.start()
        try:
            for kernel in _kernels:
                kernel.compile(_SIGNATURE)
                kernel.disable_compile()
        finally:
            notice.cancel()
        _ready = True
