"""Freed memory stays with the process that measures."""

import os
import subprocess
import sys

import pytest

from workbench import memory

HELD = """
import ctypes
from workbench.memory import keep_freed_memory
if {keep}: assert keep_freed_memory()
libc = ctypes.CDLL(None)
class Info(ctypes.Structure):  # of glibc's malloc.h
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    ).split()]
libc.mallinfo2.restype, libc.malloc.restype = Info, ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.free(libc.malloc(ctypes.c_size_t(1 << 24)))
print(libc.mallinfo2().fordblks)
"""


def still_held(keep: bool) -> int:
    """Bytes of freed memory that a process holds on to after it had 16 MB and let them go."""
    environment = {name: v for name, v in os.environ.items() if name not in memory._SETTINGS}
    command = [sys.executable, "-c", HELD.format(keep=keep)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has the settings")
def test_freed_memory_stays_with_the_process() -> None:
    assert still_held(keep=False) < 1 << 23
    assert still_held(keep=True) >= 1 << 24


@pytest.mark.parametrize("name", memory._SETTINGS)
def test_settings_of_the_environment_are_left_alone(name: str, monkeypatch) -> None:
    monkeypatch.setenv(name, "1")
    memory.keep_freed_memory.cache_clear()
    try:
        assert not memory.keep_freed_memory()
    finally:
        memory.keep_freed_memory.cache_clear()
