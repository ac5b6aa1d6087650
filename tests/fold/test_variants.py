"""However a BatchNorm or the layer beside it is written, the ATen graph sees through it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from bnfold.fold import FoldResult, fold
from tests.fold.micro_graphs.micro import operators
from tests.fold.networks import Net, check_fold, draw_statistics

X = torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(1))


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 4, 3)


# --- BatchNorms --------------------------------------------------------------------------------------------


class Upcast(nn.BatchNorm2d):
    """Mixed precision: normalises in float32, whatever comes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float()).type_as(x)


class Own(nn.Module):
    """Of no torch class: its own buffers, the functional form, by keyword."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.norm
        return F.batch_norm(
            eps=1e-3, bias=n.bias, weight=n.weight, running_var=n.running_var, running_mean=n.running_mean,
            input=x,
        )  # fmt: skip


class Frozen(nn.Module):
    """FrozenBatchNorm2d as detection code has it: buffers only, and arithmetic."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        generator = torch.Generator().manual_seed(channels)
        self.register_buffer("weight", torch.randn(channels, generator=generator))
        self.register_buffer("bias", torch.randn(channels, generator=generator))
        self.register_buffer("running_mean", torch.randn(channels, generator=generator))
        self.register_buffer("running_var", torch.rand(channels, generator=generator) + 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w, b, mean, var = (
            self.get_buffer(name).reshape(1, -1, 1, 1)
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = w * (var + self.eps).rsqrt()
        return x * scale + (b - mean * scale)


class FrozenStepwise(Frozen):
    """The same, step by step."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, var = (self.get_buffer(f"running_{name}")[:, None, None] for name in ("mean", "var"))
        normalised = (x - mean) / torch.sqrt(var + self.eps)
        return self.get_buffer("weight")[:, None, None] * normalised + self.get_buffer("bias")[:, None, None]


class FrozenReversed(Frozen):
    """The constant comes first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.get_buffer("weight") / torch.sqrt(self.get_buffer("running_var") + self.eps)
        shift = self.get_buffer("running_mean") * scale - self.get_buffer("bias")
        return -(shift[:, None, None] - scale[:, None, None] * x)


class Evolved(Frozen):
    """Holds statistics, and is no BatchNorm: it divides what depends on the input in another way."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spread = torch.sqrt(self.get_buffer("running_var") + self.eps)[:, None, None]
        return x * torch.sigmoid(x) / spread - self.get_buffer("running_mean")[:, None, None]


def native(m: Net, x: torch.Tensor) -> torch.Tensor:
    """The form of three results."""
    n = m.norm
    return torch.native_batch_norm(
        m.conv(x), n.weight, n.bias, n.running_mean, n.running_var, False, 0.1, 1e-3
    )[0]


def positional(m: Net, x: torch.Tensor) -> torch.Tensor:
    n = m.norm
    return F.batch_norm(m.conv(x), n.running_mean, n.running_var, n.weight, n.bias, False, 0.1, 1e-3)


def lowest(m: Net, x: torch.Tensor) -> torch.Tensor:
    n = m.norm
    return torch.batch_norm(
        m.conv(x), n.weight, n.bias, n.running_mean, n.running_var, False, 0.1, 1e-3, False
    )


def constants(m: Net, x: torch.Tensor) -> torch.Tensor:
    """Statistics that are written into forward."""
    return F.batch_norm(m.conv(x), torch.full((4,), 0.5), torch.full((4,), 2.0), m.norm.weight, m.norm.bias)


def by_keyword(m: Net, x: torch.Tensor) -> torch.Tensor:
    return m.norm(input=m.conv(input=x))


def parametrised() -> nn.Module:
    """Its gamma is the exponential of a parameter."""

    class Exponential(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight.exp()

    norm = nn.BatchNorm2d(4)
    parametrize.register_parametrization(norm, "weight", Exponential())
    return nn.Sequential(conv(), norm)


def lazy() -> nn.Module:
    module = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d()).eval()
    module(X)
    return module


def hooked() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    norm.register_forward_hook(lambda module, args, output: 2 * output)
    return nn.Sequential(conv(), norm)


def functional(run: Callable[[Net, torch.Tensor], torch.Tensor]) -> Callable[[], nn.Module]:
    return lambda: Net(run, conv=conv(), norm=nn.BatchNorm2d(4))


NORMS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    # what is built, the name in the report, and what the network's own operators save besides
    "subclass that casts": (lambda: nn.Sequential(conv(), Upcast(4)), "1", 0),
    "class of its own": (lambda: nn.Sequential(conv(), Own(4)), "1.batch_norm", 0),
    "SyncBatchNorm": (
        lambda: nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(conv(), nn.BatchNorm2d(4))), "1", 0,
    ),
    "functional, positional": (functional(positional), "batch_norm", 0),
    "functional, all arguments": (functional(lowest), "batch_norm", 0),
    "functional, three results": (functional(native), "batch_norm", 0),
    "functional, constants": (functional(constants), "batch_norm", 0),
    "module, by keyword": (functional(by_keyword), "norm", 0),
    "parametrised gamma": (parametrised, "1", 0),
    "lazy": (lazy, "1", 0),
    "with a hook": (hooked, "1", 1),
    "DataParallel": (lambda: nn.DataParallel(nn.Sequential(conv(), nn.BatchNorm2d(4))), "module.1", 0),
    "frozen": (lambda: nn.Sequential(conv(), Frozen(4)), "1", 2),
    "frozen, stepwise": (lambda: nn.Sequential(conv(), FrozenStepwise(4)), "1", 4),
    "frozen, reversed": (lambda: nn.Sequential(conv(), FrozenReversed(4)), "1", 3),
}  # fmt: skip


@pytest.mark.parametrize("kind", NORMS)
def test_a_batch_norm_however_it_is_written(kind: str) -> None:
    build, name, saved = NORMS[kind]
    torch.manual_seed(0)
    module = draw_statistics(build(), 3)
    result = fold(module, (X,))
    assert [(e.name, e.channels, e.status) for e in result.report.batch_norms] == [(name, 4, "folded")]
    check_fold(module, result, (X,))
    before, after = operators(result.captured.body), operators(result.module.body)
    assert before[0] - after[0] == saved
    assert after == (1, 0)


def test_a_frozen_one_that_cannot_vanish() -> None:
    """It is counted against the network without it, and takes the place of all its arithmetic."""
    module = nn.Sequential(FrozenStepwise(3), nn.Sigmoid())
    result = fold(module, (X,))
    check_fold(module, result, (X,))
    (entry,) = result.report.batch_norms
    assert (entry.name, entry.status) == ("0", "kept")
    assert operators(result.captured.body)[0] == 1 + 4
    assert operators(result.module.body) == (1 + 2, 0)
    assert entry.gain == pytest.approx((module[0].weight / (module[0].running_var + 1e-5).sqrt()).abs().max())


def test_a_frozen_one_called_on_its_own_answer() -> None:
    module = Net(lambda m, x: torch.sigmoid(m.norm(m.norm(x))), norm=FrozenStepwise(3))
    result = fold(module, (X,))
    check_fold(module, result, (X,))
    assert [entry.name for entry in result.report.batch_norms] == ["norm", "norm#2"]
    assert operators(result.module.body)[0] == 1 + 2


def test_a_frozen_one_that_is_the_network() -> None:
    module = Frozen(3)
    result = fold(module, (X,))
    check_fold(module, result, (X,))
    assert [(e.name, e.status) for e in result.report.batch_norms] == [("batch_norm", "kept")]


def test_what_only_holds_statistics_is_no_batch_norm() -> None:
    module = nn.Sequential(conv(), Evolved(4))
    result = fold(module, (X,))
    check_fold(module, result, (X,))
    assert result.report.batch_norms == []


@pytest.mark.parametrize(
    ("buffer", "value", "eps", "code"),
    [
        ("running_mean", float("nan"), 1e-5, "BNF-A001"),
        ("running_var", -1.0, 1e-5, "BNF-A007"),
        ("running_var", 0.0, 0.0, "BNF-A007"),
        ("weight", float("inf"), 1e-5, "BNF-A021"),
    ],
)
def test_unusable_statistics_of_a_frozen_one(buffer: str, value: float, eps: float, code: str) -> None:
    module = nn.Sequential(conv(), Frozen(4, eps), nn.ReLU(), conv2 := nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    assert conv2.bias is not None
    module[1].get_buffer(buffer)[2] = value
    report = fold(draw_statistics(module, 3), (X,)).report
    assert [entry.status for entry in report.batch_norms] == ["refused", "folded"]
    assert report.findings[0].code == code
    assert report.findings[0].evidence["channels"] == [2]


# --- layers beside them ------------------------------------------------------------------------------------


class Standardised(nn.Conv2d):
    """Weight standardisation (Qiao et al., 2019)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / torch.sqrt(variance + 1e-5), self.bias)


class Adapted(nn.Conv2d):
    """A low-rank adapter that was not merged."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.a = nn.Parameter(torch.randn(self.out_channels, 2))
        self.b = nn.Parameter(torch.randn(2, self.weight[0].numel()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(input=x, weight=self.weight + (self.a @ self.b).view_as(self.weight), bias=self.bias)


class Symmetric(nn.Module):
    """A parametrisation of the user's own."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + weight.flip(-1)


def custom() -> nn.Module:
    layer = conv()
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def pruned() -> nn.Module:
    layer = conv()
    prune.random_unstructured(layer, "weight", 0.4)
    return layer


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(conv())


def drop_connect() -> nn.Module:
    return Net(lambda m, x: F.conv2d(x, F.dropout(m.conv.weight, 0.5, m.training)), conv=conv())


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: parametrizations.weight_norm(conv()),
    "weight norm, old": old_weight_norm,
    "spectral norm": lambda: parametrizations.spectral_norm(conv()),
    "spectral norm, old": lambda: nn.utils.spectral_norm(conv()),
    "a parametrisation of one's own": custom,
    "pruned by a mask": pruned,
    "a subclass with a forward of its own": lambda: Standardised(3, 4, 3),
    "a low-rank adapter": lambda: Adapted(3, 4, 3),
    "dropped weights": drop_connect,
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_whose_weight_is_computed(kind: str) -> None:
    """From constants: it is computed once, in float64, and nothing of the computation is left."""
    torch.manual_seed(0)
    module = draw_statistics(nn.Sequential(LAYERS[kind](), nn.BatchNorm2d(4)), 3)
    result = fold(module, (X,))
    assert [entry.status for entry in result.report.batch_norms] == ["folded"]
    check_fold(module, result, (X,))
    assert operators(result.module.body) == (1, 0)


def test_an_orthogonal_linear_layer() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.BatchNorm1d(4))
    result = fold(draw_statistics(module, 3), (torch.randn(3, 4),))
    assert [entry.status for entry in result.report.batch_norms] == ["folded"]
    assert operators(result.module.body) == (1, 0)


