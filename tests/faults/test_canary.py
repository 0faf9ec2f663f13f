"""A key that a server, a recipe and the environment know: it is sent in one header, and stands nowhere else afterwards."""

import json
import logging
import traceback
from pathlib import Path

import pytest
import yaml
from tests.fakes import openai_server
from tests.journeys.test_language_recipe import made, recipe  # noqa: F401
from transformers import AutoModelForCausalLM

from limbeck.cli.main import main

KEY = "sk-canary-4c1d9e7b0a52"
PARTS = (KEY, KEY[:12], KEY[3:], KEY[10:])


def echoing(number, answer):
    """Gives the key back wherever an answer may have a text; at times in a refusal."""
    refusals = {
        2: (500, {"X-Key": KEY}, {"error": {"message": f"busy with {KEY}"}}),
        4: (429, {"Retry-After": "0"}, f"<html>Bearer {KEY}</html>".encode()),
        6: {**answer, "choices": [], "note": KEY},
    }
    if number in refusals:
        return refusals[number]
    for entries in answer["choices"][0].get("prompt_logprobs") or []:
        for one in (entries or {}).values():
            one["decoded_token"] = KEY
    return {**answer, "id": KEY, "system_fingerprint": KEY}


class Place:
    """Commands in a folder of their own, and all that they show."""

    def __init__(self, folder, capfd):
        self.folder, self.capfd, self.shown = folder, capfd, ""
        folder.mkdir(exist_ok=True)

    def call(self, *words, code=0):
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        out, err = self.capfd.readouterr()
        self.shown += out + err
        assert (end.value.code or 0) == code, out + err

    def raised(self, *words):
        """The whole traceback of a command with --debug."""
        with pytest.raises(Exception) as caught:
            main(["--debug", *map(str, words)])
        out, err = self.capfd.readouterr()
        return "".join(traceback.format_exception(caught.value)) + out + err

    def recipe(self, told):
        path = self.folder / "recipe.yaml"
        path.write_text(told if isinstance(told, str) else yaml.safe_dump(told))
        return path

    def written(self, pattern="*") -> bytes:
        found = [path.read_bytes() for path in self.folder.rglob(pattern) if path.is_file()]
        assert found, f"no {pattern} to look into"
        return b"".join(found)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setattr("limbeck.run.ready._check_teacher", lambda *_: None)
    return tmp_path


def hits(found) -> list[str]:
    """Where the key, or a part that is enough to know it, is found."""
    found = {name: text if isinstance(text, bytes) else text.encode() for name, text in found.items()}
    return [name for name, text in found.items() if any(part.encode() in text for part in PARTS)]


def served(server, **more):
    return {"url": server.url, "model": "tiny", "top": 40, "key-from": "MY_KEY", "retries": 2} | more


@pytest.mark.proof("Q14")
def test_a_key_stands_nowhere_after_a_run(made, home, capfd, caplog, tried):  # noqa: F811
    place = Place(home, capfd)
    module = AutoModelForCausalLM.from_pretrained(made / "model").eval()
    plain = openai_server.Tiny()
    plain.forward = lambda input_ids, attention_mask=None: module(input_ids=input_ids).logits
    with caplog.at_level(logging.DEBUG), openai_server.running(openai_server.Fake(plain)) as server:
        server.quirk = echoing
        told = place.recipe(recipe(made, served=served(server)))
        place.call("check", told)
        place.call("run", told, "--out", home / "run")
        place.call("report", home / "run")
        place.call("runs", home)
        assert len(server.asked) > 20
        assert all(headers["Authorization"] == f"Bearer {KEY}" for headers in server.headers)
    found = {
        "terminal": place.shown,
        "logs": caplog.text,
        "ledger": place.written("spending.jsonl"),
        "answers": place.written("answers.sqlite*"),
        "weights": place.written("*.safetensors"),
        "evidence": place.written("evidence.json"),
        "report": place.written("report.html"),
        "student": b"".join(path.read_bytes() for path in (home / "run" / "student").rglob("*") if path.is_file()),
        "run folder": b"".join(path.read_bytes() for path in (home / "run").rglob("*") if path.is_file()),
        "home": place.written(),
    }
    assert hits(found) == []
    tried(places_looked_into=len(found))


