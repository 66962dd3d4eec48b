"""What one step of training computes, on batches made by hand."""

import dataclasses

import numpy as np
import pytest
import torch

from hegpu.ct.simulate import Pairs
from hegpu.errors import ModelError, ParameterError
from hegpu.nets.family import make
from hegpu.nets.torch_net import TorchNetwork
from hegpu.train import loop
from hegpu.train.config import TrainConfig, default_lifting
from hegpu.train.loop import Schedule, train, validate
from hegpu.train.patches import Batch, Patches, slice_weights
from hegpu.train.ranges import hard_slices, measure

CPU = torch.device("cpu")
CONFIG = TrainConfig(width=2, depth=4, patch=24, batch=3, margin=5)


def zero_network(kind="redcnn-gate", **fields):
    net = make(kind, 2, 4, lifting=default_lifting(kind))
    return dataclasses.replace(net, weights={key: np.zeros_like(array) for key, array in net.weights.items()}, **fields)


def batch(error, weight=1.0):
    full = np.random.default_rng(0).uniform(0, 100, (3, 24, 24)).astype(np.float32)
    low = full + np.asarray(error, np.float32)
    return Batch(low, full, np.broadcast_to(np.float32(weight), (2, 3)).copy())


def losses(net, data, config=CONFIG):
    loss, penalty, peak = loop._losses(TorchNetwork(net), data, config, CPU, False)
    return float(loss.detach()), float(penalty.detach()), peak


def test_a_residual_network_that_returns_nothing_leaves_the_low_dose_error():
    loss, penalty, _ = losses(zero_network(), batch(10.0))
    assert loss == pytest.approx(100.0, rel=1e-4)
    assert penalty == 0


def test_a_network_that_returns_the_slice_is_compared_as_it_is():
    config = dataclasses.replace(CONFIG, kind="redcnn", lifting=("hu",))
    net = zero_network("redcnn", hu_offset=20.0)  # all weights zero but the input skip: the slice itself
    assert losses(net, batch(10.0), config)[0] == pytest.approx(100.0, rel=1e-3)


def test_the_margin_of_a_patch_does_not_count():
    error = np.zeros((3, 24, 24))
    error[:, :5], error[:, -5:], error[:, :, :5], error[:, :, -5:] = (50.0,) * 4
    assert losses(zero_network(), batch(error))[0] == pytest.approx(0.0, abs=1e-6)
    assert losses(zero_network(), batch(error), dataclasses.replace(CONFIG, margin=4))[0] > 1


def test_half_the_loss_is_clipped_to_the_window_and_every_patch_has_its_weight():
    data = batch(0.0)
    data.full[0] = 1000.0  # far outside the window: 300 HU off counts in the full range alone
    data.low[0] = 1300.0
    assert losses(zero_network(), data)[0] == pytest.approx(300.0**2 / 2 / 3, rel=1e-4)
    data.weight[:, 0] = 0.25
    assert losses(zero_network(), data)[0] == pytest.approx(0.25 * 300.0**2 / 2 / 3, rel=1e-4)


def test_what_exceeds_the_range_limit_is_penalised_in_proportion_to_its_weight():
    net = zero_network()
    weights = {**net.weights, "conv1.bias": np.full(4, 5.0, np.float32)}
    net = dataclasses.replace(net, weights=weights)
    _, penalty, peak = losses(net, batch(0.0))
    assert peak == pytest.approx(5.0)
    assert penalty == pytest.approx(30.0 * (5.0 - 2.0) ** 2, rel=1e-5)
    assert losses(net, batch(0.0), dataclasses.replace(CONFIG, range_weight=0))[1] == 0


def test_gates_are_clamped_while_training():
    module = TorchNetwork(dataclasses.replace(zero_network(), weights={
        **zero_network().weights, "conv1.bias": np.full(4, 100.0, np.float32)}))  # fmt: skip
    seen = []
    module(
        torch.zeros(1, 1, 12, 12),
        lambda layer, before, after: seen.append(float(after.detach().abs().max())),
        "zero",
        3.0,
    )
    assert seen[0] == 3.0 * (1 + 3.0)


def scans(low_errors=(10, 40)):
    full = np.zeros((2, 32, 32), np.int16)
    low = np.stack([full + error for error in low_errors]).astype(np.int16)
    return Pairs("s", "s", full, low, (0.25, 0.04), 1.0, None)


def test_slices_weigh_by_what_they_start_with():
    pair = scans()
    np.testing.assert_allclose(slice_weights(pair.low[1], pair.full), 1 / (40.0**2 + 25))


