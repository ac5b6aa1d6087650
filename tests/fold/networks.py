"""Networks with drawn statistics, and the checks that every fold must pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from bnfold import graph as g
from bnfold.fold import FoldResult, fold
from bnfold.fold.site import BATCH_NORMS
from bnfold.numerics import max_abs, max_rel_error

RUN_TIME_FREE = {
    "getitem", "reshape", "reshape_as", "view", "view_as", "flatten", "permute", "transpose", "t",
    "unsqueeze", "squeeze", "unflatten",
}  # fmt: skip


class Net(nn.Module):
    """A forward as a function of the module's layers and its input."""

    def __init__(self, run: Callable[[Any, torch.Tensor], Any], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = run

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)


def draw_statistics(module: nn.Module, seed: int = 0) -> nn.Module:
    """Population statistics and affine parameters with gammas of both signs and a zero."""
    generator = torch.Generator().manual_seed(seed)
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._NormBase) and child.running_mean is not None:
            assert child.running_var is not None
            child.running_mean.copy_(torch.randn(child.num_features, generator=generator))
            child.running_var.copy_(torch.rand(child.num_features, generator=generator) * 3 + 0.05)
            if child.weight is not None:
                with torch.no_grad():
                    child.weight.copy_(torch.randn(child.num_features, generator=generator))
                    child.weight[0] = -abs(child.weight[0]) - 0.1
                    child.bias.copy_(torch.randn(child.num_features, generator=generator))
    return module.eval()


def run_time_operators(result: FoldResult, folded: bool) -> int:
    """Operators that depend on the input, BatchNorm and pure data movement apart."""
    body = result.module.body if folded else result.captured.body
    depends: dict[Any, bool] = {}
    count = 0
    for node in body.graph.nodes:
        depends[node] = node.op == "placeholder" or any(depends[n] for n in node.all_input_nodes)
        if node.op != "call_function" or not depends[node] or node.target in BATCH_NORMS:
            continue
        count += g.operator_name(node) not in RUN_TIME_FREE
    return count


def _may_shrink(result: FoldResult) -> bool:
    """Sums of branches, the network's own multiplications, layers in a row, and what expands the matrix of a
    product over the batch may vanish as well."""
    kinds = [
        [g.operator_name(node) for node in body.graph.nodes if node.op == "call_function"]
        for body in (result.captured.body, result.module.body)
    ]
    layers = ("conv", "linear", "einsum", "matmul", "mm", "addmm", "inner", "tensordot")
    before, after = (sum(kind.startswith(layers) for kind in names) for names in kinds)
    return after < before or bool(
        {"add", "sub", "mul", "div", "neg", "rsub", "instance_norm", "bmm"} & set(kinds[0])
    )


def check_fold(module: nn.Module, result: FoldResult, args: tuple[Any, ...]) -> None:
    """Certificates, float32 outputs, structure, and the operator count behind the statuses."""
    report = result.report
    assert not [finding for finding in report.findings if finding.code.startswith("BNF-X")]
    assert report.max_rel_error is not None
    assert report.max_rel_error <= 1e-10
    extra = {"folded": 0, "reduced": 1, "kept": 2}
    left = 0
    for entry in report.batch_norms:
        if entry.status == "refused":
            continue
        assert entry.max_rel_error is not None
        assert entry.max_rel_error <= 1e-12
        assert (entry.reason is None) == (entry.status == "folded")
        left += extra[entry.status]
    more = run_time_operators(result, folded=True) - run_time_operators(result, folded=False)
    assert more <= left if _may_shrink(result) else more == left
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch itself warns of padding='same' with an even kernel
        expected, actual = module(*args), result.module(*args)
    flat_expected, spec = pytree.tree_flatten(expected)
    flat_actual, actual_spec = pytree.tree_flatten(actual)
    assert spec == actual_spec
    for e, a in zip(flat_expected, flat_actual, strict=True):
        if isinstance(e, torch.Tensor):
            assert a.dtype == e.dtype
            assert max_abs(e.numpy()) < float("inf")
            assert max_rel_error(a.numpy(), e.numpy()) < 2e-5
        else:
            assert a == e


def folded(
    module: nn.Module, x: torch.Tensor | tuple[int, ...], *, dynamic_batch: bool = False
) -> FoldResult:
    """The fold, checked on ``x``, which may be the shape of one to be drawn."""
    if isinstance(x, tuple):
        x = torch.randn(x, generator=torch.Generator().manual_seed(1))
    result = fold(module, (x,), dynamic_batch=dynamic_batch)
    check_fold(module, result, (x,))
    return result


def statuses(result: FoldResult) -> list[str]:
    """Of each BatchNorm call, in execution order."""
    return [entry.status for entry in result.report.batch_norms]
