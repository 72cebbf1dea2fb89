"""Maps on the page's scales."""

import numpy as np
import pytest

from workbench.figures import overlay


def test_ranks_count_what_is_smaller() -> None:
    found = overlay.ranks(np.array([[0.3, 0.1], [0.9, 0.3]]))
    np.testing.assert_allclose(found, np.array([[1, 0], [3, 1]]) / 3)
    assert overlay.ranks(np.ones((2, 2))).max() == 0


def test_density_is_the_same_whatever_a_map_is_multiplied_with() -> None:
    values = np.array([[0.0, 1.0], [1.0, 2.0]])
    np.testing.assert_allclose(256 * overlay.density(values) ** 4, values)  # their mean is 1
    np.testing.assert_allclose(overlay.density(7 * values), overlay.density(values))
    one = np.zeros((20, 20))
    one[3, 4] = 1
    assert overlay.density(one).max() == 1  # 400 times the mean
    assert overlay.density(np.zeros((2, 2))).max() == 0


@pytest.mark.parametrize("exponent", [1.0, 4.0])
def test_a_table_shows_the_value_that_a_root_stands_for(exponent: float) -> None:
    values = np.linspace(0, 1, 500)[None]
    drawn = overlay.table(exponent=exponent)[overlay.indices(values ** (1 / exponent))][..., :3]
    # eight bits of a fourth root are 1.6 % of the value at 1
    np.testing.assert_allclose(drawn, overlay.colours(values).astype(float), atol=12)
