"""The three families reproduce the published implementations, record by record."""

import math

import golden
import pytest
import torch
from torch import Tensor

from workbench.models import MambaVision, Vim, VMamba, mambavision, vim, vmamba

VMAMBA = {record["name"]: record for record in golden.load("vmamba_small")["records"]}
VIM = sorted(path.stem for path in golden.FOLDER.glob("vim_mini_*.json"))
MAMBAVISION = sorted(path.stem for path in golden.FOLDER.glob("mambavision_small_*.json"))
LOGITS = 2e-5  # absolute; float32 noise of the published code is below 5e-6
SCALE = 1e-4  # of the largest value, for gradients and maps


def assert_summary(actual: Tensor, summary: dict, name: str, tolerance: float = SCALE) -> None:
    """Compare a tensor with a record's shape, statistics and first and last values."""
    assert list(actual.shape) == summary["shape"], name
    flat = actual.detach().double().flatten()
    scale = max(summary.get("absmax", 0.0), float(flat.abs().max()))
    found = {
        "mean": flat.mean(),
        "std": flat.std(correction=0),
        "absmax": flat.abs().max(),
        "abs_sum": flat.abs().sum() / len(flat),
    }
    for key, value in found.items():
        if key in summary:
            expected = summary[key] / (len(flat) if key == "abs_sum" else 1)
            assert abs(float(value) - expected) <= tolerance * scale, f"{name}: {key}"
    for key in ("first", "first8", "last"):
        if key in summary:
            expected = torch.tensor(summary[key], dtype=torch.float64)
            part = flat[-len(expected) :] if key == "last" else flat[: len(expected)]
            assert (part - expected).abs().max() <= tolerance * scale, f"{name}: {key}"


@pytest.mark.parametrize("name", VMAMBA)
def test_vmamba_record(name: str) -> None:
    record = VMAMBA[name]
    model, x = golden.build(record), golden.inputs(record).requires_grad_()
    maps = {"patch_embed": model.as_map(model.stem(x))}
    y = model.stem(x)
    for i in range(len(model.layers)):
        y = model.stage(i, y)
        maps[f"stage{i}"] = model.as_map(y)
        if i < len(model.layers) - 1:
            y = model.after_stage(i, y)
            maps[f"stage{i}_down"] = model.as_map(y)
    for key, summary in record["outputs"].items():
        if key != "logits":
            assert_summary(maps[key], summary, key)
    expected = torch.tensor(record["outputs"]["logits"]["values"])
    assert (model(x).flatten() - expected).abs().max() <= LOGITS

    erf = record["erf"]
    row, column = erf["centre"]
    score = maps[f"stage{len(model.layers) - 1}"][:, :, row, column].relu().sum()
    assert score.item() == pytest.approx(erf["centre_relu_sum"], rel=SCALE)
    (gradient,) = torch.autograd.grad(score, x)
    assert_summary(gradient, erf["input_grad"], "input_grad")
    erf_map = gradient.relu().sum(dim=(0, 1))
    assert_summary(erf_map, erf["map"], "map")
    rows = torch.tensor(erf["map_row_sums_first8"])
    assert (erf_map.sum(1)[:8] - rows).abs().max() <= SCALE * rows.max()


