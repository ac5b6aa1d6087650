"""Train the sigmoid network on MNIST three times: without BatchNorm, with it after and before the sigmoid.

    python sample_models/mnist_mlp/train.py --data FOLDER_OF_IDX_FILES

SGD without momentum, learning rate 0.01, batches of 60, 50,000 iterations: 50 epochs. Seeded: on the same
machine and torch version the same weights come out. Writes NAME.safetensors for each of the three,
curves.json (test accuracy on the way) and curves.png.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import model as networks  # noqa: E402
import training  # noqa: E402

TITLES = {
    "plain": "no BatchNorm",
    "after": "BatchNorm after the sigmoid",
    "before": "BatchNorm before the sigmoid",
}
BATCH = 60
LEARNING_RATE = 0.01

Split = tuple[torch.Tensor, torch.Tensor]  # images, labels
Curve = list[tuple[int, float]]  # iteration, share of right answers on the test images


def train(
    name: str, train_set: Split, test_set: Split, iterations: int, every: int
) -> tuple[nn.Module, Curve]:
    """The trained network, and its test accuracy every so many iterations and at the end."""
    torch.manual_seed(1)
    model: nn.Module = getattr(networks, name)().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(2)  # all three see the same batches
    images, labels = train_set
    curve: Curve = []
    order: list[torch.Tensor] = []
    for step in range(1, iterations + 1):
        if not order:  # another epoch; a last batch that is not full is left out
            order = [*torch.randperm(len(images), generator=generator).split(BATCH)][: len(images) // BATCH]
            order.reverse()
        chosen = order.pop()
        loss = F.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % every == 0 or step == iterations:
            curve.append((step, training.accuracy(model, *test_set)))
    return model.eval(), curve


def plot(curves: dict[str, Curve], path: Path) -> None:
    """Test accuracy against iterations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.8), dpi=120)
    for name, curve in curves.items():
        steps, values = zip(*curve, strict=True)
        axes.plot(steps, np.multiply(values, 100), label=TITLES[name])
    axes.set(xlabel="iterations", ylabel="test accuracy, %", xlim=(0, None), ylim=(70, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})


def main() -> None:
    """Train, save the checkpoints, the curves and the plot."""
    options = training.parser(__doc__, HERE)
    options.add_argument("--iterations", type=training.positive, default=50_000, help="default: 50000")
    options.add_argument(
        "--every", type=training.positive, default=500, help="iterations between measurements (default: 500)"
    )
    given = options.parse_args()
    torch.set_num_threads(1)
    train_set, test_set = (training.tensors(given.data, split, given.subset) for split in ("train", "test"))
    if len(train_set[0]) < BATCH:
        options.error(f"{len(train_set[0])} training images do not fill one batch of {BATCH}")
    curves: dict[str, Curve] = {}
    for name in TITLES:
        model, curves[name] = train(name, train_set, test_set, given.iterations, given.every)
        training.keep(model, given.output / f"{name}.safetensors")
        print(f"{name}: {curves[name][-1][1]:.2%} of {len(test_set[0])} test images", flush=True)
    (given.output / "curves.json").write_text(json.dumps(curves) + "\n", encoding="utf-8")
    plot(curves, given.output / "curves.png")


if __name__ == "__main__":
    main()
