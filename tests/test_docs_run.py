"""Every command of the documents does what its line says, as it is written, on two images."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from test_docs import COMMANDS, DOCUMENTS, ROOT

from workbench import cli, create_model, methods

PUBLISHED = {
    "vssm1_tiny_0230s_ckpt_epoch_264.pth": "vmamba_tiny_s1l8",
    "T.pth": "vmamba_tiny_s1l8",
    "S.pth": "vmamba_small_s1l20",
    "B.pth": "vmamba_base_s1l20",
}
SYNSETS = (
    *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),
    *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
)
"""Imagenette's, which the small models know."""
ELSEWHERE = {
    "app": "serves until it is stopped: test_app_server.py",
    "warm": "needs a GPU",
    "--repo": "needs a clone of another repository: test_external_repositories.py",
    "analyses/configs/gallery.yaml": "takes minutes: test_paper.py reads it",
    "vmamba_base_s1l20": "takes minutes for three networks of full size",
    "official": "downloads published weights: test_weights.py",
}


def elsewhere(words: list[str]) -> bool:
    return any(word in ELSEWHERE for word in words)


def words_of(command: str) -> list[str]:
    """What a shell would pass: globs replaced, without comments, redirections and `...`."""
    words = [word for word in shlex.split(command, comments=True) if word != "..."]
    words = words[: words.index(">")] if ">" in words else words
    quoted = re.findall(r"'([^']*)'", command)
    given = []
    for word in words:
        glob = "*" in word and word not in quoted
        given += sorted(map(str, Path().glob(word))) if glob else [word]
    return given


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """What the documents take for granted: photographs, packs, published weights, a clone."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for synset in SYNSETS:
        (tmp_path / "photos" / synset).mkdir(parents=True)
        for i in range(7):
            noise = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
            noise.resize((320, 240), Image.Resampling.BICUBIC).save(
                tmp_path / "photos" / synset / f"{i}.jpg"
            )
    names = [f"{synset}/{i}.jpg" for synset in SYNSETS for i in range(7)]
    rows = "".join(f"{name},{name.partition('/')[0]}\n" for name in names)
    (tmp_path / "labels.csv").write_text("file,label\n" + rows)
    boxes = "".join(f"{name},90,60,240,180\n" for name in names)
    (tmp_path / "photos" / "boxes.csv").write_text("file,left,top,right,bottom\n" + boxes)
    assert cli.main(["pack", "photos/", "PACK.npz", "--size", "128"]) == 0
    for name in (
        "train_96",
        "train_160",
        "val_128",
        "val_224",
    ):
        shutil.copy("PACK.npz", f"imagenette_{name}.npz")
    for file in (ROOT / "analyses" / "configs").glob("*.yaml"):
        figures = yaml.safe_load(file.read_text())["figures"]
        few = {name: {**figure, "limit": 1} for name, figure in figures.items()}
        place = tmp_path / "analyses" / "configs" / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(yaml.safe_dump({"figures": few}))
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "mine.py").write_text(
        "import timm\n\n\ndef make():\n    return timm.create_model('resnet18')\n"
    )
    (tmp_path / "paper.yaml").write_text(
        "figures:\n  field:\n    method: erf\n    models: [vmamba_nano]\n"
    )
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("document", [path.name for path in DOCUMENTS])
def test_commands_run_as_written(document, folder, capsys, monkeypatch):
    monkeypatch.setattr("webbrowser.open", lambda *_: True)
    stopped = create_model("resnet_nano", "random", num_classes=10)
    save_file(stopped.state_dict(), "STOPPED.safetensors")
    for file, model in PUBLISHED.items():
        if any(file in line for name, line in COMMANDS if name == document):
            torch.save({"model": create_model(model, "random").state_dict()}, file)
    for name, line in COMMANDS:
        words = words_of(line) if name == document else ["app"]
        if elsewhere(words):
            continue
        few = ["--limit", "2"] if words[0] in (*methods.METHODS, "evaluate") else []
        few += ["--quick"] if words[0] == "sensitivity" else []
        before = set(folder.rglob("*"))
        assert cli.main(words + few) == 0, line
        shown = capsys.readouterr().out
        assert shown or set(folder.rglob("*")) - before, line
