import json

import numpy as np
import pytest

from hegpu.errors import ImageError, ModelError
from hegpu.nets.compose import affine_filter
from hegpu.nets.description import Layer, Network
from hegpu.nets.file import load_network, network_bytes, save_network, shipped_names
from hegpu.nets.plaintext import run


def make(layers, seed=0, offset=0.0, scale=1.0, name="net"):
    rng, weights = np.random.default_rng(seed), {}
    for layer in layers:
        shape = layer.weight_shape
        weights[f"{layer.name}.weight"] = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        weights[f"{layer.name}.bias"] = rng.normal(size=layer.outputs).astype(np.float32)
    return Network(name, tuple(layers), weights, offset, scale)


def random_net(seed):
    rng = np.random.default_rng(seed)
    layers, channels = [], {"input": 1}
    depth = int(rng.integers(1, 6))
    for index in range(depth):
        names = list(channels)
        source = names[-1]
        last = index == depth - 1
        outputs = 1 if last else int(rng.choice([1, 2, 3]))
        fits = [other for other in names if channels[other] == outputs]
        skip = str(rng.choice(fits)) if fits and rng.random() < 0.6 else None
        layers.append(
            Layer(
                f"l{index}",
                str(rng.choice(["conv2d", "conv_transpose2d"])),
                int(rng.choice([1, 3, 5, 7])),
                channels[source],
                outputs,
                "" if rng.random() < 0.5 else source,
                skip,
                "relu" if last and rng.random() < 0.3 else "none",
            )
        )
        channels[f"l{index}"] = outputs
    return make(layers, seed, float(rng.normal() * 500), float(rng.uniform(1, 2000)))


@pytest.mark.parametrize("seed", range(60))
def test_the_composed_filter_equals_the_layers(seed):
    net = random_net(seed)
    hu = np.random.default_rng(seed + 1).uniform(-1024, 3071, size=(23, 17 + seed % 5))
    expected, composed = run(net, hu), affine_filter(net)
    assert expected.shape == hu.shape
    assert composed.kernel.shape[0] % 2 == 1
    np.testing.assert_allclose(composed.apply(hu), expected, rtol=0, atol=1e-9 * max(1.0, np.abs(expected).max()))
    if net.layers[-1].activation == "relu":
        assert composed.final_relu
        assert expected.min() >= net.hu_offset - 1e-6


def test_the_layers_equal_torch_conventions():
    scipy_signal = pytest.importorskip("scipy.signal")
    net = make([Layer("a", "conv2d", 3, 1, 2), Layer("b", "conv_transpose2d", 5, 2, 1)], 5)
    hu = np.random.default_rng(2).normal(size=(9, 8))
    padded = np.pad(hu, 3, mode="edge")
    middle = [
        scipy_signal.correlate2d(padded, net.weights["a.weight"][c, 0], "valid") + net.weights["a.bias"][c]
        for c in range(2)
    ]
    full = sum(scipy_signal.convolve2d(middle[c], net.weights["b.weight"][c, 0], "full") for c in range(2))
    np.testing.assert_allclose(run(net, hu), full[4:-4, 4:-4][:9, :8] + net.weights["b.bias"][0], atol=1e-9)


def test_a_hidden_relu_is_refused_by_the_linear_protocol_but_runs_in_the_clear():
    net = make([Layer("first", "conv2d", 3, 1, 4, activation="relu"), Layer("last", "conv2d", 3, 4, 1)])
    with pytest.raises(ModelError, match=r"'first'.*linear protocol cannot run"):
        affine_filter(net)
    assert run(net, np.ones((4, 4))).shape == (4, 4)


