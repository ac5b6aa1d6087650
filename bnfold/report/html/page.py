"""The parts of a page, and the page: verdict, findings, plots, tables, in this order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

from bnfold._version import __version__
from bnfold.report.style import printable
from bnfold.wording import clip

Document = Mapping[str, Any]
Tone = Literal["good", "warning", "error", ""]

_LONGEST = 160  # characters of a name, in a table


@dataclass(frozen=True)
class Image:
    """One picture: a data URI, its size in pixels, what it shows, and the line below it."""

    source: str
    width: int
    height: int
    alt: str
    label: str


@dataclass(frozen=True)
class Plot:
    """A drawing, or a row of pictures.

    Attributes:
        title: above it.
        caption: below it: what is drawn, in which unit, and how to read it.
        svg: of `plots.svg`; empty where there are images.
        images: pictures.
        wide: whether it takes the whole width of the page.
    """

    title: str
    caption: str
    svg: str = ""
    images: Sequence[Image] = ()
    wide: bool = False


@dataclass(frozen=True)
class Row:
    """Cells as text; ``tone`` colours the first."""

    cells: Sequence[str]
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """Rows under headers; those in ``right`` hold numbers."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Row]
    right: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Page:
    """What a page shows.

    Attributes:
        title: what was looked at.
        facts: short, beside each other, below the title.
        verdict: one or two words, coloured by ``tone``.
        nothing: what stands in the place of the first finding where nothing is to be acted on.
        findings: as in the document; the first that is an error or a warning is the one to act on.
        notes: sentences above the plots: what is not drawn, and why.
    """

    title: str
    facts: Sequence[str]
    verdict: str
    tone: Tone
    nothing: str
    findings: Sequence[Document]
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = field(default=())


def render(page: Page) -> str:
    """The page as one document of ASCII characters: what is not ASCII is a character reference.

    So it is the same page wherever it is written, a terminal of any encoding included.
    """
    import jinja2
    from markupsafe import Markup

    folder = Path(__file__).parent
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalised,
    )
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    text = template.render(
        page=page,
        first=_first(page),
        origins=[found for found in page.findings if not _follows(found)],
        consequences=[found for found in page.findings if _follows(found)],
        style=Markup((folder / "style.css").read_text("utf-8")),
        version=__version__,
    )
    return text.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _finalised(value: Any) -> Any:
    """Text of the page without control characters: names come out of files. Markup stays as it is."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return printable(value)
    return value


def _first(page: Page) -> Document | None:
    return next((found for found in page.findings if found["severity"] != "info"), None)


def _follows(finding: Document) -> bool:
    """Whether a finding is a consequence of another."""
    return "origin" in finding["evidence"]


def verdict_of(passed: bool, findings: Sequence[Document]) -> tuple[str, Tone]:
    """In words, and its colour."""
    if not passed:
        return "FAILED", "error"
    warned = any(found["severity"] == "warning" for found in findings)
    return ("passed, with warnings", "warning") if warned else ("passed", "good")


def file_name(path: object) -> str:
    """The last part of a path: folders of a machine are nobody's business."""
    return clip(PurePath(str(path)).name, _LONGEST)


def name(text: object) -> str:
    """A layer's name for a table or a sentence."""
    return clip(text, _LONGEST) if str(text) else "(the whole)"


def number(value: float | None) -> str:
    """A number with three digits: ``250``, ``0.0123``, ``1.2e-07``; JSON has null for what is not finite."""
    if value is None:
        return "not finite"
    if value == 0:
        return "0"
    if 100 <= abs(value) < 1e5:
        return f"{value:.0f}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 100 else f"{value:.1e}"
