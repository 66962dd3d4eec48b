import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch_modules import SCALE, Lambda, body, check, seeded, slice_hu

from hegpu.errors import ModelError
from hegpu.nets.importer import import_module
from hegpu.nets.modules import Gate, Quadratic


def gated(gate, halves):
    u, v = halves
    return gate(u, v)


GATES = {
    "u(1+v)": lambda u, v: u * (1 + v),
    "(v+1)u": lambda u, v: (v + 1) * u,
    "u+uv": lambda u, v: u + u * v,
    "vu+u": lambda u, v: v * u + u,
    "torch.mul": lambda u, v: torch.mul(u, torch.add(v, 1.0)),
    "methods": lambda u, v: v.add(1).mul(u),
    "v first": lambda u, v: v * (1 + u),
}
HALVES = {
    "chunk": lambda y: y.chunk(2, 1),
    "torch.chunk": lambda y: torch.chunk(y, 2, dim=1),
    "split": lambda y: y.split(2, dim=1),
    "torch.split": lambda y: torch.split(y, [2, 2], 1),
    "slices": lambda y: (y[:, :2], y[:, 2:]),
    "full slices": lambda y: (y[:, 0:2, :, :], y[:, -2:, ...]),
}


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES.keys())
def test_gate_writings(gate):
    net = check(seeded(lambda: body(lambda m, y: gated(gate, y.chunk(2, 1)))))
    assert [layer.activation for layer in net.layers] == ["gate", "none"]


@pytest.mark.parametrize("halves", HALVES.values(), ids=HALVES.keys())
def test_halves_writings(halves):
    check(seeded(lambda: body(lambda m, y: gated(lambda u, v: u * (1 + v), halves(y)))))


QUADS = {
    "bx+ax**2": lambda m, x: m.b * x + m.a * x**2,
    "axx+bx": lambda m, x: m.a * x * x + m.b * x,
    "x(b+ax)": lambda m, x: x * (m.b + m.a * x),
    "square()": lambda m, x: m.a * x.square() + m.b * x,
    "torch": lambda m, x: torch.add(torch.mul(m.b, x), m.a * torch.pow(x, 2)),
    "torch.square": lambda m, x: torch.square(x) * m.a + x.mul(m.b),
    "x + axx": lambda m, x: x + m.a * (x * x),
    "axx": lambda m, x: m.a * x * x,
    "numbers": lambda m, x: 0.5 * x + 0.25 * x.pow(2),
    "four axes": lambda m, x: m.b[None] * x + m.a.view(1, -1, 1, 1) * x**2,
}


@pytest.mark.parametrize("quad", QUADS.values(), ids=QUADS.keys())
def test_quadratic_writings(quad):
    parts = {"a": nn.Parameter(torch.zeros(2, 1, 1)), "b": nn.Parameter(torch.zeros(2, 1, 1))}
    net = check(seeded(lambda: body(quad, channels=2, **parts)))
    assert net.layers[0].activation == "quad"


def test_our_own_modules():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Gate())
            self.middle = nn.Conv2d(2, 4, 3, padding=1)
            self.gate = Gate()
            self.tail = nn.Sequential(nn.Conv2d(2, 3, 1), Quadratic(3), nn.Identity(), nn.Conv2d(3, 1, 1, bias=False))

        def forward(self, x):
            y = self.head(x)
            return self.tail(self.gate(self.middle(y), y))

    net = check(seeded(Net), residual=True)
    assert [layer.activation for layer in net.layers] == ["gate", "gate", "quad", "none"]
    assert [layer.name for layer in net.layers] == ["head.0", "middle", "tail.0", "tail.3"]
    assert net.layers[1].skip == "head.0"
    assert not net.weights["tail.3.bias"].any()
    x = torch.randn(1, 2, 3, 3)
    assert torch.equal(Quadratic(2)(x), x)
    assert torch.equal(Gate()(torch.cat([x, x], 1), x), 2 * x * (1 + x))


