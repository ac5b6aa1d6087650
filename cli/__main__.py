"""``python -m bnfold_cli``: the same as ``bnfold``."""

from __future__ import annotations

from .main import entry

entry()