@pytest.mark.parametrize("name", VIM)
def test_vim_record(name: str) -> None:
    record = golden.load(name)
    outputs = record["outputs"]
    model, x = golden.build(record), golden.inputs(record).requires_grad_()
    mixed = {}
    for i, layer in enumerate(model.layers):
        layer.mixer.register_forward_hook(lambda _, __, y, i=i: mixed.__setitem__(i, y))
    scans = {}
    for i, layer in enumerate(model.layers):
        layer.mixer.scan.register_forward_hook(
            lambda _, __, tensors, y, i=i: scans.__setitem__(i, {**tensors, "y": y}),
            with_kwargs=True,
        )
    logits = model(x)
    expected = torch.tensor(outputs["logits"])
    assert (logits[:, : expected.shape[1]] - expected).abs().max() <= LOGITS
    embedding = model.embed(x)[0]
    if model.rope is not None:
        embedding = model.rope(embedding)  # the record was taken at the input of layer 0
    assert_summary(embedding, outputs["embedding_after_pos_embed"], "embedding_after_pos_embed")
    residuals = [residual for _, residual in model._layers(x, len(model.layers))]
    for layer in outputs["layers"]:
        assert_summary(mixed[layer["index"]], layer["mixer_output"], "mixer_output")
        assert_summary(residuals[layer["index"]], layer["residual"], "residual")
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    assert_summary(features, outputs["feature_before_head"], "feature_before_head")

    for ssm in outputs.get("ssm", []):
        tensors = scans[ssm["layer"]]
        k = ("forward", "backward").index(ssm["direction"])
        inner = tensors["u"].shape[1] // 2
        channels = slice(k * inner, (k + 1) * inner)
        found = {
            "conv_silu_u": tensors["u"][:, channels],
            "delta_after_softplus": tensors["delta"][:, channels],
            "B": tensors["B"][:, k],
            "C": tensors["C"][:, k],
            "scan_output_with_D_before_gate": tensors["y"][:, channels],
        }
        for key, tensor in found.items():
            assert_summary(tensor, ssm[key], f"{key} of layer {ssm['layer']} {ssm['direction']}")

    gradient = outputs["input_gradient_of_max_logit_of_image_0"]
    logit = model(x[:1]).max()
    assert model(x[:1]).argmax() == gradient["class_index"]
    assert_summary(torch.autograd.grad(logit, x)[0][:1], gradient, "input gradient")


def test_both_ways_to_resize_vims_position_embedding() -> None:
    record = golden.load("vim_mini_p16_interp_64_to_96")
    small = torch.from_numpy(golden.fill("pos_embed", (1, 17, 48)))
    official = vim.resize_pos_embed(small, (4, 4), (6, 6), "official")
    aware = vim.resize_pos_embed(small, (4, 4), (6, 6), "class-aware")
    other = record["class_aware_interpolation_not_official"]
    assert_summary(official, record["pos_embed_interpolation"]["resulting_pos_embed"], "official")
    assert_summary(aware, other["resulting_pos_embed"], "class-aware")

    model = golden.build(record)
    model.pos_embed.data = aware
    logits = model(golden.inputs(record))
    assert (logits - torch.tensor(other["logits"])).abs().max() <= LOGITS
    # A model made for 64 px resizes on the fly and gives the same.
    small_model = Vim(**{**golden.vim_arguments(record["constructor"]), "img_size": 64})
    golden.fill_model(small_model)
    assert (small_model(golden.inputs(record)) - logits).abs().max() <= 1e-6


@pytest.mark.parametrize("name", MAMBAVISION)
def test_mambavision_record(name: str) -> None:
    record = golden.load(name)
    outputs = record["outputs"]
    model, x = golden.build(record), golden.inputs(record).requires_grad_()
    logits = model(x)
    assert (logits - torch.tensor(outputs["logits"]["all"])).abs().max() <= LOGITS

    y = model.stem(x)
    maps = {"stem": y}
    for i in range(len(model.levels)):
        maps[f"stage{i}"] = y = model.stage(i, y)
        maps[f"level{i}_out"] = y = model.after_stage(i, y)
    maps["pooled"] = model.forward_head(model.norm(y), pre_logits=True)
    for key, summary in outputs["features"].items():
        assert_summary(maps[key], summary, key)
    if "input_grad_of_sum_of_logits" in outputs:
        gradient = torch.autograd.grad(logits.sum(), x)[0]
        assert_summary(gradient, outputs["input_grad_of_sum_of_logits"], "logits")
        summary = outputs["input_grad_of_stage3_centre_sum"]
        row, column = summary["cell"]
        gradient = torch.autograd.grad(maps["stage3"][:, :, row, column].sum(), x)[0]
        assert_summary(gradient, summary, "stage3")


