"""The two sides of a comparison, as the user names them: a module, a fold, an artifact, or an open one."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils import _pytree as pytree

from bnfold import manifest as manifest_file
from bnfold.capture import Captured, capture
from bnfold.channels_last import network_specs, of_manifest, with_order
from bnfold.errors import BnfoldError, VerifyError
from bnfold.export.tflite_inspect import operator_table
from bnfold.finding import Finding
from bnfold.fold import FoldedModule, FoldResult
from bnfold.quantize.gate import Gate
from bnfold.runtime import Model, interpreters
from bnfold.signature import TensorSpec
from bnfold.verify import kinds
from bnfold.verify.agreement import Kind
from bnfold.verify.candidates import ArtifactCandidate, Candidate, TorchCandidate, module_call, to_tensor

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Side:
    """One side.

    Attributes:
        module: a torch module, or None.
        fold: a fold result, or None.
        artifacts: an artifact in each interpreter at hand; empty for torch.
        findings: what is wrong with the artifact's file, though it can be run: it was changed.
        sha256: of the checkpoint that it comes from, where that is known.
    """

    module: nn.Module | None = None
    fold: FoldResult | None = None
    artifacts: Sequence[ArtifactCandidate] = ()
    findings: Sequence[Finding] = ()
    sha256: str | None = None

    def inputs(self) -> tuple[TensorSpec, ...] | None:
        """What it takes, in the network's order, where that is known without samples."""
        if self.fold is not None:
            return self.fold.captured.inputs
        if isinstance(self.module, FoldedModule):
            return self.module.inputs
        if not self.artifacts:
            return None
        model = self.artifacts[0].model
        return network_specs(model.inputs, of_manifest(model.manifest))

    def normalisation(self) -> dict[str, Mapping[str, Any] | None]:
        """How uint8 frames are prepared for the network, by input name; empty where nothing says so."""
        if not self.artifacts:
            return {}
        manifest = self.artifacts[0].model.manifest
        known = {entry["name"]: entry["normalisation"] for entry in manifest["inputs"]}
        return {**with_order(known, of_manifest(manifest), "NCHW")}

    def baked(self) -> dict[str, Mapping[str, Any]]:
        """The inputs whose pixels an artifact prepares itself: with which numbers."""
        known = self.normalisation().items()
        return {name: {**how, **how["baked"]} for name, how in known if how is not None and "baked" in how}

    @property
    def gate(self) -> Gate | None:
        """What a low-precision artifact is held to; None for anything else."""
        return self.artifacts[0].gate if self.artifacts else None

    def kinds(self) -> dict[str, Kind]:
        """What the outputs of a low-precision artifact are held to, by name."""
        return kinds.recorded(self.artifacts[0].model.manifest) if self.artifacts else {}

    def noise_floor(self) -> dict[str, float]:
        """What the manifest recorded, by output name."""
        return dict(self.artifacts[0].model.manifest["noise_floor"]) if self.artifacts else {}


def side(thing: Any, sha256: str | None = None) -> Side:
    """The side that ``thing`` is; an artifact given as a path is opened in every interpreter at hand.

    An artifact whose bytes were changed after it was written is opened too, with a finding that says so: what
    it computes now is just what a comparison is asked for.

    Args:
        thing: what was given.
        sha256: of the checkpoint that a module was loaded from.

    Raises:
        VerifyError: nothing that can be compared (BNF-V031).
        ArtifactError, PlatformError: an artifact that cannot be opened.
    """
    if isinstance(thing, FoldResult):
        return Side(fold=thing, sha256=sha256)
    if isinstance(thing, nn.Module):
        return Side(module=thing, sha256=sha256)
    if isinstance(thing, str | Path):
        data = manifest_file.read_bytes(thing)
        manifest, changed = manifest_file.examine(data, where=str(thing))
        try:
            return Side(
                artifacts=open_all(data, manifest), findings=changed, sha256=manifest["source"]["sha256"]
            )
        except BnfoldError as error:
            error.where = error.where or str(thing)
            raise
    if isinstance(thing, Model):
        return Side(artifacts=[ArtifactCandidate(thing)], sha256=thing.manifest["source"]["sha256"])
    raise VerifyError(
        "BNF-V031",
        f"a {type(thing).__name__} cannot be compared",
        where="reference or candidate",
        fix="give an nn.Module, a FoldResult, the path of an artifact, or an open one",
    )