def test_a_kernel_above_41_is_refused_and_zero_rings_are_trimmed():
    with pytest.raises(ModelError, match="43x43"):
        affine_filter(make([Layer("a", "conv2d", 41, 1, 1), Layer("b", "conv2d", 3, 1, 1)]))
    weight = np.zeros((1, 1, 9, 9), np.float32)
    weight[0, 0, 3:6, 3:6] = 0.25
    net = Network("t", (Layer("a", "conv2d", 9, 1, 1),), {"a.weight": weight, "a.bias": np.zeros(1, np.float32)})
    assert affine_filter(net).kernel.shape == (3, 3)


def test_composition_overflow_is_a_model_error():
    layers = [Layer(f"l{i}", "conv2d", 1, 1, 1) for i in range(10)]
    weights = {f"l{i}.weight": np.full((1, 1, 1, 1), 3e38, np.float32) for i in range(10)}
    weights |= {f"l{i}.bias": np.zeros(1, np.float32) for i in range(10)}
    with pytest.raises(ModelError, match="overflows"):
        affine_filter(Network("big", tuple(layers), weights))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "input"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"op": "pool"}, "op 'pool'"),
        ({"kernel": 4}, "odd"),
        ({"kernel": 43}, "odd"),
        ({"kernel": True}, "odd"),
        ({"inputs": 0}, "inputs"),
        ({"outputs": 1.0}, "outputs"),
        ({"activation": "tanh"}, "activation"),
        ({"source": 3}, "source"),
        ({"skip": ""}, "skip"),
    ],
)
def test_layers_are_checked(change, message):
    fields = {"name": "a", "op": "conv2d", "kernel": 3, "inputs": 1, "outputs": 1}
    with pytest.raises(ModelError, match=message):
        Layer(**(fields | change))


def test_networks_are_checked():
    layer = Layer("a", "conv2d", 3, 1, 1)
    good = dict(make([layer]).weights)
    cases = [
        (((), {}), "0 layers"),
        (((layer, layer), good), "twice"),
        (((Layer("a", "conv2d", 3, 2, 1),), good), "inputs is 2"),
        (((Layer("a", "conv2d", 3, 1, 2),), good), "2 outputs"),
        (((Layer("a", "conv2d", 3, 1, 1, source="b"),), good), "no earlier"),
        (((Layer("a", "conv2d", 3, 1, 1, skip="a"),), good), "no earlier"),
        (((layer, Layer("b", "conv2d", 3, 1, 1, source="input")), good), "nothing uses"),
        (((layer,), {}), "missing: a.bias, a.weight"),
        (((layer,), good | {"a.bias": np.zeros(2)}), "shape"),
        (((layer,), good | {"a.bias": np.array([np.nan])}), "finite"),
        (((layer,), good | {"a.bias": np.array([1e300])}), "finite"),
    ]
    for (layers, weights), message in cases:
        with pytest.raises(ModelError, match=message):
            Network("n", layers, weights)
    for scale in (0.0, -1.0, float("nan"), float("inf"), "1"):
        with pytest.raises(ModelError, match="hu_scale"):
            Network("n", (layer,), good, 0.0, scale)


def test_weights_cannot_be_changed():
    net = make([Layer("a", "conv2d", 3, 1, 1)])
    with pytest.raises(ValueError, match="read-only"):
        net.weights["a.bias"][0] = 1


@pytest.mark.parametrize("hu", [np.ones(4), np.ones((0, 3)), np.full((3, 3), np.nan), np.ones((2, 2), complex)])
def test_slices_are_checked(hu):
    with pytest.raises(ImageError):
        run(make([Layer("a", "conv2d", 3, 1, 1)]), hu)


