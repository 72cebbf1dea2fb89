"""Stand-ins for compiled modules and for mamba_ssm's Python agree with autograd through the
reference scan."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from workbench.external import cross, mamba, native, norms, ssd
from workbench.kernels import selective_scan
from workbench.paths import CROSS as CROSS_PATHS
from workbench.paths import scan_path

BATCH, DIM, STATE, LENGTH, GROUPS = 2, 8, 4, 19, 2


def tensors(z=True, groups=GROUPS):
    made = {
        "u": torch.randn(BATCH, DIM, LENGTH),
        "delta": torch.randn(BATCH, DIM, LENGTH),
        "A": -torch.rand(DIM, STATE),
        "B": torch.randn(BATCH, groups, STATE, LENGTH),
        "C": torch.randn(BATCH, groups, STATE, LENGTH),
        "D": torch.randn(DIM),
        "z": torch.randn(BATCH, DIM, LENGTH) if z else None,
        "delta_bias": torch.randn(DIM),
    }
    return made


def reference(given, dout):
    """Gradients in the order of `given`, by autograd through the loop over time, and output."""
    leaves = {k: None if v is None else v.clone().requires_grad_() for k, v in given.items()}
    y = selective_scan(**leaves, delta_softplus=True, backend="reference")
    there = [v for v in leaves.values() if v is not None]
    found = iter(torch.autograd.grad(y, there, dout))
    return {k: None if v is None else next(found) for k, v in leaves.items()}, y.detach()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
def test_scan_bwd_writes_the_gradient_of_the_gate_into_its_buffer(recompute):
    given, dout = tensors(), torch.randn(BATCH, DIM, LENGTH)
    expected, y = reference(given, dout)
    out, x, out_z = native.scan_fwd(*given.values(), True)
    close(out_z, y)
    buffer = torch.full((BATCH, 2 * DIM, LENGTH), torch.nan)
    _, dz = buffer.chunk(2, dim=1)
    found = native.scan_bwd(*given.values(), dout, x, out, dz, True, recompute)
    order = ("u", "delta", "A", "B", "C", "D", "delta_bias", "z")
    for name, gradient in zip(order, found, strict=False):
        close(gradient, expected[name])
    close(buffer[:, DIM:], expected["z"])
    assert len(found) == 8 + recompute
    if recompute:
        close(found[-1], y)


def test_scan_bwd_without_a_buffer_or_a_gate():
    given, dout = tensors(), torch.randn(BATCH, DIM, LENGTH)
    expected, _ = reference(given, dout)
    out, x, _ = native.scan_fwd(*given.values(), True)
    close(native.scan_bwd(*given.values(), dout, x, out, None, True, False)[7], expected["z"])
    given = tensors(z=False)
    expected, y = reference(given, dout)
    out, x = native.scan_fwd(*given.values(), True)
    close(out, y)
    found = native.scan_bwd(*given.values(), dout, x, None, None, True, False)
    assert len(found) == 7
    close(found[0], expected["u"])


@pytest.mark.parametrize("fwd", [native.core_fwd, native.oflex_fwd])
def test_core_and_oflex(fwd):
    given = tensors(z=False)
    del given["z"]
    dout = torch.randn(BATCH, DIM, LENGTH)
    expected, y = reference(given, dout)
    out, x = fwd(*given.values(), True, 1)
    close(out, y)
    found = native.core_bwd(*given.values(), dout, x, True, 1)
    for name, gradient in zip(given, found, strict=True):
        close(gradient, expected[name])


def test_oflex_gives_float32_when_asked():
    given = {k: None if v is None else v.bfloat16() for k, v in tensors(z=False).items()}
    del given["z"]
    assert native.oflex_fwd(*given.values(), True, 1, True)[0].dtype == torch.float32
    assert native.oflex_fwd(*given.values(), True, 1, False)[0].dtype == torch.bfloat16


def test_last_state_is_where_callers_slice_it():
    given = tensors(z=False)
    _, x = native.scan_fwd(*given.values(), True)
    _, state = selective_scan(**given, delta_softplus=True, return_last_state=True)
    close(x[:, :, -1, 1::2], state)


def convolution(x, weight, bias, silu):
    """By hand: y_t = bias + sum_j weight_j x_(t - k + 1 + j)."""
    k = weight.shape[1]
    padded = F.pad(x, (k - 1, 0))
    y = sum(weight[:, j, None] * padded[..., j : j + x.shape[-1]] for j in range(k))
    y = y + bias[:, None]
    return y * torch.sigmoid(y) if silu else y


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("form", ["first", "middle", "late"])
def test_convolution_in_its_positional_forms(silu, form):
    nothing = {"first": (), "middle": (None,), "late": (None, None, None)}[form]
    x, weight, bias = torch.randn(2, 6, 11), torch.randn(6, 4), torch.randn(6)
    dout = torch.randn(2, 6, 11)
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    y = convolution(*leaves, silu)
    expected = torch.autograd.grad(y, leaves, dout)
    close(native.conv_fwd(x, weight, bias, *nothing, silu), y.detach())
    buffer = torch.full((2, 12, 11), torch.nan)
    dx, _ = buffer.chunk(2, dim=1)
    found = native.conv_bwd(x, weight, bias, dout, *nothing[:1], dx, silu)
    assert len(found) == 3
    for a, b in zip(found, expected, strict=True):
        close(a, b)
    close(buffer[:, :6], expected[0])


def test_convolution_with_initial_states_returns_four():
    x, weight, dout = torch.randn(2, 6, 11), torch.randn(6, 4), torch.randn(2, 6, 11)
    found = native.conv_bwd(x, weight, None, dout, None, None, None, None, False, True)
    assert len(found) == 4
    assert found[2] is None
    assert found[3] is None


def test_convolution_refuses_states():
    x, weight = torch.randn(2, 6, 11), torch.randn(6, 4)
    close(native.conv1d_fn(x, weight, None, "silu"), native.conv1d_fn(x, weight, activation="silu"))
    with pytest.raises(ValueError, match="no states"):
        native.conv1d_fn(x, weight, return_final_states=True)


def block():
    torch.manual_seed(3)
    return mamba.Mamba(8, d_state=4)


def test_the_block_is_its_definition():
    """Written out with the parts of the paper: projection, convolution, scan, gate, projection."""
    model, h = block(), torch.randn(2, 13, 8)
    x, z = model.in_proj(h).chunk(2, dim=2)
    u = F.silu(model.conv1d(x.transpose(1, 2))[..., :13])
    rank = model.dt_proj.in_features
    dt, B, C = model.x_proj(u.transpose(1, 2)).split([rank, 4, 4], dim=2)
    delta = F.softplus(model.dt_proj(dt)).transpose(1, 2)
    A = -model.A_log.exp()
    y = selective_scan(
        u, delta, A, B.transpose(1, 2), C.transpose(1, 2), model.D, backend="reference"
    )
    expected = model.out_proj(y.transpose(1, 2) * F.silu(z))
    close(model(h), expected)


def test_the_bidirectional_inner_function_is_two_scans():
    model, xz = block(), torch.randn(2, 32, 13)
    A, A_b = -torch.rand(16, 4), -torch.rand(16, 4)
    weights = (model.conv1d.weight, model.conv1d.bias, model.x_proj.weight, model.dt_proj.weight)
    out = (model.out_proj.weight, None)
    rest = {"D": model.D, "delta_bias": model.dt_proj.bias}
    both = mamba.bimamba_inner_fn(xz, *weights, *out, A, A_b, **rest)
    forth = mamba.mamba_inner_fn(xz, *weights, *out, A, **rest)
    u, delta, B, C, z = mamba._coefficients(xz, *weights, A, None, None, None, None)
    back = selective_scan(
        u.flip(-1), delta.flip(-1), A_b, B.flip(-1), C.flip(-1), model.D, z.flip(-1),
        model.dt_proj.bias, True, backend="reference",
    )  # fmt: skip
    close(both, forth + back.flip(-1).transpose(1, 2) @ model.out_proj.weight.t())


def test_a_residual_block_adds_norms_and_mixes_in_turn():
    class Mix(nn.Linear):
        def forward(self, x, inference_params=None):
            return super().forward(x)

    torch.manual_seed(0)
    block = mamba.Block(4, lambda d: Mix(d, d), partial(mamba.GatedMLP, multiple_of=6))
    block.double()
    x, before = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(3, 4).double()
    y, total = block(x, before)
    mixed = x + before
    after = mixed + F.linear(F.layer_norm(mixed, (4,)), block.mixer.weight, block.mixer.bias)
    fc1, fc2 = (layer.weight for layer in (block.mlp.fc1, block.mlp.fc2))
    assert fc1.shape == (2 * 12, 4)  # 8 / 3 of 4, up to a multiple of 6
    value, gate = (F.layer_norm(after, (4,)) @ fc1.T).tensor_split(2, dim=-1)
    torch.testing.assert_close(total, after)
    torch.testing.assert_close(y, (value * gate * gate.sigmoid()) @ fc2.T)
    older = mamba.BlockOfOneNorm(4, lambda d: Mix(d, d), nn.LayerNorm, False, True).double()
    y, total = older(x)
    assert total.dtype == torch.float32 and torch.equal(total, x.float())
    torch.testing.assert_close(y, older.mixer(F.layer_norm(x, (4,))))


def test_the_block_refuses_arguments_of_forks():
    with pytest.raises(ValueError, match="bimamba_type"):
        mamba.Mamba(8, bimamba_type="v2")


@pytest.mark.parametrize("rms", [True, False])
def test_norms(rms):
    x, residual, weight = torch.randn(2, 5, 8), torch.randn(2, 5, 8), torch.rand(8)
    function = norms.rms_norm_fn if rms else norms.layer_norm_fn
    y, total = function(x, weight, None, residual=residual, prenorm=True, eps=1e-5)
    close(total, x + residual)
    centred = total if rms else total - total.mean(-1, keepdim=True)
    close(y, centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight)


def test_residual_stays_in_float32():
    x = torch.randn(2, 5, 8).bfloat16()
    norm = norms.RMSNorm(8).bfloat16()
    y, total = norm(x, prenorm=True, residual_in_fp32=True)
    assert (y.dtype, total.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("before", [True, False])
def test_gated_norm(before):
    x, z = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    norm = norms.GatedRMSNorm(8, norm_before_gate=before)
    rms = norms.RMSNorm(8)
    close(norm(x, z), rms(x) * F.silu(z) if before else rms(x * F.silu(z)))


def test_scan_fn_takes_none_for_the_last_state():
    given = tensors()
    y = mamba.selective_scan_fn(**given, delta_softplus=True, return_last_state=None)
    close(y, mamba.selective_scan_ref(**given, delta_softplus=True))
    _, state = mamba.selective_scan_fn(**given, delta_softplus=True, return_last_state=True)
    assert state.shape == (BATCH, DIM, STATE)


def test_constant_B_and_C_are_those_repeated_over_time():
    given = tensors(groups=1)
    B, C = torch.randn(DIM, STATE), torch.randn(DIM, STATE)
    over_time = {
        name: x[None, :, :, None].expand(BATCH, -1, -1, LENGTH) for name, x in (("B", B), ("C", C))
    }
    each = {name: given[name].expand(-1, DIM, -1, -1) for name in ("B", "C")}
    for constant in ({"B": B}, {"C": C}, {"B": B, "C": C}):
        varying = {**each, **{name: over_time[name] for name in constant}}
        expected = selective_scan(**{**given, **varying}, backend="reference")
        close(mamba.selective_scan_fn(**{**given, **constant}), expected)
        close(mamba.selective_scan_ref(**{**given, **constant}), expected)


def test_complex_A_is_refused():
    with pytest.raises(ValueError, match="real A"):
        mamba.selective_scan_fn(**{**tensors(), "A": torch.ones(DIM, STATE, dtype=torch.cfloat)})


def test_states_are_those_of_every_prefix_and_so_are_their_gradients():
    given = tensors(z=False)
    dout = torch.randn(BATCH, DIM, STATE, LENGTH)
    names = ("u", "delta", "A", "B", "delta_bias")
    leaves = {name: given[name].clone().requires_grad_() for name in names}

    def prefix(length):
        cut = {n: x[..., :length] if n in ("u", "delta", "B") else x for n, x in leaves.items()}
        rest = {"delta_softplus": True, "return_last_state": True, "backend": "reference"}
        return selective_scan(**cut, C=torch.zeros_like(cut["B"]), **rest)[1]

    states = torch.stack([prefix(t) for t in range(1, LENGTH + 1)], dim=-1)
    expected = torch.autograd.grad(states, list(leaves.values()), dout)
    u, delta, A, B, bias = (given[name] for name in names)
    out, x = native.states_fwd(u, delta, A, B, None, bias, True)
    close(out, states.detach())
    close(x[:, :, -1, 1::2], states[..., -1].detach())
    found = native.states_bwd(u, delta, A, B, None, bias, dout, x, True, 1)
    for name, gradient, wanted in zip(names, (*found[:4], found[5]), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-4, msg=name)


def test_depthwise_convolution_and_its_gradients():
    x, weight, bias = torch.randn(2, 3, 7, 6), torch.randn(3, 1, 5, 3), torch.randn(3)
    dout = torch.randn(2, 3, 7, 6)
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    y = F.conv2d(*leaves, padding=(2, 1), groups=3)
    expected = torch.autograd.grad(y, leaves, dout)
    close(native.depthwise(x, weight, bias, 2, 1), y.detach())
    close(native.depthwise(dout, weight.flip(2, 3), 2, 1), expected[0])
    close(native.depthwise_wgrad(x, dout, 2, 1), expected[1])
    close(native.depthwise_bgrad(dout), expected[2])


def heads(groups=2, D_has_hdim=False):
    torch.manual_seed(1)
    b, length, h, p, n = 2, 9, 4, 3, 5
    return {
        "x": torch.randn(b, length, h, p), "dt": torch.randn(b, length, h), "A": -torch.rand(h),
        "B": torch.randn(b, length, groups, n), "C": torch.randn(b, length, groups, n),
        "D": torch.randn(h, p) if D_has_hdim else torch.randn(h), "z": torch.randn(b, length, h, p),
        "dt_bias": torch.randn(h),
    }  # fmt: skip


def recurrence(x, dt, A, B, C, D, z, dt_bias, limit=(0.0, float("inf"))):
    """Mamba-2 by its definition, head by head and step by step, in float64."""
    x, dt, A, B, C, D, z, dt_bias = (t.double() for t in (x, dt, A, B, C, D, z, dt_bias))
    y, last = torch.zeros_like(x), []
    for head in range(len(A)):
        group = head // (len(A) // B.shape[2])
        h = x.new_zeros(len(x), x.shape[3], B.shape[3])
        for t in range(x.shape[1]):
            step = torch.log1p(torch.exp(dt[:, t, head] + dt_bias[head])).clamp(*limit)
            new = x[:, t, head, :, None] * B[:, t, group, None, :]
            h = (step * A[head]).exp()[:, None, None] * h + step[:, None, None] * new
            y[:, t, head] = (h * C[:, t, group, None, :]).sum(-1) + D[head] * x[:, t, head]
        last.append(h)
    return (y * z / (1 + (-z).exp())).float(), torch.stack(last, dim=1).float()


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("D_has_hdim", [False, True])
def test_the_scan_of_heads_is_its_recurrence(groups, D_has_hdim):
    given = heads(groups, D_has_hdim)
    y, state = ssd.mamba_chunk_scan_combined(
        **given, chunk_size=4, dt_softplus=True, return_final_states=True
    )
    expected, last = recurrence(**given)
    close(y, expected)
    close(state, last)
    limit = (0.5, 0.9)
    y = ssd.mamba_chunk_scan_combined(**given, dt_softplus=True, dt_limit=limit)
    close(y, recurrence(**given, limit=limit)[0])
    with pytest.raises(ValueError, match="no initial states"):
        ssd.mamba_chunk_scan_combined(**given, initial_states=state)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("normed", [True, False])
def test_the_block_of_heads_is_its_parts(normed, before):
    torch.manual_seed(2)
    made = {"headdim": 4, "d_state": 3, "ngroups": 2, "rmsnorm": normed, "norm_before_gate": before}
    block, u = ssd.Mamba2(8, **made), torch.randn(2, 9, 8)
    z, xBC, dt = block.in_proj(u).split([16, 28, 4], dim=2)
    xBC = convolution(xBC.mT, block.conv1d.weight[:, 0], block.conv1d.bias, True).mT
    x, B, C = xBC.split([16, 6, 6], dim=2)
    y, _ = recurrence(
        x.unflatten(2, (4, 4)), dt, -block.A_log.exp(), B.unflatten(2, (2, 3)),
        C.unflatten(2, (2, 3)), block.D, torch.full_like(x, 40.0).unflatten(2, (4, 4)),
        block.dt_bias,
    )  # fmt: skip
    y = y.flatten(2) / 40.0  # SiLU(40) is 40
    if normed:
        y = y if before else y * F.silu(z)
        y = y.unflatten(2, (2, 8))
        y = (y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(2)
        y = y * F.silu(z) if before else y
    else:
        y = y * F.silu(z)
    close(block(u), block.out_proj(y))


def test_cross_scans_follow_their_paths_and_merge_is_the_transpose():
    x, y = torch.randn(2, 3, 4, 5), torch.randn(2, 4, 3, 4, 5)
    paths = [scan_path(name, 4, 5).order.tolist() for name in CROSS_PATHS]
    scanned = torch.stack([x.flatten(2)[..., path] for path in paths], dim=1)
    assert torch.equal(cross.CrossScan.apply(x), scanned)
    each = torch.stack([y[:, k].flatten(2)[..., path] for k, path in enumerate(paths)], dim=1)
    assert torch.equal(cross.CrossScanEach.apply(y), each)
    inner = (cross.CrossScan.apply(x) * y.flatten(3)).sum()
    close(inner, (x.flatten(2) * cross.CrossMerge.apply(y)).sum())
    assert torch.equal(cross.CrossMergeEach.apply(each.view_as(y)), y.flatten(3))
