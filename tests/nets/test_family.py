import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hegpu.errors import ImageError, ModelError
from hegpu.nets.compose import affine_filter
from hegpu.nets.description import Layer, Network, slot_plane
from hegpu.nets.family import KINDS, family_layers, make, widen
from hegpu.nets.file import load_network, network_bytes
from hegpu.nets.plaintext import run, wrap_indices
from hegpu.nets.torch_net import TorchNetwork, round_weights, run_torch

LIFTING = ("hu", "window:-160:240", "mean:5")


def image(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1024, 1500, shape)


@pytest.mark.parametrize("lifting", [("hu",), LIFTING])
@pytest.mark.parametrize("kind", KINDS)
def test_numpy_and_torch_agree(kind, lifting):
    net = make(kind, 5, 6, lifting=lifting, seed=3)
    hu = image((37, 50))
    expected = run(net, hu)
    assert np.abs(run_torch(net, hu) - expected).max() <= 1e-5 * net.hu_scale
    assert np.abs(run_torch(net, hu, dtype=torch.float64) - expected).max() <= 1e-12 * net.hu_scale


@pytest.mark.parametrize("border", ["replicate", "unpadded", "zero"])
def test_numpy_and_torch_agree_at_every_border(border):
    net = dataclasses.replace(make("redcnn", 4, 6, seed=1), border=border)
    hu = image((31, 40), 2)
    expected = run(net, hu)
    assert expected.shape == hu.shape
    assert np.abs(run_torch(net, hu) - expected).max() <= 1e-5 * net.hu_scale


def test_zero_border_is_torchs_padding():
    layers = (Layer("a", "conv2d", 5, 1, 3, activation="relu"), Layer("b", "conv_transpose2d", 3, 3, 1))
    convs = torch.nn.Conv2d(1, 3, 5, padding=2), torch.nn.ConvTranspose2d(3, 1, 3, padding=1)
    weights = {
        f"{n}.{p}": getattr(c, p).detach().numpy() for n, c in zip("ab", convs, strict=True) for p in ("weight", "bias")
    }
    hu = image((12, 9))
    with torch.no_grad():
        expected = convs[1](torch.relu(convs[0](torch.from_numpy(hu)[None, None].float())))[0, 0].numpy()
    np.testing.assert_allclose(run(Network("z", layers, weights, border="zero"), hu), expected, rtol=1e-4, atol=1e-3)


def test_redcnn_is_the_published_network():
    net = make("redcnn")
    assert [(layer.op, layer.inputs, layer.outputs) for layer in net.layers] == [
        ("conv2d", 1, 96), *[("conv2d", 96, 96)] * 4, *[("conv_transpose2d", 96, 96)] * 4, ("conv_transpose2d", 96, 1),
    ]  # fmt: skip
    assert {layer.name: layer.skip for layer in net.layers if layer.skip} == {
        "tconv1": "conv4", "tconv3": "conv2", "tconv5": "input",
    }  # fmt: skip
    assert sum(array.size for array in net.weights.values()) == 1_848_865
    assert family_layers("redcnn", final_relu=True)[-1].activation == "relu"
    for depth in (4, 6, 8):
        layers = family_layers("redcnn", 8, depth)
        assert len(layers) == depth
        assert layers[-1].skip == "input"


def test_levelled_kinds_return_the_residual_and_have_one_square_a_layer():
    for kind, activation in (("redcnn-gate", "gate"), ("redcnn-quad", "quad")):
        net = make(kind, 4, 8)
        assert (net.border, net.phases, net.residual) == ("slot-wrap", (4, 4), True)
        assert [layer.activation for layer in net.layers] == [activation] * 7 + ["none"]
        zero = {key: np.zeros_like(array) for key, array in net.weights.items()}
        hu = image((20, 20))
        np.testing.assert_array_equal(run(dataclasses.replace(net, weights=zero), hu), hu)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 4), st.integers(1, 4), st.integers(0, 4))
def test_slot_wrap_is_the_documented_formula(rows, columns, py, px, radius):
    rows, columns = rows * py, columns * px
    y, x = wrap_indices((rows, columns), radius, (py, px))
    assert y.shape == x.shape == (rows + 2 * radius, columns + 2 * radius)
    for i in range(-radius, rows + radius):
        for j in range(-radius, columns + radius):
            turns = j // columns
            assert y[i + radius, j + radius] == (i + py * turns) % rows
            assert x[i + radius, j + radius] == j - columns * turns


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2), st.integers(0, 3), st.integers(-2, 2), st.integers(-2, 2), st.data())
def test_slot_wrap_is_a_rotation_of_the_slots(log_py, log_px, dy, dx, data):
    """The tap (dy, dx) of every pixel of a phase lies in one other phase, rotated by one amount."""
    py, px = 1 << log_py, 1 << log_px
    rows, columns = py * 8, px * 8
    values = np.arange(rows * columns).reshape(rows, columns)
    y, x = wrap_indices((rows, columns), 2, (py, px))
    shifted = values[y, x][2 + dy : 2 + dy + rows, 2 + dx : 2 + dx + columns]
    a, b = data.draw(st.integers(0, py - 1)), data.draw(st.integers(0, px - 1))
    cell_y, phase_y = divmod(a + dy, py)
    cell_x, phase_x = divmod(b + dx, px)
    slots = values[phase_y::py, phase_x::px].ravel()
    np.testing.assert_array_equal(shifted[a::py, b::px].ravel(), np.roll(slots, -(8 * cell_y + cell_x)))


