"""Every BatchNorm call of a running network, by name and in order: to look at, or to answer differently.

Calls are caught at ``torch.nn.functional.batch_norm``, so a BatchNorm in a subclass, a functional one and
torch's own modules are all seen, without changing the network. A layer that computes its normalisation by
hand is not.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bnfold.statistics.layers import is_batch_norm

_OPERATOR = torch.batch_norm


class Call(NamedTuple):
    """One BatchNorm call.

    Attributes:
        name: as in the fold report: the module's path, ``path#2`` for its second call in a forward pass,
            ``<calling module>.batch_norm`` for a functional one.
        owner: the name without ``#2``.
        input: shape (frames, channels, ...).
        running_mean, running_var, weight, bias: shape (channels,), or None.
        training: whether the call asks for batch statistics.
        momentum, eps: as the call gives them.
    """

    name: str
    owner: str
    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    training: bool
    momentum: float
    eps: float

    @property
    def uses_batch(self) -> bool:
        """Whether the answer depends on the rest of the batch."""
        return self.training or self.running_mean is None or self.running_var is None

    def as_called(self) -> Tensor:
        """What the call gives, with the effect on the buffers that it would have had."""
        return functional.batch_norm(
            self.input, self.running_mean, self.running_var, self.weight, self.bias,
            self.training, self.momentum, self.eps,
        )  # fmt: skip

    def by_batch(self) -> Tensor:
        """What it gives in train mode: normalised by this batch. The buffers stay as they are.

        Raises:
            ValueError: there is one value per channel.
        """
        return functional.batch_norm(self.input, None, None, self.weight, self.bias, True, 0.0, self.eps)

    def in_eval(self) -> Tensor:
        """What it gives in eval mode: batch statistics where it asks for them. The buffers stay as they are.

        Raises:
            ValueError: it asks for batch statistics, and there is one value per channel.
        """
        return self.by_batch() if self.uses_batch else self.as_called()

    def by_statistics(self, mean: Tensor, variance: Tensor) -> Tensor:
        """What it gives in eval mode with other statistics, in shape and dtype like its own."""
        return by_statistics(self.input, self.weight, self.bias, mean, variance, self.eps)

    def values(self) -> Tensor:
        """The input as a matrix of shape (values, channels)."""
        return self.input.detach().movedim(1, -1).reshape(-1, self.input.shape[1])


def by_statistics(
    values: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> Tensor:
    """Values of shape (frames, channels, ...) normalised by statistics of shape (channels,)."""
    cudnn = values.is_cuda and torch.backends.cudnn.enabled
    return _OPERATOR(values, weight, bias, mean, variance, False, 0.0, eps, cudnn)


Answer = Callable[[Call], Tensor]
_REPLACED = threading.Lock()


@contextmanager
def answering(module: nn.Module, answer: Answer, *, named: bool = True) -> Iterator[Paths]:
    """Give every BatchNorm call inside to ``answer``; what it returns is what the network goes on with.

    Names begin anew with each call of ``module``. Not for several threads.

    Args:
        module: whose calls.
        answer: what the network is to be given.
        named: without names a pass costs next to nothing more than without this; but then a call that
            reaches the operator by any other name than ``torch.batch_norm`` is not caught. Whoever gives up
            the names compares the number of calls with that of a named pass.

    Yields:
        Which modules have run; without names, none.
    """
    if not named and _REPLACED.acquire(blocking=False):  # one thread at a time has it replaced
        try:
            with _replaced(answer):
                yield Paths()
        finally:
            _REPLACED.release()
        return
    with watching(module) as paths, _Mode(paths, answer):
        yield paths


@contextmanager
def watching(module: nn.Module) -> Iterator[Paths]:
    """Know which module is running."""
    paths = Paths()
    # Only the path is kept: registering a hook does not change what a module computes.
    handles = [handle for name, inner in module.named_modules() for handle in paths._watch(name, inner)]
    try:
        yield paths
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _replaced(answer: Answer) -> Iterator[None]:
    """``torch.batch_norm``, which all of torch's own layers end in, answered in this thread."""
    original, thread, busy = torch.batch_norm, threading.get_ident(), False

    def batch_norm(
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool,
    ) -> Tensor:
        nonlocal busy
        if busy or threading.get_ident() != thread:
            return original(
                input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled
            )
        busy = True
        try:
            return answer(
                Call("", "", input, running_mean, running_var, weight, bias, training, momentum, eps)
            )
        finally:
            busy = False

    torch.batch_norm = batch_norm
    try:
        yield
    finally:
        torch.batch_norm = original


class Paths:
    """Which module is running, which have run, and how often each name has called."""

    def __init__(self) -> None:
        self.stack: list[tuple[str, bool]] = []
        self.entered: set[str] = set()
        self.seen: Counter[str] = Counter()

    @property
    def here(self) -> str:
        """The qualified name of the module that is running; empty for the whole network, or for none."""
        return self.stack[-1][0] if self.stack else ""

    def _watch(self, name: str, module: nn.Module) -> Iterable[Any]:
        place = name, is_batch_norm(module)

        def enter(module: nn.Module, arguments: Any) -> None:
            if not self.stack:
                self.seen.clear()
            self.stack.append(place)
            self.entered.add(name)

        def leave(module: nn.Module, arguments: Any, result: Any) -> None:
            self.stack.pop()

        yield module.register_forward_pre_hook(enter)
        # Also after an exception, or the next pass would begin inside this one.
        yield module.register_forward_hook(leave, always_call=True)

    def name(self) -> tuple[str, str]:
        """The name of a call that happens now, and the name without its number."""
        path, is_module = self.stack[-1] if self.stack else ("", False)
        owner = path if is_module else f"{path}.batch_norm" if path else "batch_norm"
        self.seen[owner] += 1
        number = self.seen[owner]
        return (f"{owner}#{number}" if number > 1 else owner), owner


class _Mode(TorchFunctionMode):
    def __init__(self, paths: Paths, answer: Answer) -> None:
        super().__init__()
        self._paths = paths
        self._answer = answer

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is functional.batch_norm:
            return self._answer(self._functional(*args, **(kwargs or {})))
        if function is torch.batch_norm:  # a layer that calls the operator itself
            return self._answer(self._operator(*args, **(kwargs or {})))
        return function(*args, **kwargs) if kwargs else function(*args)

    def _functional(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Call:
        name, owner = self._paths.name()
        return Call(
            name, owner, input, running_mean, running_var, weight, bias, bool(training), momentum, eps
        )

    def _operator(
        self,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool,
    ) -> Call:
        return self._functional(input, running_mean, running_var, weight, bias, training, momentum, eps)
