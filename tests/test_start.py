"""What the command line imports before it is known that something is measured."""

import subprocess
import sys

import pytest

COMMAND = """
import sys
from workbench.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
heavy = {"torch", "timm", "scipy", "numba", "streamlit"} & set(sys.modules)
print(code, sorted(heavy), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--help", 0),
        ("--version", 0),
        ("erff --model vim_nano", 2),
        ("--quick", 2),
        ("erf --modle vim_nano", 2),
        ("erf --help", 0),
        ("scan-maps --help", 0),
        ("attribution --help", 0),
        ("resolution --help", 0),
        ("robustness --help", 0),
        ("sensitivity --help", 0),
        ("models --help", 0),
        ("paths hilbert", 0),
        ("show --help", 0),
        ("app --help", 0),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(words: str, code: int) -> None:
    command = [sys.executable, "-c", COMMAND, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == f"{code} []"


def test_the_list_of_models_is_kept_on_disk(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = [sys.executable, "-c", COMMAND, "models", "mamba"]
    first, second = (subprocess.run(command, capture_output=True, text=True) for _ in range(2))
    assert "timm" in first.stderr.splitlines()[-1]
    assert second.stderr.splitlines()[-1] == "0 []"
    assert first.stdout == second.stdout and "vmamba_nano" in first.stdout


def test_importing_the_package_costs_nothing_and_its_names_are_there() -> None:
    code = (
        "import sys, os, workbench; "
        "ours = lambda: {k: v for k, v in os.environ.items() if not k.startswith('TORCH')}; "
        "before = ours(); "
        "assert not {'torch', 'timm', 'numpy'} & set(sys.modules); "
        "assert all(getattr(workbench, name) is not None for name in workbench.__all__); "
        "assert ours() == before; "
        "assert workbench.erf.Config is workbench.ErfConfig; "
        "assert workbench.scan_maps.Config is workbench.ScanMapsConfig"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_command_that_is_misspelt_is_answered_with_the_nearest(capsys) -> None:
    from workbench.cli import main

    assert main(["resolutoin"]) == 2
    assert "did you mean resolution?" in capsys.readouterr().err
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vssm-workbench ")
