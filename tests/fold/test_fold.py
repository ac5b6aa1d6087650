"""What fold promises beyond its rules: nothing is corrupted, everything is accounted for."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnfold.errors import CaptureError, UsageError
from bnfold.fold import fold
from bnfold.fold.site import BATCH_NORMS
from bnfold.numerics import max_rel_error
from tests.fold.networks import Net, check_fold, draw_statistics

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def conv(inputs: int = 3, outputs: int = 4, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, **options)


def both(m: Any, y: torch.Tensor) -> Any:
    return m.bn(y), y


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "the conv is read by another": (
        lambda: Net(lambda m, x: (lambda y: m.bn(y) + F.relu(y))(m.c(x)), c=conv(), bn=nn.BatchNorm2d(4)),
        {"bn": "kept"},
    ),
    "the conv is an output": (
        lambda: Net(lambda m, x: both(m, m.c(x)), c=conv(), bn=nn.BatchNorm2d(4)),
        {"bn": "kept"},
    ),
    "one conv, two BatchNorms": (
        lambda: Net(
            lambda m, x: (lambda y: (m.a(y), m.b(y)))(m.c(x)),
            c=conv(),
            a=nn.BatchNorm2d(4),
            b=nn.BatchNorm2d(4),
        ),
        {"a": "reduced", "b": "reduced"},  # a goes into the conv, b undoes it: two for both
    ),
    "one pair called twice": (
        lambda: Net(lambda m, x: m.bn(m.c(x)) + m.bn(m.c(2 * x)), c=conv(), bn=nn.BatchNorm2d(4)),
        {"bn": "folded", "bn#2": "folded"},
    ),
    "one call normalised, one raw": (
        lambda: Net(lambda m, x: m.bn(m.c(x)) + m.c(2 * x), c=conv(), bn=nn.BatchNorm2d(4)),
        {"bn": "folded"},
    ),
    "one pair in a loop": (
        lambda: Net(
            lambda m, x: m.bn(m.c(F.relu(m.bn(m.c(x))))), c=conv(3, 3, padding=1), bn=nn.BatchNorm2d(3)
        ),
        {"bn": "folded", "bn#2": "folded"},
    ),
    "functional, by keyword": (
        lambda: Net(
            lambda m, x: F.batch_norm(m.c(x), running_mean=m.bn.running_mean, running_var=m.bn.running_var),
            c=conv(),
            bn=nn.BatchNorm2d(4),
        ),
        {"batch_norm": "folded"},
    ),
    "without gamma and beta": (
        lambda: nn.Sequential(conv(), nn.BatchNorm2d(4, affine=False)),
        {"1": "folded"},
    ),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(conv()), nn.BatchNorm2d(4)),
        {"1": "folded"},
    ),
    "before and behind one conv": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), conv(), nn.BatchNorm2d(4)),
        {"0": "folded", "2": "folded"},
    ),
    "before and behind one padded conv": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), conv(padding=1), nn.BatchNorm2d(4)),
        {"0": "reduced", "2": "folded"},
    ),
    "dropout between": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Sigmoid(), nn.BatchNorm1d(192), nn.Dropout(), nn.Linear(192, 3)
        ),
        {"2": "folded"},
    ),
    "padded pool, then a conv": (
        lambda: nn.Sequential(conv(), nn.AvgPool2d(2, padding=1), nn.BatchNorm2d(4), conv(4, 2)),
        {"2": "folded"},
    ),
    "padded pool, then the output": (
        lambda: nn.Sequential(conv(), nn.AvgPool2d(2, padding=1), nn.BatchNorm2d(4)),
        {"2": "reduced"},
    ),
    "in place": (
        lambda: nn.Sequential(
            conv(), nn.BatchNorm2d(4), nn.ReLU(inplace=True), conv(4, 4), nn.BatchNorm2d(4)
        ),
        {"1": "folded", "4": "folded"},
    ),
    "product with a constant matrix": (
        lambda: Net(
            lambda m, x: m.bn(torch.sigmoid(x[:, 0, 0]) @ m.l.weight), l=nn.Linear(5, 8), bn=nn.BatchNorm1d(5)
        ),
        {"bn": "folded"},
    ),
    "the network's own arithmetic in a row": (
        lambda: Net(
            lambda m, x: m.bn(2.0 * m.c(x) + 1.0 - m.bn.bias[:, None, None]), c=conv(), bn=nn.BatchNorm2d(4)
        ),
        {"bn": "folded"},
    ),
    "addmm with one number for a bias": (
        lambda: Net(
            lambda m, x: m.l(torch.addmm(m.one, m.bn(torch.sigmoid(x[:, 0, 0])), m.w)),
            l=nn.Linear(16, 3),
            bn=nn.BatchNorm1d(8),
            w=torch.nn.Parameter(torch.randn(8, 16)),
            one=torch.nn.Parameter(torch.ones(1)),
        ),
        {"bn": "kept"},
    ),
    "weights that the network makes, in the default dtype": (
        lambda: Net(
            lambda m, x: F.linear(m.bn(torch.sigmoid(x[:, 0, 0])), torch.ones(5, 8) / 3), bn=nn.BatchNorm1d(8)
        ),
        {"bn": "folded"},
    ),
    "alone": (lambda: nn.Sequential(nn.BatchNorm2d(3)), {"0": "kept"}),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_account(name: str) -> None:
    build, statuses = CASES[name]
    torch.manual_seed(0)
    module = draw_statistics(build(), seed=3)
    before = copy.deepcopy(module.state_dict())
    result = fold(module, (X,))
    assert {entry.name: entry.status for entry in result.report.batch_norms} == statuses
    check_fold(module, result, (X,))
    assert not result.report.findings
    assert not [node for node in result.module.body.graph.nodes if node.target in BATCH_NORMS]
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_a_batch_norm_that_the_network_s_own_operators_take_up_says_by_which_rule() -> None:
    """It is their multiplication and addition that is moved into it, so no rule has moved the BatchNorm."""
    network = Net(lambda m, x: torch.tanh(m.bn(torch.sin(x) * 2 + 1)), bn=nn.BatchNorm2d(3))
    result = fold(draw_statistics(network, seed=3), (X,))
    check_fold(network, result, (X,))
    (entry,) = result.report.batch_norms
    assert (entry.status, entry.rules, entry.reason) == ("folded", ["compose"], None)


def test_an_instance_norm_that_uses_running_statistics_is_an_affine_of_the_network() -> None:
    """No BatchNorm, so it has no entry; the exporter would write it as a BatchNormalization."""
    torch.manual_seed(0)
    norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    module = draw_statistics(nn.Sequential(conv(), norm, nn.ReLU(), conv(4, 4), nn.BatchNorm2d(4)), seed=3)
    result = fold(module, (X,))
    assert {entry.name: entry.status for entry in result.report.batch_norms} == {"4": "folded"}
    check_fold(module, result, (X,))
    assert "instance_norm" not in str(result.module.body.graph)
    assert "mul" not in str(result.module.body.graph)
    norm.running_var[1] = -1  # its answer is NaN; it stays what it was
    assert "instance_norm" in str(fold(module, (X,)).module.body.graph)


def test_two_convs_that_share_one_parameter() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        conv(3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), conv(3, 3, padding=1), nn.BatchNorm2d(3)
    )
    module[3].weight = module[0].weight
    draw_statistics(module, seed=3)
    result = fold(module, (X,))
    assert [entry.status for entry in result.report.batch_norms] == ["folded", "folded"]
    check_fold(module, result, (X,))


def test_a_module_in_training_mode_is_folded_as_in_eval_mode_and_left_in_it() -> None:
    module = draw_statistics(nn.Sequential(conv(), nn.BatchNorm2d(4), nn.Dropout()), seed=3)
    expected = module(X)
    module.train()
    module[1].eval()
    result = fold(module, (X,))
    assert [child.training for child in module] == [True, False, True]
    assert max_rel_error(result.module(X).detach().numpy(), expected.detach().numpy()) < 1e-5


def test_the_result_is_a_plain_module() -> None:
    module = draw_statistics(
        nn.Sequential(conv(padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 3)), seed=3
    )
    folded = fold(module, (X,)).module
    expected = folded(X)
    assert not folded.training
    assert folded.eval() is folded
    assert torch.equal(folded.to("cpu")(X), expected)
    assert torch.equal(copy.deepcopy(folded)(X), expected)
    file = io.BytesIO()
    torch.save(folded, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(X), expected)
    state = folded.state_dict()
    other = copy.deepcopy(folded)
    for tensor in other.state_dict().values():
        tensor.zero_()
    other.load_state_dict(state)
    assert torch.equal(other(X), expected)
    assert torch.equal(torch.export.export(folded, (X,)).module()(X), expected)
    assert torch.equal(fold(folded, (X,)).module(X), expected)
    with pytest.raises(UsageError, match="BNF-U024"):
        folded.train()


def test_another_shape_or_structure_is_an_error() -> None:
    folded = fold(nn.Sequential(conv(), nn.BatchNorm2d(4)).eval(), (X,)).module
    with pytest.raises(UsageError, match="BNF-U021"):
        folded(torch.zeros(2, 3, 8, 8))
    with pytest.raises(UsageError, match="BNF-U020"):
        folded(X, X)
    with pytest.raises(UsageError, match="BNF-U020"):
        folded((X,))


def test_signature_and_structure_are_kept() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.bn = conv(), nn.BatchNorm2d(4)

        def forward(self, image: torch.Tensor, extra: dict[str, torch.Tensor]) -> dict[str, Any]:
            return {"y": self.bn(self.c(image)), "aux": (extra["k"] * 2, None, 7)}

    module = draw_statistics(Two(), seed=1)
    result = fold(module, (X, {"k": torch.ones(1, 2)}))
    out = result.module(image=X, extra={"k": torch.ones(1, 2)})
    assert [spec.name for spec in result.module.inputs] == ["image", "extra.k"]
    assert [spec.name for spec in result.module.outputs] == ["y", "aux.0"]
    assert out["aux"][1:] == (None, 7)
    assert out["aux"][0].tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_dynamic_batch(size: int) -> None:
    module = draw_statistics(
        nn.Sequential(nn.Sigmoid(), nn.BatchNorm2d(3), conv(padding=1), nn.Flatten(), nn.Linear(256, 3)),
        seed=2,
    )
    result = fold(module, (X,), dynamic_batch=True)
    assert result.module.inputs[0].shape == (None, 3, 8, 8)
    assert result.module.outputs[0].shape == (None, 3)
    frames = torch.randn(size, 3, 8, 8)
    assert max_rel_error(result.module(frames).numpy(), module(frames).detach().numpy()) < 1e-5


def test_batch_statistics_are_refused_and_the_rest_is_folded() -> None:
    module = draw_statistics(
        nn.Sequential(conv(), nn.BatchNorm2d(4, track_running_stats=False), conv(4, 4), nn.BatchNorm2d(4)),
        seed=3,
    )
    report = fold(module, (X,)).report
    assert [entry.status for entry in report.batch_norms] == ["refused", "folded"]
    assert report.findings[0].code == "BNF-A015"
    assert report.findings[0].where == "1"
    error = report.batch_norms[1].max_rel_error
    assert error is not None
    assert error <= 1e-12


@pytest.mark.parametrize(
    ("buffer", "value", "code"),
    [
        ("running_mean", float("nan"), "BNF-A001"),
        ("running_var", float("nan"), "BNF-A003"),
        ("running_var", float("inf"), "BNF-A001"),
        ("running_var", -1.0, "BNF-A007"),
        ("weight", float("nan"), "BNF-A021"),
    ],
)
def test_unusable_statistics_are_refused_by_channel(buffer: str, value: float, code: str) -> None:
    module = draw_statistics(
        nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 4), nn.BatchNorm2d(4)), seed=3
    )
    with torch.no_grad():
        getattr(module[1], buffer)[2] = value
    result = fold(module, (X,))
    first, second = result.report.batch_norms
    finding = result.report.findings[0]
    assert (first.status, second.status) == ("refused", "folded")
    assert (finding.code, finding.severity, finding.where) == (code, "error", f"1.{buffer}[2]")
    assert finding.evidence["channels"] == [2]
    assert second.max_rel_error is not None
    assert second.max_rel_error <= 1e-12
    assert [node for node in result.module.body.graph.nodes if node.target in BATCH_NORMS]


def test_dead_channels_are_named_and_exact() -> None:
    module = draw_statistics(nn.Sequential(conv(), nn.BatchNorm2d(4)), seed=3)
    with torch.no_grad():
        module[1].weight[1] = 0
    result = fold(module, (X,))
    check_fold(module, result, (X,))
    assert [(f.code, f.severity, f.evidence["channels"]) for f in result.report.findings] == [
        ("BNF-A020", "info", [1])
    ]
    assert torch.equal(result.module(X)[:, 1], module[1].bias[1].detach().expand(1, 6, 6))


def test_half_precision_is_folded_in_float64() -> None:
    """var = 2e-8 and eps = 1e-8 are both 0 in float16: folding in the storage type gives NaN."""
    module = nn.Sequential(conv(), nn.BatchNorm2d(4, eps=1e-8)).half().eval()
    module[1].float()
    module[1].running_var.fill_(2e-8)
    with torch.no_grad():
        module[1].weight.fill_(1e-4)

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.bn = module[0], module[1]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.bn(self.c(x))
            return y

    result = fold(Mixed().eval(), (X.half(),))
    out = result.module(X.half())
    assert result.report.batch_norms[0].status == "folded"
    assert out.dtype == torch.float16
    assert bool(torch.isfinite(out).all())


def test_a_weight_that_would_overflow_float16_is_not_folded() -> None:
    module = nn.Sequential(conv(), nn.BatchNorm2d(4, eps=1e-5)).half().eval()
    module[1].float()
    module[1].running_var.fill_(0)
    with torch.no_grad():
        module[0].weight.fill_(300)
        module[1].weight.fill_(1)
        module[1].bias.fill_(1)
    report = fold(module, (X.half(),)).report
    assert report.batch_norms[0].status == "kept"
    assert "overflow float16" in str(report.batch_norms[0].reason)


def test_skip_leaves_a_rule_out_and_knows_the_names() -> None:
    module = draw_statistics(nn.Sequential(conv(), nn.BatchNorm2d(4)), seed=3)
    result = fold(module, (X,), skip=("conv-backward",))
    assert result.report.batch_norms[0].status == "kept"
    check_fold(module, result, (X,))
    with pytest.raises(UsageError, match="BNF-U025"):
        fold(module, (X,), skip=("no-such-rule",))


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.mean() > 0:
            return x
        return -x


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


class WritesThroughView(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        y.diagonal(0, 2, 3).zero_()
        return y


@pytest.mark.parametrize(
    ("module", "code"),
    [
        (Branch(), "BNF-C001"),
        (conv(4, 4), "BNF-C004"),
        (Counts(), "BNF-C005"),
        (WritesThroughView(), "BNF-C006"),
    ],
)
def test_capture_failures_name_the_line(
    module: nn.Module, code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CaptureError) as caught:
        fold(module, (X,))
    assert caught.value.code == code
    if code != "BNF-C004":
        assert "test_fold.py:" in caught.value.where
    assert capfd.readouterr() == ("", "")
