"""The scripts in analyses/ are the commands: the same words reach the same methods."""

import importlib
import runpy
import sys

import pytest

from workbench import methods

SCRIPTS = {
    **{name.replace("-", "_"): name for name in methods.METHODS},
    "paper": "figures",
    "scan_paths": "paths",
}


@pytest.mark.parametrize(("script", "command"), SCRIPTS.items())
def test_a_script_is_the_command_of_its_name(script, command, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr("workbench.cli.main", lambda arguments: seen.append(arguments) or 0)
    monkeypatch.setattr(sys, "argv", [script, "--some", "words"])
    importlib.import_module(f"analyses.{script}")
    assert not seen  # importing runs nothing
    del sys.modules[f"analyses.{script}"]
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"analyses.{script}", run_name="__main__")
    assert ended.value.code == 0 and seen == [[command, "--some", "words"]]
