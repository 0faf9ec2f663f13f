"""The page on reliability lists what the codes of the command mean; each is brought about here."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.fakes.commands import call

from limbeck.errors import Interrupted, LimbeckError

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
COMMAND = Path(sys.executable).with_name("limbeck")
RECIPE = """
limbeck: 1
name: tiny
data: {source: mnist-5k, limit: 200, validation: 60, test: 60}
teacher: {model: {name: mlp, hidden: 24}, training: {steps: 100000, batch-size: 24}}
student: {name: mlp, hidden: 16}
training: {steps: 8, batch-size: 24}
seeds: 1
"""


def fails(error):
    def act(*_, **__):
        raise error

    return act


@pytest.fixture
def codes(monkeypatch, tmp_path):
    """The code of each kind of end."""
    found = {"done": call("--version") or 0}
    for name, error in {
        "a fault of limbeck's own": KeyError("x"),
        "something to mend": LimbeckError("Mend it."),
        "a full disk": OSError(28, "No space left on device", str(tmp_path)),
        "no memory": MemoryError(),
        "stopped in training": Interrupted("Stopped."),
        "stopped elsewhere": KeyboardInterrupt(),
    }.items():
        monkeypatch.setattr("limbeck.run.run", fails(error))
        found[name] = call("run", "digits")
    found["mistyped"] = call("run", "digits", "--no-such-option")
    return found


def test_the_listed_codes_are_those_that_there_are(codes):
    assert codes == {
        "done": 0,
        "a fault of limbeck's own": 1,
        "something to mend": 2,
        "a full disk": 2,
        "no memory": 2,
        "mistyped": 2,
        "stopped in training": 130,
        "stopped elsewhere": 130,
    }
    debug = subprocess.run([COMMAND, "--debug", "run", "absent.yaml"], capture_output=True, text=True)
    assert (debug.returncode, "Traceback" in debug.stderr) == (1, True)
    unread = subprocess.Popen([COMMAND, "recipes", "--schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    unread.stdout.close()  # before anything is written
    left = unread.wait(timeout=60)
    unread.stderr.close()
    listed = set(map(int, re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)))
    assert listed == {*codes.values(), debug.returncode, left}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_exits_with_130(tmp_path, monkeypatch, number):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    command = [COMMAND, "run", tmp_path / "recipe.yaml", "--out", tmp_path / "out"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        began = time.monotonic()
        while not list((tmp_path / "home").glob("arms/*/*")) and time.monotonic() - began < 60:
            time.sleep(0.1)
        time.sleep(2)
        process.send_signal(number)
        told = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130, told
    assert "The same command goes on" in " ".join(told.split())
