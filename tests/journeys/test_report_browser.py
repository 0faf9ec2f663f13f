"""The report in a real browser: no console message, no request, no sideways scrolling, in light, dark and narrow."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.laws.test_evidence_report import page

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine: the report was not opened in a browser"),
]
DARK = "--blink-settings=preferredColorScheme=0"


def browse(url: str, tmp: Path, *options: str) -> subprocess.CompletedProcess:
    quiet = ("first-run", "default-browser-check", "sandbox")
    off = ("gpu", "background-networking", "component-update", "sync", "default-apps", "extensions")
    return subprocess.run(
        [
            CHROMIUM, "--headless", *(f"--no-{one}" for one in quiet), *(f"--disable-{one}" for one in off),
            "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0", "--hide-scrollbars",
            f"--user-data-dir={tmp / 'profile'}", *options, url,
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip


def visit(file: Path, tmp: Path) -> tuple[list[str], list[str]]:
    """Console messages, and addresses that were asked for."""
    log = tmp / "net.json"
    done = browse(file.as_uri(), tmp, f"--log-net-log={log}", f"--screenshot={tmp / 'visit.png'}")
    messages = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    record = json.loads(log.read_text())
    # What a page asks for has the page as its initiator; the browser's own housekeeping has "not an origin".
    asked = {
        str(event["params"]["url"])
        for event in record["events"]
        if isinstance(event.get("params"), dict)
        and event["params"].get("initiator", "not an origin") != "not an origin"
    }
    return messages, sorted(asked)


def shot(file: Path, tmp: Path, name: str, *options: str) -> np.ndarray:
    target = tmp / f"{name}.png"
    browse(file.as_uri(), tmp, "--window-size=1100,1400", f"--screenshot={target}", *options)
    with Image.open(target) as image:
        return np.asarray(image.convert("L"), dtype=float)


def test_the_page_is_silent_and_asks_for_nothing(tmp_path):
    messages, asked = visit(page(tmp_path), tmp_path)
    assert messages == []
    assert asked == []


def test_the_instruments_would_notice(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text('<script>console.error("seen")</script><img src="http://outside.invalid/x.png">')
    messages, asked = visit(bad, tmp_path)
    assert any("seen" in one for one in messages)
    assert "http://outside.invalid/x.png" in asked


def test_the_policy_stops_what_escaping_might_miss(tmp_path):
    """Even a script written into the file by hand neither runs nor fetches."""
    file = page(tmp_path)
    injected = '<script>document.title = "run"</script><img src="http://outside.invalid/x.png"></main>'
    file.write_text(file.read_text().replace("</main>", injected))
    messages, asked = visit(file, tmp_path)
    assert asked == []
    assert any("Content Security Policy" in one for one in messages)
    assert "<title>run</title>" not in browse(file.as_uri(), tmp_path, "--dump-dom").stdout


def test_light_and_dark_are_drawn(tmp_path):
    file = page(tmp_path)
    light, dark = shot(file, tmp_path, "light"), shot(file, tmp_path, "dark", DARK)
    assert np.median(light) > 220
    assert np.median(dark) < 50
    for picture in (light, dark):  # there is something on the page, across its width
        assert picture.std() > 10
        assert (np.abs(picture - np.median(picture)) > 40).mean() > 0.01


@pytest.mark.parametrize("width", [320, 400, 800])
def test_nothing_is_cut_off_on_a_narrow_screen(tmp_path, width):
    page(tmp_path)
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe src="report.html" style="border:0;width:{width}px;height:900px"></iframe><script>onload = () => '
        "document.title = document.querySelector('iframe').contentDocument.documentElement.scrollWidth</script>"
    )
    text = browse(frame.as_uri(), tmp_path, "--allow-file-access-from-files", "--dump-dom").stdout
    assert f"<title>{width}</title>" in text
