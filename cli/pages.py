"""``--format html`` and ``junit``: reports that are files of their own, on stdout or in ``-o FILE``."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from bnfold import atomic
from bnfold.errors import UsageError

from .command import CommandParser

_HELP = {
    "html": "html: one page with plots, needs bnfold[report]",
    "junit": "junit: XML for a build server",
}


def add_options(parser: CommandParser, *formats: str) -> None:
    """Further values of ``--format``, and where they are written."""
    parser.add_formats({name: _HELP[name] for name in formats})
    parser.option(
        "-o",
        "--output",
        metavar="FILE",
        help=f"with --format {' or '.join(formats)}: write it there, in one step, and the text to stdout",
    )


def check(options: argparse.Namespace) -> None:
    """What can be known before the work: whether the report can be made, and written where it is to go.

    Raises:
        UsageError: BNF-U160 ``-o`` with a format that goes to standard output; BNF-U161 the folder to write
            into is not there.
        PlatformError: BNF-P030 a package that a page needs is missing; as :func:`bnfold.atomic.check`.
    """
    if options.output is not None:
        if options.format in ("text", "json"):
            raise UsageError(
                "BNF-U160",
                f"-o with --format {options.format}, which goes to standard output",
                where=f"-o {options.output}",
                fix=f"--format html, or > {options.output}",
            )
        folder = Path(options.output).parent
        if not folder.is_dir():
            make = f"mkdir -p {shlex.quote(str(folder))}"
            raise UsageError(
                "BNF-U161",
                f"the folder of the report {'is a file' if folder.exists() else 'does not exist'}",
                where=str(folder),
                fix="name a folder: this is a file" if folder.exists() else make,
            )
        atomic.check(options.output)
    if options.format == "html":
        from bnfold.report.html import require

        require()
