"""Opens pages in headless Chromium as a desktop and a phone show them, and says what is wrong with them.

    python tests/pages/browser.py FOLDER            (make test-pages makes the pages first)

Needs selenium, and Debian's packages chromium and chromium-driver. A screenshot of every page in every view
is saved beside it. The status is 1 where a page has a console error, asks for anything outside itself, has a
picture that did not load, a drawing without content, texts of a drawing that cover each other, or is wider
than the phone.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

INSTALL = "apt-get install --no-install-recommends chromium chromium-driver   (as root, on Debian)"

# what the page's own elements say of themselves, once everything is loaded
PROBE = """
const done = arguments[arguments.length - 1];
const wrong = [];
const width = document.documentElement.clientWidth;
const scrolled = (e) => e.closest('.scroll') !== null;
if (document.documentElement.scrollWidth > width)
  wrong.push(`it is ${document.documentElement.scrollWidth} pixels wide, the window ${width}`);
for (const e of document.body.querySelectorAll('*')) {
  const box = e.getBoundingClientRect();
  if (box.width && !scrolled(e) && !e.ownerSVGElement && box.right > width + 1)
    { wrong.push(`<${e.tagName.toLowerCase()}> ends at ${Math.round(box.right)} of ${width} pixels`); break; }
}
const sections = [...document.querySelectorAll('section')].map((s) => s.getAttribute('aria-label'));
const order = [...new Set(sections)].join(' ');
if (!/^verdict findings plots( table)?$/.test(order)) wrong.push(`sections: ${order}`);
for (const image of document.images) {
  if (!image.complete || image.naturalWidth === 0) wrong.push(`not loaded: ${image.alt}`);
  if (!image.alt) wrong.push('a picture without a text');
}
for (const svg of document.querySelectorAll('figure svg')) {
  const name = svg.getAttribute('aria-label');
  const box = svg.getBoundingClientRect();
  if (!name) wrong.push('a drawing without a text');
  if (box.width < 200 || box.height < 40) wrong.push(`${name}: ${box.width} x ${box.height} pixels`);
  if (svg.querySelectorAll('path, use, image').length < 5) wrong.push(`nothing is drawn: ${name}`);
  const texts = [...svg.querySelectorAll('text')].map((t) => [t.textContent, t.getBoundingClientRect()]);
  for (const [text, one] of texts)
    if (one.left < box.left - 1 || one.right > box.right + 1 ||
        one.top < box.top - 1 || one.bottom > box.bottom + 1)
      { wrong.push(`"${text}" is cut off in: ${name}`); break; }
  search: for (let i = 0; i < texts.length; i++) for (let j = 0; j < i; j++) {
    const [one, two] = [texts[i][1], texts[j][1]];
    const across = Math.min(one.right, two.right) - Math.max(one.left, two.left);
    const down = Math.min(one.bottom, two.bottom) - Math.max(one.top, two.top);
    if (across > 1 && down > 0.35 * Math.min(one.height, two.height)) {
      wrong.push(`"${texts[i][0]}" covers "${texts[j][0]}" in: ${name}`);
      break search;
    }
  }
}
const parts = [...document.querySelectorAll('svg image')].map((part) => new Promise((resolve) => {
  const probe = new Image();
  probe.onload = () => resolve(probe.naturalWidth > 0);
  probe.onerror = () => resolve(false);
  probe.src = part.getAttribute('href') || part.getAttribute('xlink:href');
}));
Promise.all(parts).then((loaded) => {
  if (loaded.includes(false)) wrong.push('a picture in a drawing did not load');
  const drawings = document.querySelectorAll('figure svg').length;
  done({wrong, drawings, pictures: document.images.length + parts.length});
});
"""


@dataclass(frozen=True)
class View:
    """How a page is looked at."""

    name: str
    width: int
    height: int
    scale: float
    mobile: bool
    scheme: str


VIEWS = (
    View("desktop", 1280, 900, 1.0, False, "light"),
    View("phone", 390, 844, 2.0, True, "light"),
    View("phone-dark", 390, 844, 2.0, True, "dark"),
)


def main(folder: Path) -> int:
    """Every page in a folder; returns the exit status."""
    browser, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver_path is None:
        print(f"chromium or chromedriver is missing: {INSTALL}", file=sys.stderr)
        return 2
    pages = sorted(folder.glob("*.html"))
    if not pages:
        print(f"no pages in {folder}", file=sys.stderr)
        return 2
    options = Options()
    options.binary_location = browser
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium has no sandbox for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    driver.set_script_timeout(30)
    failed = 0
    try:
        prove(driver)
        for page in pages:
            for view in VIEWS:
                wrong, summary = look(driver, page, view)
                failed += bool(wrong)
                print(
                    f"{'FAILED' if wrong else 'passed'}  {page.name} at {view.width}, {view.name}: {summary}"
                )
                for sentence in wrong:
                    print(f"        {sentence}")
    finally:
        driver.quit()
    print(f"{len(pages)} pages at {len(VIEWS)} views, {failed} failed")
    return 1 if failed else 0


# one of each fault, and the word that the complaint must have
FAULTY = """<!DOCTYPE html><html><body style="margin: 0">
<section aria-label="plots"></section><section aria-label="verdict"></section>
<img src="data:image/png;base64,AAAA" alt="broken"><img src="https://example.invalid/a.png" alt="outside">
<div style="width: 3000px">wide</div><script>undefined_function()</script>
<figure><svg aria-label="empty" width="300" height="100"></svg>
<svg aria-label="crowded" width="300" height="100"><path/><path/><path/><path/><path/>
<text x="10" y="50">one</text><text x="12" y="52">two</text>
<text x="290" y="90">beyond the edge</text></svg></figure>
</body></html>
"""
COMPLAINTS = (
    "pixels wide", "ends at", "sections:", "not loaded: broken", "not loaded: outside",
    "nothing is drawn: empty", '"two" covers "one"',
    '"beyond the edge" is cut off', "undefined_function", "asks for https://example.invalid",
)  # fmt: skip


def prove(driver: Any) -> None:
    """A check that cannot fail is none: every fault of a faulty page must be seen.

    Raises:
        AssertionError: one was not.
    """
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "faulty.html"
        page.write_text(FAULTY, "utf-8")
        wrong, _ = look(driver, page, VIEWS[1])
    missed = [words for words in COMPLAINTS if not any(words in sentence for sentence in wrong)]
    if missed:
        raise AssertionError(f"faults that were not seen: {missed}; seen: {wrong}")


def look(driver: Any, page: Path, view: View) -> tuple[list[str], str]:
    """What is wrong with a page in a view, and what is on it."""
    for kind in ("browser", "performance"):
        driver.get_log(kind)  # what is in it belongs to the page before
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
        "features": [{"name": "prefers-color-scheme", "value": view.scheme}]
    })  # fmt: skip
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": view.width, "height": view.height, "deviceScaleFactor": view.scale, "mobile": view.mobile,
    })  # fmt: skip
    driver.get(page.resolve().as_uri())
    told = driver.execute_async_script(PROBE)
    wrong = [str(sentence) for sentence in told["wrong"]]
    if not told["drawings"]:
        wrong.append("there is no drawing")
    wrong += [f"console: {entry['message']}" for entry in driver.get_log("browser")]
    wrong += [f"asks for {url}" for url in requests(driver.get_log("performance"), page)]
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png",
        "clip": {**size(driver), "x": 0, "y": 0, "scale": 1}})  # fmt: skip
    page.with_name(f"{page.stem}.{view.name}.png").write_bytes(base64.b64decode(shot["data"]))
    return wrong, f"{told['drawings']} drawings, {told['pictures']} pictures"


def size(driver: Any) -> dict[str, float]:
    """Of the whole page; what is beyond 12,000 pixels is cut."""
    box = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    return {"width": box["width"], "height": min(box["height"], 12_000)}


def requests(log: list[dict[str, Any]], page: Path) -> list[str]:
    """The addresses that the page asked for, besides itself and what it holds."""
    found = []
    for entry in log:
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if not url.startswith("data:") and url != page.resolve().as_uri():
                found.append(url)
    return found


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
