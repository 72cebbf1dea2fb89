"""A page of its own in which fields follow the mouse."""

import base64
import gzip
import json
import re

import numpy as np
import pytest
import torch

from workbench.cli import main
from workbench.images.preprocessing import Preprocessing
from workbench.methods.erf.cells import small
from workbench.methods.erf.config import ErfConfig
from workbench.methods.erf.measure import gradient, size_of
from workbench.results import load
from workbench.weights import create_model


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A result of a small network with random weights, as the command line writes it."""
    out = tmp_path_factory.mktemp("out")
    words = "--model resnet_nano --weights random --seed 3 --images samples --limit 1 --size 64"
    more = "--stage 2 --measure square --resamples 10"
    assert main(["erf", *words.split(), *more.split(), "--out", str(out)]) == 0
    (file,) = out.glob("*resnet_nano*.npz")
    return file


def data_of(page: str) -> list[dict]:
    found = re.search(r"^\((\[.*\])\)\.forEach", page, re.MULTILINE)
    assert found is not None
    return json.loads(found[1].replace("<\\/", "</"))


def test_it_holds_the_fields_of_all_cells(stored, tmp_path, capsys):
    file = tmp_path / "page.html"
    assert main(["export", str(stored), "--html", str(file)]) == 0
    page = file.read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)  # no server, no network
    (panel,) = data_of(page)
    packed = base64.b64decode(panel["cells"]["stored"].partition(",")[2])
    line, maps = gzip.decompress(packed).split(b"\n", 1)
    told = json.loads(line)
    maps = np.frombuffer(maps, np.uint8).reshape(-1, *told["shape"][1:])
    assert len(maps) == len(told["cells"]) == 64

    result = load(stored)
    model = create_model("resnet_nano", "random", seed=3)
    x = Preprocessing.of(result.meta["preprocessing"]).tensor(result.picture[None])
    for i in (0, 17, 63):
        row, column = told["cells"][i]
        config = ErfConfig(stage=2, measure="square", position=f"{row},{column}")
        alone = small(size_of(gradient(model, x, config)[0], "square"))[0]
        assert np.abs(alone.astype(int) - maps[i]).max() <= 1


def test_other_weights_and_other_results_are_a_sentence(stored, tmp_path, capsys):
    file = tmp_path / "page.html"
    other = tmp_path / "other.pth"
    torch.save(create_model("resnet_nano", "random", seed=4).state_dict(), other)
    words = ["export", str(stored), "--html", str(file)]
    assert main([*words, "--weights", str(other)]) == 2
    assert "was measured with other weights than" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none.npz"), "--html", str(file)]) == 2
    assert not file.exists()


def test_names_from_files_are_text(stored):
    """What a file says stays text, whatever it is."""
    from workbench.methods.erf import interactive

    result = load(stored)
    result.meta["facts"]["model"] = "</script><b>{{draw}}"
    cells = interactive.offered(result, create_model("resnet_nano", "random", seed=3))
    page = interactive.page([result], [cells])
    assert "</script><b>" not in page and "&lt;/script&gt;&lt;b&gt;{{draw}}" in page