REFUSED = {
    "no key": (401, {}, {"error": {"message": f"Incorrect API key provided: {KEY}"}}),
    "a bad request": (400, {}, f"<html>Bearer {KEY}</html>".encode()),
    "a redirect": (307, {"Location": f"http://evil/{KEY}"}, b""),
    "another model": {"model": KEY},
    "no numbers": {"model": "tiny", "choices": [{"prompt_logprobs": [None] + [{KEY: 1}] * 40}]},
    "never an answer": (500, {}, {"error": KEY}),
}


@pytest.mark.proof("Q14")
@pytest.mark.parametrize("case", REFUSED)
def test_a_key_stands_in_no_error(made, home, capfd, caplog, case, tried):  # noqa: F811
    place = Place(home, capfd)
    with caplog.at_level(logging.DEBUG), openai_server.running(openai_server.Fake(openai_server.Tiny())) as server:
        server.quirk = lambda number, answer: REFUSED[case]
        told = place.recipe(recipe(made, served=served(server, retries=0)))
        place.call("run", told, "--out", home / "run", code=2)
        assert server.asked
        whole = place.raised("run", told, "--out", home / "run")
    assert "Traceback" in whole
    found = {"error": place.shown, "error with --debug": whole, "logs": caplog.text, "home": place.written()}
    assert hits(found) == []
    tried(places_looked_into=len(found))


def lines(made, **more):  # noqa: F811
    """The recipe as somebody typed it, with the key in it."""
    return recipe(made, served={"url": "http://127.0.0.1:9/v1", "model": "tiny", "key-from": "MY_KEY"} | more)


TYPED = {
    "a key in place of its variable": {"key": KEY},
    "user and password": {"url": f"http://user:{KEY}@127.0.0.1:9/v1"},
    "a password alone": {"url": f"http://:{KEY}@127.0.0.1:9/v1"},
    "a query": {"url": f"http://127.0.0.1:9/v1?key={KEY}"},
    "the key as the name of its variable": {"key-from": KEY},
    "a key of letters alone": {"key-from": KEY.replace("-", "_")},
}


@pytest.mark.proof("Q14")
@pytest.mark.parametrize("case", TYPED)
def test_a_key_in_a_recipe_is_refused_without_being_shown(made, home, capfd, caplog, case, tried):  # noqa: F811
    place = Place(home / "typed", capfd)
    told = place.recipe(lines(made, **TYPED[case]))
    with caplog.at_level(logging.DEBUG):
        place.call("run", told, "--out", home / "typed" / "run", code=2)
        whole = place.raised("run", told, "--out", home / "typed" / "run")
    told.unlink()
    found = {"error": place.shown, "error with --debug": whole, "logs": caplog.text}
    found["home"] = b"".join(path.read_bytes() for path in Path(home).rglob("*") if path.is_file())
    assert hits(found) == []
    tried(places_looked_into=len(found))


@pytest.mark.proof("Q14")
def test_a_key_on_the_command_line_is_refused_without_being_shown(made, home, capfd, tried):  # noqa: F811
    place = Place(home / "typed", capfd)
    told = place.recipe(lines(made))
    for url in (f"http://user:{KEY}@127.0.0.1:9/v1", f"http://127.0.0.1:9/v1#{KEY}"):
        place.call("check", told, "--set", f"teacher.served.url={url}", code=2)
    assert hits({"error": place.shown}) == []
    tried(places_looked_into=1)


def test_the_canary_is_found_where_it_is():
    """Else none of the above would say anything."""
    assert hits({"a": json.dumps({"x": f"... {KEY}"}), "b": b"nothing", "c": KEY[:12]}) == ["a", "c"]
