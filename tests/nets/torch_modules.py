"""Torch modules and comparisons that the import tests share."""

import numpy as np
import torch
from torch import nn

from hegpu.nets.file import load_network, network_bytes
from hegpu.nets.importer import import_module
from hegpu.nets.lifting import lift
from hegpu.nets.plaintext import run
from hegpu.nets.torch_net import run_torch

SCALE = {"hu_offset": -1024.0, "hu_scale": 4096.0}


class RedCnn(nn.Module):
    """RED-CNN with the attribute names of the public repository."""

    def __init__(self, width):
        super().__init__()
        for i in range(1, 6):
            setattr(self, f"conv{i}", nn.Conv2d(1 if i == 1 else width, width, 5))
            setattr(self, f"tconv{i}", nn.ConvTranspose2d(width, 1 if i == 5 else width, 5))
        self.relu = nn.ReLU()

    def forward(self, x):
        second = self.relu(self.conv2(self.relu(self.conv1(x))))
        fourth = self.relu(self.conv4(self.relu(self.conv3(second))))
        y = self.tconv1(self.relu(self.conv5(fourth)))
        y += fourth
        y = self.tconv3(self.relu(self.tconv2(self.relu(y))))
        y += second
        y = self.tconv5(self.relu(self.tconv4(self.relu(y))))
        y += x
        return self.relu(y)


class Lambda(nn.Module):
    """Named parts and a function of them and the input."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


def seeded(build):
    torch.manual_seed(0)
    module = build()
    with torch.no_grad():
        for value in module.parameters():
            if value.ndim == 3:
                value.copy_(0.5 * torch.randn(value.shape))
    return module


def slice_hu(shape=(44, 40), seed=3):
    return np.random.default_rng(seed).uniform(-1024, 3071, shape)


def in_hu(module, net, hu):
    planes = torch.from_numpy(lift(net.lifting, hu, net.hu_offset, net.hu_scale)[np.newaxis])
    dtype = next(module.parameters()).dtype
    with torch.no_grad():
        result = module.eval()(planes.to(dtype))[0, 0].double().numpy()
    return result * net.hu_scale + (hu if net.residual else net.hu_offset)


def check(module, hu=None, **options):
    net = import_module(module, name="imported", **(SCALE | options))
    hu = slice_hu() if hu is None else hu
    expected = in_hu(module, net, hu)
    for result in (run(net, hu), run_torch(net, hu)):
        np.testing.assert_allclose(result, expected, rtol=0, atol=2e-5 * max(net.hu_scale, np.abs(expected).max()))
    assert load_network(network_bytes(net)).layers == net.layers
    return net


def body(forward, channels=4, **parts):
    """A first and a last convolution with 2 channels between them; ``forward`` maps ``channels`` planes to 2."""
    return Lambda(
        lambda m, x: m.last(forward(m, m.first(x))),
        first=nn.Conv2d(1, channels, 3, padding=1),
        last=nn.Conv2d(2, 1, 3, padding=1),
        **parts,
    )
