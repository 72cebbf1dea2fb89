"""Scan paths: as published, permutations with an inverse, and what a model makes of them."""

import json
import re
from pathlib import Path

import golden
import numpy as np
import pytest
import torch

from workbench import ErfConfig, create_model, erf, open_images, record, run, scans
from workbench.cli import main
from workbench.figures import paths as pictures
from workbench.paths import (
    BIDIRECTIONAL,
    CLASS_TOKEN,
    CROSS,
    ORDERS,
    PADDING,
    SET_SOURCES,
    SETS,
    ScanPath,
    covering_paths,
    gallery,
    in_words,
    register_path,
    scan_path,
    scan_set,
    zoo,
)
from workbench.scan import cross_merge, cross_scan, to_image_order, to_scan_order

GRIDS = [(1, 1), (1, 5), (4, 1), (2, 2), (4, 4), (3, 7), (6, 5), (8, 8)]
WHOLE = [n for n in ORDERS if not n.startswith("atrous") and not n.endswith("-as-used")]
RECORDS = golden.load("scan_paths")
CROSS_SCANS = golden.load("vmamba_crossscan")["records"]
PUBLISHED = {
    "raster": SETS["raster"],
    "vim_bidirectional": BIDIRECTIONAL,
    "vmamba_cross_scan": CROSS,
    "plainmamba_continuous": SETS["continuous"],
    "zigma_zigzag8": SETS["zigzag"],
    "zigma_hilbert8_as_used": SETS["hilbert-as-used"],
    "hilbert8": SETS["hilbert"],
    "hilbert_gilbert": ("hilbert",),
    "diffma_spiral16_as_used": SETS["diffma-as-used"],
    "diffma_spiral_outward8": SETS["diffma"][::2],
    "spiral_inward": SETS["spiral"],
    "radial": SETS["radial"],
    "rsmamba_omni8": SETS["omnidirectional"],
    "vmambair_omni": SETS["vmambair"],
    "localmamba_w2": (
        "local-2",
        "local-2-reversed",
        "local-2-columns",
        "local-2-columns-reversed",
    ),
    "efficientvmamba_es2d_s2": SETS["atrous"],
}


def order(name: str, *grid: int) -> list[int]:
    return scan_path(name, *grid).order.tolist()


def places(name: str, *grid: int) -> np.ndarray:
    """(length, 2) rows and columns."""
    return np.stack(np.divmod(scan_path(name, *grid).order, grid[1]), axis=1)


# --- as published -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "record"), [(g, r) for g, records in RECORDS["grids"].items() for r in records]
)
def test_orders_are_the_published_ones(grid: str, record: str) -> None:
    expected = RECORDS["grids"][grid][record]
    height, width = map(int, grid.split("x"))
    paths = [scan_path(name, height, width) for name in PUBLISHED[record]]
    assert [path.order.tolist() for path in paths] == expected["paths"]
    assert [path.covers for path in paths] == expected["full_permutation"]
    assert [path.jumps == 0 for path in paths] == expected["contiguous"]
    if "direction_ids" in expected:
        assert [path.moves.tolist() for path in paths] == expected["direction_ids"]


def test_video_orders_are_the_published_ones() -> None:
    expected = RECORDS["video"]["3x2x2"]
    assert [order(name, 3 * 2, 2) for name in scan_set("video-3")] == expected["paths"]


@pytest.mark.parametrize(
    "record", golden.load("vmamba_crossscan")["records"], ids=lambda r: r["name"]
)
@pytest.mark.parametrize("mode", ["cross2d", "unidi", "bidi"])
def test_scan_and_merge_are_those_of_vmamba(record: dict, mode: str) -> None:
    x, y, scan_weight, merge_weight = (
        torch.from_numpy(golden.fill(*record["fills"][name])) * record["times"][name]
        for name in ("x", "y", "Wscan", "Wmerge")
    )
    names = SETS["cross" if mode == "cross2d" else mode]
    paths = [scan_path(name, *x.shape[2:]) for name in names]
    assert [scan_path(name, *x.shape[2:]).order.tolist() for name in CROSS] == (
        record["cross2d_routes"]
    )
    x.requires_grad_()
    y = y.flatten(3).requires_grad_()
    scanned, merged = cross_scan(x, paths), cross_merge(y, paths)
    (dx,) = torch.autograd.grad((scanned * scan_weight).sum(), x)
    (dy,) = torch.autograd.grad((merged.flatten(2) * merge_weight).sum(), y)
    expected = next(entry for entry in record["modes"] if entry["mode"] == mode)
    for tensor, key in (
        (scanned, "scan_out"),
        (dx, "scan_grad_x"),
        (merged, "merge_out"),
        (dy, "merge_grad_y"),
    ):
        values = torch.tensor(expected[key]["values"])
        torch.testing.assert_close(tensor.detach().flatten(), values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SETS["hilbert"] + SETS["diffma"])