RELUS = {
    "module": lambda m, y: m.relu(y),
    "functional": lambda m, y: F.relu(y),
    "in place": lambda m, y: F.relu(y, inplace=True),
    "torch": lambda m, y: torch.relu(y),
    "method": lambda m, y: y.relu(),
    "method in place": lambda m, y: (y.relu_(), y)[1],
    "torch in place": lambda m, y: (torch.relu_(y), y)[1],
    "dropout": lambda m, y: F.dropout(m.drop(y), training=m.training).relu().contiguous(),
}


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS.keys())
def test_relu_writings(relu):
    net = check(seeded(lambda: body(relu, channels=2, relu=nn.ReLU(inplace=True), drop=nn.Dropout2d(0.5))))
    assert net.layers[0].activation == "relu"


def iadd(y, s):
    y += s
    return y


ADDS = {
    "+": lambda y, s: y + s,
    "reversed": lambda y, s: s + y,
    "+=": iadd,
    "torch.add": lambda y, s: torch.add(y, s),
    "add": lambda y, s: y.add(s),
    "add_": lambda y, s: (y.add_(s), y)[1],
}


@pytest.mark.parametrize("add", ADDS.values(), ids=ADDS.keys())
def test_skip_writings(add):
    parts = {"middle": nn.Conv2d(2, 2, 3, padding=1)}
    net = check(seeded(lambda: body(lambda m, y: F.relu(add(m.middle(F.relu(y)), F.relu(y))), 2, **parts)))
    assert net.layers[1].skip == "first"
    net = check(seeded(lambda: pair(lambda m, x: add(m.b(F.relu(m.a(x))), x))))
    assert net.layers[1].skip == "input"


def test_of_two_bare_convolutions_the_later_takes_the_skip():
    parts = {"b": nn.Conv2d(1, 2, 3, padding=1), "c": nn.Conv2d(1, 2, 3, padding=1), "out": nn.Conv2d(2, 1, 1)}
    net = check(Lambda(lambda m, x: m.out(m.a(x) + F.relu(m.b(x) + m.c(x))), a=nn.Conv2d(1, 2, 1), **parts))
    expected = [("b", None, "none"), ("c", "b", "relu"), ("a", "c", "none"), ("out", None, "none")]
    assert [(layer.name, layer.skip, layer.activation) for layer in net.layers] == expected


def test_a_shared_module_gives_two_layers():
    net = check(seeded(lambda: body(lambda m, y: m.same(F.relu(m.same(F.relu(y)))), 2, same=nn.Conv2d(2, 2, 1))))
    assert [layer.name for layer in net.layers] == ["first", "same", "same-2", "last"]


def test_borders():
    zero = nn.Sequential(nn.Conv2d(1, 3, 5, padding=2), nn.ReLU(), nn.ConvTranspose2d(3, 1, 3, padding=1))
    assert check(zero).border == "zero"
    assert check(nn.Conv2d(1, 1, 3, padding="same")).border == "zero"
    hourglass = nn.Sequential(nn.Conv2d(1, 3, 5), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ConvTranspose2d(3, 1, 5))
    assert check(hourglass).border == "unpadded"
    convs = {"a": nn.Conv2d(1, 2, 5), "b": nn.Conv2d(2, 1, 3)}
    plain = Lambda(lambda m, x: m.b(F.relu(m.a(m.pad(x)))) + x, pad=nn.ReplicationPad2d(3), **convs)
    net = check(plain)
    assert (net.border, net.layers[1].skip) == ("replicate", "input")
    both = {"a": nn.Conv2d(1, 2, 5), "b": nn.ConvTranspose2d(2, 2, 5), "c": nn.Conv2d(2, 1, 1)}

    def cropped(m, x):
        x = F.pad(x, (4, 4, 4, 4), mode="replicate")
        y = F.relu(m.a(x))
        z = F.relu(m.b(y)[..., 2:-2, 2:-2] + y)
        return F.relu(m.c(z) + x[:, :, 2:-2, 2:-2])[:, :, 2:-2, 2:-2]

    assert check(Lambda(cropped, **both)).border == "replicate"
    lifted = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1))
    assert check(lifted, lifting=("hu", "mean:3"), residual=True).residual


