"""Train the small MobileNetV2 on MNIST.

    python sample_models/mnist_mobilenet/train.py --data FOLDER_OF_IDX_FILES

Adam with a one-cycle learning rate, batches of 128, images shifted by up to 2 pixels. Seeded: on the same
machine and torch version the same weights come out. Writes mobilenet.safetensors.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import training  # noqa: E402
from model import mobilenet  # noqa: E402

BATCH = 128
PEAK_RATE = 4e-3
SHIFT = 2


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The batch, moved as a whole by up to two pixels along each axis; zeros come in."""
    dy, dx = (int(torch.randint(0, 2 * SHIFT + 1, (), generator=generator)) for _ in range(2))
    height, width = images.shape[-2:]
    return F.pad(images, (SHIFT,) * 4)[..., dy : dy + height, dx : dx + width]


def main() -> None:
    """Train and save the checkpoint."""
    options = training.parser(__doc__, HERE)
    options.add_argument("--epochs", type=training.positive, default=4, help="default: 4")
    given = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    images, labels = training.tensors(given.data, "train", given.subset)
    test_set = training.tensors(given.data, "test", given.subset)
    model = mobilenet().train()
    steps = -(-len(images) // BATCH) * given.epochs
    optimizer = torch.optim.Adam(model.parameters(), PEAK_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    generator = torch.Generator().manual_seed(2)
    for epoch in range(given.epochs):
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
            loss = F.cross_entropy(model(shifted(images[chosen], generator)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        reached = training.accuracy(model, *test_set)
        print(f"epoch {epoch + 1}: {reached:.2%} of {len(test_set[0])} test images", flush=True)
    training.keep(model.eval(), given.output / "mobilenet.safetensors")


if __name__ == "__main__":
    main()
