"""Names of an earlier version of a model, which its own hooks translate when it is loaded.

``torch.nn.utils.parametrizations.weight_norm`` takes ``weight_g`` and ``weight_v``, as they were called
before, and so do the hooks of many models that have been rewritten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def as_now(entries: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The entries under the names that the module's load_state_dict hooks give them.

    Where a hook does more than renaming, the entries stay as they are: it will run again when they are
    loaded, and may not compute twice. So they do where a hook fails: that is told by the names that do not
    fit or, if all do, when it runs again.
    """
    from torch.nn.modules.lazy import LazyModuleMixin

    renamed = dict(entries)
    for path, child in module.named_modules():
        if isinstance(child, LazyModuleMixin):
            continue  # its hook gives it the file's shapes, and no names
        for hook in child._load_state_dict_pre_hooks.values():
            try:
                hook(renamed, f"{path}." if path else "", {}, True, [], [], [])
            except Exception:  # the user's code
                return entries
    old = {key: value for key, value in entries.items() if key not in renamed}
    new = {key: value for key, value in renamed.items() if key not in entries}
    kept = all(renamed[key] is value for key, value in entries.items() if key in renamed)
    same = sorted(map(id, old.values())) == sorted(map(id, new.values()))
    return renamed if kept and same else entries
