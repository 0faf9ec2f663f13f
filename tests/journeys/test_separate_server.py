"""A teacher in a process of its own, behind HTTP, with the quirks of real servers, gives the student that a local one gives."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.journeys.test_language_recipe import made, trained, untrained_is_enough

assert made
assert untrained_is_enough
ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(made):
    told = [sys.executable, "-m", "tests.fakes.server_process", str(made / "model")]
    with subprocess.Popen(told, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.usefixtures("untrained_is_enough")
def test_a_quirky_server_elsewhere_gives_the_same_student(made, server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("limbeck.teachers.served.client._FIRST", 0.01)
    top = {"name": "top-k", "k": 40, "dtype": "float32"}
    local, evidence = trained(made, tmp_path / "a", monkeypatch, capsys, store=top)
    other, told = trained(made, tmp_path / "b", monkeypatch, capsys, served={"url": server, "model": "tiny", "top": 40})
    for name, value in local.items():
        torch.testing.assert_close(
            other[name], value, rtol=1e-4, atol=1e-5
        )  # computed in other batches, so rounded otherwise
    scores = [one["arms"]["distilled"]["mean"]["score"] for one in (evidence, told)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
