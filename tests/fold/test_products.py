"""A product with a constant, however it is written: a BatchNorm goes into it, or nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bnfold import graph as g
from bnfold.fold import FoldResult, fold
from tests.fold.networks import Net, draw_statistics, folded, statuses

Run = Callable[[Any, torch.Tensor], torch.Tensor]


def drawn(run: Run, weight: tuple[int, ...], **layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return draw_statistics(Net(run, w=nn.Parameter(torch.randn(weight)), **layers), 5)


def operators(result: FoldResult) -> list[str]:
    """Those that depend on the input."""
    depends: set[Any] = set()
    for node in result.module.body.graph.nodes:
        if node.op == "placeholder" or depends & set(node.all_input_nodes):
            depends.add(node)
    return [g.operator_name(node) for node in depends if node.op == "call_function"]


# --- behind the product: how it is written, shape of x and of W, the axis of the BatchNorm's channels ------

BEHIND: dict[str, tuple[Run, tuple[int, ...], tuple[int, ...], int]] = {
    "x @ W": (lambda m, x: x @ m.w, (2, 3), (3, 5), 1),
    "x @ W over tokens": (lambda m, x: x @ m.w, (2, 4, 3), (3, 5), 2),
    "W @ x": (lambda m, x: m.w @ x, (2, 3, 4), (5, 3), 1),
    "mm": (lambda m, x: torch.mm(x, m.w), (2, 3), (3, 5), 1),
    "inner": (lambda m, x: torch.inner(x, m.w), (2, 3), (5, 3), 1),
    "tensordot": (lambda m, x: torch.tensordot(x, m.w, 1), (2, 3), (3, 5), 1),
    "tensordot, the weight first": (lambda m, x: torch.tensordot(m.w, x, ([1], [1])), (2, 3), (5, 3), 0),
    "tensordot of a map": (lambda m, x: torch.tensordot(x, m.w, ([1], [1])), (2, 3, 4, 6), (5, 3), 3),
    "tensordot of two axes": (
        lambda m, x: torch.tensordot(x, m.w, ([-3, -1], [2, 0])),
        (2, 3, 4, 6),
        (6, 5, 3),
        2,
    ),
    "bmm": (lambda m, x: torch.bmm(x, m.w.expand(x.shape[0], -1, -1)), (2, 4, 3), (3, 5), 2),
    "bmm, the weight first": (
        lambda m, x: torch.bmm(m.w[None].repeat(x.shape[0], 1, 1), x),
        (2, 3, 4),
        (5, 3),
        1,
    ),
    "matmul of a batch of one": (lambda m, x: x @ m.w, (2, 4, 3), (1, 3, 5), 2),
    "einsum": (lambda m, x: torch.einsum("nd,kd->nk", x, m.w), (2, 3), (5, 3), 1),
    "einsum, the weight first": (lambda m, x: torch.einsum("dk, nd -> nk", m.w, x), (2, 3), (3, 5), 1),
    "einsum, no arrow": (lambda m, x: torch.einsum("nd,dK", x, m.w), (2, 3), (3, 5), 0),
    "einsum with dots": (lambda m, x: torch.einsum("...d,dk->...k", x, m.w), (2, 4, 6, 3), (3, 5), 3),
    "einsum with dots, no arrow": (lambda m, x: torch.einsum("...d,dk", x, m.w), (2, 4, 3), (3, 5), 2),
    "einsum of a signal": (lambda m, x: torch.einsum("ncl,kc->nkl", x, m.w), (2, 3, 4), (5, 3), 1),
    "einsum of a map": (lambda m, x: torch.einsum("nchw,kc->nkhw", x, m.w), (2, 3, 4, 6), (5, 3), 1),
    "einsum of a volume": (
        lambda m, x: torch.einsum("ncdhw,kc->nkdhw", x, m.w),
        (2, 3, 4, 6, 2),
        (5, 3),
        1,
    ),
    "einsum, turned": (lambda m, x: torch.einsum("nchw,kc->nwkh", x, m.w), (2, 3, 4, 6), (5, 3), 2),
    "einsum of two axes": (lambda m, x: torch.einsum("nclt,tkc->nkl", x, m.w), (2, 3, 4, 6), (6, 5, 3), 1),
    "einsum to two axes": (lambda m, x: torch.einsum("nc,gkc->ngk", x, m.w), (2, 3), (4, 5, 3), 1),
    "einsum, its axes apart": (lambda m, x: torch.einsum("nlc,gck->nglk", x, m.w), (2, 6, 3), (4, 3, 5), 3),
    "einsum to no axis": (lambda m, x: torch.einsum("nlc,c->nl", x, m.w)[..., None], (2, 6, 3), (3,), 2),
}


@pytest.mark.parametrize("dynamic_batch", [False, True])
@pytest.mark.parametrize("how", BEHIND)
def test_behind_a_product(how: str, dynamic_batch: bool) -> None:
    product, shape, weight, axis = BEHIND[how]
    if dynamic_batch and how in ("einsum, no arrow", "tensordot, the weight first"):
        dynamic_batch = False  # the batch lies on another axis than the first: it is the BatchNorm's length

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = product(m, x)
        return torch.tanh(m.norm(y.movedim(axis, 1) if y.ndim > 2 or axis == 1 else y.T))

    with torch.no_grad():
        channels = product(drawn(run, weight), torch.randn(shape)).shape[axis]
    norms = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    rank = product(drawn(run, weight), torch.randn(shape)).ndim
    result = folded(drawn(run, weight, norm=norms[rank](channels)), shape, dynamic_batch=dynamic_batch)
    assert statuses(result) == ["folded"]
    assert not {"einsum", "tensordot", "matmul", "bmm", "mm", "inner"} & set(operators(result))


EQUAL: dict[str, tuple[Run, int]] = {
    "W @ x": (lambda m, x: m.w @ x, 3),
    "x @ W": (lambda m, x: (x @ m.w).transpose(1, 2), 3),
    "einsum of a map": (lambda m, x: torch.einsum("nchw,kc->nkhw", x, m.w), 4),
    "einsum, by columns": (lambda m, x: torch.einsum("nchw,ck->nkhw", x, m.w), 4),
    "einsum, turned": (lambda m, x: torch.einsum("nhcw,kc->nkwh", x, m.w), 4),
    "tensordot": (lambda m, x: torch.tensordot(x, m.w, ([2], [0])).transpose(1, 3), 4),
    "bmm": (lambda m, x: torch.bmm(m.w.expand(4, 4, 4), x), 3),
}


@pytest.mark.parametrize("how", EQUAL)
def test_equal_sizes(how: str) -> None:
    product, rank = EQUAL[how]
    norm = nn.BatchNorm1d(4) if rank == 3 else nn.BatchNorm2d(4)
    module = drawn(lambda m, x: torch.tanh(m.norm(product(m, x))), (4, 4), norm=norm)
    assert statuses(folded(module, (4,) * rank)) == ["folded"]


@pytest.mark.parametrize("how", ["x @ W", "W @ x"])
def test_over_the_other_axis_of_equal_sizes(how: str) -> None:
    """Its channels are not the product's rows: at most the scale goes on, into what comes before."""
    product: Run = {"x @ W": lambda m, x: x @ m.w, "W @ x": lambda m, x: (m.w @ x).transpose(1, 2)}[how]
    module = drawn(lambda m, x: torch.tanh(m.norm(product(m, torch.sin(x)))), (4, 4), norm=nn.BatchNorm1d(4))
    assert statuses(folded(module, (4, 4, 4))) == ["kept"]


