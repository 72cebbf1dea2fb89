"""Scan paths are permutations with an inverse."""

import numpy as np
import pytest
import torch

from workbench.paths import CLASS_TOKEN, ORDERS, ScanPath, scan_path
from workbench.scan import cross_merge, cross_scan, to_image_order, to_scan_order


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (4, 1), (4, 4), (3, 7)])
def test_a_path_and_its_inverse_undo_each_other(name: str, grid: tuple[int, int]) -> None:
    path = scan_path(name, *grid)
    assert path.covers
    assert np.array_equal(path.order[path.inverse], np.arange(grid[0] * grid[1]))
    x = torch.randn(2, 3, *grid)
    y = to_scan_order(x, path)
    assert torch.equal(y, x.flatten(2)[..., torch.from_numpy(path.order.copy())])
    assert torch.equal(to_image_order(y, path), x)


def test_the_column_path_is_the_row_path_of_the_transpose() -> None:
    x = torch.randn(1, 2, 4, 6)
    column = to_scan_order(x, scan_path("column", 4, 6))
    assert torch.equal(column, to_scan_order(x.transpose(2, 3), scan_path("row", 6, 4)))


def test_a_path_without_views_goes_through_its_table() -> None:
    order = np.array([0, 1, 3, 2, 4, 5])
    snake = ScanPath("snake", 3, 2, order)
    assert snake.is_transposed is None and snake.covers
    x = torch.arange(6.0).reshape(1, 1, 3, 2)
    assert to_scan_order(x, snake).flatten().tolist() == [0, 1, 3, 2, 4, 5]
    assert torch.equal(to_image_order(to_scan_order(x, snake), snake), x)


def test_scanning_and_merging_counts_every_direction_once() -> None:
    paths = [scan_path(name, 3, 5) for name in ORDERS]
    x = torch.randn(2, 4, 3, 5)
    assert torch.allclose(cross_merge(cross_scan(x, paths), paths), 4 * x, atol=1e-6)


def test_the_class_token_keeps_its_place_when_the_sequence_is_reversed() -> None:
    forward = scan_path("row", 3, 3, class_token=4)
    backward = scan_path("row-reversed", 3, 3, class_token=4)
    assert forward.order.tolist() == [0, 1, 2, 3, CLASS_TOKEN, 4, 5, 6, 7, 8]
    assert np.array_equal(backward.order, forward.order[::-1])
    assert not forward.covers
    assert forward.inverse.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_an_unknown_or_impossible_path_is_refused() -> None:
    with pytest.raises(ValueError, match="row, column"):
        scan_path("diagonal", 3, 3)
    with pytest.raises(ValueError, match="outside"):
        ScanPath("wrong", 2, 2, np.array([0, 1, 2, 4]))