def takes_pixels(one: Side, other: Side) -> Side:
    """``one`` as it compares with ``other``: a module beside an artifact that prepares pixels does so too.

    Raises:
        VerifyError: a fold, or an artifact that leaves the preparation to its caller (BNF-V032).
    """
    from bnfold.bake import prepared_inside  # it needs this module as well

    images = other.baked()
    if not images or one.baked():
        return one
    if one.module is None or isinstance(one.module, FoldedModule):
        raise VerifyError(
            "BNF-V032",
            "one side takes pixels and prepares them itself, the other takes prepared inputs",
            where=", ".join(images),
            fix="compare each with the checkpoint",
        )
    specs = other.inputs() or ()
    module = prepared_inside(one.module, images, {spec.name: spec.dtype for spec in specs})
    return replace(one, module=module)


def open_all(data: bytes, manifest: Mapping[str, Any]) -> list[ArtifactCandidate]:
    """An artifact in every interpreter at hand that it is for; at least one.

    Raises:
        ArtifactError: an interpreter does not take it (BNF-M010, BNF-M011).
        PlatformError: no interpreter is installed (BNF-P020, BNF-P021).
    """
    # a file made for the newer interpreter alone names no other; one that nobody thought of is tried
    told = {entry["runtime"] for entry in manifest["runs_on"]}
    at_hand = interpreters.at_hand(manifest["target"])
    meant = [name for name in at_hand if name in told or name != operator_table()["runtime"]]
    names: list[str | None] = [*(meant or at_hand)] or [None]
    return [ArtifactCandidate(Model(data, manifest, runtime=name), data) for name in names]


def candidates_of(
    candidate: Side, example: tuple[Any, ...] | None, outputs: tuple[TensorSpec, ...]
) -> list[Candidate]:
    """What is measured. ``example`` are a plain module's own arguments."""
    if candidate.artifacts:
        return list(candidate.artifacts)
    folded = candidate.fold.module if candidate.fold is not None else candidate.module
    if isinstance(folded, FoldedModule):
        return [TorchCandidate("fold", folded.body, folded.inputs, folded.outputs)]
    assert candidate.module is not None
    assert example is not None
    inputs = specs_of(example, candidate.module)
    return [TorchCandidate("torch", module_call(candidate.module, example), inputs, outputs)]


def captured_of(reference: Side, example: tuple[Any, ...] | None) -> Captured | None:
    """The graph of a torch reference; None for an artifact."""
    if reference.fold is not None:
        return reference.fold.captured
    if reference.module is None:
        return None
    assert example is not None
    return capture(reference.module, example)


def arguments(
    module: nn.Module, specs: tuple[TensorSpec, ...], inputs: Mapping[str, Array], others: Iterable[Side]
) -> tuple[Any, ...]:
    """A module's own arguments from one call's inputs by name.

    Nested inputs are put together as one of ``others`` (a fold of the same network) has them.

    Raises:
        VerifyError: forward has no parameter of an input's name (BNF-V032).
    """
    for other in others:
        structure = other.fold.captured.structure if other.fold is not None else None
        if isinstance(other.module, FoldedModule):
            structure = other.module.structure
        if structure is not None and structure.in_spec.num_leaves == len(specs):
            leaves = [to_tensor(inputs[spec.name]) for spec in structure.inputs]
            return tuple(pytree.tree_unflatten(leaves, structure.in_spec)[0])
    by_name = {spec.name: to_tensor(inputs[spec.name]) for spec in specs}
    try:
        return inspect.signature(module.forward).bind(**by_name).args
    except TypeError as error:
        raise VerifyError(
            "BNF-V032",
            f"forward{inspect.signature(module.forward)} does not take the inputs {', '.join(by_name)}",
            where=type(module).__name__,
            fix="give a FoldResult for nested inputs; name an artifact's inputs like forward's parameters",
        ) from error


def specs_of(example: tuple[Any, ...], module: nn.Module) -> tuple[TensorSpec, ...]:
    """The tensors among a module's own arguments, under the names that capture gives them."""
    from bnfold.capture.structure import input_name

    paths = pytree.tree_flatten_with_path((example, {}))[0]
    signature = inspect.signature(module.forward)
    return tuple(
        TensorSpec(input_name(path, signature), tuple(leaf.shape), str(leaf.dtype).removeprefix("torch."))
        for path, leaf in paths
        if isinstance(leaf, torch.Tensor)
    )
