"""A model has one colour in every figure."""

from workbench.figures.colours import COLOURS, MARKERS, styles
from workbench.models import REGISTERED

SHIPPED = ["vmamba_nano", "vim_nano", "mambavision_nano", "resnet_nano", "vit_nano", "s4nd_nano"]


def test_a_family_has_its_colour_alone_and_in_company():
    together = styles(SHIPPED)
    assert len(set(together)) == len(SHIPPED)
    assert [styles([name])[0] for name in SHIPPED] == together
    assert styles(SHIPPED[::-1]) == together[::-1]
    assert styles(["vmamba_tiny_s1l8, random weights"]) == together[:1]


def test_two_of_a_family_are_told_apart():
    models = [name for name in REGISTERED if name.startswith("vim_")][:3] + SHIPPED[:4]
    found = styles(models)
    assert len(set(found)) == len(models) == len(COLOURS) == len(MARKERS)
    assert all(0 <= place < len(COLOURS) for place in styles(models * 2))