# --- before the product -----------------------------------------------------------------------------------

BEFORE: dict[str, tuple[Run, tuple[int, ...], tuple[int, ...]]] = {
    "W @ x": (lambda m, x: m.w @ x, (2, 3, 4), (5, 3)),
    "bmm": (lambda m, x: torch.bmm(m.w.expand(x.shape[0], -1, -1), x), (2, 3, 4), (5, 3)),
    "einsum": (lambda m, x: torch.einsum("nd,kd->nk", x, m.w), (2, 3), (5, 3)),
    "einsum of a map": (lambda m, x: torch.einsum("nchw,kc->nkhw", x, m.w), (2, 3, 4, 6), (5, 3)),
    "einsum of all axes": (lambda m, x: torch.einsum("nchw,kchw->nk", x, m.w), (2, 3, 4, 6), (5, 3, 4, 6)),
    "einsum to no axis": (lambda m, x: torch.einsum("ncl,c->nl", x, m.w), (2, 3, 4), (3,)),
    "tensordot": (lambda m, x: torch.tensordot(x, m.w, ([1], [1])), (2, 3, 4, 6), (5, 3)),
    "equal sizes": (lambda m, x: torch.einsum("nchw,kw->nchk", x, m.w).sum(0), (4, 4, 4, 4), (4, 4)),
}