def test_a_weight_that_depends_on_the_input_is_left_alone() -> None:
    """CondConv: the conv's weight is a mixture that the input chooses."""

    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        choice = torch.sigmoid(x.mean()).reshape(1, 1, 1, 1)
        return m.norm(F.conv2d(x, choice * m.a.weight + (1 - choice) * m.b.weight))

    torch.manual_seed(0)
    module = draw_statistics(Net(run, a=conv(), b=conv(), norm=nn.BatchNorm2d(4)), 3)
    result = fold(module, (X,))
    check_fold(module, result, (X,))
    (entry,) = result.report.batch_norms
    assert entry.status == "kept"
    assert "computed from the input" in str(entry.reason)


# --- types -------------------------------------------------------------------------------------------------


def halved(module: nn.Module, dtype: torch.dtype) -> tuple[nn.Module, FoldResult, torch.Tensor]:
    module = draw_statistics(module, 3).to(dtype)
    x = X.to(dtype)
    return module, fold(module, (x,)), x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_checkpoint_is_rounded_once(dtype: torch.dtype) -> None:
    """The new weights are the float64 ones, rounded; not what half-precision arithmetic makes of them."""
    torch.manual_seed(0)
    module, result, x = halved(nn.Sequential(conv(), nn.BatchNorm2d(4)), dtype)
    assert [entry.status for entry in result.report.batch_norms] == ["folded"]
    layer, norm = (module.get_submodule(name).double() for name in ("0", "1"))
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    weight = (layer.weight * scale[:, None, None, None]).to(dtype)
    bias = (scale * (layer.bias - norm.running_mean) + norm.bias).to(dtype)
    state = result.module.state_dict()
    folded = {tensor.ndim: tensor for tensor in state.values()}
    assert torch.equal(folded[4], weight)
    assert torch.equal(folded[1], bias)
    answer, exact = result.module(x), norm(layer(x.double()))
    assert answer.dtype == dtype
    error = (answer.double() - exact).abs().max() / exact.abs().max()
    assert error < 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_conv_and_a_float32_batch_norm(dtype: torch.dtype) -> None:
    """As mixed precision leaves a checkpoint: the conv takes the BatchNorm, in its own type."""
    torch.manual_seed(0)
    module = draw_statistics(nn.Sequential(conv(), nn.BatchNorm2d(4)), 3)
    module.get_submodule("0").to(dtype)
    x = X.to(dtype)
    result = fold(module, (x,))
    assert [entry.status for entry in result.report.batch_norms] == ["folded"]
    answer, exact = result.module(x), module.double()(x.double())
    assert answer.dtype == dtype
    assert (answer.double() - exact).abs().max() / exact.abs().max() < 16 * torch.finfo(dtype).eps


