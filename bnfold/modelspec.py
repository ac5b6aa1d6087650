"""From ``FILE.py:NAME`` or ``pkg.mod:NAME`` and arguments to a module; imports and runs the user's code."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bnfold.errors import UsageError
from bnfold.wording import clip, clip_path, close, count, first_line

if TYPE_CHECKING:
    from torch import nn

_FORMS = "FILE.py:NAME or pkg.mod:NAME, where NAME is a class or a function that returns an nn.Module"
Arguments = Mapping[str, Any] | Sequence[Any] | str | None


def build(model: nn.Module | Callable[..., nn.Module] | str, model_args: Arguments = None) -> nn.Module:
    """The module that `model` is or makes. A module handed over is returned itself, not copied.

    Args:
        model: a module, a class or function that makes one, or ``FILE.py:NAME`` / ``pkg.mod:NAME``.
        model_args: keyword arguments (a mapping), positional ones (a sequence), or either as JSON text.

    Raises:
        UsageError: U040 (no such form), U041 (file missing), U042 (package missing), U043 (the import
            failed), U044 (name missing), U045 (not callable), U046 (the constructor failed), U047 (it
            returned something else), U048 (arguments do not fit), U049 (arguments are no JSON).
    """
    from torch import nn

    target = resolve(model) if isinstance(model, str) else model
    label = model if isinstance(model, str) else getattr(model, "__qualname__", type(model).__qualname__)
    args, kwargs = _arguments(model_args)
    if isinstance(target, nn.Module):
        if args or kwargs:
            raise UsageError(
                "BNF-U048",
                f"{clip(label)} is a module already, and takes no arguments",
                where=f"model_args {clip(model_args)}",
                fix="leave --model-args out, or name the class",
            )
        return target
    if isinstance(target, ModuleType):
        raise _a_python_module(label, target)
    if not callable(target):
        raise UsageError(
            "BNF-U045",
            f"{clip(label)} is a {type(target).__name__}: not a class, a function or a module",
            where=clip(repr(target)),
            fix=_FORMS,
        )
    _check_arguments(target, label, args, kwargs)
    try:
        made = target(*args, **kwargs)
    except (Exception, SystemExit) as error:  # the user's code
        raise UsageError(
            "BNF-U046",
            f"{clip(label)} could not be made: {first_line(error)}",
            where=_place(error, _source(target)),
            fix="run it alone in Python; give what its constructor needs by --model-args JSON",
        ) from error
    if not isinstance(made, nn.Module):
        raise UsageError(
            "BNF-U047",
            f"{clip(label)} returned a {type(made).__name__}, not an nn.Module",
            where=f"{clip(label)}(...) -> {clip(repr(made), 60)}",
            fix=_FORMS,
        )
    return made


def resolve(spec: str) -> object:
    """What ``FILE.py:NAME`` or ``pkg.mod:NAME`` names; NAME may have dots.

    Raises:
        UsageError: U040 to U044.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name or not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(
            "BNF-U040",
            "the model is not named in a form that can be found",
            where=f'"{clip(spec)}"',
            fix=_FORMS,
        )
    if _is_file(place):
        module = _from_file(Path(place))
    else:
        module = _from_package(place)
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise _no_such_name(spec, found, part)
        found = getattr(found, part)
    return found


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        near = close(path.name, beside)
        raise UsageError(
            "BNF-U041",
            f"there is no model file {clip_path(path.name)}",
            where=clip_path(path),
            fix=f"did you mean {clip_path(path.parent / near[0])}?" if near else "check the path",
        )
    source = path.resolve()
    # A name of its own: the file must not stand in for an installed package that is called the same
    name = f"bnfold_model_{source.stem}"
    found = importlib.util.spec_from_file_location(name, source)
    if found is None or found.loader is None:
        raise UsageError(
            "BNF-U040", f"{clip_path(path.name)} is no Python source file", where=clip_path(path), fix=_FORMS
        )
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        with importable(source.parent):
            found.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code
        sys.modules.pop(name, None)
        raise _import_failed(clip_path(path.name), error, source) from error
    return module


def _from_package(name: str) -> ModuleType:
    try:
        with importable(Path.cwd()):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise _import_failed(name, error, None) from error
        raise UsageError(
            "BNF-U042",
            f"there is no module {clip(error.name)} to import",
            where=f'model "{clip(name)}"; looked in this folder and in this Python\'s packages',
            fix="run bnfold where it can be imported, or give the file: FILE.py:NAME",
        ) from error
    except (Exception, SystemExit) as error:  # the user's code
        raise _import_failed(name, error, None) from error


def home(spec: str) -> Path:
    """The folder that the model's imports are looked up in: its file's, or the current one for a package."""
    place = spec.rpartition(":")[0]
    return Path(place).resolve().parent if _is_file(place) else Path.cwd()


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place or "\\" in place


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """The folder first on sys.path while the user's code is imported, and last from then on.

    First, as for a script, so that its neighbours are found; last, because models import neighbours in
    forward as well, but must not shadow what bnfold still has to import.
    """
    text = str(folder)
    sys.path.insert(0, text)
    try:
        yield
    finally:
        sys.path.remove(text)
        if text not in sys.path:
            sys.path.append(text)