@pytest.mark.parametrize("dynamic_batch", [False, True])
@pytest.mark.parametrize("how", BEFORE)
def test_before_a_product(how: str, dynamic_batch: bool) -> None:
    product, shape, weight = BEFORE[how]
    norm = nn.BatchNorm2d(shape[1]) if len(shape) == 4 else nn.BatchNorm1d(shape[1])
    module = drawn(lambda m, x: product(m, m.norm(torch.sigmoid(x))), weight, norm=norm)
    result = folded(module, shape, dynamic_batch=dynamic_batch)
    assert statuses(result) == ["kept" if how == "equal sizes" else "folded"]


# --- what is left alone -----------------------------------------------------------------------------------

ALONE: dict[str, tuple[Run, tuple[int, ...], tuple[int, ...]]] = {
    "W @ x": (lambda m, x: m.w @ x, (2, 3, 4), (5, 3)),
    "einsum of a map": (lambda m, x: torch.einsum("nchw,kc->nkhw", x, m.w), (2, 3, 4, 6), (5, 3)),
    "einsum, turned": (lambda m, x: torch.einsum("nchw,kc->nwkh", x, m.w), (2, 3, 4, 6), (5, 3)),
    "tensordot": (lambda m, x: torch.tensordot(x, m.w, ([1], [1])), (2, 3, 4, 6), (5, 3)),
    "of one number for each batch": (lambda m, x: torch.einsum("ngc,gck->ngk", x, m.w), (2, 4, 3), (4, 3, 5)),
    "a sum over one alone": (lambda m, x: torch.einsum("ncl,kc->nk", x, m.w), (2, 3, 4), (5, 3)),
    "a diagonal": (lambda m, x: torch.einsum("ncc,kc->nk", x, m.w), (2, 3, 3), (5, 3)),
    "broadcast": (lambda m, x: torch.einsum("nc,kc->nk", x, m.w), (2, 1), (5, 3)),
    "an outer product": (lambda m, x: torch.einsum("nc,k->nck", x, m.w), (2, 3), (5,)),
    "x is broadcast": (lambda m, x: x @ m.w, (2, 3), (4, 3, 5)),
    "a matrix for each of the batch": (lambda m, x: torch.bmm(x, m.w), (2, 4, 3), (2, 3, 5)),
    "W @ x of a matrix": (lambda m, x: m.w @ x, (3, 4), (5, 3)),
}


@pytest.mark.parametrize("how", ALONE)
def test_a_product_that_nothing_is_folded_into_stays(how: str) -> None:
    product, shape, weight = ALONE[how]
    norm = nn.BatchNorm2d(3) if len(shape) == 4 else nn.BatchNorm1d(shape[1] if shape != (3, 4) else 4)
    module = drawn(lambda m, x: torch.tanh(product(m, torch.sin(m.norm(x)))), weight, norm=norm)
    result = folded(module, shape)
    before = [g.operator_name(n) for n in result.captured.body.graph.nodes if n.op == "call_function"]
    now = operators(result)
    name = next(name for name in before if name in ("einsum", "tensordot", "matmul", "bmm"))
    assert name in now
    assert not {"conv1d", "conv2d", "linear", "permute"} & set(now)