def test_the_module_stays_as_it_is():
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Dropout(), nn.Conv2d(2, 1, 1)).train().to(torch.bfloat16)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert import_module(module, name="half", **SCALE).weights["0.weight"].dtype == np.float32
    assert module.training and module[1].training
    after = module.state_dict()
    assert all(torch.equal(before[key], after[key]) and after[key].dtype == torch.bfloat16 for key in before)


def pair(forward, **parts):
    return Lambda(forward, a=nn.Conv2d(1, 2, 3, padding=1), b=nn.Conv2d(2, 1, 3, padding=1), **parts)


def branch(m, x):
    return m.b(m.a(x)) if x.mean() > 0 else m.b(-m.a(x))


def one_conv(**options):
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, **options), nn.Conv2d(2, 1, 1))


REFUSED = {
    "batch norm": (lambda: pair(lambda m, x: m.b(m.bn(m.a(x))), bn=nn.BatchNorm2d(2)), "'bn': BatchNorm2d"),
    "pooling": (lambda: nn.Sequential(nn.Conv2d(1, 1, 1), nn.AvgPool2d(3, 1, 1)), "'1': AvgPool2d"),
    "sigmoid": (lambda: pair(lambda m, x: m.b(torch.sigmoid(m.a(x)))), r"'sigmoid' \(sigmoid\)"),
    "stride": (lambda: one_conv(kernel_size=3, stride=2, padding=1), r"'1': .*stride \(2, 2\)"),
    "groups": (lambda: one_conv(kernel_size=3, groups=2, padding=1), "'1': .*groups 2"),
    "dilation": (lambda: one_conv(kernel_size=3, dilation=2, padding=2), "'1': .*dilation"),
    "even": (lambda: one_conv(kernel_size=2), "'1': .*kernel"),
    "oblong": (lambda: one_conv(kernel_size=(3, 5), padding=(1, 2)), "'1': .*kernel"),
    "padding": (lambda: one_conv(kernel_size=5, padding=1), r"'1': padding \(1, 1\)"),
    "padding mode": (lambda: one_conv(kernel_size=3, padding=1, padding_mode="replicate"), "'1': padding_mode 'replicate'"),
    "output padding": (
        lambda: nn.Sequential(nn.ConvTranspose2d(1, 1, 3, 2, 1, output_padding=1)),
        r"'0': ConvTranspose2d with stride",
    ),
    "mixture": (
        lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3), nn.ConvTranspose2d(1, 1, 3)),
        "'1': padding 0 differs from that of '0'",
    ),
    "shrinks": (lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3)), "'1': .*2 pixels a side smaller"),
    "control flow": (lambda: pair(lambda m, x: m.inner(x), inner=Lambda(branch)), "'inner': torch.fx cannot trace"),
    "concatenation": (lambda: pair(lambda m, x: m.b(torch.cat([x, m.a(x)], 1))), r"'cat' \(cat\): it is not supported"),
    "inside a module": (
        lambda: nn.Sequential(nn.Conv2d(1, 1, 1), pair(lambda m, x: m.b(torch.tanh(m.a(x))))),
        r"'tanh' \(tanh in '1'\)",
    ),
    "no fresh convolution": (lambda: pair(lambda m, x: m.b(F.relu(m.a(x)) + x)), r"'add' \(add\): it adds 'a' and 'input'"),
    "second skip": (lambda: pair(lambda m, x: m.b(m.a(x)) + x + x), r"'add_1' \(add\): it adds 'b' and 'input'"),
    "twice the input": (lambda: pair(lambda m, x: m.b(m.a(x + x))), "'a': it uses sums and products"),
    "both sides": (lambda: pair(lambda m, x: m.b(F.relu(y := m.a(x))) + m.c(y), c=nn.Conv2d(2, 1, 1)), "'c': it uses layer 'a'"),
    "used bare": (lambda: pair(lambda m, x: m.c(y := m.a(x)) + m.b(F.relu(y)), c=nn.Conv2d(2, 1, 1)), "'c': it uses layer 'a' before"),
    "result before": (lambda: pair(lambda m, x: (y := m.b(m.a(x)), F.relu(y))[0]), "result: it uses layer 'b' before"),
    "two ReLU": (lambda: pair(lambda m, x: m.b(F.relu(F.relu(m.a(x))))), "'relu_1' .*'a' already has"),
    "input ReLU": (lambda: pair(lambda m, x: m.b(m.a(F.relu(x)))), "'relu' .*to the input"),
    "scaling": (lambda: pair(lambda m, x: m.b(0.5 * m.a(x))), "'b': it uses sums and products of 'a'"),
    "offset": (lambda: pair(lambda m, x: m.b(m.a(x) + 1)), "'b': it uses sums and products of 'a'"),
    "gate 2v": (lambda: pair(lambda m, x: m.c(gated(lambda u, v: u * (1 + 2 * v), m.a(x).chunk(2, 1))), c=nn.Conv2d(1, 1, 1)), "'c': it uses sums"),
    "half": (lambda: pair(lambda m, x: m.c(m.a(x)[:, :1]), c=nn.Conv2d(1, 1, 1)), "'c': it uses one half of the channels of 'a'"),
    "third": (lambda: pair(lambda m, x: m.c(m.d(x)[:, :1]), c=nn.Conv2d(1, 1, 1), d=nn.Conv2d(1, 3, 1)), "'getitem' .*one half of 3"),
    "three chunks": (lambda: pair(lambda m, x: m.c(m.d(x).chunk(3, 1)[0]), c=nn.Conv2d(1, 1, 1), d=nn.Conv2d(1, 3, 1)), r"'chunk' .*nor one half of 3"),
    "odd gate": (lambda: nn.Sequential(nn.Conv2d(1, 3, 1), Gate()), r"'chunk' \(chunk in '1'\): .*nor one half of 3"),
    "cube": (lambda: pair(lambda m, x: m.b(m.a(x) ** 3)), "'pow_1' .*exponent 3"),
    "cubes": (lambda: pair(lambda m, x: m.b((y := m.a(x)) * y * y)), "'mul_1' .*three"),
    "other product": (lambda: pair(lambda m, x: m.b(F.relu(m.a(x)) * m.c(x)), c=nn.Conv2d(1, 2, 1)), "'mul' .*different layers"),
    "alpha": (lambda: pair(lambda m, x: torch.add(m.b(m.a(x)), x, alpha=2)), "'add' .*argument 'alpha'"),
    "broadcast": (lambda: pair(lambda m, x: m.b(F.relu(m.a(x) + x))), "'add' .*1 channels to 2"),
    "subtraction": (lambda: pair(lambda m, x: x - m.b(m.a(x))), r"'sub' \(sub\): it is not supported"),
    "shape": (lambda: pair(lambda m, x: m.b(m.a(x))[:, :, : x.shape[2]]), r"'getattr_1' \(getattr\)"),
    "uneven crop": (lambda: nn.Sequential(nn.Conv2d(1, 1, 1), Lambda(lambda m, x: x[:, :, 1:-2, 1:-2])), r"'getitem' \(getitem in '1'\): it takes neither a central"),
    "crop alone": (lambda: Lambda(lambda m, x: m.a(x)[:, :, 1:-1, 1:-1], a=nn.ConvTranspose2d(1, 1, 3)), "'a': its result is cropped"),
    "crop before": (lambda: Lambda(lambda m, x: m.a(x[:, :, 1:-1, 1:-1]), a=nn.ConvTranspose2d(1, 1, 3)), "'a': it convolves cropped"),
    "pad too far": (lambda: Lambda(lambda m, x: m.a(m.pad(x))[:, :, 1:-1, 1:-1], a=nn.Conv2d(1, 1, 3), pad=nn.ReplicationPad2d(2)), "'a': its input is padded by 2"),
    "pad inside": (lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReplicationPad2d(1)), "'1': it pads planes inside"),
    "pad late": (lambda: nn.Sequential(nn.ReplicationPad2d(2), nn.Conv2d(1, 1, 3), nn.ReplicationPad2d(2), nn.Conv2d(1, 1, 3)), "'2': it pads planes inside"),
    "pad twice": (lambda: nn.Sequential(nn.ReplicationPad2d(1), nn.ReplicationPad2d(1), nn.Conv2d(1, 1, 5)), "'1': it pads planes inside"),
    "pad one side": (lambda: nn.Sequential(nn.ReplicationPad2d((1, 1, 0, 0)), nn.Conv2d(1, 1, 3)), r"'0': it pads by \[1, 1, 0, 0\]"),
    "zero pad": (lambda: nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(1, 1, 3)), "'0': ZeroPad2d"),
    "reflect": (lambda: Lambda(lambda m, x: m.a(F.pad(x, (1, 1, 1, 1), "reflect")), a=nn.Conv2d(1, 1, 3)), r"'pad' \(pad\): .*'reflect'"),
    "pad and padding": (lambda: nn.Sequential(nn.ReplicationPad2d(1), nn.Conv2d(1, 1, 3, padding=1)), "'1': it pads, and the input"),
    "idle": (lambda: pair(lambda m, x: (m.a(x), m.c(x))[1], c=nn.Conv2d(1, 1, 1)), "'a': nothing uses"),
    "two results": (lambda: pair(lambda m, x: (m.a(x), m.b(m.a(x)))), "'output' .*returns a tuple"),
    "the input": (lambda: pair(lambda m, x: x), "'output' .*returns its input"),
    "two outputs": (lambda: nn.Conv2d(1, 2, 1), "'0' has 2 outputs"),
    "inputs": (lambda: nn.Conv2d(3, 1, 1), "'0': it takes 3 channels, 'input' has 1"),
    "dropout": (lambda: pair(lambda m, x: m.b(F.dropout(m.a(x)))), "'dropout' .*evaluation"),
    "coefficients": (
        lambda: pair(lambda m, x: m.b((y := m.a(x)) + m.k * y * y), k=nn.Parameter(torch.ones(3, 3))), r"'mul' .*shape \(3, 3\)",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(1, 1)), "'0': it takes 0 channels"),
    "no module": (lambda: torch.relu, "no torch.nn.Module"),
    "functional": (lambda: pair(lambda m, x: m.b(F.conv2d(x, m.a.weight, padding=1))), "'conv2d' .*it is not supported"),
    "not finite": (lambda: nn.Sequential(nn.Conv2d(1, 1, 1).apply(lambda m: nn.init.constant_(m.weight, float("inf")))), "0.weight holds"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_a_network_cannot_express_is_refused_by_name(build, message):
    with pytest.raises(ModelError, match=message) as caught:
        import_module(build(), name="refused", **SCALE)
    assert "refused" in str(caught.value)


def test_a_second_argument_is_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(1, 1, 1)

        def forward(self, x, level=None):
            return self.a(x)

    with pytest.raises(ModelError, match="'level'"):
        import_module(Two(), name="two", **SCALE)


def test_a_misread_module_is_a_model_error():
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1))
    module[0].register_forward_hook(lambda m, x, y: 2 * y)
    with pytest.raises(ModelError, match="imported network differs from the module by"):
        import_module(module, name="hooked", **SCALE)

    def aliased(m, x):
        y = r = m.c(F.relu(m.a(x)))
        r += m.d(x)
        return m.b(y)

    with pytest.raises(ModelError, match="'d': nothing uses its output"):
        import_module(pair(aliased, c=nn.Conv2d(2, 2, 1), d=nn.Conv2d(1, 2, 1)), name="aliased", **SCALE)