def test_doses_are_drawn_with_odds_as_their_root():
    config = dataclasses.replace(CONFIG, patch=16, batch=64, stress=0.0)
    patches = Patches([scans()], config)
    drawn = np.concatenate([patches.batch(step).low[:, 0, 0] for step in range(20)])
    assert np.mean(drawn == 10) == pytest.approx(0.5 / 0.7, abs=0.05)


def test_patches_come_in_all_eight_symmetries_and_seldom_from_air():
    y, x = np.mgrid[:16, :16]
    full = (y * 16 + 3 * x).astype(np.int16)[np.newaxis]
    config = dataclasses.replace(CONFIG, patch=16, margin=2, batch=64, stress=0.0)
    drawn = Patches([Pairs("s", "s", full, full[np.newaxis] + 1, (0.25,), 1.0, None)], config).batch(0).full
    assert len({image.tobytes() for image in drawn}) == 8
    half = np.full((1, 16, 64), -1000, np.int16)
    half[:, :, 48:] = 0
    air = Patches([Pairs("s", "s", half, half[np.newaxis] + 1, (0.25,), 1.0, None)], config).batch(0).full
    assert np.mean(air.mean(axis=(1, 2)) > -900) > 0.9


def test_spikes_are_skipped_also_after_a_resume(tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, steps=12, patch=24)
    data = [scans()]
    train(config, data, [], tmp_path, schedule=Schedule(6, 6), stop_after=6)
    original, calls = loop._losses, []

    def spiking(*arguments):
        loss, penalty, peak = original(*arguments)
        calls.append(1)
        return (loss * 1e4 if len(calls) == 1 else loss), penalty, peak

    monkeypatch.setattr(loop, "_losses", spiking)
    _, history = train(config, data, [], tmp_path, schedule=Schedule(6, 6))
    assert [record["skipped_steps"] for record in history] == [0.0, 1.0]


def test_gradients_are_clipped_and_the_last_steps_see_rounded_weights(tmp_path, monkeypatch):
    norms, bits = [], []
    clip, original = torch.nn.utils.clip_grad_norm_, loop._losses

    def watched(parameters, limit):
        parameters = list(parameters)
        result = clip(parameters, limit)
        norms.append(float(torch.stack([p.grad.norm() for p in parameters]).norm()))
        return result

    def seeing(module, *arguments):
        bits.append(module.fraction_bits)
        return original(module, *arguments)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", watched)
    monkeypatch.setattr(loop, "_losses", seeing)
    train(dataclasses.replace(CONFIG, steps=10, rounded_share=0.3, clip=1e-3), [scans()], [], tmp_path)
    assert max(norms) <= 1.001e-3
    assert bits == [None] * 7 + [10] * 3


def test_validation_is_at_the_highest_dose():
    result = validate(TorchNetwork(zero_network()), [scans()])
    assert result["psnr_low_db"] == pytest.approx(20 * np.log10(400 / 10))
    assert result["psnr_db"] == pytest.approx(result["psnr_low_db"], abs=1e-3)


def test_a_checkpoint_is_not_continued_with_other_data_or_another_start(tmp_path):
    config = dataclasses.replace(CONFIG, steps=4)
    start = make("redcnn-gate", 2, 4, seed=1, lifting=CONFIG.lifting)
    train(config, [scans()], [], tmp_path, start=start, schedule=Schedule(2, 2), stop_after=2)
    with pytest.raises(ParameterError, match="another training data"):
        train(config, [scans((10, 41))], [], tmp_path, start=start)
    with pytest.raises(ParameterError, match="another start"):
        train(config, [scans()], [], tmp_path, start=make("redcnn-gate", 2, 4, seed=2, lifting=CONFIG.lifting))
    train(config, [scans()], [], tmp_path, start=start)


def test_ranges_are_those_of_the_lowest_dose_metal_and_air():
    slices = list(hard_slices([scans()]))
    np.testing.assert_array_equal(slices[0], 40.0)
    assert slices[1].max() == 3071
    assert {(float(one.min()), float(one.max())) for one in slices[2:]} == {
        (-1024.0, -1024.0), (3071.0, 3071.0), (-1024.0, 3071.0),
    }  # fmt: skip
    net = zero_network()
    wild = {**net.weights, "conv1.bias": np.full(4, 1e5, np.float32)}  # an output of 1e10
    with pytest.raises(ModelError, match="conv1"):
        measure(dataclasses.replace(net, weights=wild), slices[:1])