@pytest.mark.parametrize("name", ["mambavision_mixer_d32_l16", "mambavision_mixer_d48_l49_dt"])
def test_mambavision_mixer_record(name: str) -> None:
    record = golden.load(name)
    outputs, size = record["outputs"], record["constructor"]
    mixer = mambavision.MambaVisionMixer(size["d_model"], size["d_state"], size["d_conv"])
    golden.fill_model(mixer, prefix="mixer.")
    if name.endswith("_dt"):
        mixer.dt_proj.bias.data += 3.0
    golden.check_state_dict(mixer, record["state_dict"])
    batch, length, dim = record["input"]["shape"]
    tokens = golden.image(record["input"]["name"], (batch, 1, length, dim))[:, 0]
    h = torch.from_numpy(tokens).requires_grad_()
    seen = {}
    mixer.scan.register_forward_hook(
        lambda _, __, tensors, y: seen.update(tensors, y=y), with_kwargs=True
    )
    out = mixer(h)
    seen["B"], seen["C"] = seen["B"][:, 0], seen["C"][:, 0]
    for key in ("u", "delta", "A", "B", "C", "y"):
        assert_summary(seen[key], outputs[key], key)
    assert_summary(out, outputs["out"], "out")
    assert_summary(torch.autograd.grad(out.sum(), h)[0], outputs["input_grad_of_sum"], "gradient")


def on_meta(family: type, arguments: dict):
    with torch.device("meta"):
        return family(**arguments)


VMAMBA_MODELS = golden.load("vmamba_manifests")["models"]


@pytest.mark.parametrize("name", VMAMBA_MODELS)
def test_vmamba_manifest(name: str) -> None:
    manifest = VMAMBA_MODELS[name]
    _, kind, size = name.split("_")
    ours = f"vmamba_{size}_v0" if kind == "v0" else name
    for arguments in (vmamba.VARIANTS[ours], golden.vmamba_arguments(manifest["args"])):
        model = on_meta(VMamba, arguments)
        golden.check_state_dict(model, manifest["keys"])
        assert sum(p.numel() for p in model.parameters()) == manifest["n_params"]


@pytest.mark.parametrize("name", ["tiny", "tiny_plus", "small", "small_plus", "base"])
def test_vim_manifest(name: str) -> None:
    manifest = golden.load(f"vim_manifest_{name}")
    for arguments in (
        vim.VARIANTS[f"vim_{name}"],
        golden.vim_arguments(manifest["constructor"]),
    ):
        model = on_meta(Vim, arguments)
        golden.check_state_dict(model, manifest["state_dict"])
        assert sum(p.numel() for p in model.parameters()) == manifest["parameters"]


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("mambavision_tiny", "T"),
        ("mambavision_tiny2", "T2"),
        ("mambavision_small", "S"),
        ("mambavision_base", "B"),
        ("mambavision_base_21k", "B"),
        ("mambavision_large", "L"),
        ("mambavision_large_21k", "L"),
        ("mambavision_large2", "L2"),
        ("mambavision_large2_512_21k", "L2"),
        ("mambavision_large3_256_21k", "L3_256_21k"),
        ("mambavision_large3_512_21k", "L3_256_21k"),
    ],
)
def test_mambavision_manifest(name: str, record: str) -> None:
    manifest = golden.load(f"mambavision_manifest_{record}")
    model = on_meta(MambaVision, mambavision.VARIANTS[name])
    golden.check_state_dict(model, manifest["state_dict"])
    assert sum(p.numel() for p in model.parameters()) == manifest["parameters"]
    for i, kinds in enumerate(manifest["block_kinds"]):
        if i >= 2:
            found = "".join(
                "m" if isinstance(block.mixer, mambavision.MambaVisionMixer) else "a"
                for block in model.levels[i].blocks
            )
            assert found == "".join(kind[0] for kind in kinds)


def test_the_backward_steps_of_vim_start_at_softplus_of_zero_as_published() -> None:
    torch.manual_seed(0)
    mixer = Vim(img_size=32, depth=1, embed_dim=16).layers[0].mixer
    steps = torch.nn.functional.softplus(mixer.dt_proj.bias)
    assert steps.min() >= 1e-4 and steps.max() <= 0.1001
    assert not mixer.dt_proj_b.bias.any()
    assert math.isclose(
        torch.nn.functional.softplus(mixer.dt_proj_b.bias[0]).item(), math.log(2), rel_tol=1e-6
    )
