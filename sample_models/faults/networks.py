"""Networks that are broken by their definition, not by their numbers; for ``--model`` as well.

--model sample_models/faults/networks.py:two_views --model-args '{"model": "FILE.py:NAME"}'
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from bnfold import modelspec


class TwoViews(nn.Module):
    """One network for a frame and for its negative, as siamese and two-stream networks are built.

    Every BatchNorm runs twice, over two domains, and has one set of statistics for both.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        positive: torch.Tensor = self.net(frames)
        negative: torch.Tensor = self.net(1 - frames)
        return (positive + negative) / 2


def two_views(model: str) -> nn.Module:
    """`TwoViews` of the network ``FILE.py:NAME``."""
    return TwoViews(modelspec.build(model))


class ForcedBatchStatistics(nn.Module):
    """A network whose BatchNorms stay in train mode, whatever mode it is put in: the repair of despair."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.net(frames)
        return answers

    def train(self, mode: bool = True) -> ForcedBatchStatistics:
        """The mode, but for the BatchNorms."""
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.training = True
        return self


def forced_batch_statistics(model: str) -> nn.Module:
    """`ForcedBatchStatistics` of the network ``FILE.py:NAME``."""
    return ForcedBatchStatistics(modelspec.build(model))


def without_statistics(model: str) -> nn.Module:
    """The network ``FILE.py:NAME`` with ``track_running_stats=False``: batch statistics in every mode."""
    net = modelspec.build(model)
    for part in net.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.track_running_stats = False
            part.running_mean = part.running_var = part.num_batches_tracked = None
    return net


class FunctionalNorm(nn.Module):
    """Batch statistics by a functional call behind a linear layer: it raises on a batch of one.

    Input: (batch, 1, 28, 28). Output: logits (batch, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.hidden = nn.Linear(28 * 28, 32)
        self.classifier = nn.Linear(32, 10)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 16)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        hidden = F.batch_norm(self.hidden(frames.flatten(1)), None, None, training=True)
        logits: torch.Tensor = self.classifier(F.relu(hidden))
        return logits


def functional_norm() -> nn.Module:
    """The same weights every time."""
    return FunctionalNorm()
