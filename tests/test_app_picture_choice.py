"""The small pictures of the sidebar."""

import io

import numpy as np
import pytest
from PIL import Image

from workbench.app import picture_choice, session
from workbench.images import open_images


@pytest.fixture(autouse=True)
def nothing_kept():
    picture_choice.thumbnail.cache_clear()
    yield
    picture_choice.thumbnail.cache_clear()


def test_they_are_small_squares_of_the_middle(tmp_path, monkeypatch):
    stripes = np.zeros((300, 900, 3), np.uint8)
    stripes[:, 300:600] = 255
    Image.fromarray(stripes).save(tmp_path / "wide.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    own = open_images(tmp_path)
    monkeypatch.setattr(session, "own_images", lambda: own)
    names = own.names
    content = picture_choice.thumbnail("mine", names.index("wide.png"))
    assert content is not None and len(content) < 4000
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (64, 64) and picture.format == "JPEG"
        assert np.asarray(picture).min() > 200  # the stripe alone
    assert picture_choice.thumbnail("mine", names.index("broken.png")) is None
    assert picture_choice.thumbnail("mine", len(names)) is None


def test_without_images_of_ones_own_there_are_those_of_the_workbench():
    assert picture_choice.thumbnail("mine", 0) is None
    assert picture_choice.thumbnail("samples", 0) is not None
