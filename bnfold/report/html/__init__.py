"""Results as one HTML page: it asks nothing of any server, has no script, and reads well on a phone.

page    the parts of a page and its template: verdict, findings, plots, tables, always in this order
plots   what the drawings have in common: size, colours that follow light and dark, the SVG of a figure
maps, histograms          drawings that several pages have
audit, diagnosis, drift   one page each; channels, frames and timeline are the last one's

A page is made from the plain document that ``--format json`` shows, with every number by channel. It needs
jinja2 and matplotlib, ``pip install 'bnfold[report]'``; neither is imported before a page is made. The same
result gives the same bytes: there are no dates, no random names and no paths of folders in a page.

What comes from outside (names of layers, files, states) is escaped by the template and by matplotlib's SVG
writer, and the page forbids scripts and requests by its own Content-Security-Policy.
"""

from __future__ import annotations

from importlib.util import find_spec

from bnfold.errors import PlatformError

_NEEDED = ("jinja2", "matplotlib")


def require() -> None:
    """Look for what a page needs, without importing it: before the work that the page is to show.

    Raises:
        PlatformError: BNF-P030 a package is missing.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise PlatformError(
            "BNF-P030",
            f"--format html needs {' and '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed",
            fix="pip install 'bnfold[report]'",
        )
