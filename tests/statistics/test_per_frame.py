from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bnfold.errors import StatisticsError
from bnfold.statistics.per_frame import FrameNorm, marked, per_frame


def broken(module: nn.Module) -> nn.Module:
    """Gammas of both signs, and running statistics that are NaN."""
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.fill_(torch.nan)
            layer.running_var.fill_(torch.nan)
            if layer.weight is not None:
                nn.init.normal_(layer.weight)
                nn.init.normal_(layer.bias)
    return module.eval()


def network() -> nn.Sequential:
    torch.manual_seed(0)  # or the weights depend on the tests before
    # equal sizes: 3 frames, 3 channels, 3 x 3 positions
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1),
                         nn.BatchNorm2d(3, affine=False))  # fmt: skip


@torch.no_grad()
def test_each_frame_gets_what_train_mode_gives_it_alone() -> None:
    original = broken(network())
    x = torch.randn(3, 3, 3, 3)
    before = {key: value.clone() for key, value in original.state_dict().items()}
    exchanged, layers = per_frame(original, (x,))
    assert layers == {"1": 3, "4": 3}
    got = exchanged(x)
    original.train()
    expected = torch.cat([original(frame) for frame in x.split(1)])
    original.eval()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert not torch.isnan(got).any()
    for frame in range(3):  # alone or among others
        torch.testing.assert_close(exchanged(x[frame : frame + 1])[0], got[frame], rtol=1e-6, atol=1e-6)
    assert isinstance(original[1], nn.BatchNorm2d)
    assert before["0.weight"].equal(original.state_dict()["0.weight"])


@torch.no_grad()
def test_a_large_mean_with_a_small_spread_survives() -> None:
    layer = FrameNorm(nn.BatchNorm2d(1, eps=0.0))
    x = 300 + 0.01 * torch.randn(1, 1, 16, 16)
    y = layer(x)
    assert abs(float(y.mean())) < 1e-3
    assert abs(float(y.var(unbiased=False)) - 1) < 1e-3


def test_a_layer_without_positions_keeps_its_statistics() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5)
    )
    exchanged, layers = per_frame(module, (torch.randn(2, 3, 4, 4),))
    assert layers == {"1": 4}
    assert isinstance(exchanged[4], nn.BatchNorm1d)  # type: ignore[index]


def test_one_layer_under_two_names_stays_one() -> None:
    shared = nn.BatchNorm2d(3)
    module = nn.Sequential(shared, nn.ReLU(), shared)
    exchanged, layers = per_frame(module, (torch.randn(1, 3, 4, 4),))
    assert layers == {"0": 3}
    assert exchanged[0] is exchanged[2]  # type: ignore[index]
    assert isinstance(exchanged[0], FrameNorm)  # type: ignore[index]


class Pooled(nn.Module):
    """One BatchNorm, once over a map and once at a single position."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.bn(x).mean((2, 3), keepdim=True))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), (2, 4)),
        (nn.Sequential(nn.Conv2d(3, 4, 4), nn.BatchNorm2d(4)), (2, 3, 4, 4)),
        (Pooled(), (2, 3, 4, 4)),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), (1, 3, 4, 4)),
    ],
)
def test_where_a_frame_has_no_statistics_it_is_refused(module: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(StatisticsError) as caught:
        per_frame(module, (torch.randn(shape),))
    assert caught.value.code == "BNF-A035"


def test_the_whole_network_may_be_one_batch_norm() -> None:
    exchanged, layers = per_frame(nn.BatchNorm2d(2), (torch.randn(1, 2, 3, 3),))
    assert isinstance(exchanged, FrameNorm)
    assert layers == {"": 2}


def test_every_report_says_so() -> None:
    finding = marked({"a.bn": 3, "b.bn": 4})
    assert (finding.severity, finding.where) == ("warning", "a.bn")
    assert finding.message.startswith("2 BatchNorms normalise each frame")
    assert finding.evidence["layers"] == ["a.bn", "b.bn"]
