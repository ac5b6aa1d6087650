"""A state dict against a module: whether it fits, all said before anything is written; then filling it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bnfold.checkpoint import keys, renaming
from bnfold.errors import CheckpointError
from bnfold.finding import Finding
from bnfold.wording import clip, count, first_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_SHOWN = 3
_COUNTER = "num_batches_tracked"


@dataclass
class Plan:
    """What to copy into a module, and what to tell the user about it."""

    entries: dict[str, Tensor]
    notes: list[Finding] = field(default_factory=list)


def fit(entries: dict[str, Tensor], module: nn.Module, *, file: str, strip_prefix: str | None = None) -> Plan:
    """Compares keys, shapes and dtypes; touches nothing.

    A checkpoint of before torch 0.4.1 has no ``num_batches_tracked``, and some models have none: it counts
    training steps and does not influence inference, so it may be missing or superfluous. Floating-point
    entries may have another floating-point dtype than the model's.

    Args:
        entries: tensors by key.
        module: the model to fill.
        file: the checkpoint's name, for messages.
        strip_prefix: use the entries whose key begins with it, without it.

    Raises:
        CheckpointError: L010 to L013, L016, L019, L035 to L038.
    """
    own = {key: value for key, value in module.state_dict(keep_vars=True).items() if _is_tensor(value)}
    notes: list[Finding] = []
    if strip_prefix:
        entries = keys.strip(entries, strip_prefix, file, notes)
    if entries.keys() != own.keys():
        entries = renaming.as_now(entries, module)
    tied = keys.tied(own)
    missing = [key for key in own if key not in entries]
    counters = [key for key in missing if key.rpartition(".")[2] == _COUNTER]
    stored_once = [key for key in missing if any(other in entries for other in tied.get(key, ()))]
    missing = [key for key in missing if key not in {*counters, *stored_once}]
    unexpected = [key for key in entries if key not in own]
    idle = [key for key in unexpected if key.rpartition(".")[2] == _COUNTER]
    unexpected = [key for key in unexpected if key not in set(idle)]
    if missing or unexpected:
        raise keys.mismatch(list(entries), list(own), missing, unexpected, file)
    if counters or idle:
        notes.append(_counter_note(file, counters, idle))
    if stored_once:
        notes.append(_tied_note(stored_once, tied))
        source = {key: next(other for other in tied[key] if other in entries) for key in stored_once}
        # under both names: what load_state_dict copies last decides
        entries = {**entries, **{key: entries[other] for key, other in source.items()}}
    used = {key: entries[key] for key in own if key in entries}
    _check_layouts(used, own, file)
    _check_shapes(used, own, file)
    casts = _check_dtypes(used, own, file)
    _check_ties(used, tied, file)
    return Plan(
        {key: _reshape_counter(key, value, own[key]) for key, value in used.items()}, [*notes, *casts]
    )


def fill(module: nn.Module, entries: dict[str, Tensor], *, file: str, restore: bool = True) -> None:
    """Copies the entries into the module; if the module refuses, it is left as it was.

    Args:
        module: the model to fill.
        entries: tensors that fit it, as `fit` plans them.
        file: the checkpoint's name, for messages.
        restore: keep a copy of the module's values, to put back if it refuses; needless for a module that
            nobody else holds.

    Raises:
        CheckpointError: L039, the module's own loading code (a hook, an override) failed.
    """
    import torch

    current = module.state_dict()
    before = {
        key: value.detach().clone()
        for key, value in current.items()
        if restore and _is_tensor(value) and not torch.nn.parameter.is_lazy(value)
    }
    absent = {key: value for key, value in current.items() if key not in entries}
    try:
        module.load_state_dict({**absent, **entries}, strict=True)
    except Exception as error:  # hooks and overrides are the user's code
        with torch.no_grad():
            for key, value in module.state_dict().items():
                if key in before:
                    value.copy_(before[key])
        raise CheckpointError(
            "BNF-L039",
            f"the model's own loading code rejects {clip(file)}, though keys, shapes and dtypes fit",
            where=first_line(error, 150),
            fix="look at its _load_from_state_dict, load_state_dict and hooks: they are the model's own code",
        ) from error


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def unusual(value: Tensor) -> str:
    """What keeps a tensor from being a dense array of numbers; empty where nothing does."""
    import torch

    if value.is_nested:
        return "nested (of rows of different lengths)"
    if value.layout is not torch.strided:
        return "sparse"
    if value.is_quantized:
        return "quantized"
    return "without data (meta device)" if value.is_meta else ""


def _check_layouts(entries: dict[str, Tensor], own: dict[str, Tensor], file: str) -> None:
    for key, value in entries.items():
        strange = unusual(value)
        if strange:
            raise CheckpointError(
                "BNF-L038",
                f'"{clip(key)}" in {clip(file)} is {strange}',
                where=f"dtype {_short(value.dtype)}",
                fix="save dense float tensors: value.to_dense(), .dequantize(), .to_padded_tensor(0)",
            )
    empty = [key for key, value in own.items() if value.is_meta]
    if empty:
        raise CheckpointError(
            "BNF-L038",
            f'"{clip(empty[0])}" of the model is without data (meta device)',
            where=f"{count(len(empty), 'tensor')} of {len(own):,}",
            fix="make the model on the CPU: model.to_empty(device='cpu')",
        )


def _check_shapes(entries: dict[str, Tensor], own: dict[str, Tensor], file: str) -> None:
    import torch

    wrong = [
        (key, tuple(value.shape), tuple(own[key].shape))
        for key, value in entries.items()
        if not torch.nn.parameter.is_lazy(own[key])
        and value.shape != own[key].shape
        and not (key.endswith(_COUNTER) and value.numel() == 1)
    ]
    if not wrong:
        return
    shown = "; ".join(
        f'"{clip(key, 40)}" {_sizes(got)}, model {_sizes(want)}' for key, got, want in wrong[:2]
    )
    more = f"; {len(wrong) - 2} more" if len(wrong) > 2 else ""
    raise CheckpointError(
        "BNF-L012",
        f"{len(wrong):,} of {count(len(entries), 'tensor')} "
        f"in {clip(file, 40)} {'has' if len(wrong) == 1 else 'have'} another shape than in the model",
        where=clip(f"checkpoint {shown}{more}", 190),
        fix="make the model as in training (widths, number of classes): --model-args JSON",
    )


def _check_dtypes(entries: dict[str, Tensor], own: dict[str, Tensor], file: str) -> list[Finding]:
    """Refuses what would change a value's meaning; returns notes on floats that are widened or rounded."""
    import torch

    widened: list[str] = []
    rounded: list[str] = []
    for key, value in entries.items():
        have, want = value.dtype, own[key].dtype
        if have == want or key.rpartition(".")[2] == _COUNTER:
            continue
        if _is_integer(have) and _is_integer(want) and bool((value.to(want).to(have) == value).all()):
            widened.append(key)
            continue
        if not (have.is_floating_point and want.is_floating_point):
            raise CheckpointError(
                "BNF-L013",
                f'"{clip(key)}" is {_short(have)} in {clip(file, 40)} and {_short(want)} in the model',
                where=f"{count(_kinds_differ(entries, own), 'tensor')} with a dtype of another kind",
                fix="save the weights as float32; a quantized or integer checkpoint: dequantize it first",
            )
        if _contains(want, have):
            widened.append(key)
            continue
        rounded.append(key)
        finite = _is_finite(value)
        # float8 ends at its largest value where others go to infinity
        beyond = value.double().abs() > torch.finfo(want).max * (1 + torch.finfo(want).eps)
        lost = int((finite & (beyond | ~_is_finite(value.to(want)))).sum())
        if lost:
            largest = float(value.double()[finite].abs().max())
            raise CheckpointError(
                "BNF-L019",
                f'{count(lost, "value")} of "{clip(key)}" would overflow as {_short(want)}',
                where=f"{_short(have)} in {clip(file, 60)}; the largest magnitude is {largest:.3g}, "
                f"{_short(want)} ends at {torch.finfo(want).max:.3g}",
                fix=f"make the model in {_short(have)}, or repair the checkpoint",
            )
    return [
        *_cast_note("BNF-L102", "widened exactly", widened, entries, own, file),
        *_cast_note("BNF-L103", "rounded", rounded, entries, own, file),
    ]


