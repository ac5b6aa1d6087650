"""A page as a browser reads it: elements, texts, and the addresses it would ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

NAMESPACES = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")
_ADDRESSES = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
_VOID = {"meta", "link", "img", "br", "input"}


@dataclass
class Reading(HTMLParser):
    """What a page holds."""

    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}>"

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())
            if self.open[-1] in ("td", "th"):
                self.rows[-1].append(data.strip())

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def values(self, name: str) -> list[str]:
        """Of one attribute, in order."""
        return [value for _, attribute, value in self.attributes if attribute == name]


def read(page: str) -> Reading:
    """Reads a page, and checks what holds for every one."""
    assert page.isascii()
    assert page.startswith("<!DOCTYPE html>")
    found = Reading()
    found.feed(page)
    found.close()
    assert not found.open
    # nothing is asked for, nothing runs
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(found.tags)
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    for _, name, value in found.attributes:
        if name in _ADDRESSES:
            assert value.startswith(("data:", "#")), value
    bare = page
    for namespace in NAMESPACES:
        bare = bare.replace(f'"{namespace}"', "")
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=\s]*", "", bare))
    assert "@import" not in page
    assert "default-src 'none'" in page
    ids = found.values("id")
    assert len(ids) == len(set(ids)), "one id, two things"
    labels = [value for tag, name, value in found.attributes if (tag, name) == ("section", "aria-label")]
    assert list(dict.fromkeys(labels))[:3] == ["verdict", "findings", "plots"]
    drawings = [value for tag, name, value in found.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(drawings) == found.tags.count("svg")
    assert all(drawings)
    return found
