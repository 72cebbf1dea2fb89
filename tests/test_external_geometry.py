"""Scan paths are learned from what happens at a module's input, exactly, or refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import workbench
from workbench.external import ExternalModel
from workbench.external.adapter import Adapter
from workbench.external.directions import direction_names
from workbench.external.mamba import selective_scan_fn
from workbench.external.probe import probe
from workbench.external.sites import watching
from workbench.external.tokens import Tokens, find_tokens
from workbench.paths import CLASS_TOKEN, PADDING, scan_path

DIM = 8


def orders_of(names, height, width):
    return torch.stack([torch.from_numpy(scan_path(n, height, width).order.copy()) for n in names])


def scanned(x, groups):
    """One scan of x (b, groups * d, l), with coefficients that are no matter."""
    b, d, length = x.shape
    B = x.new_ones(b, groups, 2, length)
    return selective_scan_fn(x, torch.ones_like(x), -x.new_ones(d, 2), B, B, None, None, None)


class Mixer(nn.Module):
    """Tokens (b, h, w, d) along the paths `orders(h, w)` (k, l), negative for padding."""

    def __init__(self, orders, kernel=3):
        super().__init__()
        self.orders = orders
        self.in_proj = nn.Linear(DIM, DIM)
        self.conv = nn.Conv2d(DIM, DIM, kernel, padding=kernel // 2, groups=DIM)
        self.out_proj = nn.Linear(DIM, DIM)

    def forward(self, x):
        h, w = x.shape[1:3]
        c = nn.functional.silu(self.conv(self.in_proj(x).permute(0, 3, 1, 2))).flatten(2)
        orders = self.orders(h, w)
        c = torch.cat([c, torch.zeros_like(c[..., :1])], dim=-1)  # what padding reads
        u = torch.stack([c[..., order.clamp(min=-1)] for order in orders], dim=1)
        y = scanned(u.flatten(1, 2), len(orders)).view_as(u)
        total = torch.zeros_like(c)
        for k, order in enumerate(orders):
            total = total.index_add(2, order % c.shape[-1], y[:, k])
        return self.out_proj(total[..., :-1].transpose(1, 2).unflatten(1, (h, w)))


class Net(nn.Module):
    """Patches of 4 x 4 pixels, one mixer beside a residual, mean."""

    def __init__(self, mixer):
        super().__init__()
        self.patches = nn.Conv2d(3, DIM, 4, 4)
        self.mixer = mixer

    def forward(self, image):
        x = self.patches(image).permute(0, 2, 3, 1)
        return (x + self.mixer(x)).mean(dim=(1, 2))


def learned(net, adapter=None, size=(32, 32)):
    adapter = adapter or Adapter(make=lambda: net)
    return ExternalModel(net, adapter, size)


def paths_of(model, size=(32, 32)):
    return [site.path for site in workbench.scans(model, size)]


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (4, 32), (20, 20)])
@pytest.mark.parametrize(
    "names",
    [("row", "column", "row-reversed", "column-reversed"), ("zigzag-row", "hilbert", "radial")],
)
def test_orders_and_names(names, size):
    model = learned(Net(Mixer(lambda h, w: orders_of(names, h, w))), size=size)
    h, w = (n // 4 for n in size)
    for path, name in zip(paths_of(model, size), names, strict=True):
        assert np.array_equal(path.order, scan_path(name, h, w).order)
        assert (path.height, path.width) == (h, w)
    if h > 2 and w > 2:
        assert [site.direction for site in workbench.scans(model)] == list(names)


def test_padding_and_skipped_cells():
    """Windows of 3 x 3 over 8 x 8 cells read padding; a scan of every second row skips cells."""

    def orders(h, w):
        cells = torch.nn.functional.pad(torch.arange(h * w).view(h, w), (0, 1, 0, 1), value=-1)
        windows = cells.view(3, 3, 3, 3).swapaxes(1, 2).reshape(-1)
        half = torch.arange(h * w).view(h, w)[::2].reshape(-1)
        return torch.stack([windows, torch.cat([half, torch.full((81 - len(half),), -1)])])

    model = learned(Net(Mixer(orders)))
    windows, half = paths_of(model)
    expected = orders(8, 8).numpy()
    assert np.array_equal(windows.order, np.where(expected[0] < 0, PADDING, expected[0]))
    assert (windows.order == PADDING).sum() == 17
    assert (half.inverse >= 0).sum() == 32
    assert [site.direction for site in workbench.scans(model)] == ["path-0", "path-1"]


def test_any_permutation_is_found():
    order = torch.randperm(64)
    (path,) = paths_of(learned(Net(Mixer(lambda h, w: order[None]))))
    assert np.array_equal(path.order, order.numpy())


def test_the_probe_needs_two_passes_for_each_bit():
    """And one more: 25 for a map of 4,096 tokens."""
    passes = []
    mixer = Mixer(lambda h, w: orders_of(("column",), h, w)).eval()
    mixer.in_proj.register_forward_hook(lambda *_: passes.append(1))
    x = torch.randn(1, 64, 64, DIM)
    seen = []
    with torch.no_grad(), watching(seen.append):
        mixer(x)
    passes.clear()
    with torch.no_grad():
        (found,) = probe(mixer, find_tokens(mixer, (x,), {}), mixer, seen)
    assert len(passes) == 25
    assert np.array_equal(found[0], scan_path("column", 64, 64).order)


def test_the_probe_puts_convolutions_back():
    mixer = Mixer(lambda h, w: orders_of(("row",), h, w))
    weight, copied = mixer.conv.weight, mixer.conv.weight.detach().clone()
    learned(Net(mixer))
    assert mixer.conv.weight is weight
    assert torch.equal(weight, copied)


@pytest.mark.parametrize("length", [16, 17])
@pytest.mark.parametrize("place", [0, 8, 16])
def test_class_tokens(length, place):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, DIM, 8, 8)
            self.cls = nn.Parameter(torch.randn(1, 1, DIM))
            self.mixer = Sequence()

        def forward(self, image):
            x = self.patches(image).flatten(2).transpose(1, 2)
            if length == 17:
                x = torch.cat([x[:, :place], self.cls.expand(len(x), -1, -1), x[:, place:]], dim=1)
            return (x + self.mixer(x)).mean(dim=1)

    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_proj = nn.Linear(DIM, DIM)

        def forward(self, x):
            x = self.in_proj(x).transpose(1, 2)
            return (scanned(x, 1) + scanned(x.flip(-1), 1).flip(-1)).transpose(1, 2)

    model = learned(Tokens())
    expected = np.arange(16)
    if length == 17:
        expected = np.insert(expected, place, CLASS_TOKEN)
    forth, back = paths_of(model)
    assert np.array_equal(forth.order, expected)
    assert np.array_equal(back.order, expected[::-1])
    assert (forth.height, forth.width) == (4, 4)
    names = [site.name for site in workbench.scans(model)]
    assert names == ["model.mixer.scans.0/row", "model.mixer.scans.1/row-reversed"]


class Refused(Mixer):
    """A mixer with something done to its tokens first."""

    def __init__(self, change):
        super().__init__(lambda h, w: orders_of(("row",), h, w))
        self.change = change

    def forward(self, x):
        return super().forward(self.change(self, x))


def sort_by_content(_, x):
    order = x.flatten(1, 2).sum(-1)[0].argsort()
    return x.flatten(1, 2)[:, order].view_as(x)


def reason_of(model):
    (call,) = model._facts[32, 32].calls
    assert call.grid is None
    assert [site.direction for site in workbench.scans(model)] == ["direction-0"]
    assert paths_of(model) == [None]
    return call.reason


def test_an_order_that_depends_on_the_image_is_refused():
    assert "several tokens" in reason_of(learned(Net(Refused(sort_by_content))))


def test_an_order_by_content_outside_the_calling_module_is_refused():
    class Sorting(Net):
        def forward(self, image):
            x = self.patches(image).permute(0, 2, 3, 1)
            return (x + self.mixer(sort_by_content(None, x))).mean(dim=(1, 2))

    assert "not in the order of the image" in reason_of(
        learned(Sorting(Mixer(lambda h, w: orders_of(("row",), h, w))))
    )


def test_what_a_model_draws_by_chance_is_not_of_the_image():
    class Noisy(Net):
        def forward(self, image):
            return super().forward(image + torch.randn_like(image))

    noisy, state = Noisy(Mixer(lambda h, w: orders_of(("column",), h, w))), torch.get_rng_state()
    assert [site.direction for site in workbench.scans(learned(noisy))] == ["column"]
    assert torch.equal(state, torch.get_rng_state())


def test_mixed_tokens_are_refused():
    def blurred(_, x):
        return x + x.roll(1, dims=2)

    assert "several tokens" in reason_of(learned(Net(Refused(blurred))))


def test_scans_over_channels_are_refused():
    class Channels(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_proj = nn.Linear(DIM, DIM)

        def forward(self, x):
            tokens = self.in_proj(x).flatten(1, 2)  # (b, l, d): the channels are the sequence
            return scanned(tokens, 1).view_as(x)

    assert "several tokens" in reason_of(learned(Net(Channels())))


def test_windows_in_the_batch_axis_are_refused():
    class Windows(Mixer):
        def forward(self, x):
            parts = x.view(1, 2, 4, 2, 4, DIM).swapaxes(2, 3).reshape(4, 4, 4, DIM)
            y = super().forward(parts)
            return y.view(1, 2, 2, 4, 4, DIM).swapaxes(2, 3).reshape(x.shape)

    assert "4 windows" in reason_of(learned(Net(Windows(lambda h, w: orders_of(("row",), h, w)))))


def test_an_order_given_by_the_module_around_is_found_there():
    """Columns are made rows outside the calling module, and undone after it."""

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(DIM, DIM)
            self.inner = Mixer(lambda h, w: orders_of(("row",), h, w))

        def forward(self, x):
            shuffled = x.flatten(1, 2)[:, order].view_as(x)
            return self.inner(shuffled).flatten(1, 2)[:, order.argsort()].view_as(x)

    order = torch.randperm(64)
    model = learned(Net(Around()))
    (call,) = model._facts[32, 32].calls
    assert (call.module, call.probed) == ("mixer.inner", "mixer")
    assert np.array_equal(paths_of(model)[0].order, order.numpy())


def test_scan_maps_leave_out_scans_without_a_path():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = Mixer(lambda h, w: orders_of(("row",), h, w))
            self.second = Refused(sort_by_content)

        def forward(self, x):
            return self.second(x + self.first(x))

    model = learned(Net(Two()))
    run = {"preprocessing": workbench.preprocessing_for(model, 32)}
    images = workbench.open_images("samples/images", 1)
    result = workbench.run(
        workbench.scan_maps, model, images, workbench.ScanMapsConfig(resamples=0), **run
    )
    assert [site["layer"] for site in result.meta["sites"]] == ["model.mixer.first.scans.0"]
    with pytest.raises(ValueError, match="no path over the image is known"):
        config = workbench.ScanMapsConfig(layer="1", resamples=0)
        workbench.run(workbench.scan_maps, model, images, config, **run)


def test_an_adapter_says_what_cannot_be_learned():
    net = Net(Refused(sort_by_content))
    order = np.arange(64)[::-1].copy()
    order[0] = -1
    told = Adapter(
        make=lambda: net,
        paths=lambda module, call, direction, grid: order,
        grid=lambda module, shape: (8, 8),
    )
    (path,) = paths_of(learned(net, told))
    assert path.order[0] == PADDING
    assert np.array_equal(path.order[1:], order[1:])
    net = Net(Mixer(lambda h, w: orders_of(("row",), h, w)))
    skipped = learned(net, Adapter(make=lambda: net, skip=lambda module, call: True))
    assert "adapter" in reason_of(skipped)
    wrong = Adapter(make=lambda: net, paths=lambda module, call, direction, grid: [0, 1])
    with pytest.raises(ValueError, match="64 steps"):
        learned(Net(Mixer(lambda h, w: orders_of(("row",), h, w))), wrong)


def test_inputs_and_scores_of_an_adapter():
    class Pair(Net):
        def forward(self, first, second, *, scale):
            return SimpleNamespace(logits=scale * super().forward(first - second)[:, 0])

    net = Pair(Mixer(lambda h, w: orders_of(("row",), h, w)))
    adapter = Adapter(
        make=lambda: net,
        inputs=lambda image: {"first": image, "second": 0 * image, "scale": 2.0},
        score=lambda output: output.logits,
    )
    model = learned(net, adapter)
    image = torch.randn(3, 3, 32, 32)
    scores = model(image)
    assert scores.shape == (3, 2)
    torch.testing.assert_close(scores[:, 1], net(image, 0 * image, scale=2.0).logits)
    net.forward = None  # not used again
    plain = Adapter(make=lambda: net)
    with pytest.raises(ValueError, match="score"):
        plain.scores(SimpleNamespace())


def test_a_linear_layer_may_go_over_the_first_axis_of_maps():
    for shape, axis in (((1, 6, 5, 5), 1), ((1, 5, 5, 6), 3), ((1, 6, 5), None)):
        found = find_tokens(nn.Sequential(nn.Linear(6, 4)), (torch.randn(shape),), {})
        assert (found.channels if isinstance(found, Tokens) else None) == axis


def test_names_on_small_grids_follow_larger_ones():
    one = np.zeros(1, dtype=np.int64)
    assert direction_names([one, one], (1, 1)) == ("row", "row#2")
    assert direction_names([one, one], (1, 1), ("local-2", "column#2")) == ("local-2", "column")
    assert direction_names([np.array([4, 0, 8, 1, 7, 2, 6, 3, 5])], (3, 3)) == ("path-0",)