def _cast_note(
    code: str, what: str, names: list[str], entries: dict[str, Tensor], own: dict[str, Tensor], file: str
) -> list[Finding]:
    if not names:
        return []
    pairs = sorted({f"{_short(entries[key].dtype)} to {_short(own[key].dtype)}" for key in names})
    return [
        Finding(
            code,
            "info",
            names[0],
            f"{count(len(names), 'tensor')} of {clip(file)} {what} from {', '.join(pairs)}",
            {"tensors": len(names), "casts": pairs},
        )
    ]


def _contains(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether every value of the one floating-point dtype is a value of the other."""
    import torch

    w, n = torch.finfo(wide), torch.finfo(narrow)
    return w.max >= n.max and w.eps <= n.eps and w.smallest_normal <= n.smallest_normal


def _is_finite(value: Tensor) -> Tensor:
    import torch

    return torch.isfinite(value.float() if value.element_size() == 1 else value)  # float8 has no isfinite


def _is_integer(dtype: torch.dtype) -> bool:
    import torch

    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def _kinds_differ(entries: dict[str, Tensor], own: dict[str, Tensor]) -> int:
    return sum(
        value.dtype != own[key].dtype
        and not (value.dtype.is_floating_point and own[key].dtype.is_floating_point)
        and key.rpartition(".")[2] != _COUNTER
        for key, value in entries.items()
    )


def _check_ties(entries: dict[str, Tensor], tied: dict[str, tuple[str, ...]], file: str) -> None:
    for key, others in tied.items():
        for other in others:
            if key < other and key in entries and other in entries:
                a, b = entries[key], entries[other]
                if a.data_ptr() != b.data_ptr() and not _same_bits(a, b):
                    raise CheckpointError(
                        "BNF-L035",
                        f"{clip(file)} has two values for one parameter that the model shares",
                        where=f'"{clip(key)}" and "{clip(other)}" differ',
                        fix="were they separate in training? make the model as it was then",
                    )


def _same_bits(a: Tensor, b: Tensor) -> bool:
    import torch

    return a.shape == b.shape and bool(torch.all((a == b) | ((a != a) & (b != b))))


def _counter_note(file: str, missing: list[str], idle: list[str]) -> Finding:
    names = missing or idle
    verb = "is" if len(names) == 1 else "are"
    what = f"{verb} not in" if missing else f"{verb} only in"
    return Finding(
        "BNF-L104",
        "info",
        names[0],
        f"{count(len(names), _COUNTER + ' counter')} {what} {clip(file)}; inference does not use them",
        {"missing": len(missing), "superfluous": len(idle)},
    )


def _tied_note(names: list[str], tied: dict[str, tuple[str, ...]]) -> Finding:
    return Finding(
        "BNF-L106",
        "info",
        names[0],
        f"{count(len(names), 'shared parameter')} stored once: {names[0]} is {tied[names[0]][0]}",
        {"tied": names},
    )


def _reshape_counter(key: str, value: Tensor, own: Tensor) -> Tensor:
    """Averaging scripts leave num_batches_tracked as a float, old torch as shape (1,)."""
    if key.rpartition(".")[2] != _COUNTER or (value.dtype == own.dtype and value.shape == own.shape):
        return value
    return value.reshape(own.shape).to(own.dtype)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else "scalar"
