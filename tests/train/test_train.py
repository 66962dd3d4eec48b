import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from hegpu.ct.phantom import phantom
from hegpu.ct.simulate import Pairs
from hegpu.errors import BackendError, FormatError, ImageError, ModelError, ParameterError
from hegpu.nets.family import make
from hegpu.nets.file import load_network, save_network
from hegpu.nets.torch_net import TorchNetwork
from hegpu.train.config import TrainConfig, default_lifting
from hegpu.train.loop import CHECKPOINT, Schedule, learning_rate, train
from hegpu.train.patches import Patches
from hegpu.train.ranges import calibrate_ranges, exceeded, hard_slices, with_metal

SMALL = TrainConfig(width=4, depth=4, steps=12, batch=2, patch=32, stress=0.3)
OFTEN = Schedule(save_every=3, validate_every=4)


def pairs(count=2, size=48, name="p"):
    result = []
    for number in range(count):
        rng = np.random.default_rng(number)
        full = np.stack([phantom((size, size), seed=10 * number + z) for z in range(2)])
        low = np.stack([full + rng.normal(0, sigma, full.shape) for sigma in (10, 30)])
        clip = [np.clip(np.rint(a), -1024, 3071).astype(np.int16) for a in (full, low)]
        result.append(Pairs(f"{name}{number}", f"{name}{number}", clip[0], clip[1], (0.25, 0.05), 1.0, None))
    return result


def same(first, second):
    return all(np.array_equal(first.weights[key], second.weights[key]) for key in first.weights)


@pytest.mark.parametrize("kind", ["redcnn-gate", "redcnn", "redcnn-quad"])
@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_a_stopped_run_ends_like_one_that_was_not(tmp_path, kind, precision):
    config = dataclasses.replace(SMALL, kind=kind, precision=precision, lifting=default_lifting(kind))
    whole, history = train(config, pairs(), pairs(1, name="h"), tmp_path / "a", schedule=OFTEN)
    assert [record["step"] for record in history] == [4, 8, 12]
    for stop in (5, 4, 20):  # in the middle of two saves: the steps after the last one are done again
        part, again = train(config, pairs(), pairs(1, name="h"), tmp_path / "b", schedule=OFTEN, stop_after=stop)
    assert same(whole, part)
    assert [record["step"] for record in again] == [4, 8, 12]
    other, _ = train(dataclasses.replace(config, seed=1), pairs(), [], tmp_path / "c", schedule=OFTEN)
    assert not same(whole, other)
    assert all(np.isfinite(array).all() for array in whole.weights.values())


def dataset(folder, size=64):
    series, volumes = {}, []
    for number in range(3):
        series[f"s{number}"] = np.stack([phantom((size, size), seed=5 * number + z) for z in range(2)]).astype(np.int16)
        volumes.append({"key": f"s{number}", "patient": f"p{number}", "pixel_spacing_mm": [4.0, 4.0], "z_mm": [0, 5]})
    np.savez(folder / "data.npz", **series)
    (folder / "data.json").write_text(json.dumps({"volumes": volumes}))
    return folder / "data.npz"