@pytest.mark.parametrize("side", [4, 5, 8])
def test_what_zigma_and_diffma_use_is_the_inverse_of_the_path(name: str, side: int) -> None:
    used = scan_path(f"{name}-as-used", side, side)
    path = scan_path(name, side, side)
    assert np.array_equal(used.order, path.inverse) and not np.array_equal(used.order, path.order)


# --- permutations with an inverse ---------------------------------------------------------------


@pytest.mark.parametrize("name", WHOLE)
def test_a_path_and_its_inverse_undo_each_other(name: str) -> None:
    for grid in GRIDS:
        if name.startswith("frames-2") and grid[0] % 2:
            continue  # not two frames
        path = scan_path(name, *grid)
        assert path.covers and path.order.dtype == path.inverse.dtype == np.int32
        assert np.array_equal(path.order[path.inverse], np.arange(grid[0] * grid[1]))
        x = torch.randn(2, 3, *grid)
        y = to_scan_order(x, path)
        assert torch.equal(y, x.flatten(2)[..., torch.from_numpy(path.order.copy())])
        assert torch.equal(to_image_order(y, path), x)


@pytest.mark.parametrize("name", ORDERS)
def test_a_reversed_path_is_the_way_back(name: str) -> None:
    base = name.removesuffix("-as-used")
    back = base.removesuffix("-reversed") if base.endswith("-reversed") else f"{base}-reversed"
    end = name.removeprefix(base)
    if end and base.startswith(("hilbert", "spiral")):  # steps, counted from the end
        assert order(back + end, 6, 6) == [35 - step for step in order(name, 6, 6)]
    else:
        assert order(back + end, 6, 6) == order(name, 6, 6)[::-1]


@pytest.mark.parametrize("name", [n for n in SETS if not n.startswith("atrous")])
def test_scanning_and_merging_counts_every_direction_once(name: str) -> None:
    paths = covering_paths(SETS[name], 4, 4)
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    merged = cross_merge(cross_scan(x, paths), paths)
    torch.testing.assert_close(merged, len(paths) * x)


