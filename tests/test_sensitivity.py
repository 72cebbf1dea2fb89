"""Sensitivity of B, C and delta: identities, exact bounds, and what must not change an answer."""

import copy
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import workbench
from workbench import sensitivity
from workbench.cli import main
from workbench.images import Batch
from workbench.kernels import selective_scan
from workbench.methods.sensitivity import SensitivityConfig, bounds, cut, gradient, patching
from workbench.methods.sensitivity.claims import SIZE, WEAK, claims, comparison, holm, verdict
from workbench.methods.sensitivity.config import settled
from workbench.methods.sensitivity.figure import draw
from workbench.methods.sensitivity.gradient import MEASURES
from workbench.methods.sensitivity.metrics import restored
from workbench.methods.sensitivity.perturb import Inside
from workbench.methods.sensitivity.subject import Case, Subject, row_rms
from workbench.models import MambaVision, Vim, VMamba
from workbench.results import Sensitivity, load
from workbench.runner import run
from workbench.statistics import Sample

STORED = Path(__file__).parents[1] / "samples" / "results" / "sensitivity" / "vmamba_nano.npz"
FAST = SensitivityConfig(
    eps=(0.1,), steps=3, draws=2, halvings=2, attack_steps=2, attack_seeds=2, resamples=200
)


def vmamba() -> nn.Module:
    torch.manual_seed(0)
    return (
        VMamba(dims=(8, 16), depths=(1, 1), d_state=3, num_classes=5).eval().requires_grad_(False)
    )


def vim() -> nn.Module:
    torch.manual_seed(0)
    return (
        Vim(img_size=48, embed_dim=16, depth=2, d_state=4, num_classes=5)
        .eval()
        .requires_grad_(False)
    )


def mambavision(window: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return MambaVision(
        dim=8, in_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2),
        window_size=(8, 8, window, window), num_classes=5,
    ).eval().requires_grad_(False)  # fmt: skip


def windows() -> nn.Module:
    """Four windows of 2 x 2 cells in the third stage."""
    return mambavision(2)


FAMILIES = {"vmamba": vmamba, "vim": vim, "mambavision": mambavision, "windows": windows}


def batch(count: int = 3, size: int = 48, labels: tuple[int, ...] | None = None) -> Batch:
    pictures = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    names = tuple(f"{i}.png" for i in range(count))
    return Batch(torch.zeros(count, 3, size, size), pictures, names, labels, tuple(range(count)))


def case(model: nn.Module, config: SensitivityConfig = FAST, **options) -> Case:
    return Case(Subject.of(model), batch(**options), config)


def rescaled(model: nn.Module, factor: float) -> nn.Module:
    """The same function: B_n * s_n and C_n / s_n, with s_n = factor ** (n + 1)."""
    model = copy.deepcopy(model)
    for name, weight in model.named_parameters():
        if "x_proj" not in name:
            continue
        states = {VMamba: 3, Vim: 4}.get(type(model)) or model_states(model)
        s = factor ** torch.arange(1.0, states + 1)
        with torch.no_grad():
            weight[..., -2 * states : -states, :] *= s[:, None]
            weight[..., -states:, :] /= s[:, None]
    return model


