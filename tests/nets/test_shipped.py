"""What comes with the package: every network has a card, holds its ranges and denoises."""

import numpy as np
import pytest

from hegpu.ct.dicom import example_slice_path, read_slice
from hegpu.ct.dose import lower_dose
from hegpu.ct.hounsfield import clip
from hegpu.ct.metrics import compare
from hegpu.inspection import describe
from hegpu.nets.file import load_network, shipped_names, weights_folder
from hegpu.nets.torch_net import run_torch
from hegpu.train.ranges import exceeded, with_metal

NAMES = ("redcnn-16", "redcnn-32", "redcnn-96", "levelled-16", "levelled-32", "levelled-96", "linear")


@pytest.fixture(scope="module")
def slices():
    """A real slice and its 5 % dose; CT_small.dcm is 128 x 128 and was scanned at a high dose."""
    source = read_slice(example_slice_path())
    full = clip(source.hu)[0]
    low = clip(np.rint(lower_dose(full, source.pixel_spacing_mm, 0.05, seed=3)))[0]
    return full, low


def test_the_names_are_these():
    assert set(shipped_names()) >= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_network_has_a_card_with_its_attribution(name):
    net, card = load_network(name), (weights_folder() / f"{name}.md").read_text()
    assert net.name == name
    for text in (
        "not a medical device",
        "## Training",
        "## Fidelity",
        "crlm_1006",
        "CC BY 4.0",
        "CC BY 3.0",
        "tcia",
        "25%",
    ):
        assert text in card, text
    assert ("kind", "network") in describe(weights_folder() / f"{name}.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_every_network_denoises_a_real_slice(name, slices):
    full, low = slices
    result = run_torch(load_network(name), low)
    inner = (slice(20, -20),) * 2
    gain = compare(result[inner], full[inner]).psnr_db - compare(low[inner], full[inner]).psnr_db
    assert gain > (0.5 if name == "linear" else 2)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("levelled")])
def test_levelled_networks_hold_their_ranges(name, slices):
    net = load_network(name)
    assert net.border == "slot-wrap"
    assert net.fraction_bits is not None
    assert {layer.activation for layer in net.layers[:-1]} <= {"gate", "quad"}
    full, low = slices
    noise = np.clip(np.random.default_rng(0).normal(0, 200, (64, 64)), -1024, 3071)
    hard = [full, low, with_metal(low, 1), np.full((64, 64), -1024.0), np.full((64, 64), 3071.0), noise]
    assert exceeded(net, hard) == {}
    assert all(0 < pre < 16 for pre, _ in net.ranges.values())
