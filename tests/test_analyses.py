"""The scripts in analyses/: their options reach the method."""

import functools
import importlib

import pytest
from jsonargparse import auto_cli


@pytest.mark.parametrize("name", ["erf", "scan_maps", "resolution", "sensitivity", "robustness"])
def test_options_of_a_method_reach_it(name):
    main = importlib.import_module(f"analyses.{name}").main
    seen = {}

    @functools.wraps(main)
    def recorder(**options):
        seen.update(options)

    arguments = ["--model", "[vmamba_nano]", "--settings.chunk", "3", "--out", "somewhere"]
    arguments += ["--sizes", "[64]"] if name == "resolution" else []
    auto_cli(recorder, args=arguments, as_positional=False)
    assert seen["model"] == ["vmamba_nano"] and seen["settings"].chunk == 3
