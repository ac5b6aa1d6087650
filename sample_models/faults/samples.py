"""The healthy sample models that faults are planted in, with frames like those they were trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import bnfold
from bnfold import modelspec

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Data:
    """Frames and what belongs to them.

    Attributes:
        frames: float32 (count, ...).
        targets: what the network is to answer: classes, int64 (count,), or numbers, float32 (count,).
        order: what their files are sorted by, (count,): the class, the ones last, or how severe the finding
            is, the worst first.
    """

    frames: torch.Tensor
    targets: torch.Tensor
    order: torch.Tensor

    def __getitem__(self, chosen: torch.Tensor | slice) -> Data:
        return Data(self.frames[chosen], self.targets[chosen], self.order[chosen])

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True)
class Sample:
    """A trained, healthy network.

    Attributes:
        name: of the sample.
        model: the network, as ``FILE.py:NAME``.
        checkpoint: its weights.
        steps: optimiser steps of its training; its num_batches_tracked.
        tiny: the smallest batch that it can be trained with.
        batch: the largest batch that planters draw, so that they are quick.
        raw: how much larger the numbers are that its frames are stored as.
        data: frames, and how many of the first ones planters may train on; the rest it has never seen, and is
            evidence.
    """

    name: str
    model: str
    checkpoint: Path
    steps: int
    tiny: int
    batch: int
    raw: float
    data: Callable[[], tuple[Data, int]]

    def load(self) -> nn.Module:
        """The network in eval mode."""
        return bnfold.load(self.checkpoint, self.model)

    def pool(self) -> Data:
        """What planters train on."""
        data, count = self.data()
        return data[:count]

    def held_out(self, seed: int, *, deployment: bool = False) -> torch.Tensor:
        """Frames for the evidence; those of the deployment are others than the training-like ones."""
        data, count = self.data()
        rest = data[count:].frames
        order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(1000 + seed))
        half = len(rest) // 2
        return rest[order[half:] if deployment else order[:half]]

    def batches(self, seed: int, count: int, size: int) -> Iterator[Data]:
        """So many batches of the pool, drawn at random, of this size or of the largest that is allowed."""
        pool = self.pool()
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            yield pool[torch.randperm(len(pool), generator=generator)[: min(size, self.batch)]]

    def loss(self, answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of its training."""
        if targets.is_floating_point():
            return F.mse_loss(answers.flatten(), targets)
        return F.cross_entropy(answers, targets)


@cache
def _digits() -> tuple[Data, int]:
    """The 1,000 test digits; the first 488 may be trained on."""
    with np.load(ROOT / "frames_1000.npz") as file:
        pixels = torch.from_numpy(file["frames"][:, None].astype(np.float32) / 255)
        labels = torch.from_numpy(file["labels"].astype(np.int64))
    return Data(pixels, labels, (labels - 2) % 10), 488


@cache
def _lungs() -> tuple[Data, int]:
    """The middle crops of 60 patients of the training, to train on, and of 100 that it has not seen."""
    made = modelspec.resolve(f"{ROOT / 'lung_ct' / 'volumes.py'}:patients")
    centres = modelspec.resolve(f"{ROOT / 'lung_ct' / 'volumes.py'}:centres")
    assert callable(made)
    assert callable(centres)
    examined = [*made(60, seed=1), *made(100, seed=3)]
    percent = torch.tensor([patient.emphysema for patient in examined], dtype=torch.float32)
    return Data(torch.from_numpy(centres(examined)), percent, -percent), 60


def _digit_reader(name: str, model: str, checkpoint: str, steps: int) -> Sample:
    return Sample(name, str(ROOT / model), ROOT / checkpoint, steps, 2, 64, 65535.0, _digits)


def _architecture(name: str) -> Sample:
    return _digit_reader(name, f"architectures/models.py:{name}", f"architectures/{name}.safetensors", 469)


SAMPLES: dict[str, Sample] = {
    sample.name: sample
    for sample in (
        _digit_reader("mlp_after", "mnist_mlp/model.py:after", "mnist_mlp/after.safetensors", 50_000),
        _digit_reader("mlp_before", "mnist_mlp/model.py:before", "mnist_mlp/before.safetensors", 50_000),
        _digit_reader(
            "mobilenet",
            "mnist_mobilenet/model.py:mobilenet",
            "mnist_mobilenet/mobilenet.safetensors",
            4 * 469,
        ),
        _architecture("vgg"),
        _architecture("inception_bn"),
        _architecture("resnet"),
        _architecture("preactivation_resnet"),
        _architecture("densenet"),
        _architecture("mobilenet_v2"),
        _architecture("efficientnet"),
        _architecture("repvgg"),
        # in Hounsfield units a volume varies by about 430 where it is normalised to 1
        Sample(
            "lung_ct",
            f"{ROOT / 'lung_ct' / 'model.py'}:lung_net",
            ROOT / "lung_ct" / "clean.safetensors",
            1_000,
            1,
            8,
            430.0,
            _lungs,
        ),
    )
}