def model_states(model: nn.Module) -> int:
    return next(p.shape[-1] for name, p in model.named_parameters() if name.endswith("A_log"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gauge_changes_no_reported_sensitivity(family: str) -> None:
    """Powers of two are exact, so sign steps of the attacks cannot turn on rounding."""
    model, config = FAMILIES[family](), replace(FAST, narrow=family == "mambavision", steps=2)
    plain = sensitivity.measure(model, batch(2), config)
    other = sensitivity.measure(rescaled(model, 2.0), batch(2), config)
    assert plain.arrays.keys() == other.arrays.keys()
    for name, value in plain.arrays.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_raw_norms_follow_the_gauge_and_nothing_else_does(family: str) -> None:
    model, config = FAMILIES[family](), replace(FAST, raw_norms=True)
    plain = gradient.measure(case(model, config))["gradient"]
    other = gradient.measure(case(rescaled(model, 1.7), config))["gradient"]
    raw = MEASURES.index("raw")
    scale = plain[..., :raw].abs().max()
    assert (plain[..., :raw] - other[..., :raw]).abs().max() < 1e-5 * scale
    assert (other[..., 0, raw] / plain[..., 0, raw] - 1).abs().min() > 0.2


@pytest.mark.parametrize("family", FAMILIES)
def test_signed_elasticities_of_B_and_C_are_one_number(family: str) -> None:
    found = gradient.measure(case(FAMILIES[family]()))["gradient"]
    signed, size = found[..., MEASURES.index("signed")], found[..., MEASURES.index("elasticity")]
    assert (signed[..., 0] - signed[..., 1]).abs().max() < 1e-6 * size.max()
    assert signed[..., 0].abs().max() > 0


def test_sensitivities_are_those_of_finite_differences() -> None:
    """The signed elasticity is the derivative to a common factor of all entries."""
    model = vmamba().double()
    it = case(model, count=3)  # A and D are one for the batch, their gradients are not
    found = gradient.sensitivities(it.subject, it.x.double(), it.labels)
    site = it.subject.sites[1].name
    step = 1e-5

    def margins(name: str, factor: float) -> Tensor:
        with workbench.patch(model, site, **{name: lambda t: t * factor}):
            return it.margins(it.x.double())

    for t, name in enumerate(gradient.TENSORS):
        slopes = (margins(name, 1 + step) - margins(name, 1 - step)) / (2 * step)
        signed = found[:, 0, 1, t, MEASURES.index("signed")]
        assert torch.allclose(signed, slopes, rtol=1e-4, atol=1e-9), name


def scan_tensors(seed: int, d: int = 3, n: int = 4, length: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {
        "u": normal(1, d, length),
        "delta": normal(1, d, length).exp() * 0.3,
        "A": -normal(d, n).exp(),
        "B": normal(1, n, length),
        "C": normal(1, n, length),
    }


def scan(tensors: dict[str, Tensor]) -> Tensor:
    return selective_scan(*(tensors[name] for name in ("u", "delta", "A", "B", "C")))  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["B", "C", "delta"])
def test_nothing_passes_the_bounds(name: str) -> None:
    """100 scans; on each a random change and the worst that ascent finds for one output."""
    closest = 0.0
    for seed in range(100):
        tensors = scan_tensors(seed)
        radius = (0.02, 0.3, 1.5)[seed % 3] * row_rms(name, tensors[name])
        limit = bounds.bound(tensors, name, radius)
        target = (0, seed % 3, seed % 12)

        def moved(change: Tensor, tensors=tensors, radius=radius) -> Tensor:
            theta = tensors[name] + change * radius
            theta = theta.clamp(min=0) if name == "delta" else theta
            return scan({**tensors, name: theta}) - scan(tensors)

        generator = torch.Generator().manual_seed(seed)
        change = torch.randn(tensors[name].shape, generator=generator, dtype=torch.float64).sign()
        assert (moved(change).abs() <= limit * (1 + 1e-12)).all()
        for _ in range(3):
            change.requires_grad_()
            (g,) = torch.autograd.grad(moved(change)[target].abs(), change)
            change = g.sign().detach()
            found = moved(change).abs()
            assert (found <= limit * (1 + 1e-12)).all()
        closest = max(closest, float(found[target] / limit[target]))
    assert closest > (0.5 if name == "delta" else 1 - 1e-9)


@pytest.mark.parametrize("name", ["B", "C"])
def test_one_step_reaches_the_bound_of_a_linear_read_out(name: str) -> None:
    tensors = {key: value.float() for key, value in scan_tensors(0).items()}
    radius = 0.1 * row_rms(name, tensors[name])
    theta = tensors[name].clone().requires_grad_()
    target = (0, 1, 9)
    (g,) = torch.autograd.grad(scan({**tensors, name: theta})[target], theta)
    rise = (scan({**tensors, name: tensors[name] + radius * g.sign()}) - scan(tensors))[target]
    limit = bounds.bound(tensors, name, radius)[target]
    assert float(rise) == pytest.approx(float(limit), rel=1e-6)


def test_states_read_out_give_the_output() -> None:
    tensors = scan_tensors(1)
    h = bounds.states(*(tensors[name] for name in ("u", "delta", "A", "B")))
    torch.testing.assert_close((h * tensors["C"][:, None]).sum(dim=2), scan(tensors))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_keeps_values_and_takes_its_part_of_the_gradient(family: str) -> None:
    """In one layer the input gradient is the sum of what passes B, C, delta, u, and the rest."""
    it = case(FAMILIES[family]().double())
    it.x = it.x.double()
    sites = next(iter(it.subject.scopes("layer").values()))
    plain = it.subject.answer(it.x)
    parts = {}
    for names in [(), *((n,) for n in ("B", "C", "delta", "u")), ("B", "C", "delta", "u")]:
        one = cut.Cut(names, "layer", sites)
        with cut.without_gradient(it.subject, one):
            torch.testing.assert_close(it.subject.answer(it.x), plain, rtol=1e-12, atol=1e-12)
        parts[names] = cut._gradient(it, one)
    whole, rest = parts[()], parts["B", "C", "delta", "u"]
    passed = [whole - parts[(name,)] for name in ("B", "C", "delta", "u")]
    assert all(part.abs().max() > 0 for part in passed)
    torch.testing.assert_close(sum(passed) + rest, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_patching_everything_is_patching_the_output(family: str) -> None:
    it = case(FAMILIES[family]())
    sites = it.subject.scopes("all")["all"]

    def margins(names: tuple[str, ...], own, other, x: Tensor) -> Tensor:
        return patching.margins_with(it, patching.Patch(names, "all", sites), x, own, other, None)

    clean, attacked = it.clean, it.attacked
    inputs = margins(("B", "C", "delta", "u"), attacked, clean, it.twin)
    output = margins(("y",), attacked, clean, it.twin)
    torch.testing.assert_close(inputs, output, rtol=1e-5, atol=1e-6)
    nothing = margins(("B", "delta"), clean, clean, it.x)
    assert torch.equal(nothing, it.margins())
    assert not torch.equal(margins(("B", "delta"), clean, attacked, it.x), it.margins())


def test_perturbations_stay_in_their_budget_and_delta_positive() -> None:
    it = case(vmamba())
    sites = it.subject.scopes("all")["all"]
    inside = Inside(it, "delta", sites)
    found = inside.attacked(1.5, steps=3)
    with workbench.record(it.subject.model, "delta") as seen:
        inside.margins(found.deltas)
    for site, delta in zip(sites, found.deltas, strict=True):
        scale = row_rms("delta", it.clean[site]["delta"])
        assert (
            delta.shape == it.clean[site]["delta"].shape == (3, 1, *seen[site]["delta"].shape[1:])
        )
        assert (delta.abs() <= 1.5 * scale * (1 + 1e-6)).all()
        assert (seen[site]["delta"] >= 0).all()
        assert (seen[site]["delta"] == 0).any()  # the budget reaches below zero


def test_the_smallest_budget_flips_and_a_smaller_one_does_not() -> None:
    config = replace(FAST, halvings=6)
    it = case(vmamba(), config, count=4)
    inside = Inside(it, "u", it.subject.scopes("all")["all"])
    eps = inside.flipping_eps(1.0, config.halvings, 5)
    found = torch.isfinite(eps)
    assert found.any() and (eps[found] > 0).all()
    again = inside.attacked(torch.where(found, eps, 1.0), 5)
    assert (again.values[found] > 0).all()
    weaker = inside.attacked(torch.where(found, eps / 2, 1.0), 5)
    assert (weaker.values[found] < 0).all()


@pytest.mark.parametrize("family", ["mambavision", "windows"])
def test_an_image_is_measured_alike_in_any_batch(family: str) -> None:
    model, images = FAMILIES[family](), batch(3)
    together = sensitivity.measure(model, images, FAST)
    alone = sensitivity.measure(model, images.part(2, 3), FAST)
    for name in ("clean", "perturbed", "random", "cut", "patching", "horizon"):
        np.testing.assert_allclose(together[name][2:], alone[name], rtol=1e-3, atol=1e-4)


def test_a_missing_label_is_the_prediction() -> None:
    model = vmamba()
    it = Case(Subject.of(model), batch(3, labels=(1, -1, 4)), FAST)
    with torch.no_grad():
        predicted = it.subject.answer(it.x).argmax(dim=1)
    assert it.labelled.tolist() == [True, False, True]
    assert it.labels.tolist() == [1, int(predicted[1]), 4]
    assert case(model).margins().min() >= 0


def test_a_model_without_a_scan_is_told_what_applies() -> None:
    with pytest.raises(ValueError, match=r"has no selective scan.*vssm robustness"):
        Subject.of(workbench.create_model("resnet_nano", "random"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": ("gradient", "depth")}, "views must be one of gradient.*not 'depth'"),
        ({"eps": (8.0,)}, "eps 8 is more than twice the RMS of a row; .* cut_eps_255"),
        ({"eps": ()}, "eps must be positive"),
        ({"cut_eps_255": 0.0}, "cut_eps_255 counts in 1/255"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_bad_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SensitivityConfig(**options)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_fractions_are_ratios_of_means_over_images_that_count() -> None:
    clean, adversarial = np.array([2.0, 4.0, -1.0, 3.0]), np.array([-2.0, -2.0, -3.0, 1.0])
    margins = np.zeros((4, 1, 4))
    margins[:, 0, 0] = [0.0, 4.0, 9.0, 9.0]
    margins[:, 0, 2] = [1.0, -2.0, 9.0, 9.0]
    moved, lost = restored(clean, adversarial, margins)
    assert lost.tolist() == [4, 6, 0, 0]
    assert moved[:, 0, 0].tolist() == [2, 6, 0, 0] and moved[:, 0, 2].tolist() == [1, 6, 0, 0]
    assert Sample(0.95).ratio(moved[:, 0, 0], lost, "")["value"] == pytest.approx(0.8)


def invented(B: float, C: float, delta: float, count: int = 60) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    values = np.zeros((count, 2, 1, 6, 4))
    for i, mean in enumerate((B, C, delta)):
        values[..., i, :] = mean * np.exp(0.1 * rng.standard_normal((count, 2, 1, 4)))
    return {"clean": np.ones(count), "gradient": values}


@pytest.mark.parametrize(
    ("sizes", "trained", "expected"),
    [
        ((3.0, 3.0, 1.0), True, "supported"),
        ((1.0, 1.0, 3.0), True, "not supported"),
        ((1.0, 1.0, 1.0), True, "undecided"),
        ((3.0, 0.3, 1.0), True, "undecided"),
        ((3.0, 3.0, 1.0), False, "undecided"),
    ],
)
def test_verdicts_follow_the_comparisons(sizes: tuple, trained: bool, expected: str) -> None:
    draw = Sample(0.95)
    found = {
        entry["claim"]: entry for entry in claims(invented(*sizes), {}, [[1, 1, 1]], draw, trained)
    }
    assert found[WEAK]["verdict"] == expected
    assert found["robustness falls with size"]["verdict"] == "undecided"


def test_a_view_needs_the_agreement_of_all_conventions() -> None:
    # the same B, C and delta an entry, of which delta has so many more
    (weak, *_) = claims(invented(3.0, 3.0, 1.0), {}, [[1, 1, 1000]], Sample(0.95), True)
    says = {entry["what"].partition(", ")[2]: entry["says"] for entry in weak["comparisons"]}
    assert says == {"linf": "for", "l2": "for", "l2 of own norm": "against"}
    assert weak["views"] == {"gradient": "nothing"} and weak["verdict"] == "undecided"


def test_a_verdict_that_one_convention_alone_decides_names_it() -> None:
    flipping = (
        np.full((60, 3), 0.1) * [1, 1, 4] * np.random.default_rng(0).uniform(0.9, 1.1, (60, 1))
    )
    arrays = {"clean": np.ones(60), "flipping": flipping}
    (weak, *_) = claims(arrays, {}, [], Sample(0.95), True)
    assert weak["verdict"] == "supported" and weak["reason"] == "by the convention linf alone"


@pytest.mark.parametrize(
    ("fall", "says"), [(0.5, "for"), (-0.5, "against"), (0.05, "nothing"), (-0.05, "nothing")]
)
def test_a_cut_can_speak_for_a_defence_and_against_it(fall: float, says: str) -> None:
    rng = np.random.default_rng(0)
    none = rng.standard_normal((60, 1, 2))
    cut = np.concatenate([none, none, none, none - fall + 0.01 * rng.random((60, 1, 2))], axis=1)
    rows = {"cut": [("none", "all"), ("B", "all"), ("C", "all"), ("delta", "all")]}
    made = claims({"clean": np.ones(60), "cut": cut}, rows, [], Sample(0.95), True)
    (claim,) = [claim for claim in made if claim["claim"] == "delta defends"]
    assert claim["views"] == {"cut": says}


def test_p_values_are_uniform_where_the_truth_is_the_smallest_effect() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(5.0, 3.0, (400, 60))
    p = [comparison(SIZE, "cut", "", x, "points", Sample(0.95))["p"] for x in values]
    assert 0.02 < np.mean(np.array(p) < 0.1) < 0.09  # one of the two sides: half of 10 %


def test_views_that_disagree_decide_nothing() -> None:
    assert verdict(["for", "nothing", "for"]) == "supported"
    assert verdict(["for", "against"]) == "undecided"
    assert verdict(["nothing"]) == "undecided"


def test_a_run_is_stored_resumed_and_read(tmp_path) -> None:
    config = replace(FAST, views=("gradient", "patching"), chunk=2, narrow=False)
    model = mambavision()
    options = {"preprocessing": workbench.preprocessing_for(model, 48), "out": tmp_path}
    first = workbench.run(sensitivity, model, "samples", config, **options)
    (file,) = tmp_path.glob("*.npz")
    found = load(file)
    assert json.dumps(found.meta, sort_keys=True) == json.dumps(first.meta, sort_keys=True)
    assert found.gradient.shape[0] == len(found.clean) == 20
    assert found.cut is None and set(found.meta["views"]) == {"gradient", "patching"}
    assert found.meta["views"]["gradient"]["identity_gap"] < 1e-4
    assert not found.meta["trained"] or found.meta["claims"]


def test_the_caption_of_two_figures_is_printed_once(capsys) -> None:
    assert main(["show", str(STORED)]) == 0
    captions = [line for line in capsys.readouterr().out.splitlines() if "Sensitivity:" in line]
    assert len(captions) == 1


def test_quick_is_less_of_the_same() -> None:
    quick = settled(replace(SensitivityConfig(), quick=True))
    assert (quick.eps, quick.narrow, quick.attack_seeds) == ((0.1,), False, 1)
    assert quick.views == SensitivityConfig().views


def sized(model: str, millions: int, budget: float, **more) -> Sensitivity:
    """A made-up result: images flip at `budget`, times noise that all sizes share."""
    noise = np.exp2(0.1 * np.random.default_rng(0).standard_normal((60, 3)))
    meta = {
        "model": model,
        "parameters": 10**6 * millions,
        "trained": True,
        "images": {"fingerprint": "f"},
        "preprocessing": {"size": [64, 64]},
        "used": {"resamples": 300, "confidence": 0.95, "seed": 0},
        "claims": [{"claim": claim, "verdict": "undecided"} for claim in (WEAK, SIZE)],
    }
    flipping = (budget * noise).astype(np.float32)
    return Sensitivity(meta={**meta, **more}, clean=np.ones(60, np.float32), flipping=flipping)


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        ((0.4, 0.2, 0.1), "supported"),
        ((0.1, 0.2, 0.4), "not supported"),
        ((0.1, 0.2, 0.1), "undecided"),
        ((0.1, 0.1, 0.1), "undecided"),
    ],
)
def test_sizes_of_a_family_decide_whether_robustness_falls(budgets: tuple, expected: str) -> None:
    names = zip(("vmamba_small", "vmamba_base", "vmamba_tiny"), (50, 89, 30), strict=True)
    order = dict(zip((30, 50, 89), budgets, strict=True))
    results = [sized(name, size, order[size]) for name, size in names]
    for result in sensitivity.compare([*results, sized("vim_tiny", 7, 0.3)]):
        claim = {entry["claim"]: entry for entry in result.meta["claims"]}[SIZE]
        alone = result.meta["model"] == "vim_tiny"
        assert claim["verdict"] == ("undecided" if alone else expected)
        if not alone:
            first = claim["comparisons"][0]
            assert first["what"] == "budget of B, vmamba_tiny over vmamba_small"
            assert first["value"] == pytest.approx(np.log2(budgets[0] / budgets[1]), abs=1e-5)


def test_sizes_without_training_or_on_other_images_are_no_evidence() -> None:
    random = [sized(f"vmamba_{i}", i, 1 / i, trained=False) for i in (1, 2)]
    (claim,) = [e for e in sensitivity.compare(random)[0].meta["claims"] if e["claim"] == SIZE]
    assert claim["verdict"] == "undecided" and "random" in claim["reason"]
    other = sized("vmamba_3", 3, 0.01, images={"fingerprint": "g"})
    first, second = sensitivity.compare([sized("vmamba_2", 2, 0.1), other])
    assert "comparisons" not in first.meta["claims"][1] and "reason" not in second.meta["claims"][1]


def test_figures_hold_eight_directions(tmp_path) -> None:
    torch.manual_seed(0)
    model = VMamba(
        dims=(8, 16), depths=(1, 1), d_state=3, num_classes=5, scan_paths="localmamba"
    ).eval()
    config = replace(FAST, views=("gradient", "horizon"), steps=1, attack_steps=1, attack_seeds=1)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, picture in enumerate(batch(2, 64).pictures):
        Image.fromarray(picture).save(pictures / f"{i}.png")
    facts = {"weights_label": "random", "training": "before training"}
    result = run(sensitivity, model, pictures, config, facts=facts)
    assert isinstance(result, Sensitivity)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's, where a layout does not fit
        figure = draw(result)
        figure.savefig(tmp_path / "eight.png")
    width = figure.bbox.width
    for ax in figure.axes[:-1]:  # but the verdicts below
        box = ax.get_tightbbox()
        assert box is not None and box.x0 >= 0 and box.x1 <= width, ax.get_title()


def test_equal_accuracies_at_one_budget_are_all_seen_with_their_intervals() -> None:
    result = load(STORED)
    assert isinstance(result, Sensitivity)
    view = result.meta["views"]["perturb"]
    rows = [row for row in view["rows"] if row["scope"] == "all" and row["eps"] == 0.1]
    assert len(rows) == 4
    for row in rows:
        row["accuracy"] = rows[0]["accuracy"]
    view["rows"] = rows
    (ax,) = (ax for ax in draw(result).axes if ax.get_title().startswith("perturbed"))
    points = {float(line.get_xdata()[0]) for line in ax.lines if len(line.get_xdata()) == 1}
    assert len(points) == 4
    assert all(abs(np.log(point / 0.1)) < 0.2 for point in points)
    bars = [segment for drawn in ax.collections for segment in drawn.get_segments()]
    low, high = rows[0]["accuracy"]["low"], rows[0]["accuracy"]["high"]
    assert sorted(bar[0][0] for bar in bars) == sorted(points)
    assert all((bar[0][1], bar[1][1]) == (low, high) for bar in bars)
