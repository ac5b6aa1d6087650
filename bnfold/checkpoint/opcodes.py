"""What a pickle would build, told from its operations and without building it. Imports no torch.

torch's safe loader runs no foreign code, but it builds whatever it is told to: tuples so deep that hashing
one overflows the C stack, a few bytes that stand for gigabytes. `scan` follows the operations on a stack of
its own, which holds sizes where the loader's holds values.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

# Far above what weights need: a tensor is made from tuples in tuples in tuples.
_DEEPEST = 100
_MOST_ITEMS = 1_000_000
# What makes memory of the size it is given. Storages and tensors come from the archive, never from a call.
_ALLOCATOR = re.compile(r"(builtins|__builtin__)\.bytearray|torch\..*(Storage|Tensor)")
_TUPLES = frozenset({"EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"})
_CALLS = frozenset({"REDUCE", "NEWOBJ"})
_READS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_WRITES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


class BombError(Exception):
    """A pickle that would exhaust the machine; says how."""


@dataclass(frozen=True)
class Scan:
    """What pickles, one after the other, ask for.

    Attributes:
        names: the classes and functions, in order.
        complete: whether every pickle ends as one does; a truncated or damaged one does not.
    """

    names: list[str] = field(default_factory=list)
    complete: bool = True


@dataclass(frozen=True, slots=True)
class _Item:
    """A value on the stack: how deep tuples are nested in it, and how many items it has if all are counted.

    `value` is what decides about a call: a name, a number, a tuple's items.
    """

    depth: int = 0
    items: int = 1
    value: object = None


_PLAIN = _Item()
_MARK = _Item()


def scan(file: IO[bytes], pickles: int) -> Scan:
    """Follows so many pickles from the file's position; stops at the first one that is no pickle.

    Raises:
        BombError: tuples are nested too deeply, or hold each other too often, or memory is asked for by size.
    """
    names: list[str] = []
    try:
        for _ in range(pickles):
            _follow(file, names)
    except (ValueError, IndexError, KeyError, EOFError):  # pickletools; and a stack that runs empty
        return Scan(names, complete=False)
    return Scan(names)


def _follow(file: IO[bytes], names: list[str]) -> None:
    """One pickle, from its first operation to its last."""
    stack: list[_Item] = []
    memo: dict[int, _Item] = {}
    for step, (operation, argument, _) in enumerate(pickletools.genops(file)):
        name, place = operation.name, argument if isinstance(argument, int) else -1
        if name == "GLOBAL":
            argument = str(argument).replace(" ", ".", 1)
            names.append(argument)
        if name in _READS:
            stack.append(memo[place])
        elif name in _WRITES:
            memo[place] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        else:
            taken = _take(stack, operation.stack_before)
            if name in _CALLS:
                _check_call(*taken)
            if name in _TUPLES:
                stack.append(_tuple(taken, step))
            elif name == "MARK":
                stack.append(_MARK)
            else:
                made = _Item(value=argument) if argument is not None else _PLAIN
                stack += [made] * len(operation.stack_after)


def _take(stack: list[_Item], wanted: Sequence[Any]) -> list[_Item]:
    """Pops what an operation takes: so many values, or all down to the last mark and those below it.

    Raises:
        ValueError: a mark stands where a value should.
    """
    taken: list[_Item] = []
    for kind in reversed(wanted):
        if kind is pickletools.stackslice:
            while stack[-1] is not _MARK:
                taken.append(stack.pop())
        else:
            taken.append(stack.pop())
            if (kind is pickletools.markobject) != (taken[-1] is _MARK):
                raise ValueError("a mark where a value should be, or the other way round")
    return [item for item in reversed(taken) if item is not _MARK]


def _tuple(items: list[_Item], step: int) -> _Item:
    depth = 1 + max((item.depth for item in items), default=0)
    total = 1 + sum(item.items for item in items)
    if depth > _DEEPEST:
        raise BombError(f"more than {_DEEPEST} tuples inside each other")
    # without one tuple in several others, there cannot be more items than operations
    if total > max(_MOST_ITEMS, step):
        raise BombError(f"tuples that come to more than {_MOST_ITEMS:,} items, from {step:,} operations")
    return _Item(depth, total, tuple(item.value for item in items))


def _check_call(called: _Item, arguments: _Item) -> None:
    name = str(called.value)
    sized = isinstance(arguments.value, tuple) and any(
        isinstance(value, (int, tuple)) for value in arguments.value
    )
    if sized and _ALLOCATOR.fullmatch(name):
        raise BombError(f"memory of a size that the file chooses: {name}")
