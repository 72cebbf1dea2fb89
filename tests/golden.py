"""Golden records: what the published implementations compute, with weights made from names.

Every tensor of a record is a pure function of its name and shape, drawn with NumPy alone. Two
programs that agree on a model's state-dict names and shapes agree on its weights bit for bit, so a
record needs no weight file.
"""

import json
import re
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from workbench.models import MambaVision, Vim, VMamba
from workbench.models.vim import resize_pos_embed

FOLDER = Path(__file__).parent / "golden"


def load(name: str) -> dict:
    """Return the golden file `name` (without .json)."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 values of the state-dict entry `name` with `shape`."""
    last = name.rsplit(".", 1)[-1]
    rng = _rng(name)
    normal = rng.standard_normal(shape)
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if last == "running_var":
        values = rng.uniform(0.5, 1.5, shape)
    elif last == "running_mean":
        values = 0.1 * normal
    elif last.lower().startswith("a_") and "log" in last.lower():
        values = np.log(rng.uniform(1.0, 16.0, shape))
    elif last in ("D", "D_b", "Ds"):
        values = 1.0 + 0.1 * normal
    elif last == "dt_projs_bias" or name.endswith(("dt_proj.bias", "dt_proj_b.bias")):
        values = -4.0 + 0.5 * normal  # softplus of this is about 0.02
    elif last.endswith("bias"):
        values = 0.02 * normal
    elif last in ("gamma", "gamma_1", "gamma_2"):
        values = 0.5 + 0.1 * normal
    elif last in ("pos_embed", "cls_token", "relative_position_bias_table"):
        values = 0.02 * normal
    elif last == "weight" and len(shape) == 1:  # a norm's scale
        values = 1.0 + 0.1 * normal
    else:
        fan_in = int(np.prod(shape[1:])) if len(shape) != 3 or last == "weight" else shape[-1]
        values = normal / np.sqrt(max(fan_in, 1))
    return values.astype(np.float32)


def image(name: str, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Return a smooth input (n, c, h, w) in about [-2, 2], a function of `name` and `shape`."""
    batch, channels, height, width = shape
    rng = _rng("image:" + name)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    out = np.zeros(shape)
    for b in range(batch):
        for c in range(channels):
            for _ in range(6):
                fy, fx = rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25)
                phase, amplitude = rng.uniform(0, 6.28), rng.uniform(0.2, 0.6)
                out[b, c] += amplitude * np.sin(fy * y + fx * x + phase)
    return out.astype(np.float32)


def fill_model(model: nn.Module, prefix: str = "") -> nn.Module:
    """Give every parameter and buffer of `model` the value of its name; eval mode."""
    state = model.state_dict()
    computed = {key for key in state if ".freqs_" in key or key.startswith("rope.")}
    for key, value in state.items():
        if key not in computed:
            value.copy_(torch.from_numpy(fill(prefix + key, tuple(value.shape))))
    return model.eval()


def vmamba_arguments(args: dict) -> dict:
    """Translate the published constructor arguments of VMamba (VSSM) into ours."""
    base, *postfixes = args["forward_type"].replace("v3noz", "v3_noz").split("_")
    unknown = set(postfixes) - {"noz", "nozact", "oact", "no32"}
    if unknown or not re.fullmatch(r"v0(seq|[1-5])?|v3", base):
        raise ValueError(f"forward type {args['forward_type']!r} is not one of the released ones")
    norms = ("ln", "ln2d")  # the same function in two memory layouts
    if args.get("norm_layer", "ln") not in norms:
        raise ValueError(f"norm_layer must be one of {norms}, not {args['norm_layer']!r}")
    return {
        "in_chans": args.get("in_chans", 3),
        "num_classes": args["num_classes"],
        "dims": args["dims"],
        "depths": args["depths"],
        "stem": args["patchembed_version"],
        "downsample": args["downsample_version"],
        "patch_norm": args.get("patch_norm", True),
        "mlp_ratio": args["mlp_ratio"],
        "drop_path_rate": args.get("drop_path_rate", 0.0),
        "d_state": args["ssm_d_state"],
        "ssm_ratio": args["ssm_ratio"],
        "dt_rank": args["ssm_dt_rank"],
        "conv": args["ssm_conv"],
        "conv_bias": args["ssm_conv_bias"],
        "init": args["ssm_init"],
        "gate": "noz" not in postfixes,
        "gate_act": "nozact" not in postfixes,
        "out_act": "oact" in postfixes,
    }


def vim_arguments(args: dict) -> dict:
    """Translate the published constructor arguments of Vim into ours."""
    if args["bimamba_type"] != "v2":
        raise ValueError(f"only the released mixer v2 is here, not {args['bimamba_type']!r}")
    class_token = None
    if args["if_cls_token"]:
        class_token = "middle" if args["use_middle_cls_token"] else "first"
    size = args["img_size"]
    return {
        "img_size": tuple(size) if isinstance(size, list) else size,
        "patch_size": args["patch_size"],
        "stride": args["stride"],
        "in_chans": args["channels"],
        "num_classes": args["num_classes"],
        "embed_dim": args["embed_dim"],
        "depth": args["depth"],
        "d_state": args["d_state"],
        "class_token": class_token,
        "pool": {"none": "last"}.get(args["final_pool_type"], args["final_pool_type"]),
        "rms_norm": args["rms_norm"],
        "pos_embed": args["if_abs_pos_embed"],
        "rope": args["if_rope"],
        "rope_residual": args["if_rope_residual"],
        "rope_pretrained_side": args["pt_hw_seq_len"],
        "divide_out": args["if_divide_out"],
        "layer_scale": args["init_layer_scale"],
        "drop_rate": args["drop_rate"],
        "drop_path_rate": args["drop_path_rate"],
    }


def build(record: dict) -> nn.Module:
    """Return the model of a record: filled, in eval mode, its state dict checked."""
    if record.get("model") == "VSSM":
        model = fill_model(VMamba(**vmamba_arguments(record["args"])))
    elif str(record.get("model", "")).startswith("Vim"):
        args = vim_arguments(record["constructor"])
        resized = record.get("pos_embed_interpolation")
        if resized:
            model = fill_model(Vim(**{**args, "img_size": resized["filled_for_img_size"]}))
            check_state_dict(model, record["state_dict"])
            method = "official" if resized["method"].startswith("official") else "class-aware"
            state, small = model.state_dict(), model.grid_size
            model = Vim(**args)
            state["pos_embed"] = resize_pos_embed(
                state["pos_embed"], small, model.grid_size, method
            )
            model.load_state_dict(state)
            return model.eval()
        model = fill_model(Vim(**args))
    elif record.get("family") == "mambavision":
        model = fill_model(MambaVision(**record["constructor"]))
        for name, parameter in model.named_parameters():
            if name.endswith("dt_proj.bias"):
                parameter.data += record.get("dt_bias_shift", 0.0)
    else:
        raise ValueError(f"no family is known for the record {record.get('record')!r}")
    check_state_dict(model, record["state_dict"])
    return model


def check_state_dict(model: nn.Module, expected: list) -> None:
    """Assert that names and shapes equal `expected`, a list of [name, shape]."""
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == {key: list(shape) for key, shape in expected}


def inputs(record: dict) -> torch.Tensor:
    """Return the input (n, c, h, w) of a record, float32."""
    return torch.from_numpy(image(record["input"]["name"], tuple(record["input"]["shape"])))