def test_away_from_the_border_slot_wrap_is_the_same_network():
    net = make("redcnn-gate", 3, 6, seed=2)
    hu = image((64, 64))
    other = dataclasses.replace(net, border="zero", phases=None)
    inner = slice(net.radius, 64 - net.radius)
    np.testing.assert_allclose(run(net, hu)[inner, inner], run(other, hu)[inner, inner], atol=1e-9)
    assert np.abs(run(net, hu) - run(other, hu)).max() > 1e-3
    assert slot_plane((512, 512), (4, 4)) == (512, 512)
    assert slot_plane((500, 130), (4, 4)) == (512, 256)
    assert run(net, image((30, 41))).shape == (30, 41)


@pytest.mark.parametrize("kind", KINDS)
def test_widening_keeps_the_function(kind):
    net, hu = make(kind, 4, 6, seed=5), image((33, 30))
    wide = widen(net, 11, seed=1)
    assert {layer.outputs for layer in wide.layers[:-1]} == {11}
    assert np.abs(run(wide, hu) - run(net, hu)).max() < 1e-5 * net.hu_scale
    first = wide.weights["conv2.weight"]
    assert not np.allclose(first[:, 0], first[:, 4])  # copies must be able to part
    with pytest.raises(ModelError, match="at most 3"):
        widen(net, 3)


def test_rounded_weights_are_checked():
    net = round_weights(make("redcnn-gate", 4, 4), 9)
    assert net.fraction_bits == 9
    assert load_network(network_bytes(net)).fraction_bits == 9
    bad = {**net.weights, "conv1.weight": net.weights["conv1.weight"] + 2.0**-12}
    with pytest.raises(ModelError, match=r"conv1\.weight.*2\^-9"):
        dataclasses.replace(net, weights=bad)
    module = TorchNetwork(make("redcnn-gate", 4, 4))
    module.fraction_bits = 9
    hu = image((24, 24))
    np.testing.assert_allclose(run_torch(module, hu), run(net, hu), atol=1e-2)


def test_every_field_survives_the_file():
    net = make("redcnn-quad", 3, 4, lifting=LIFTING)
    ranges = {layer.name: (1.5, 2.25) for layer in net.layers}
    net = dataclasses.replace(round_weights(net, 12), ranges=ranges, margin=1.5, phases=(2, 8))
    back = load_network(network_bytes(net))
    for name in (field.name for field in dataclasses.fields(net) if field.name != "weights"):
        assert getattr(back, name) == getattr(net, name), name
    np.testing.assert_array_equal(run(back, image((16, 16))), run(net, image((16, 16))))


def test_what_contradicts_itself_is_refused():
    net = make("redcnn", 4, 6)
    for change, message in (
        ({"border": "slot-wrap"}, "tconv1.*flip"),
        ({"phases": (4, 4)}, "slot-wrap"),
        ({"border": "mirror"}, "unknown"),
        ({"lifting": ("hu", "hu")}, "channels"),
        ({"ranges": {"conv1": (1, 1)}}, "other layers"),
        ({"margin": 0.9}, "margin"),
        ({"residual": 1}, "residual"),
    ):
        with pytest.raises(ModelError, match=message):
            dataclasses.replace(net, **change)
    shrinking = (Layer("a", "conv2d", 5, 1, 1),)
    weights = {"a.weight": np.zeros((1, 1, 5, 5)), "a.bias": np.zeros(1)}
    with pytest.raises(ModelError, match="2 pixels a side smaller"):
        Network("n", shrinking, weights, border="unpadded")
    with pytest.raises(ImageError, match="at least 13"):
        run(dataclasses.replace(net, border="unpadded"), image((12, 40)))
    for arguments in (("red", 4, 6), ("redcnn", 4, 5), ("redcnn", 4, 2), ("redcnn-gate", 0, 4)):
        with pytest.raises(ModelError):
            make(*arguments)
    with pytest.raises(ModelError, match="ReLU"):
        make("redcnn-gate", 4, 4, final_relu=True)


def test_a_residual_linear_network_composes():
    net = make("redcnn-linear", 3, 4, seed=4)
    layers = (*net.layers[:-1], dataclasses.replace(net.layers[-1], skip=None))
    net = dataclasses.replace(net, layers=layers, residual=True, hu_offset=-300.0)
    hu = image((25, 26))
    np.testing.assert_allclose(affine_filter(net).apply(hu), run(net, hu), atol=1e-8)
    with pytest.raises(ModelError, match="border"):
        affine_filter(dataclasses.replace(net, border="zero"))
    with pytest.raises(ModelError, match="gate"):
        affine_filter(dataclasses.replace(make("redcnn-gate", 2, 4), border="replicate", phases=None))
