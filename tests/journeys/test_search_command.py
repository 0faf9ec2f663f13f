"""From a recipe to better settings with the installed command: killed, gone on with, and what cannot be done."""

import json
import os
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest

from limbeck.recipe.reading import read

RECIPE = """
limbeck: 1
name: few digits
data: {source: mnist-5k, limit: 400, validation: 100, test: 100}
teacher: {model: {name: mlp, hidden: 64}, training: {steps: 60, batch-size: 32}}
student: {name: mlp, hidden: 8}
objective: {labels: 0.3, soft-targets: {weight: 0.7, temperature: 2}}
training: {steps: 60, batch-size: 32}
seeds: 2
"""
SEARCH = ("search", "digits.yaml", "--over", "temperature=1,4", "--budget", "0.5", "--out", "found")
COMMAND = Path(sysconfig.get_path("scripts")) / "limbeck"


@pytest.fixture
def begun(tmp_path):
    """Begins the installed command in a folder with the recipe."""
    (tmp_path / "digits.yaml").write_text(RECIPE)
    around = {**os.environ, "LIMBECK_HOME": str(tmp_path / "home"), "COLUMNS": "80"}

    def begin(*typed):
        return subprocess.Popen(
            [COMMAND, *typed], cwd=tmp_path, env=around, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return begin


def ended(process):
    """Exit code, output, errors in one line."""
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    return process.returncode, out, " ".join(err.split())


def test_a_search_that_is_killed_goes_on_to_a_recipe_that_runs(begun, tmp_path):
    killed, began = begun(*SEARCH), time.monotonic()
    while "trial 1 of 2:" not in killed.stderr.readline():
        assert killed.poll() is None
        assert time.monotonic() < began + 60
    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    code, out, err = ended(begun(*SEARCH))
    assert code == 0, err
    assert "2 trials (1 done before) of 50 % of the steps" in err
    assert "trial 1 of 2:" not in err, "it was done"
    assert "trial 2 of 2: soft-targets.temperature 4:" in err
    assert all(f"seed {seed}:" in err for seed in (1, 2))
    assert "warning: The best of 2 trials is flattered" in err
    told = json.loads((tmp_path / "found" / "trials.json").read_text())
    assert told["sentence"] in " ".join(out.split()).replace("95 %", "95\N{NO-BREAK SPACE}%")
    assert all(f"{100 * one['accuracy']:.1f} %" in out for one in told["trials"])
    assert all(f"found/{name}" in out for name in ("best.yaml", "trials.json", "surface.png"))

    best = tmp_path / "found" / "best.yaml"
    assert read(best).hash == told["best_recipe"]
    assert ended(begun("check", str(best)))[0] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--over", "temprature"), "did you mean 'temperature'?"),
        (("--over", "training.stps=1,2"), "unknown key; did you mean 'steps'?"),
        (("--over", "temperature=4..2"), "the range is empty"),
        (("--over", "temperature=log:0..2"), "a log range has only numbers above 0"),
        (("--over", "weights", "--trials", "2"), "more than --trials 2"),
        (("--over", "weights", "--storage", "nowhere"), "neither an Optuna storage URL"),
    ],
)
def test_what_cannot_be_searched_is_one_paragraph(monkeypatch, capsys, tmp_path, changes, message):
    from limbeck.cli.main import main

    (tmp_path / "digits.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    with pytest.raises(SystemExit) as end:
        main(["search", "digits.yaml", *changes])
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in " ".join(err.split())


def test_the_help_loads_neither_optuna_nor_matplotlib():
    code = (
        "import sys\nfrom limbeck.cli.main import main\ntry: main(['search', '--help'])\nexcept SystemExit: pass\n"
        "print([one for one in ('optuna', 'matplotlib', 'torch') if one in sys.modules])"
    )
    done = subprocess.run([COMMAND.with_name("python"), "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--over" in done.stdout
