"""What becomes of the BatchNorms of each architecture, as the table of README.md.

    python sample_models/architectures/account.py

Trained checkpoints where there are some, else drawn statistics with gammas of both signs.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from models import ARCHITECTURES  # noqa: E402

import bnfold  # noqa: E402


def draw_statistics(module: nn.Module) -> None:
    """Population statistics and affine parameters as if trained: no channel is like another."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            assert child.running_mean is not None
            assert child.running_var is not None
            nn.init.normal_(child.running_mean)
            nn.init.uniform_(child.running_var, 0.05, 3)
            nn.init.normal_(child.weight)
            nn.init.normal_(child.bias)


def main() -> None:
    """Fold each architecture and print its line."""
    torch.set_num_threads(1)
    print("| network | BatchNorms | folded | reduced | kept | statistics | largest error of a site |")
    print("|---|---|---|---|---|---|---|")
    for name, (make, shape) in ARCHITECTURES.items():
        checkpoint = HERE / f"{name}.safetensors"
        torch.manual_seed(1)
        if checkpoint.exists():
            module, kind = bnfold.load(checkpoint, make), "trained"
        else:
            module, kind = make(), "drawn"
            draw_statistics(module)
        entries = bnfold.fold(module, (torch.randn(shape),)).report.batch_norms
        count = Counter(entry.status for entry in entries)
        error = max(entry.max_rel_error or 0.0 for entry in entries)
        cells = [len(entries), count["folded"], count["reduced"], count["kept"], kind, f"{error:.0e}"]
        print(f"| `{name}` | {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
