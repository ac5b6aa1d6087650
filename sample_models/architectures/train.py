"""Train eight of the architectures on MNIST, one after the other.

    python sample_models/architectures/train.py --data FOLDER_OF_IDX_FILES

Adam with a one-cycle learning rate, batches of 128. Every network starts from the same seed: on the same
machine and torch version the same weights come out. Writes NAME.safetensors for each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import training  # noqa: E402
from models import ARCHITECTURES  # noqa: E402
from torch import nn  # noqa: E402

TRAINED = (
    "vgg",
    "inception_bn",
    "resnet",
    "preactivation_resnet",
    "densenet",
    "mobilenet_v2",
    "efficientnet",
    "repvgg",
)
BATCH = 128
PEAK_RATE = 1e-2


def train(images: torch.Tensor, labels: torch.Tensor, model: nn.Module, epochs: int) -> None:
    """Train the model in place; it is left in training mode."""
    steps = -(-len(images) // BATCH) * epochs
    optimizer = torch.optim.Adam(model.parameters(), PEAK_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    generator = torch.Generator().manual_seed(2)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
            loss = F.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def main() -> None:
    """Train each network, save its checkpoint and say how many test images it gets right."""
    options = training.parser(__doc__, HERE)
    options.add_argument("--epochs", type=training.positive, default=1, help="default: 1")
    options.add_argument("--only", choices=TRAINED, help="train this one only")
    given = options.parse_args()
    torch.set_num_threads(1)
    train_set = training.tensors(given.data, "train", given.subset)
    test_set = training.tensors(given.data, "test", given.subset)
    for name in [given.only] if given.only else TRAINED:
        torch.manual_seed(1)
        model = ARCHITECTURES[name][0]()
        started = time.perf_counter()
        train(*train_set, model, given.epochs)
        seconds = time.perf_counter() - started
        reached = training.accuracy(model, *test_set)
        print(f"{name}: {reached:.2%} of {len(test_set[0])} test images", flush=True)
        print(f"{name}: {seconds:.0f} seconds", file=sys.stderr, flush=True)
        training.keep(model.eval(), given.output / f"{name}.safetensors")


if __name__ == "__main__":
    main()