def test_a_cast_between_is_a_rounding_of_its_own() -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        return m.norm(m.conv(x).float()).half()

    torch.manual_seed(0)
    module = draw_statistics(Net(run, conv=conv(), norm=nn.BatchNorm2d(4)), 3)
    module.get_submodule("conv").half()
    result = fold(module, (X.half(),))
    (entry,) = result.report.batch_norms
    assert (entry.status, "no rule moves an affine from after to" in str(entry.reason)) == ("kept", True)
    answer = result.module(X.half())
    exact = module.norm.double()(module.conv.double()(X.half().double()))
    assert answer.dtype == torch.float16
    assert (answer.double() - exact).abs().max() / exact.abs().max() < 4e-3


def overflowing(*layers: nn.Module) -> FoldResult:
    """Gamma 300 and variance 0: s = 94868, which half precision cannot hold."""
    module = nn.Sequential(*layers).half().eval()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_var is not None
            with torch.no_grad():
                norm.running_var.zero_()
                norm.weight.fill_(300)
    return fold(module, (X.half() * 1e-3,))


def filled(value: float) -> nn.Module:
    layer = nn.Conv2d(3, 4, 3, bias=False)
    with torch.no_grad():
        layer.weight.fill_(value)
    return layer


def test_what_half_precision_cannot_hold_is_a_finding() -> None:
    """There is no other way to write it: the constant that is left is named, with its size."""
    result = overflowing(nn.BatchNorm2d(3))
    (finding,) = (finding for finding in result.report.findings if finding.code == "BNF-A008")
    assert finding.severity == "error"
    assert finding.where == "0.scale_folded"
    assert finding.evidence["largest"] == pytest.approx(300 / 1e-5**0.5, rel=1e-2)  # eps is 1e-5
    assert "65504" in finding.message


def test_a_weight_that_half_precision_cannot_hold_is_not_written() -> None:
    report = overflowing(filled(1.0), nn.BatchNorm2d(4)).report
    assert [entry.status for entry in report.batch_norms] == ["reduced"]
    assert "the folded weight would overflow float16" in str(report.batch_norms[0].reason)
    assert "BNF-A008" in [finding.code for finding in report.findings]
    (entry,) = overflowing(filled(1e-3), nn.BatchNorm2d(4)).report.batch_norms
    assert entry.status == "folded"
