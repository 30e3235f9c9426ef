"""The page in a real browser, where Debian's chromium is installed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from croc_cli.report.run_page import write_report
from tests.report.runs import make_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
PROBE = """<script>
addEventListener("load", () => {
  const figures = [...document.querySelectorAll("svg.plot")].filter(one => one.getBoundingClientRect().height > 100);
  const black = one => getComputedStyle(one).fill === "rgb(0, 0, 0)";  // what no role of the page has
  const shown = [...document.querySelectorAll("body *")].filter(one =>
    [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim()) && one.getClientRects().length);
  const scale = ({a, b}) => Math.hypot(a, b);  // of turned text too
  const size = one => parseFloat(getComputedStyle(one).fontSize) * (one.getScreenCTM ? scale(one.getScreenCTM()) : 1);
  const words = shown.filter(one => !["TITLE", "STYLE", "SCRIPT"].includes(one.tagName.toUpperCase()));
  const smallest = Math.min(...words.map(size));
  const scrolls = [...document.querySelectorAll(".scroll")].filter(one => one.scrollWidth > one.clientWidth);
  const cues = scrolls.filter(one => getComputedStyle(one).backgroundImage.split("linear-gradient").length === 5);
  const drawn = figures.filter(one => ![...one.querySelectorAll("text")].some(black));
  document.title = JSON.stringify({figures: figures.length, drawn: drawn.length, width: document.body.scrollWidth,
    window: innerWidth, smallest: Math.floor(smallest), scrolls: scrolls.length, cues: cues.length,
    requests: performance.getEntriesByType("resource").map(one => one.name)});
});
</script>"""


def chromium(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([make_run(tmp_path_factory.mktemp("runs") / "nano")])


@pytest.mark.parametrize("width", [360, 1400])
def test_figures_are_there_nothing_is_wider_than_the_window_and_no_request_leaves(page: Path, width: int) -> None:
    probe = page.with_name(f"probe-{width}.html")
    # The page forbids scripts, its only guard that has to be lifted to look at it from inside; a frame has the width.
    text = page.read_text().replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    probe.write_text(text.replace("</body>", PROBE + "</body>"))
    frame = page.with_name(f"frame-{width}.html")
    frame.write_text(f'<iframe src="{probe.name}" width="{width}" height="900" style="border:0"></iframe>')
    arguments = ("--allow-file-access-from-files", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000")
    script = "<script>onload = () => { document.title = frames[0].document.title; }</script>"
    frame.write_text(frame.read_text() + script)
    answer = chromium(*arguments, "--dump-dom", frame.as_uri())
    [found] = re.findall(r"<title>(.*?)</title>", answer.stdout)
    expected = page.read_text().count('class="plot"')
    assert f'"figures":{expected},"drawn":{expected}' in found
    assert f'"width":{width},"window":{width},' in found
    assert '"requests":[]' in found
    assert int(re.findall(r'"smallest":(\d+)', found)[0]) >= 11
    scrolls, cues = re.findall(r'"scrolls":(\d+),"cues":(\d+)', found)[0]
    assert scrolls == cues
    assert (int(scrolls) > 0) == (width == 360)
    assert [line for line in answer.stderr.splitlines() if ":CONSOLE" in line] == []


def test_the_console_probe_sees_what_a_page_complains_of(page: Path) -> None:
    broken = page.with_name("broken.html")
    broken.write_text(page.read_text().replace("</body>", '<img src="http://127.0.0.1:9/x.png"></body>'))
    answer = chromium("--enable-logging=stderr", "--v=0", "--dump-dom", broken.as_uri())
    assert any(":CONSOLE" in line and "127.0.0.1:9" in line for line in answer.stderr.splitlines())


def test_the_page_is_dark_where_dark_is_asked_for(page: Path) -> None:
    colours = []
    for flags in ((), ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")):
        picture = page.with_name(f"screen-{len(colours)}.png")
        chromium(*flags, "--window-size=600,400", f"--screenshot={picture}", page.as_uri())
        colours.append(sum(Image.open(picture).convert("RGB").getpixel((2, 2))))  # type: ignore[arg-type]
    assert colours[0] > 600 > 150 > colours[1]