def test_a_weight_for_two_calls_has_a_version_for_each() -> None:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        a, b = (torch.einsum("nchw,kc->nkhw", one, m.w) for one in (torch.sin(x), torch.cos(x)))
        return torch.tanh(m.a(a)) * torch.tanh(m.b(b)) + torch.sigmoid(b.mean()) + m.w.sum()

    module = drawn(run, (5, 3), a=nn.BatchNorm2d(5), b=nn.BatchNorm2d(5))
    result = folded(module, (2, 3, 4, 6))
    assert statuses(result)[0] == "folded"


def test_a_matrix_that_is_computed_from_the_input_is_none() -> None:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(m.norm(torch.einsum("nd,kd->nk", x, m.w * x.mean())))

    result = folded(drawn(run, (5, 3), norm=nn.BatchNorm1d(5)), (2, 3))
    assert statuses(result) == ["kept"]
    assert "einsum" in operators(result)


def test_a_matrix_that_is_computed_from_constants_is_one() -> None:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(m.norm(torch.einsum("ncv,vw->ncw", x, torch.softmax(m.w, 0)).transpose(1, 2)))

    assert statuses(folded(drawn(run, (5, 5), norm=nn.BatchNorm1d(5)), (2, 3, 5))) == ["folded"]


@pytest.mark.parametrize("prune", [False, True])
def test_dead_channels(prune: bool) -> None:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(m.norm(torch.einsum("nchw,gkc->ngkhw", x, m.w).flatten(1, 2)))
        return m.last(y)

    module = drawn(run, (2, 5, 3), norm=nn.BatchNorm2d(10), last=nn.Conv2d(10, 2, 1))
    with torch.no_grad():
        module.norm.weight[4] = 0
    x = torch.randn(2, 3, 4, 6)
    result = fold(module, (x,), prune=prune)
    assert statuses(result) == ["folded"]
    assert not [finding for finding in result.report.findings if finding.code.startswith("BNF-X")]
    torch.testing.assert_close(result.module(x), module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    product = lambda m, x: torch.tanh(m.norm(torch.einsum("nchw,kc->nkhw", x, m.w)))  # noqa: E731
    module = drawn(product, (5, 3), norm=nn.BatchNorm2d(5)).to(dtype)
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    result = fold(module, (x,))
    assert statuses(result) == ["folded"]
    answer, exact = result.module(x), module.double()(x.double())
    assert answer.dtype == dtype
    assert (answer.double() - exact).abs().max() / exact.abs().max() < 16 * torch.finfo(dtype).eps


def test_the_weight_is_the_matrix_times_the_scale() -> None:
    product = lambda m, x: m.norm(torch.einsum("nchw,ck->nkhw", x, m.w))  # noqa: E731
    module = drawn(product, (3, 5), norm=nn.BatchNorm2d(5))
    stored = {tensor.ndim: tensor for tensor in folded(module, (2, 3, 4, 6)).module.state_dict().values()}
    norm = module.double().norm
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    assert torch.equal(stored[4], (module.w.T * scale[:, None])[:, :, None, None].float())
    assert torch.equal(stored[1], (norm.bias - norm.running_mean * scale).float())


def test_a_graph_of_several_kinds_of_edges() -> None:
    """A spatial-temporal graph convolution: the scale passes the sum over the edges, into the convolution."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.conv(x).unflatten(1, (3, 5))
        return torch.tanh(m.norm(torch.einsum("nkctv,kvw->nctw", y, m.w * m.importance)))

    torch.manual_seed(0)
    layers = {"conv": nn.Conv2d(4, 15, 1), "norm": nn.BatchNorm2d(5)}
    edges = {"w": nn.Parameter(torch.rand(3, 6, 6)), "importance": nn.Parameter(torch.randn(3, 6, 6))}
    result = folded(draw_statistics(Net(run, **layers, **edges), 5), (2, 4, 7, 6))
    (entry,) = result.report.batch_norms
    assert (entry.status, entry.into) == ("reduced", ["conv"])
    assert "einsum" in operators(result)  # the edges are as they were