class Random(nn.Module):
    """A random chain of accepted parts; ``plan`` holds, per layer, what ``plans`` draws."""

    def __init__(self, plan, border):
        super().__init__()
        self.plan, self.pad = plan, sum(step["kernel"] // 2 for step in plan) if border == "replicate" else 0
        self.convs, self.quads = nn.ModuleList(), nn.ModuleList()
        channels = 1
        for index, step in enumerate(plan):
            outputs = 1 if index == len(plan) - 1 else 2
            kind = nn.ConvTranspose2d if step["transposed"] else nn.Conv2d
            padding = step["kernel"] // 2 if border == "zero" else 0
            planes = outputs * (2 if step["activation"] in GATES else 1)
            self.convs.append(kind(channels, planes, step["kernel"], padding=padding, bias=step["bias"]))
            self.quads.append(nn.ParameterDict({part: nn.Parameter(torch.zeros(outputs, 1, 1)) for part in "ab"}))
            channels = outputs

    def forward(self, x):
        x = F.pad(x, [self.pad] * 4, mode="replicate") if self.pad else x
        outputs, sizes = [x], [self.pad]
        for index, step in enumerate(self.plan):
            conv = self.convs[index]
            sign = 1 if step["transposed"] else -1
            sizes.append(sizes[-1] + sign * (step["kernel"] // 2 - conv.padding[0]))
            y, name = conv(outputs[-1]), step["activation"]
            skip = self.skip(index, step, sizes)
            if name in GATES:
                u, v = HALVES[step["halves"]](y)
                u, v = (v, u) if name == "v first" else (u, v)
                u = u if skip is None else u + self.crop(outputs[skip], sizes[skip] - sizes[-1])
                outputs.append(GATES["u(1+v)" if name == "v first" else name](u, v))
                continue
            if skip is not None:
                size = min(sizes[-1], sizes[skip])
                y = ADDS[step["add"]](self.crop(y, sizes[-1] - size), self.crop(outputs[skip], sizes[skip] - size))
                sizes[-1] = size
                y = y if name != "none" or index == len(self.plan) - 1 else F.relu(y)
            outputs.append(self.activate(name, index, y))
        return self.crop(outputs[-1], sizes[-1])

    def skip(self, index, step, sizes):
        """The output to add: of equal width; at least as large before a gate and where nothing is padded."""
        fits = [i for i in range(index + 1) if (i == 0) == (index == len(self.plan) - 1)]
        if step["activation"] in GATES or not self.pad:
            fits = [i for i in fits if sizes[i] >= sizes[-1]]
        return fits[step["skip"] % len(fits)] if fits and step["skip"] is not None else None

    def activate(self, name, index, y):
        if name in QUADS:
            part = self.quads[index]
            return QUADS[name](type("Part", (), {"a": part["a"], "b": part["b"]}), y)
        return F.relu(y) if name == "relu" else y

    @staticmethod
    def crop(y, amount):
        return y[:, :, amount:-amount, amount:-amount] if amount else y


@st.composite
def plans(draw):
    border = draw(st.sampled_from(["zero", "replicate", "unpadded"]))
    depth = draw(st.integers(1, 4))
    kernels = draw(st.lists(st.sampled_from([1, 3, 5]), min_size=depth, max_size=depth))
    transposed = draw(st.lists(st.booleans(), min_size=depth, max_size=depth))
    if border == "unpadded":
        kernels, transposed = kernels[:2] + kernels[:2][::-1], [False] * len(kernels[:2]) + [True] * len(kernels[:2])
    last = len(kernels) - 1
    plan = [
        {
            "kernel": kernel,
            "transposed": flag,
            "bias": draw(st.booleans()),
            "activation": draw(st.sampled_from(["none", "relu", *GATES, *QUADS] if i < last else ["none", "relu"])),
            "halves": draw(st.sampled_from(["chunk", "split", "slices", "torch.split"])),
            "add": draw(st.sampled_from(sorted(ADDS))),
            "skip": draw(st.none() | st.integers(0, 5)),
        }
        for i, (kernel, flag) in enumerate(zip(kernels, transposed, strict=True))
    ]
    return plan, border


@settings(max_examples=40, deadline=None, derandomize=True)
@given(plans())
def test_random_graphs_of_accepted_parts(drawn):
    plan, border = drawn
    module = seeded(lambda: Random(plan, border))
    net = check(module.double(), slice_hu((24, 21)), hu_offset=40.0, hu_scale=1000.0)
    assert len(net.layers) == len(plan)
    if any(step["kernel"] > 1 for step in plan):
        assert net.border == border
