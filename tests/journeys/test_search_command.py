"""From a recipe to better settings with the installed command: killed, gone on with, and what cannot be done."""

import json
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from limbeck.cli.main import main
from limbeck.recipe.reading import read

RECIPE = """
limbeck: 1
name: few digits
data: {source: mnist-5k, limit: 400, validation: 100, test: 100}
teacher: {model: {name: mlp, hidden: 64}, training: {steps: 60, batch-size: 32}}
student: {name: mlp, hidden: 8}
objective: {labels: 0.3, soft-targets: {weight: 0.7, temperature: 2}}
training: {steps: 40, batch-size: 32}
seeds: 2
"""
SEARCH = ("search", "digits.yaml", "--over", "temperature=1,4", "--budget", "0.5", "--out", "found")
COMMAND = Path(sysconfig.get_path("scripts")) / "limbeck"


@pytest.fixture
def limbeck_command(capsys, tmp_path, monkeypatch):
    """Runs a command line beside a recipe, in this process: exit code, output and errors, each in one line."""
    (tmp_path / "digits.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(one) for one in arguments])
        return stop.value.code or 0, *(" ".join(one.split()) for one in capsys.readouterr())

    return run


def killed(typed, line):
    """Runs the installed command and kills it as soon as it has said ``line``."""
    began = time.monotonic()
    with subprocess.Popen([COMMAND, *typed], env=os.environ, stderr=subprocess.PIPE, text=True) as process:
        while line not in process.stderr.readline():
            assert process.poll() is None, "it ended"
            assert time.monotonic() < began + 60
        process.kill()


def test_a_search_that_is_killed_goes_on_to_a_recipe_that_runs(limbeck_command, tmp_path):
    killed(SEARCH, "trial 1 of 2:")
    code, out, err = limbeck_command(*SEARCH)
    assert code == 0, err
    assert "2 trials (1 done before) of 50 % of the steps" in err
    assert "trial 1 of 2:" not in err, "it was done"
    assert "trial 2 of 2: soft-targets.temperature 4:" in err
    assert all(f" seed {seed}: " in err for seed in (1, 2))
    assert "warning: The best of 2 trials is flattered" in err
    told = json.loads((tmp_path / "found" / "trials.json").read_text())
    assert " ".join(told["sentence"].split()) in out
    assert all(f" {100 * one['accuracy']:.1f} % " in out for one in told["trials"])
    assert out.count("the best") == 1
    assert all(f"found/{name}" in out for name in ("best.yaml", "trials.json", "surface.png"))
    best = tmp_path / "found" / "best.yaml"
    assert read(best).hash == told["best_recipe"]
    assert limbeck_command("check", best)[0] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--over", "temprature"), "did you mean 'temperature'?"),
        (("--over", "training.stps=1,2"), "unknown key; did you mean 'steps'?"),
        (("--over", "temperature=4..2"), "the range is empty"),
        (("--over", "temperature=log:0..2"), "a log range has only numbers above 0"),
        (("--over", "weights", "--trials", "2"), "more than --trials 2"),
        (("--over", "weights", "--storage", "nowhere"), "neither an Optuna storage URL"),
        (("--over", "weights", "--out", "."), "holds no search (it has 'digits.yaml')"),
        ((), "Missing option '--over'"),
    ],
)
def test_what_cannot_be_searched_is_one_paragraph(limbeck_command, changes, message):
    code, out, err = limbeck_command("search", "digits.yaml", *changes)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err


def test_the_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom limbeck.cli.main import main\ntry: main(['search', '--help'])\nexcept SystemExit: pass\n"
        "print([one for one in ('optuna', 'matplotlib', 'torch') if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--over" in done.stdout
