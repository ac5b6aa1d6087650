"""Does an answer depend on the rest of the batch, and which layer makes it so?

The comparison itself is that of `bnfold.verify.batch`: a frame alone, in a batch, in another order, twice,
and next to outliers. Here it is run on the module as it is, and the layer is looked for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bnfold.capture.structure import output_names
from bnfold.finding import Finding
from bnfold.signature import TensorSpec
from bnfold.statistics.audit import owner
from bnfold.statistics.batches import Batch
from bnfold.statistics.causes import BATCH_DEPENDENT
from bnfold.statistics.observe import Call, answering, watching
from bnfold.verify import batch as comparison
from bnfold.verify import parity
from bnfold.verify.parity import Bound

_FRAMES = 4
_NOISE = 1e-5
"""Of the largest output, where float64 cannot tell what rounding costs."""


def dependence(module: nn.Module, batch: Batch) -> list[Finding]:
    """An error (BNF-A015) where an answer depends on its batch, with the layer; else nothing, or a note.

    Args:
        module: in eval mode.
        batch: finite frames; the first few are used.
    """
    if not batch.batched:
        return []
    few = batch.select(range(min(_FRAMES, batch.frames)))
    runner = _Runner(module, few)
    calls = [runner.inputs(index) for index in range(few.frames)]
    with torch.no_grad():
        users = _using_batch(module, few)
        try:
            runner.run(calls[0])
        except Exception as error:  # the user's forward; whether it takes a batch is what `check` finds out
            users = users or [_raised_in(module, few)]
            found = comparison.check(runner, runner.specs(), (), calls, {})  # type: ignore[arg-type]
            return [_placed(one, users[0] or one.where, users, str(error)) for one in found]
        outputs = runner.outputs()
        bounds = runner.bounds(calls)
        found = comparison.check(runner, runner.specs(), outputs, calls, bounds)  # type: ignore[arg-type]
        errors = [one for one in found if one.code == BATCH_DEPENDENT.code]
        rest = [one for one in found if one not in errors]
        if users:
            where = users[0]
        elif errors:
            where = _first_dependent(module, few)
        else:
            return rest
    if not errors:
        return [_unseen(users), *rest]
    first = _placed(errors[0], where or errors[0].where, users)
    outputs_hit = [one.where for one in errors]
    return [replace(first, evidence={**first.evidence, "outputs": outputs_hit}), *rest]


def _unseen(users: list[str]) -> Finding:
    return Finding(
        BATCH_DEPENDENT.code,
        "error",
        users[0],
        "batch statistics are used in eval mode, though no answer to these frames shows it",
        {"layer": owner(users[0]), "layers": users},
        "give the layer population statistics: track_running_stats=True, then recalibrate",
    )


def _placed(finding: Finding, where: str, users: list[str], raised: str = "") -> Finding:
    """The finding at the layer that is to blame."""
    evidence = {**finding.evidence, "layer": owner(where), "layers": users}
    if raised:
        evidence["raised"] = raised
    message = finding.message
    if users:
        message += f"; {where} normalises with the batch"
    elif where != finding.where:
        message += f"; it begins in {where}"
    return replace(finding, where=where, message=message, evidence=evidence)


def _using_batch(module: nn.Module, batch: Batch) -> list[str]:
    """The BatchNorm calls that use batch statistics, by name."""
    names: dict[str, None] = {}

    def look(call: Call) -> Tensor:
        if call.uses_batch:
            names[call.name] = None
        return call.as_called()

    try:
        with answering(module, look):
            batch.run(module)
    except Exception:
        # what forward raises on a batch is told by whoever runs it for its answer
        return list(names)
    return list(names)


def _raised_in(module: nn.Module, batch: Batch) -> str:
    """The path of the module in which forward fails on a single frame."""
    place = ""

    class Note(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            nonlocal place
            place = paths.here
            return function(*args, **(kwargs or {}))

    with watching(module) as paths, Note():
        try:
            batch.select([0]).run(module)
        except Exception:
            return place
    return ""


def _first_dependent(module: nn.Module, batch: Batch) -> str:
    """The first module whose result for the first frame is another in the batch than alone."""
    alone = _results(module, batch.select([0]))
    together = _results(module, batch)
    for name, value in alone.items():
        other = together.get(name)
        if other is None or other.ndim != value.ndim or len(other) != batch.frames or len(value) != 1:
            continue
        distance = float((other[:1] - value).abs().max())
        if not distance <= 100 * _NOISE * float(value.abs().max()):
            return name
    return ""


def _results(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The first result of every module, in the order that they finish."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, inputs: Any, result: Any) -> None:
            if isinstance(result, Tensor) and result.is_floating_point() and result.ndim and result.numel():
                seen.setdefault(name, result.detach().double())

        return hook

    handles = [part.register_forward_hook(keep(name)) for name, part in module.named_modules() if name]
    try:
        batch.run(module)
    finally:
        for handle in handles:
            handle.remove()
    return seen


@dataclass
class _Runner:
    """A module and its own arguments, behind the face of `bnfold.verify.candidates.Candidate`."""

    module: nn.Module
    batch: Batch
    kind: str = "torch"
    runtime: str = "torch"
    _last: list[tuple[str, NDArray[Any]]] = field(default_factory=list)

    def specs(self) -> tuple[TensorSpec, ...]:
        """One for each tensor among the arguments, with a batch of one."""
        return tuple(
            TensorSpec(str(i), (1, *leaf.shape[1:]), str(leaf.dtype).removeprefix("torch."))
            for i, leaf in enumerate(self._leaves(self.batch))
        )

    def inputs(self, frame: int) -> dict[str, NDArray[Any]]:
        """One frame's arrays."""
        alone = self.batch.select([frame])
        return {str(i): leaf.cpu().numpy() for i, leaf in enumerate(self._leaves(alone))}

    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the last run gave."""
        return tuple(TensorSpec(name, array.shape, array.dtype.name) for name, array in self._last)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The tensors of the result by their key path."""
        return self._run(self.module, inputs, double=False)

    def bounds(self, calls: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, Bound]:
        """What rounding costs: the network against itself in float64, where it runs in it."""
        here = [self.run(call) for call in calls]
        try:
            twin = copy.deepcopy(self.module).double()
            there = [self._run(twin, call, double=True) for call in calls]
        except Exception:  # a dtype that forward itself fixes; then a share of the largest value has to do
            there = []
        bounds = {}
        for spec in self.outputs():
            exact = parity.is_exact(spec.dtype)
            largest = max(float(np.abs(one[spec.name]).max(initial=0)) for one in here)
            noise = _NOISE * largest
            if there:
                pairs = zip(here, there, strict=True)
                noise = max(parity.error(a[spec.name], b[spec.name], exact=exact) for a, b in pairs)
            bounds[spec.name] = parity.bound(noise, largest, exact=exact)
        return bounds

    def _run(self, module: nn.Module, inputs: Mapping[str, NDArray[Any]], *, double: bool) -> dict[str, Any]:
        arguments = (self.batch.arguments, dict(self.batch.keywords))
        leaves, structure = pytree.tree_flatten(arguments)
        rest = iter(inputs[str(i)] for i in range(len(inputs)))
        filled = [
            self._tensor(next(rest), leaf, double) if isinstance(leaf, Tensor) else leaf for leaf in leaves
        ]
        args, keywords = pytree.tree_unflatten(filled, structure)
        result = module(*args, **keywords)
        leaves, structure = pytree.tree_flatten(result)
        named = [
            (name, leaf.detach().cpu().numpy())
            for name, leaf in zip(output_names(structure), leaves, strict=True)
            if isinstance(leaf, Tensor)
        ]
        self._last = named
        return dict(named)

    def _tensor(self, array: NDArray[Any], like: Tensor, double: bool) -> Tensor:
        dtype = torch.float64 if double and like.is_floating_point() else like.dtype
        return torch.from_numpy(np.ascontiguousarray(array)).to(like.device, dtype)

    def _leaves(self, batch: Batch) -> list[Tensor]:
        leaves = pytree.tree_leaves((batch.arguments, dict(batch.keywords)))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