@pytest.mark.parametrize("seed", range(8))
def test_files_round_trip(seed, tmp_path):
    net = random_net(seed)
    path = tmp_path / "net.safetensors"
    save_network(net, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.safetensors"]
    for source in (path, str(path), path.read_bytes()):
        back = load_network(source)
        assert (back.name, back.layers, back.hu_offset, back.hu_scale, back.border) == (
            net.name,
            net.layers,
            net.hu_offset,
            net.hu_scale,
            net.border,
        )
        assert all(np.array_equal(back.weights[key], net.weights[key]) for key in net.weights)
    from safetensors.numpy import load_file

    assert set(load_file(path)) == set(net.weights)


def test_an_unknown_name_lists_the_shipped_networks(tmp_path):
    with pytest.raises(ModelError, match="linear"):
        load_network("no-such-network")
    with pytest.raises(ModelError):
        load_network(tmp_path)
    with pytest.raises(ModelError):
        load_network("a\0b")
    assert "linear" in shipped_names()


def test_damaged_files_are_model_errors():
    content = network_bytes(random_net(3))
    rng = np.random.default_rng(0)
    for cut in [0, 1, 7, 8, 9, *rng.integers(10, len(content), 50).tolist(), len(content) - 1]:
        with pytest.raises(ModelError):
            load_network(content[:cut])
    with pytest.raises(ModelError):
        load_network(content + b"\0")
    for _ in range(3000):
        mutated = bytearray(content)
        header = 8 + int.from_bytes(content[:8], "little")
        for _ in range(int(rng.integers(1, 4))):
            mutated[int(rng.integers(0, header if rng.random() < 0.9 else len(content)))] = int(rng.integers(0, 256))
        try:
            load_network(bytes(mutated))
        except ModelError:
            continue


def _packed(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_hostile_headers_are_model_errors():
    content = network_bytes(make([Layer("a", "conv2d", 1, 1, 1)]))
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    description = json.loads(header["__metadata__"]["hegpu"])
    load_network(_packed(header, data))
    hostile = [
        b"[" * 100_000,
        b"1" * 10_000,
        b"[]",
        b"\xff",
        b'{"a":1,"a":2}',
        b"{}",
        b'{"__metadata__":{"hegpu":"{}"}}',
    ]
    for text in hostile:
        with pytest.raises(ModelError):
            load_network(_packed(text, data))
    with pytest.raises(ModelError, match="claims"):
        load_network((1 << 63).to_bytes(8, "little") + content[8:])
    for change in (
        {"version": 1},
        {"version": 3},
        {"version": True},
        {"format": "x"},
        {"name": []},
        {"layers": {}},
        {"layers": [1]},
        {"layers": [description["layers"][0] | {"op": []}]},
        {"layers": [description["layers"][0] | {"kernel": 10**30}]},
        {"layers": [description["layers"][0] | {"activation": {}}]},
        {"hu_scale": None},
        {"hu_scale": float("inf")},
        {"hu_offset": 10**400},
        {"border": []},
        {"border": "slot-wrap", "phases": [0, 4]},
        {"border": "slot-wrap", "phases": [4]},
        {"border": "unpadded", "phases": [4, 4]},
        {"lifting": 3},
        {"lifting": []},
        {"lifting": [["hu"]]},
        {"lifting": ["window:5:1"]},
        {"lifting": ["hu"] * 17},
        {"residual": 1},
        {"fraction_bits": 1.5},
        {"fraction_bits": 1},
        {"ranges": []},
        {"ranges": {"a": 3}},
        {"ranges": {"a": [1, float("nan")]}},
        {"ranges": {"b": [1, 1]}},
        {"margin": 0.5},
        {"margin": "x"},
        {"more": 1},
    ):
        text = json.dumps(description | change)
        with pytest.raises(ModelError):
            load_network(_packed(header | {"__metadata__": {"hegpu": text}}, data))
    shapes = [{"shape": shape} for shape in ([1, 1], [1.0], [True], [2], {}, None)]
    spans = [{"data_offsets": span} for span in ([0, 8], [-4, 0], [4, 8, 12], [10**30, 10**30 + 4], ["0", "4"], 3)]
    for change in (*shapes, *spans, {"dtype": "F64"}):
        with pytest.raises(ModelError):
            load_network(_packed(header | {"a.bias": header["a.bias"] | change}, data))
