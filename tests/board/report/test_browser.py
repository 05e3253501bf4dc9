"""The page in a real browser: nothing overflows, every image decodes, nothing is loaded from elsewhere."""

import json
import re
import shutil
import subprocess

import pytest

from anomalib_anoseg.board.report.report import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
# The page itself has no script; this one only looks at it, and says on the console what it sees.
LOOK = """
<script>
const look = () => {
  const images = [...document.images];
  console.log("ANSWER" + JSON.stringify({
    width: innerWidth,
    overflow: document.documentElement.scrollWidth - innerWidth,
    images: images.length,
    broken: images.filter(image => !image.complete || image.naturalWidth == 0).length,
    loaded: performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length,
    background: getComputedStyle(document.body).backgroundColor,
    dark: getComputedStyle(document.querySelector("figure.plot img")).filter != "none",
  }) + "END");
};
addEventListener("load", look);
addEventListener("resize", look);
</script>
"""


@pytest.fixture(scope="module")
def page(make_board, tmp_path_factory):
    """A report with everything in it: long names, missing jobs, cost, pictures."""
    folder = tmp_path_factory.mktemp("page")

    def rename(row):
        return {**row, "label": "A model with a name so long that it must be wrapped, and_one_word_that_never_ends" * 2}

    skip = ("AnoSeg-screw-seed2", "DRAEM-screw-seed0")
    runs = make_board(folder / "runs", side=16, skip=skip)
    more = make_board(folder / "more", labels=("PaDiM",), seeds=(0,), change=rename)
    return write_report([runs, more], folder / "out", reference="DRAEM")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium found (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page(width, scheme, page, tmp_path):
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", f"{LOOK}</body>"))
    command = [
        BROWSER,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},1000",
        f"--blink-settings=preferredColorScheme={1 if scheme == 'light' else 0}",
        "--enable-logging=stderr",
        f"--screenshot={tmp_path / 'page.png'}",  # shrinks the page from 500 pixels, the least of a window
        copy.as_uri(),
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180)
    said = re.findall(r"CONSOLE.*", process.stderr)
    assert all("ANSWER" in line for line in said)  # no error, no warning
    answer = json.loads(re.search(r"ANSWER(.*)END", said[-1]).group(1))
    assert answer["width"] == width
    assert answer["overflow"] <= 0
    assert answer["images"] > 50
    assert answer["broken"] == 0
    assert answer["loaded"] == 0
    assert answer["background"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 27)"}[scheme]
    assert answer["dark"] == (scheme == "dark")