def test_a_killed_command_goes_on_and_ships_the_same_weights(tmp_path):
    data = dataset(tmp_path)
    command = [sys.executable, "-c", "from hegpu.cli import main; main()", "train", "--data", str(data), "--held", "p2",
               "--width", "3", "--depth", "4", "--steps", "300", "--batch", "1"]  # fmt: skip
    environment = {**os.environ, "HEGPU_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def start(out):
        return subprocess.Popen([*command, "--out", str(out)], env=environment, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)  # fmt: skip

    process = start(tmp_path / "killed")
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / CHECKPOINT).exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list((tmp_path / "killed").glob("*.safetensors"))
    for out in ("killed", "whole"):
        process = start(tmp_path / out)
        text, _ = process.communicate(timeout=120)
        assert process.returncode == 0, text
    nets = [load_network(tmp_path / out / "redcnn-gate-3.safetensors") for out in ("killed", "whole")]
    assert same(*nets)
    assert nets[0].fraction_bits == 10
    assert nets[0].margin == 1.5
    assert set(nets[0].ranges) == {"conv1", "conv2", "conv3", "conv4"}
    card = (tmp_path / "whole" / "redcnn-gate-3.md").read_text()
    for text in ("s2 | validation", "not a medical device", "Ranges", "300 steps", "I0"):
        assert text in card
    assert (tmp_path / "whole" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_network_without_bounded_ranges_is_written_and_says_so(tmp_path, monkeypatch):
    from rich.console import Console

    from hegpu.train import ranges, run

    monkeypatch.setenv("HEGPU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ranges, "LARGEST", 1e-9)
    console = Console(record=True, width=200, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        net = run.train_to_file(SMALL, tmp_path / "out", console, data=dataset(tmp_path), held=["p2"], i0=2e5)
    assert "no ranges are recorded" in console.export_text()
    assert load_network(tmp_path / "out" / "redcnn-gate-4.safetensors").ranges == net.ranges == {}


def test_training_lowers_the_loss(tmp_path):
    config = dataclasses.replace(SMALL, steps=400, width=8, batch=4, stress=0.0, peak_lr=2e-3)
    _, history = train(config, pairs(), pairs(1, name="h"), tmp_path, schedule=Schedule(1000, 100))
    assert history[-1]["loss"] < 0.87 * history[0]["loss"]


def test_patches_depend_on_seed_and_step_alone():
    first, second = Patches(pairs(), SMALL), Patches(pairs(), SMALL)
    second.batch(3)
    a, b = first.batch(7), second.batch(7)
    np.testing.assert_array_equal(a.low, b.low)
    assert a.low.shape == a.full.shape == (2, 32, 32)
    assert a.weight.shape == (2, 2)
    assert not np.array_equal(a.low, first.batch(8).low)
    assert any(first.batch(step).full.max() == 3071 for step in range(30))
    with pytest.raises(ImageError, match="at least 64"):
        Patches(pairs(), dataclasses.replace(SMALL, patch=64))
    with pytest.raises(ImageError, match="no series"):
        Patches([], SMALL)


def test_a_start_is_widened_and_keeps_its_function(tmp_path):
    narrow = make("redcnn-gate", 4, 4, seed=9, lifting=SMALL.lifting)
    config = dataclasses.replace(SMALL, width=6)
    wide, _ = train(config, pairs(), [], tmp_path / "a", start=narrow, stop_after=0)
    from hegpu.nets.plaintext import run

    hu = phantom((40, 40), seed=1)
    assert np.abs(run(wide, hu) - run(narrow, hu)).max() < 0.01
    for start in (
        make("redcnn-gate", 8, 4, lifting=SMALL.lifting),
        make("redcnn-gate", 4, 6, lifting=SMALL.lifting),
        make("redcnn", 4, 4),
    ):
        with pytest.raises((ParameterError, ModelError)):
            train(config, pairs(), [], tmp_path / "b", start=start)


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(tmp_path):
    train(SMALL, pairs(), [], tmp_path, schedule=OFTEN, stop_after=3)
    content = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ParameterError, match="another peak_lr"):
        train(dataclasses.replace(SMALL, peak_lr=0.5), pairs(), [], tmp_path)
    with pytest.raises(ParameterError, match="start"):
        train(SMALL, pairs(), [], tmp_path, start=make("redcnn-gate", 4, 4, lifting=SMALL.lifting))
    for damaged in (content[:100], content[: len(content) // 2], b""):
        (tmp_path / CHECKPOINT).write_bytes(damaged)
        with pytest.raises(FormatError, match="remove it"):
            train(SMALL, pairs(), [], tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_here_is_an_error(tmp_path):
    for device in ("cuda", "cuda:1", "tpu"):
        with pytest.raises(BackendError, match=device):
            train(SMALL, pairs(), [], tmp_path, schedule=Schedule(device=device))


@pytest.mark.gpu
def test_the_gpu_trains_like_the_cpu(tmp_path):
    cpu, _ = train(SMALL, pairs(), [], tmp_path / "a")
    gpu, _ = train(SMALL, pairs(), [], tmp_path / "b", schedule=Schedule(device="cuda"))
    assert max(np.abs(cpu.weights[key] - gpu.weights[key]).max() for key in cpu.weights) < 1e-2


def test_a_step_that_is_not_finite_is_skipped(tmp_path, monkeypatch):
    before, _ = train(SMALL, pairs(), [], tmp_path / "a", stop_after=0)
    from hegpu.train import loop

    original = loop._losses

    def broken(*arguments):
        loss, penalty, peak = original(*arguments)
        return loss * float("nan"), penalty, peak

    monkeypatch.setattr(loop, "_losses", broken)
    after, history = train(SMALL, pairs(), [], tmp_path / "b", schedule=OFTEN)
    assert same(before, after)
    assert sum(record["skipped_steps"] for record in history) == SMALL.steps


def test_the_learning_rate_rises_and_falls():
    config = dataclasses.replace(SMALL, steps=1000, peak_lr=1e-3)
    rates = [learning_rate(config, step) for step in range(1000)]
    assert int(np.argmax(rates)) in (49, 50)
    assert max(rates) == pytest.approx(1e-3)
    assert rates[0] < 1e-4
    assert rates[-1] < 1e-6


@pytest.mark.parametrize(
    "change", [{"kind": "unet"}, {"depth": 5}, {"steps": 0}, {"patch": 8}, {"precision": "int8"}, {"fraction_bits": 2},
               {"width": 0}, {"stress": 2}, {"seed": -1}, {"lifting": ("hue",)}]
)  # fmt: skip
def test_bad_choices_are_refused_before_anything_runs(change, tmp_path):
    with pytest.raises((ParameterError, ModelError)):
        train(dataclasses.replace(SMALL, **change), pairs(), [], tmp_path)


def test_ranges_hold_on_what_they_were_measured_on_and_name_what_leaves_them():
    net = calibrate_ranges(make("redcnn-gate", 4, 4, lifting=("window:-1500:1500",)), pairs())
    assert exceeded(net, hard_slices(pairs())) == {}
    tight = dataclasses.replace(net, ranges={name: (pre / 4, out / 4) for name, (pre, out) in net.ranges.items()})
    assert set(exceeded(tight, hard_slices(pairs()))) == set(net.ranges)
    metal = with_metal(phantom((64, 64), seed=0), 0)
    assert (metal == 3071).sum() > 20


def test_rounded_training_passes_the_gradient_through():
    module = TorchNetwork(make("redcnn-gate", 2, 4))
    module.fraction_bits = 10
    module(torch.ones(1, 1, 12, 12)).sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for name, parameter in module.arrays.items()
        if name.endswith("weight")
    )


def test_a_network_from_disk_can_be_trained_on(tmp_path):
    save_network(make("redcnn-gate", 4, 4, lifting=SMALL.lifting), tmp_path / "n.safetensors")
    net, _ = train(SMALL, pairs(), [], tmp_path / "o", start=load_network(tmp_path / "n.safetensors"))
    assert net.name == "redcnn-gate-4"
