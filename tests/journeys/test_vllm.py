"""Recipes whose texts vLLM writes: by a stand-in, and by vLLM itself where it is installed (make vllm)."""

import json
import sys
from importlib.util import find_spec

import pytest
from tests.fakes import vllm as standin
from tests.journeys.test_own_texts import SIZES, recipe, run

from limbeck.models import vllm

WIDE = {**SIZES, "hidden_size": 64}  # vLLM's attention on a processor wants heads of 32
STUDENT = {"name": "from-config", "model-type": "llama", "settings": {**WIDE, "num_hidden_layers": 1}}
real = [pytest.mark.vllm, pytest.mark.skipif(find_spec("vllm") is None, reason="make vllm installs it")]


@pytest.fixture(params=["stand-in", pytest.param("vllm", marks=real)])
def writer(request, monkeypatch):
    monkeypatch.setattr(vllm, "_running", [])
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "vllm", standin)
    for place in ("conduct", "preflight"):  # counting operations takes longer than all the rest, and has its own tests
        monkeypatch.setattr(f"limbeck.run.{place}.compute_of", lambda *_: None)
    yield {"name": "vllm", "eager": True}
    vllm.stop()


def told(folder, regime):
    changed = recipe(folder, student=STUDENT, regime=regime)
    changed["teacher"]["model"] = {**STUDENT, "settings": {**STUDENT["settings"], "num_hidden_layers": 2}}
    return changed


def arms(folder):
    return json.loads((folder / "out" / "evidence.json").read_text())["arms"]


def test_a_student_learns_from_what_vllm_writes_for_it(writer, tmp_path, monkeypatch, capsys):
    regime = {"name": "on-policy", "each": "text", "max-new-tokens": 3, "writer": writer}
    code = run(told(tmp_path, regime), tmp_path, monkeypatch)
    assert not code, capsys.readouterr().err
    found = arms(tmp_path)
    assert len({arm["mean"]["score"] for arm in found.values() if arm}) == 4


def test_a_teachers_likeliest_texts_are_the_same_whoever_writes_them(writer, tmp_path, monkeypatch, capsys):
    scores = []
    for name in ("transformers", writer):
        folder = tmp_path / str(len(scores))
        folder.mkdir()
        regime = {"name": "sequence-level", "max-new-tokens": 12, "writer": name}
        changed = told(folder, regime) | {"objective": {"labels": 1.0}}
        changed["teacher"]["training"]["steps"] = 150  # so that its texts end
        code = run(changed, folder, monkeypatch)
        assert not code, capsys.readouterr().err
        scores.append(arms(folder)["distilled"]["mean"]["score"])
    assert scores[0] == scores[1]
    assert vllm._running, "it was vLLM that wrote"
