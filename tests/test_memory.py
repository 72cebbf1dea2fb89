"""Freed memory stays with the process that measures."""

import os
import subprocess
import sys

import pytest

from workbench import memory

PAGES = """
import resource, torch
from workbench.memory import keep_freed_memory
if {keep}: assert keep_freed_memory()
def work(): return [torch.ones(1 << 22) for _ in range(8)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(keep: bool) -> int:
    """How many pages a process asks for while it takes and frees the same memory ten times."""
    environment = {name: v for name, v in os.environ.items() if name not in memory._SETTINGS}
    command = [sys.executable, "-c", PAGES.format(keep=keep)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has the settings")
def test_the_same_memory_serves_again() -> None:
    given_back = new_pages(keep=False)
    assert given_back > 10_000
    assert new_pages(keep=True) < given_back / 5  # now and then one round of the ten is new


@pytest.mark.parametrize("name", memory._SETTINGS)
def test_settings_of_the_environment_are_left_alone(name: str, monkeypatch) -> None:
    monkeypatch.setenv(name, "1")
    memory.keep_freed_memory.cache_clear()
    try:
        assert not memory.keep_freed_memory()
    finally:
        memory.keep_freed_memory.cache_clear()
