"""The command line: what it writes, and one sentence for whatever cannot be used."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench import load
from workbench.cli import main

QUICK = ["--images", "samples", "--limit", "3", "--size", "64", "--resamples", "20"]
QUICK += ["--weights", "random"]


def erf(out: Path, *more: str, model: str = "vmamba_nano") -> int:
    return main(["erf", "--model", *model.split(), *QUICK, "--out", str(out), *more])


def test_erf_writes_results_figures_and_a_caption_and_prints_numbers(
    tmp_path, capsys, monkeypatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert erf(tmp_path, "--json", "--open", model="vmamba_nano vim_nano") == 0
    assert [Path(url).suffix for url in opened] == [".png"]
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == ["vmamba_nano", "vim_nano"]
    for row in rows:
        entry = row["numbers"]["A50"]
        assert 0 < entry["value"] <= 100 and entry["low"] is None
        result = load(tmp_path / row["result"])
        assert result.maps.shape == (3, 64, 64)
        assert result.map.sum() == pytest.approx(1)
    for suffix, start in ((".pdf", b"%PDF"), (".png", b"\x89PNG"), (".svg", b"<?xml")):
        (figure,) = tmp_path.glob(f"erf-vmamba_nano-vim_nano-*{suffix}")
        assert figure.read_bytes().startswith(start)
    told = figure.with_suffix(".txt").read_text()
    assert "3 images" in told and "an interval needs 10 images" in told
    assert not list(tmp_path.rglob("*.unfinished"))


def test_the_same_command_gives_the_same_bytes(tmp_path, capsys) -> None:
    for folder in ("one", "two"):
        assert erf(tmp_path / folder, "--split", "direction") == 0
    first = {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir() if p.is_file()}
    second = {p.name: p.read_bytes() for p in (tmp_path / "two").iterdir() if p.is_file()}
    assert len(first) == 11 and first == second


def test_no_file_of_one_run_is_written_over_by_another(tmp_path, capsys) -> None:
    assert erf(tmp_path, "--split", "direction", "--resamples", "0") == 0
    first = {p: p.read_bytes() for p in tmp_path.iterdir()}
    assert erf(tmp_path, "--stage", "2", "--resamples", "0") == 0
    more = {p: p.read_bytes() for p in tmp_path.iterdir() if p not in first}
    assert all(p.read_bytes() == content for p, content in first.items())
    assert len(more) == 7 and len({p.stem.rpartition("-")[2] for p in more}) == 2
    assert {p.name.partition("-")[0] for p in (*first, *more)} == {"erf"}


def test_before_and_after_training_stand_in_two_rows(tmp_path, capsys) -> None:
    from safetensors.torch import save_file

    from workbench import create_model

    file = tmp_path / "trained.safetensors"
    save_file(create_model("vmamba_nano", seed=7).state_dict(), file)
    assert erf(tmp_path / "out", "--weights", str(file), "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["facts"]["training"] for row in rows] == ["before training", "after training"]
    assert rows[0]["numbers"]["A50"] != rows[1]["numbers"]["A50"]


def test_a_yaml_file_says_the_same_as_options(tmp_path, capsys) -> None:
    config = tmp_path / "erf.yaml"
    config.write_text(
        "model: [vmamba_nano]\nimages: [samples]\nlimit: 3\nsize: '64'\nresamples: 20\nstage: 2\n"
        "weights: [random]\n"
    )
    assert main(["erf", "--config", str(config), "--out", str(tmp_path / "yaml")]) == 0
    assert erf(tmp_path / "options", "--stage", "2") == 0
    names = [{p.name for p in (tmp_path / f).glob("*.npz")} for f in ("yaml", "options")]
    assert names[0] == names[1]


def test_show_prints_what_a_result_holds(tmp_path, capsys) -> None:
    erf(tmp_path)
    capsys.readouterr()
    result = next(tmp_path.glob("*.npz"))
    assert main(["show", str(result), "--out", str(tmp_path / "again")]) == 0
    text = capsys.readouterr().out
    assert "A50" in text and "% of image" in text and "torch" in text
    assert list((tmp_path / "again").glob("erf-vmamba_nano-*.png"))


def scan_maps(out: Path, *more: str, model: str = "vmamba_nano") -> int:
    given = ["--images", "samples", "--limit", "2", "--size", "64", "--out", str(out)]
    return main(["scan-maps", "--model", *model.split(), *given, *more])


def test_scan_maps_writes_results_and_figures_and_prints_numbers(tmp_path, capsys) -> None:
    models = "vmamba_nano vim_nano mambavision_nano"
    assert scan_maps(tmp_path, "--layer", "0", "--query", "0.5,0.5", "--json", model=models) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == models.split()
    assert len(rows[0]["sites"]) == 5  # four directions and their sum
    for row in rows:
        result = load(tmp_path / row["result"])
        site = row["sites"][0]
        assert result.map(site["name"], "row").shape == tuple(site["cells"])
        (figure,) = tmp_path.glob(f"scan-maps-{row['model']}-*.pdf")
        assert figure.read_bytes().startswith(b"%PDF")
        assert list(tmp_path.glob(f"scan-statistics-{row['model']}-*.png"))
    first = str(tmp_path / rows[0]["result"])
    assert main(["show", first, "--out", str(tmp_path / "shown")]) == 0
    assert "row-reversed" in capsys.readouterr().out
    assert len(list((tmp_path / "shown").iterdir())) == 9


def test_attribution_writes_figure_and_numbers(tmp_path, capsys) -> None:
    given = ["--size", "64", "--images", "samples", "--limit", "2", "--steps", "2"]
    given += ["--fractions", "4"]
    arguments = ["attribution", "--model", "vim_nano", *given, "--out", str(tmp_path), "--json"]
    assert main(arguments) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert 0 <= row["numbers"]["deletion/integrated-gradients"]["value"] <= 1
    assert load(tmp_path / row["result"]).maps.shape == (2, 64, 64)
    assert list(tmp_path.glob("attribution-integrated-gradients-vim_nano-*.svg"))
    assert main(["show", str(tmp_path / row["result"])]) == 0
    assert "insertion/random" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--query", "9,9", "--layer", "-1"], "9,9"),
        (["--layer", "layers.0.blokcs.1"], "near are layers.0.blocks.1.op.scan"),
        (["--layer", "99"], "there is no layer 99"),
        (["--view", "attention"], "view must be one of alpha"),
        (["--query", "class"], "no class token"),
    ],
)
def test_a_wrong_question_about_scans_is_one_sentence(more, words, tmp_path, capsys) -> None:
    assert scan_maps(tmp_path, *more) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert not list(tmp_path.glob("*.npz"))


def test_sensitivity_reports_its_views_and_claims(tmp_path, capsys) -> None:
    few = ["--views", "gradient,patching", "bounds", "--attack-steps", "2", "--narrow", "false"]
    command = ["sensitivity", "--model", "mambavision_nano", *QUICK, *few, "--out", str(tmp_path)]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "RANDOM WEIGHTS" in text and '"B and C are weak points": UNDECIDED' in text
    (file,) = tmp_path.glob("*.npz")
    found = load(file)
    assert set(found.meta["views"]) == {"gradient", "patching", "bounds"}
    assert found.meta["views"]["bounds"]["exceeded"] == 0
    assert list(tmp_path.glob("sensitivity-mambavision_nano-*.png"))
    (table,) = tmp_path.glob("sensitivity-*.csv")
    assert "mambavision_nano,patching,all B,recovered," in table.read_text()
    assert main(["show", str(file)]) == 0
    assert text.strip() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--views", "gradient,depth"], "views must be one of gradient"),
        (["--eps", "0.1,much"], "eps must be numbers, not 0.1 much"),
        (["--eps", "4"], "more than twice the RMS of a row"),
        (["--model", "resnet_nano"], "has no selective scan"),
    ],
)
def test_a_wrong_question_about_sensitivity_is_one_sentence(more, words, tmp_path, capsys) -> None:
    command = ["sensitivity", "--model", "vim_nano", *QUICK, "--out", str(tmp_path), *more]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert not list(tmp_path.glob("*.npz"))


def test_robustness_counts_what_predictions_withstand(tmp_path, capsys) -> None:
    few = ["--attacks", "fgsm,pgd", "--steps", "2", "--eps-255", "1,4", "--probes", "views"]
    command = ["robustness", "--model", "resnet_nano", *QUICK, *few, "--out", str(tmp_path)]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "attack/pgd/4" in text and "view/horizontal-flip" in text
    (file,) = tmp_path.glob("*.npz")
    assert load(file).predictions.shape[1] == 3
    (table,) = tmp_path.glob("robustness-resnet_nano-*.tex")
    assert "\\begin{tabular}" in table.read_text()
    assert main([*command, "--eps-255", "0.01"]) == 2
    assert "eps_255=2.55" in capsys.readouterr().err


def test_models_lists_families_and_patterns(capsys) -> None:
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "vim_tiny " in text and "vmamba_base_s1l20" in text and "mambavision_large3_512" in text
    assert main(["models", "vnext_at", "--json"]) == 0  # part of a name, or a pattern
    part = json.loads(capsys.readouterr().out)
    assert main(["models", "*vnext_at*", "--json"]) == 0
    assert part and part == json.loads(capsys.readouterr().out)
    assert main(["models", "vmamba_nano", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["weights"] == "trained here" and 0.8e6 < row["parameters"] < 0.9e6


def test_every_command_has_help_with_examples_and_is_completed(capsys) -> None:
    from workbench.cli import commands, parser

    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for name in commands():
        assert f"vssm {name} " in parser(name).format_help().partition("examples:")[2]
        assert f"_shtab_vssm_{name.replace('-', '_')}_option_strings=" in script


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "vmamba_tinny"], ["vmamba_tinny", "vmamba_tiny"]),
        (["--layer", "layers.0.block.0"], ["layers.0.blocks.0"]),
        (["--stage", "9"], ["stages 1 to 3"]),
        (["--position", "9,9"], ["outside the map", "4 x 4"]),
        (["--position", "top"], ["position", "centre"]),
        (["--split", "sideways"], ["split", "direction"]),
        (["--size", "3"], ["at least 4 x 4"]),
        (["--size", "big"], ["size", "224"]),
        (["--images", "/nowhere/at/all"], ["/nowhere/at/all"]),
        (["--weights", "/nowhere/weights.pth"], ["/nowhere/weights.pth"]),
        (["--weights", "random", "random"], ["1 models", "2 weights"]),
        (["--device", "cuda:7"], ["cuda"]),
        (["--model", "resnet_nano", "--split", "path"], ["no selective scan"]),
        (["--model", "nowhere.module:factory"], ["nowhere"]),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, words, tmp_path, capsys) -> None:
    options = {"--model": ["vmamba_nano"], "--images": ["samples"], "--size": ["64"]}
    options[arguments[0]] = []
    command = ["erf", "--limit", "1", "--out", str(tmp_path / "out")]
    for name, values in options.items():
        command += [name, *values] if values else []
    code = main([*command, *arguments])
    shown = capsys.readouterr()
    assert code == 2
    sentence = [line for line in shown.err.splitlines() if line.startswith("vssm: ")]
    assert len(sentence) == 1 and "Traceback" not in shown.err
    for word in words:
        assert word in sentence[0]
    assert not list(tmp_path.rglob("*.npz")) and not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("erf --modle vmamba_nano", "there is no option --modle; did you mean --model?"),
        ("erf --model vmamba_nano --stage four", "--stage must be int, not four"),
        ("erf vmamba_nano", "a model is --model NAME"),
        ("erf --model vmamba_nano --pretrained", "did you mean --weights official?"),
        ("scan-maps --model vmamba_nano --querry 1,1", "did you mean --query?"),
        ("models --jsno", "did you mean --json?"),
        ("erf --model vmamba_nano --stage 0", "stage must be at least 1"),
        ("erf --model vmamba_nano --position 0.3", "position '0.3' is not understood"),
        ("scan-maps --model vmamba_nano --query 0.5,1.5", "position '0.5,1.5' is not understood"),
        ("erf --model vmamba_nano --device mps", "mps has no float64"),
        ("show out --open", "give --out"),
    ],
)
def test_what_is_misspelt_is_one_sentence_before_anything_loads(
    command, words, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("timm.create_model", None)
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_an_empty_folder_and_a_broken_image_are_named_and_the_rest_goes_on(
    tmp_path, capsys
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    out = ["--out", str(tmp_path / "out"), "--size", "64", "--resamples", "0"]
    assert main(["erf", "--model", "vmamba_nano", "--images", str(folder), *out]) == 2
    assert str(folder) in capsys.readouterr().err
    Image.fromarray(np.full((80, 90, 3), 120, np.uint8)).save(folder / "good.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff not an image")
    assert main(["erf", "--model", "vmamba_nano", "--images", str(folder), *out, "--json"]) == 0
    shown = capsys.readouterr()
    assert "left out: broken.jpg" in shown.err
    assert json.loads(shown.out)[0]["images_used"] == 1


class Marker:
    """A pickle of it would create a file when it is loaded freely."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def test_weights_that_would_run_code_are_refused_and_nothing_runs(tmp_path, capsys) -> None:
    marker = tmp_path / "it-ran"
    file = tmp_path / "weights.pth"
    file.write_bytes(pickle.dumps({"model": Marker(marker)}))
    assert erf(tmp_path / "out", "--weights", str(file)) == 2
    assert not marker.exists()
    assert "weights.pth" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_found_before_measuring(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("in the way")
    assert erf(tmp_path / "file" / "out") == 2
    assert "file" in capsys.readouterr().err


def test_ctrl_c_keeps_finished_chunks_and_the_next_run_uses_them(tmp_path) -> None:
    command = [sys.executable, "-m", "workbench.cli", "erf", "--model", "vmamba_nano"]
    command += ["--weights", "random"]
    command += ["--size", "448", "--chunk", "1", "--resamples", "0", "--out", str(tmp_path)]
    # A shell may have told its background jobs to ignore Ctrl-C, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.rglob("0000*.npz"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in shown and "finished chunks are kept" in shown
    assert len(list(tmp_path.rglob("0000*.npz"))) >= 2 and not list(tmp_path.glob("*.npz"))
    finished = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    assert "earlier run" in finished.stderr
    assert len(list(tmp_path.glob("*.npz"))) == 1 and not list(tmp_path.rglob("0000*.npz"))


def test_a_model_from_a_file_of_ones_own(tmp_path, capsys) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))\n"
    )
    assert erf(tmp_path / "out", "--json", model=f"{file}:make") == 0
    numbers = json.loads(capsys.readouterr().out)[0]["numbers"]
    assert numbers["A99"]["value"] <= 100 * 7**2 / 64**2 + 1e-9  # the theoretical field is 7 x 7


def test_a_port_in_use_and_a_folder_that_is_none_are_refused(tmp_path, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["app", "--port", str(taken.getsockname()[1])]) == 2
    assert "in use" in capsys.readouterr().err
    assert main(["app", "--weights", str(tmp_path / "none")]) == 2
    assert "not a folder" in capsys.readouterr().err