@pytest.mark.parametrize("grid", [(2, 2), (4, 6), (5, 5), (7, 9)])
@pytest.mark.parametrize("name", ["atrous", "atrous-as-used"])
def test_atrous_paths_share_the_cells(name: str, grid: tuple[int, int]) -> None:
    paths = [scan_path(path, *grid) for path in SETS[name]]
    cells = np.concatenate([path.order for path in paths])
    assert sorted(cells[cells != PADDING]) == list(range(grid[0] * grid[1]))
    assert not any(path.covers for path in paths)
    even = (grid[0] + grid[0] % 2) * (grid[1] + grid[1] % 2)
    if name == "atrous-as-used":
        assert [len(path) for path in paths] == [even // 4] * 4
    else:
        assert not (cells == PADDING).any()


def test_the_class_token_keeps_its_place_when_the_sequence_is_reversed() -> None:
    forward = scan_path("row", 3, 3, class_token=4)
    backward = scan_path("row-reversed", 3, 3, class_token=4)
    assert forward.order.tolist() == [0, 1, 2, 3, CLASS_TOKEN, 4, 5, 6, 7, 8]
    assert np.array_equal(backward.order, forward.order[::-1])
    assert not forward.covers
    assert forward.inverse.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_a_path_without_views_goes_through_its_table() -> None:
    snake = ScanPath("snake", 3, 2, np.array([0, 1, 3, 2, 4, 5]))
    assert snake.is_transposed is None and snake.covers
    x = torch.arange(6.0).reshape(1, 1, 3, 2)
    assert to_scan_order(x, snake).flatten().tolist() == [0, 1, 3, 2, 4, 5]
    assert torch.equal(to_image_order(to_scan_order(x, snake), snake), x)


# --- closed forms -------------------------------------------------------------------------------


def test_small_cases_by_hand() -> None:
    p = PADDING
    assert order("zigzag-row", 2, 3) == [0, 1, 2, 5, 4, 3]
    assert order("spiral", 3, 4) == [0, 1, 2, 3, 7, 11, 10, 9, 8, 4, 5, 6]
    assert order("radial", 3, 3) == [4, 5, 1, 3, 7, 2, 0, 6, 8]
    assert order("spiral-eswn", 3, 3) == [4, 5, 8, 7, 6, 3, 0, 1, 2]
    assert order("hilbert", 2, 2) == [0, 1, 3, 2]
    assert order("local-2", 3, 3) == [0, 1, 3, 4, 2, 5, 6, 7, 8]
    assert order("local-2-as-used", 3, 3) == [0, 1, 3, 4, 2, p, 5, p, 6, 7, p, p, 8, p, p, p]
    assert order("local-2-columns", 3, 3) == [0, 3, 1, 4, 6, 7, 2, 5, 8]
    atrous = [order(name, 3, 3) for name in SETS["atrous"]]
    assert atrous == [[0, 2, 6, 8], [3, 5], [1, 7], [4]]
    used = [order(name, 3, 3) for name in SETS["atrous-as-used"]]
    assert used == [[0, 2, 6, 8], [3, p, 5, p], [1, p, 7, p], [4, p, p, p]]


@pytest.mark.parametrize("grid", GRIDS)
def test_diagonals_keep_column_minus_or_plus_row(grid: tuple[int, int]) -> None:
    step = np.arange(grid[0] * grid[1])
    for name, sign in (("diagonal", -1), ("antidiagonal", 1)):
        row, column = places(name, *grid).T
        assert np.array_equal(row, step % grid[0])
        assert np.array_equal((column + sign * row) % grid[1], step // grid[0])


@pytest.mark.parametrize("grid", GRIDS)
def test_the_radial_path_never_comes_nearer_to_the_centre(grid: tuple[int, int]) -> None:
    row, column = (places("radial", *grid) - (np.array(grid) - 1) / 2).T
    distance = row**2 + column**2
    angle = np.arctan2(-row, column) % (2 * np.pi)
    ties = np.isclose(np.diff(distance), 0)
    assert (np.diff(distance) >= -1e-12).all() and (np.diff(angle)[ties] > 0).all()


def test_windows_of_one_cell_and_of_the_whole_grid_are_the_rows() -> None:
    for name in ("local-1", "local-6", "local-99", "frames-1"):
        assert order(name, 4, 6) == order("row", 4, 6)
    assert order("local-99-columns", 4, 6) == order("column", 4, 6)
    assert order("frames-4", 4, 6) == order("column", 4, 6)
    assert order("local-7", 14, 14)[:49] == [14 * r + c for r in range(7) for c in range(7)]


@pytest.mark.parametrize("height", range(1, 11))
def test_hilbert_curves_jump_only_where_parity_asks_for_it(height: int) -> None:
    for width in range(1, 11):
        short, long = sorted((height, width))
        odd = long % 2 == 1 and short % 2 == 0  # then no such curve ends at the far corner
        for name in SETS["hilbert"]:
            steps = np.abs(np.diff(places(name, height, width), axis=0))
            assert scan_path(name, height, width).jumps == int(odd and short > 2)
            assert not len(steps) or (steps.max(axis=1) == 1).all()
        end = long - 1 if short > 2 or not odd else long - 2
        last = places("hilbert", height, width)[-1].tolist()
        assert last == ([end, 0] if height >= width else [0, end])


@pytest.mark.parametrize("name", SETS["hilbert"])
def test_a_hilbert_curve_leaves_a_quarter_only_when_it_is_full(name: str) -> None:
    for side in (8, 4, 2):
        quarters = (places(name, 8, 8) // (side // 2)).reshape(-1, side**2 // 4, 2)
        assert (quarters == quarters[:, :1]).all()


@pytest.mark.parametrize("grid", [(4, 4), (5, 5), (8, 8), (4, 6), (7, 5)])
def test_continuous_paths_do_not_jump(grid: tuple[int, int]) -> None:
    for name in SETS["zigzag"] + SETS["continuous"] + SETS["spiral"] + SETS["hilbert"]:
        assert scan_path(name, *grid).jumps == 0
    assert scan_path("row", *grid).jumps == grid[0] - 1
    assert scan_path("column", *grid).jumps == grid[1] - 1


def test_spirals_outwards_jump_on_even_sides_only() -> None:
    outwards = SETS["diffma"][::2]
    assert [scan_path(name, 5, 5).jumps for name in outwards] == [0] * 8
    assert sum(scan_path(name, 8, 8).jumps > 0 for name in outwards) == 6
    assert all(order(name, 8, 8)[0] == 8 * 4 + 4 for name in outwards)


def test_the_way_back_starts_where_plainmamba_says() -> None:
    for height, width in ((4, 6), (5, 6), (4, 7), (5, 7)):
        bottom, right = height - 1, width - 1
        up, left = (
            places(name, height, width)[0].tolist()
            for name in ("zigzag-row-reversed", "zigzag-column-reversed")
        )
        assert up == [bottom, 0 if height % 2 == 0 else right]
        assert left == [0 if width % 2 == 0 else bottom, right]


# --- symmetries ---------------------------------------------------------------------------------

TRANSPOSES = {
    "row": "column",
    "row-reversed": "column-reversed",
    **{name: name.replace("row", "column") for name in SETS["zigzag"] if "row" in name},
    "hilbert": "hilbert-transposed",
    "local-2": "local-2-columns",
    "local-7-reversed-as-used": "local-7-columns-reversed-as-used",
}
CORNERS = {"-top-right": "-bottom-left", "-bottom-left": "-top-right"}


@pytest.mark.parametrize("name", TRANSPOSES)
@pytest.mark.parametrize("grid", [(4, 4), (3, 7), (6, 5)])
def test_transposed_paths_are_paths_of_the_transposed_grid(
    name: str, grid: tuple[int, int]
) -> None:
    other = TRANSPOSES[name]
    for corner, opposite in CORNERS.items():
        if name.endswith(corner):
            other = other.removesuffix(corner) + opposite
    cells = np.append(np.arange(grid[0] * grid[1]).reshape(grid).T.reshape(-1), PADDING)
    steps = scan_path(name, grid[1], grid[0]).order
    assert order(other, *grid) == cells[np.where(steps < 0, -1, steps)].tolist()


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("end", ["", "-transposed"])
@pytest.mark.parametrize("grid", [(4, 4), (4, 6), (7, 5)])
def test_rotated_hilbert_curves_are_rotated(turns: int, end: str, grid: tuple[int, int]) -> None:
    steps = np.arange(grid[0] * grid[1])

    def ranks(name: str, *grid: int) -> np.ndarray:
        return scan_path(name, *grid).inverse.reshape(grid)

    if end:
        rotated = ranks(f"hilbert-rot{90 * turns}", *grid[::-1]).T
    else:
        source = grid[::-1] if turns % 2 else grid
        rotated = np.rot90(ranks("hilbert", *source), turns)
    found = ranks(f"hilbert-rot{90 * turns}{end}", *grid)
    assert np.array_equal(found, rotated) and sorted(found.flat) == steps.tolist()


@pytest.mark.parametrize("grid", [(4, 4), (3, 7), (6, 5)])
def test_zigzags_from_other_corners_are_mirrored(grid: tuple[int, int]) -> None:
    cells = np.arange(grid[0] * grid[1]).reshape(grid)
    for corner, mirrored in (
        ("-top-right", cells[:, ::-1]),
        ("-bottom-left", cells[::-1]),
        ("-bottom-right", cells[::-1, ::-1]),
    ):
        for name in ("zigzag-row", "zigzag-column"):
            expected = mirrored.reshape(-1)[scan_path(name, *grid).order]
            assert order(name + corner, *grid) == expected.tolist()


# --- names and sets -----------------------------------------------------------------------------


def test_every_set_is_made_of_known_paths_and_has_a_source() -> None:
    assert SETS.keys() == SET_SOURCES.keys()
    for name, paths in SETS.items():
        assert scan_set(name) == paths and len(set(paths)) == len(paths)
        assert {path.partition("#")[0] for path in paths} <= ORDERS.keys()


def test_a_path_taken_twice_is_two_directions() -> None:
    assert scan_set(["row", "row", "row-reversed", "row"]) == (
        "row",
        "row#2",
        "row-reversed",
        "row#3",
    )
    assert scan_set(["row", "row#2", "row"]) == ("row", "row#2", "row#3")
    assert order("row#2", 3, 4) == order("row", 3, 4)
    assert scan_set("row") == ("row",) and scan_set("local-5") == ("local-5",)


def test_a_gallery_shows_every_path_or_says_why_not() -> None:
    families, refused = gallery(7, 9)
    shown = [path.name for paths in families.values() for path in paths]
    assert sorted([*shown, *refused]) == sorted(ORDERS)
    assert refused.keys() == {"frames-2", *SETS["hilbert-as-used"], *SETS["diffma-as-used"]}
    assert gallery(8, 8)[1] == {}
    (paths,) = gallery(6, 4, "local-3-reversed")[0].values()
    assert [path.name for path in paths] == ["local-3-reversed"]
    (paths,) = gallery(6, 4, "hilbert-rot90*")[0].values()
    assert [path.name for path in paths] == ["hilbert-rot90", "hilbert-rot90-transposed"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scan_path("hilbret", 4, 4), "near are hilbert"),
        (lambda: scan_path("row-as-used", 4, 4), "no scan path"),
        (lambda: scan_path("local-0", 4, 4), "no scan path"),
        (lambda: scan_path("row", 0, 4), "no cells"),
        (lambda: scan_path("hilbert-as-used", 4, 6), "square grid, .* not 4 x 6"),
        (lambda: scan_path("frames-3", 4, 6), "4 rows do not divide by 3"),
        (lambda: scan_path("atrous-odd-odd", 1, 4), "no cell of a 1 x 4 grid"),
        (lambda: scan_set("zigzig"), "near are zigzag"),
        (lambda: scan_set(["row", "colum"]), "near are column"),
        (lambda: scan_set([]), "at least one"),
        (lambda: scan_set("atrous", whole=True), "only a part"),
        (lambda: covering_paths(["local-7-as-used"], 8, 8), "64 of 64 cells and 132 padding"),
        (lambda: covering_paths(["atrous-even-even"], 8, 8), "16 of 64 cells"),
        (lambda: gallery(8, 8, "nothing*"), "no set of scan paths"),
        (lambda: ScanPath("wrong", 2, 2, np.array([0, 1, 2, 4])), "cell 4, outside"),
        (lambda: ScanPath("wrong", 2, 2, np.array([0, 1, 2, -3])), "cell -3, outside"),
        (lambda: scan_path("row", 3, 3).moves, "jumps on its 3 x 3 grid"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)


# --- in a model ---------------------------------------------------------------------------------


def test_a_vmamba_scans_along_the_paths_it_was_given() -> None:
    model = create_model("vmamba_nano", scan_paths=("row", "hilbert", "local-7"))
    with torch.no_grad(), record(model, "u", sites="layers.1.blocks.0.*") as seen:
        model(torch.randn(1, 3, 64, 96))
    along = {site.partition("/")[2]: tensors["u"] for site, tensors in seen.items()}
    assert list(along) == ["row", "hilbert", "local-7"]
    for name, u in along.items():
        steps = torch.from_numpy(scan_path(name, 8, 12).order.copy())
        assert torch.equal(u, along["row"][..., steps])


@pytest.mark.parametrize("name", [n for n in SETS if not n.startswith("atrous")])
def test_a_vmamba_is_built_with_any_set_of_whole_paths(name: str) -> None:
    model = create_model("vmamba_nano", scan_paths=name)
    directions = [site.direction for site in scans(model)]
    assert directions == list(SETS[name]) * 6
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 10)


def test_a_transposed_image_through_transposed_paths_gives_the_same_logits() -> None:
    names = ("row", "hilbert", "zigzag-row-top-right", "local-2")
    others = ("column", "hilbert-transposed", "zigzag-column-bottom-left", "local-2-columns")
    model = create_model("vmamba_nano", scan_paths=names)
    state = {
        key: value.transpose(2, 3) if value.ndim == 4 else value
        for key, value in model.state_dict().items()
    }
    transposed = create_model("vmamba_nano", scan_paths=others)
    transposed.load_state_dict(state)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected, found = model(x), transposed(x.transpose(2, 3))
        other = create_model("vmamba_nano", scan_paths=names)(x.transpose(2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (other - expected).abs().max() > 1e-3  # so the paths matter


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ("atrous", "only a part of the cells"),
        (("row", "hilbret"), "near are hilbert"),
        ("hilbret", "near are hilbert"),
        ((), "at least one"),
    ],
)
def test_a_vmamba_refuses_what_is_no_set_of_whole_paths(paths, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("vmamba_nano", scan_paths=paths)


def test_a_grid_that_a_path_cannot_have_is_refused_when_it_comes() -> None:
    model = create_model("vmamba_nano", scan_paths=("local-7-as-used",))
    with torch.no_grad():
        with pytest.raises(ValueError, match="does not cover the 16 x 16 grid"):
            model(torch.randn(1, 3, 64, 64))
        assert model(torch.randn(1, 3, 112, 112)).shape == (1, 10)  # 28, 14 and 7 cells
    model = create_model("vmamba_nano", scan_paths="hilbert-as-used")
    with torch.no_grad(), pytest.raises(ValueError, match="needs a square grid"):
        model(torch.randn(1, 3, 64, 96))


def test_the_same_weights_along_other_paths_are_another_result(tmp_path) -> None:
    config = ErfConfig(resamples=0)
    for name in ("cross", "continuous"):
        model = create_model("vmamba_nano", scan_paths=name)
        run(erf, model, open_images("samples", 1), config, out=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 2


# --- pictures -----------------------------------------------------------------------------------


def test_a_picture_leads_from_cell_to_cell() -> None:
    from matplotlib.figure import Figure

    path = scan_path("local-2", 4, 4)
    ax = Figure().add_subplot()
    pictures.draw_path(ax, path)
    jumps, steps = (lines.get_segments() for lines in ax.collections[1:3])
    assert len(jumps) == path.jumps
    rows, columns = np.divmod(path.order, 4)
    walked = {tuple(map(tuple, segment)) for segment in (*jumps, *steps)}
    assert walked == {
        ((columns[t], rows[t]), (columns[t + 1], rows[t + 1])) for t in range(len(path) - 1)
    }
    first, last = ax.lines
    assert (first.get_xdata()[0], first.get_ydata()[0]) == (0, 0)
    assert (last.get_xdata()[0], last.get_ydata()[0]) == (3, 3)


def test_the_sheet_names_all_paths_and_those_it_leaves_out() -> None:
    families, refused = gallery(7, 9)
    sheet = {f"{family.title}\n{family.source}": paths for family, paths in families.items()}
    figure = pictures.draw(sheet, refused)
    written = {text.get_text().partition("\n+")[0].replace("\n", "") for text in figure.texts}
    assert {path.name for paths in families.values() for path in paths} <= written
    (notes,) = [text for text in written if text.startswith("Not on this grid: frames-2")]
    caption = pictures.caption(sheet, refused)
    assert all(name in caption for name in ORDERS)
    assert "needs a square grid" in caption and "needs a square grid" in notes.replace("  ", " ")
    with pytest.raises(ValueError, match="share one grid"):
        pictures.draw({"two": [scan_path("row", 2, 2), scan_path("row", 3, 3)]})
    with pytest.raises(ValueError, match="at most 64 x 64"):
        pictures.draw({"large": [scan_path("row", 65, 2)]})


@pytest.mark.parametrize("suffix", ["pdf", "png", "svg"])
def test_the_same_command_draws_the_same_bytes(tmp_path, capsys, suffix: str) -> None:
    files = [tmp_path / f"{name}.{suffix}" for name in ("one", "two")]
    for file in files:
        assert main(["paths", "cross", "--grid", "3,4", "--draw", str(file)]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {
        f"one.{suffix}", f"two.{suffix}", "one.txt", "two.txt"
    }  # fmt: skip


def test_the_command_lists_paths_with_sets_cover_and_source(capsys) -> None:
    assert main(["paths", "--grid", "5,6"]) == 0
    text = capsys.readouterr().out
    for name in (*ORDERS, *SETS):
        assert f"\n{name} " in text
    assert "arXiv 2403.13802" in text and "needs a square grid" in text
    assert main(["paths", "atrous", "--grid", "5,6", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["order"] for row in listed["paths"]] == [order(n, 5, 6) for n in SETS["atrous"]]
    assert [row["cells"] for row in listed["paths"]] == [9, 6, 9, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hilbret"], "near are hilbert"),
        (["--grid", "7"], "rows,columns"),
        (["--grid", "0,4"], "rows,columns"),
        (["--draw", "paths.jpg"], "must end in .pdf, .png or .svg"),
        (["hilbert-as-used", "--grid", "2,3", "--draw", "paths.pdf"], "square grid"),
        (["row", "--grid", "65,65", "--draw", "paths.pdf"], "at most 64 x 64"),
    ],
)
def test_the_command_refuses_in_one_sentence(
    arguments, message: str, capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["paths", *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered in a test is gone after it."""
    monkeypatch.setattr(zoo, "FAMILIES", list(zoo.FAMILIES))
    for table in ("_TRAVERSALS", "ORDERS", "SETS", "SET_SOURCES"):
        known = dict(getattr(zoo, table))
        monkeypatch.setattr(zoo, table, known)


def test_the_path_of_the_documentation_is_registered_from_outside(registry) -> None:
    page = (Path(__file__).parents[1] / "docs" / "add-a-path.md").read_text()
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "add-a-path.md", "exec"), names)
    path = scan_path("inside-out", 3, 2)
    assert path.order.tolist() == [2, 3, 0, 1, 4, 5] and path.covers
    assert scan_path("inside-out-reversed", 3, 2).order.tolist() == path.order.tolist()[::-1]
    families, _ = gallery(4, 4, "inside-out*")
    assert [family.source for family in families] == ["this page"]
    model = names["model"]
    x = torch.randn(1, 3, 64, 64)
    with record(model, "y") as seen:
        model(x)
    assert any(site.endswith("/inside-out") for site in seen)
    assert seen.paths["layers.0.blocks.0.op.scan/inside-out"].name == "inside-out"


@pytest.mark.parametrize(
    ("name", "traversal", "message"),
    [
        ("row", np.ravel, "already"),
        ("cross", np.ravel, "already"),
        ("Mine", np.ravel, "small letters"),
        ("mine-reversed", np.ravel, "small letters"),
        ("twice", lambda cells: np.r_[cells.ravel(), 0], "at most once"),
        ("outside", lambda cells: cells.ravel() + 1, "cells of its grid"),
    ],
)
def test_a_path_that_cannot_be_is_not_registered(registry, name, traversal, message) -> None:
    before = list(zoo.ORDERS)
    with pytest.raises(ValueError, match=message):
        register_path(name, traversal)
    assert list(zoo.ORDERS) == before


def test_paths_say_how_they_go():
    said = {name: in_words(scan_path(name, 6, 6)) for name in ORDERS if name.count("-as-used") == 0}
    assert said["row"] == "left to right, row by row"
    assert said["column-reversed"] == "bottom to top, column by column, from the right"
    assert said["zigzag-row-bottom-left"] == "to and fro, row by row, from the bottom left"
    assert said["spiral-reversed"] == "in a spiral, from the centre"
    assert not set(said) & set(said.values())  # the zoo has words for each
    order = np.insert(np.arange(12).reshape(3, 4).T.ravel(), 5, CLASS_TOKEN)
    assert in_words(ScanPath("their own", 3, 4, order)) == "top to bottom, column by column"
    assert in_words(ScanPath("their own", 2, 2, np.array([0, 3, 1, 2]))) == "their own"
    assert in_words(scan_path("hilbert-as-used", 4, 4)).endswith("the inverse permutation")
