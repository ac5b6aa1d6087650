"""Findings and results as text and JSON. Torch-free, and nothing in here prints.

Every renderer takes the plain document that ``--format json`` shows (or a manifest, which has the same
parts) and a `Style`, and returns a string: so text and JSON cannot tell different stories.
"""

from __future__ import annotations

from bnfold.report.documents import dump, error_document
from bnfold.report.errors import render_error
from bnfold.report.style import Style

__all__ = ["Style", "dump", "error_document", "render_error"]