def _import_failed(what: str, error: BaseException, source: Path | None) -> UsageError:
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = clip(error.name.partition(".")[0], 40)
        fix = f"install {missing} in this environment, or run bnfold in the model's own"
    elif isinstance(error, ImportError) and "relative import" in str(error):
        fix = "it belongs to a package: give it as pkg.mod:NAME, from the folder that holds pkg"
    else:
        fix = "make the file importable: python FILE.py must pass without side effects"
    return UsageError(
        "BNF-U043",
        f"importing {clip(what)} failed: {first_line(error)}",
        where=_place(error, source),
        fix=fix,
    )


def _place(error: BaseException, source: Path | None) -> str:
    """``net.py:41  self.conv = nn.Conv2d(...)``: the innermost line of the user's own file."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{clip_path(Path(error.filename).name, 60)}:{error.lineno}  {clip(error.text or '')}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [frame for frame in frames if source is not None and Path(frame.filename) == source]
    foreign = [f for f in frames if "importlib" not in f.filename and "site-packages" not in f.filename]
    chosen = (own or foreign or frames)[-1:]
    return "".join(f"{clip_path(Path(f.filename).name, 60)}:{f.lineno}  {clip(f.line or '')}" for f in chosen)


def _source(target: object) -> Path | None:
    try:
        found = inspect.getsourcefile(target)  # type: ignore[arg-type]
    except TypeError:  # a builtin, a partial: it has no file
        return None
    return Path(found) if found else None


def _models(members: Mapping[str, Any]) -> list[str]:
    """The classes and functions of a Python module that may be or make a network, if they are its own."""
    from torch import nn

    return [
        name
        for name, value in members.items()
        if not name.startswith("_")
        and ((inspect.isclass(value) and issubclass(value, nn.Module)) or inspect.isfunction(value))
        and value.__module__ == members.get("__name__")
    ]


def _a_python_module(label: str, found: ModuleType) -> UsageError:
    models = _models(vars(found))
    return UsageError(
        "BNF-U045",
        f"{clip(label)} is a Python module: a file or a package, not a network",
        where=f"it has {', '.join(models[:5])}" if models else "it has no class or function of its own",
        fix=f"--model {clip(found.__name__)}:{models[0]}" if models else _FORMS,
    )


def _has_submodule(package: ModuleType, name: str) -> bool:
    """Whether ``name`` is a file or a folder of this package; nothing is imported."""
    folders = getattr(package, "__path__", ())
    return any(
        (Path(folder) / f"{name}.py").is_file() or (Path(folder) / name).is_dir() for folder in folders
    )


def _no_such_name(spec: str, inside: object, part: str) -> UsageError:
    members: dict[str, Any] = getattr(inside, "__dict__", {})
    if isinstance(inside, ModuleType) and _has_submodule(inside, part):
        return UsageError(
            "BNF-U045",
            f"{clip(spec)} is a Python module: a file or a package, not a network",
            where=clip(f"{inside.__name__}.{part}"),
            fix=f"--model {clip(f'{inside.__name__}.{part}')}:NAME, a class or a function in it",
        )
    models = _models(members)
    public = [name for name in members if not name.startswith("_")]
    near = close(part, public) or models[:5]
    head = spec.rpartition(":")[0]
    return UsageError(
        "BNF-U044",
        f"{clip_path(head)} has no {clip(part)}",
        where=f"it has {', '.join(models[:5])}" if models else f"it has {count(len(public), 'public name')}",
        fix=f"--model {clip_path(head)}:{near[0]}" if near else _FORMS,
    )


def _arguments(model_args: Arguments) -> tuple[list[Any], dict[str, Any]]:
    given: object = model_args
    if isinstance(model_args, str):
        try:
            given = json.loads(model_args)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                "BNF-U049",
                "the model's arguments are no JSON",
                where=f"{clip(model_args)}: {clip(error)}",
                fix="""--model-args '{"num_classes": 10}'""",
            ) from error
    if given is None:
        return [], {}
    if isinstance(given, Mapping):
        return [], {str(key): value for key, value in given.items()}
    if isinstance(given, Sequence) and not isinstance(given, str):
        return list(given), {}
    raise UsageError(
        "BNF-U049",
        f"the model's arguments are neither an object nor an array, but {type(given).__name__}",
        where=clip(model_args),
        fix="""--model-args '{"num_classes": 10}'""",
    )


def _check_arguments(
    target: Callable[..., object], label: str, args: list[Any], kwargs: dict[str, Any]
) -> None:
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # a builtin without a signature: calling it tells
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(
            "BNF-U048",
            f"the arguments do not fit {clip(label, 60)}: {clip(error)}",
            where=clip(f"{label.rpartition(':')[2]}{signature}", 160),
            fix="""--model-args '{"NAME": VALUE}' gives keywords, '[VALUE]' positions""",
        ) from error
