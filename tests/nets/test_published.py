import dataclasses

import numpy as np
import pytest
import torch
from torch_modules import RedCnn, check, in_hu, seeded, slice_hu

from hegpu.errors import ModelError
from hegpu.nets.plaintext import run
from hegpu.nets.published import from_redcnn_state_dict
from hegpu.nets.torch_net import run_torch


@pytest.mark.parametrize(("width", "final_relu"), [(8, True), (8, False), (96, True)])
def test_the_public_redcnn(width, final_relu):
    module, hu = seeded(lambda: RedCnn(width)), slice_hu((40, 44))
    net = from_redcnn_state_dict(module.state_dict(), final_relu=final_relu)
    assert (net.hu_offset, net.hu_scale, net.border) == (-1024.0, 4096.0, "unpadded")
    assert {layer.outputs for layer in net.layers[:-1]} == {width}
    if final_relu:
        expected = in_hu(module, net, hu)
        np.testing.assert_allclose(run(net, hu), expected, rtol=0, atol=1e-5 * net.hu_scale)
        np.testing.assert_allclose(run_torch(net, hu), expected, rtol=0, atol=1e-5 * net.hu_scale)
    else:
        assert net.layers[-1].activation == "none"


def test_the_traced_redcnn_is_the_published_one():
    module = seeded(lambda: RedCnn(8)).train()
    net, published = check(module.train()), from_redcnn_state_dict(module.state_dict())
    assert net.border == "unpadded"
    for mine, theirs in zip(net.layers, published.layers, strict=True):
        explicit = dataclasses.replace(theirs, source=mine.source, skip=theirs.skip)
        assert mine == explicit
    assert all(np.array_equal(net.weights[key], published.weights[key]) for key in net.weights)


def test_published_files_round_trip(tmp_path):
    from safetensors.torch import save_file

    state = seeded(lambda: RedCnn(8)).state_dict()
    expected = from_redcnn_state_dict(state)
    parallel = {f"module.{key}": value for key, value in state.items()}
    torch.save(state, tmp_path / "net.ckpt")
    torch.save(parallel, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "net.safetensors")
    for source in (*tmp_path.iterdir(), str(tmp_path / "net.ckpt"), parallel):
        net = from_redcnn_state_dict(source, name="other", border="replicate")
        assert (net.name, net.border, net.layers) == ("other", "replicate", expected.layers)
        assert all(np.array_equal(net.weights[key], expected.weights[key]) for key in net.weights)


def test_damaged_published_files_are_model_errors(tmp_path):
    path = tmp_path / "net.ckpt"
    torch.save(seeded(lambda: RedCnn(2)).state_dict(), path)
    content = path.read_bytes()
    for cut in (0, 1, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(ModelError, match="cannot be read"):
            from_redcnn_state_dict(path)
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{" + bytes(40))
    for source, message in ((path, "cannot be read"), (tmp_path, "cannot be read"), ("none.pth", "cannot be read")):
        with pytest.raises(ModelError, match=message):
            from_redcnn_state_dict(source)
    torch.save([1], path)
    with pytest.raises(ModelError, match="holds a list"):
        from_redcnn_state_dict(path)
    torch.save(seeded(lambda: RedCnn(2)), path)
    with pytest.raises(ModelError, match="cannot be read"):
        from_redcnn_state_dict(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv3.weight": None}, r"missing: conv3\.weight"),
        ({"conv1.weight": None}, r"missing: conv1\.weight"),
        ({"bn.weight": torch.ones(1)}, r"unexpected: bn\.weight"),
        ({"tconv2.weight": torch.zeros(2, 2, 3, 3)}, r"tconv2\.weight is torch.float32 of shape \(2, 2, 3, 3\)"),
        ({"conv1.weight": torch.zeros(2)}, r"conv1\.weight has the shape"),
        ({"conv1.weight": torch.zeros(2, 3, 5, 5)}, r"conv1\.weight is"),
        ({"conv4.bias": torch.tensor([0.0, float("nan")])}, r"conv4\.bias holds values that are not finite"),
        ({"conv4.bias": torch.tensor([0.0, 1e300], dtype=torch.float64)}, r"conv4\.bias holds"),
        ({"conv4.bias": torch.tensor([0, 1])}, r"conv4\.bias is torch.int64"),
        ({"conv4.bias": [0.0, 1.0]}, r"conv4\.bias is list"),
    ],
)
def test_published_arrays_are_checked(change, message):
    state = seeded(lambda: RedCnn(2)).state_dict() | change
    with pytest.raises(ModelError, match=message):
        from_redcnn_state_dict({key: value for key, value in state.items() if value is not None})
