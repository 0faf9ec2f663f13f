"""A student of what a served model writes: any tokenizer, and no probabilities."""

import csv

import pytest
import torch
import yaml
from tests.fakes import openai_server, speakers
from tests.journeys.test_language_recipe import made, recipe, run
from tests.laws.test_crossed_terms import examples, folders

import limbeck
from limbeck.cli.main import main
from limbeck.data.sequences import end_of, prompted
from limbeck.data.tokenizers import loaded
from limbeck.errors import LimbeckError, SignalError
from limbeck.evidence.schema import Evidence
from limbeck.models.writers import Vllm
from limbeck.regimes.sequence_level import SequenceLevel
from limbeck.regimes.writing import written
from limbeck.teachers.author import Author, Wanted
from limbeck.teachers.served.settings import Manner, Served
from limbeck.teachers.served.teacher import ServedTeacher
from limbeck.teachers.teacher import Teacher

assert folders
assert made
PROMPTS = [("what did the cat do", "it sat"), ("who", "a dog"), ("a bird", "it sang"), ("who", "a cat")]


@pytest.fixture
def fake():
    with openai_server.running(openai_server.Fake(openai_server.Tiny())) as server:
        yield server


def teacher_at(fake, folder=None, **settings):
    return ServedTeacher(Served(url=fake.url, model="tiny", logprobs="none", **settings), openai_server.V, folder)


def test_its_texts_are_the_labels_and_are_paid_for_once(fake, folders, tmp_path):
    found = examples(folders, items=PROMPTS)
    settings = SequenceLevel(max_new_tokens=3, temperature=0.5, samples=2)
    for _ in range(2):
        with teacher_at(fake, tmp_path / "served") as teacher:
            assert isinstance(teacher, Teacher)
            assert isinstance(teacher, Author)
            (new, same), _ = written(found, teacher, settings, tmp_path / "written")
            assert same is teacher
        rows = [new.table.raw(row) for row in new.rows.tolist()]
        # five words are cut at three, and a cut text would teach a wrong end
        assert rows == [
            (prompt, " ".join(f"{word}{sample}" for word in prompt.split()))
            for sample in (0, 1)
            for prompt, _ in PROMPTS[1:]
        ]
        assert len(fake.asked) == 3  # of four prompts two are alike
    assert {(one["n"], one["max_tokens"], one["temperature"]) for one in fake.asked} == {(2, 3, 0.5)}
    with teacher_at(fake, tmp_path / "served") as teacher:
        kept = teacher.writing(["who", "a bird"], settings.wanted, False)
        assert (kept.requests, kept.input, kept.output) == (0, 0, 0)
        new = teacher.writing(["who", "new", "new"], settings.wanted, True)  # it tells nothing, so nothing is marked
        assert (new.requests, new.output) == (1, 2 * 3)
        assert 3 <= new.input < 1000
    assert len(fake.asked) == 3


def test_another_manner_is_another_text(fake, folders, tmp_path):
    found = examples(folders, items=PROMPTS)
    for manner in (Manner(), Manner(system="be brief"), Manner(by="completions")):
        with teacher_at(fake, tmp_path / "served", writes=manner) as teacher:
            written(found, teacher, SequenceLevel(), tmp_path / "written")
    assert len(fake.asked) == 9
    assert fake.asked[3]["messages"][0] == {"role": "system", "content": "be brief"}
    assert isinstance(fake.asked[6]["prompt"], str)


def test_what_a_served_model_cannot_do_is_told(fake, folders, tmp_path):
    found = examples(folders, items=PROMPTS)
    with teacher_at(fake) as teacher:
        with pytest.raises(LimbeckError, match="this teacher writes itself"):
            written(found, teacher, SequenceLevel(writer=Vllm()), tmp_path)
        with pytest.raises(LimbeckError, match="temperatures up to 2"):
            written(found, teacher, SequenceLevel(temperature=3), tmp_path)
        with pytest.raises(SignalError, match="regime 'sequence-level'"):
            teacher.observe(found.batch(found.rows, found.rows * 0), frozenset({"logits"}))
        assert teacher.provides.lacking({"logits"})
        with pytest.raises(LimbeckError, match="128 samples"):
            teacher.write(["a"], Wanted(3, 129, 1.0))
    assert not fake.asked


SAID = [
    (f"what did the {who} do on day {day}", f"it {does}")
    for day in range(10, 30)
    for who, does in (("cat", "sat"), ("dog", "ran"), ("bird", "sang"))
]


def told_of(fake, folder, tmp_path):
    with (tmp_path / "prompts.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["ask", "say"])
        writer.writerows(SAID)
    told = recipe(
        folder, served={"url": fake.url, "model": "tiny", "logprobs": "none", "prices": {"input": 1.0, "output": 2.0}}
    )
    told["data"] |= {"tokenizer": "bpe", "max-length": 96}
    told["data"]["source"] = {"name": "table", "path": str(tmp_path / "prompts.csv"), "text": "ask", "pair": "say"}
    told["training"] |= {"steps": 4, "batch-size": 8}
    return told | {"objective": {"labels": 1.0}, "regime": {"name": "sequence-level", "max-new-tokens": 20}}


def test_a_model_that_only_chats_teaches_from_a_recipe(fake, made, tmp_path, monkeypatch, capsys):
    told = told_of(fake, made, tmp_path)
    code, out = run(told, tmp_path / "home", monkeypatch)
    said = capsys.readouterr()
    assert not code, said.err
    asked = len(fake.asked)
    assert 0 < asked <= 30
    assert all("prompt_logprobs" not in one for one in fake.asked)
    evidence = Evidence.read(out)
    assert evidence.arms.teacher is None  # it tells nothing that could be scored
    arms = [getattr(evidence.arms, name).mean.metrics["bits-per-byte"] for name in ("control", "distilled")]
    assert arms[0] != arms[1]
    again, second = run(told, tmp_path / "home", monkeypatch, "again")
    assert not again
    assert len(fake.asked) == asked
    ids = torch.tensor([[5, 6, 7]])
    logits = [limbeck.load(folder).module.eval()(ids).logits for folder in (out, second)]
    torch.testing.assert_close(*logits, rtol=0, atol=0)  # of the same texts


def test_what_it_tells_of_its_texts_is_learnt_from_in_a_recipe(made, tmp_path, monkeypatch, capsys):
    tokenizer = loaded(str(made / "model")).tokenizer
    by_heart = [
        [*prompted(tokenizer, ask), *tokenizer(f" and then {say}")["input_ids"], *end_of(tokenizer)]
        for ask, say in SAID
    ]
    speaker = speakers.Speaker(speakers.Reciter(by_heart, len(tokenizer)), tokenizer)
    with openai_server.running(speaker) as fake:
        told = told_of(fake, made, tmp_path)
        told["teacher"]["served"] |= {"logprobs": "written", "top": 8}
        told["data"]["tokenizer"] = str(made / "model")
        told["objective"] = {"labels": 0.5, "divergence": 0.5}
        code, out = run(told, tmp_path / "home", monkeypatch)
        said = capsys.readouterr()
        assert not code, said.err
        assert {one["top_logprobs"] for one in fake.asked} == {8}
        asked = len(fake.asked)
        assert asked == len({one["messages"][-1]["content"] for one in fake.asked})
        again, second = run(told, tmp_path / "home", monkeypatch, "again")
        assert not again
        assert len(fake.asked) == asked
        told["objective"] = {"labels": 0.5}
        capsys.readouterr()
        code, plain = run(told, tmp_path / "home", monkeypatch, "plain")
        assert not code, capsys.readouterr().err
        assert len(fake.asked) == asked  # the same texts
    arms = [Evidence.read(folder).arms for folder in (out, second, plain)]
    bits = [one.distilled.mean.metrics["bits-per-byte"] for one in arms]
    assert bits[0] == bits[1] != bits[2]
    assert {one.control.mean.metrics["bits-per-byte"] for one in arms} == {
        arms[0].control.mean.metrics["bits-per-byte"]
    }


def test_texts_that_may_cost_more_than_the_limit_are_warned_of(fake, made, tmp_path, monkeypatch, capsys):
    told = told_of(fake, made, tmp_path)
    told["teacher"]["served"]["limit"] = {"money": 0.001}  # 30 prompts of up to 20 tokens at 2 a million are 0.0012
    recipe_file = tmp_path / "told.yaml"
    recipe_file.write_text(yaml.safe_dump(told))
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    with pytest.raises(SystemExit) as end:
        main(["check", str(recipe_file)])
    assert not end.value.code
    said = " ".join(capsys.readouterr().err.split())
    assert "may take more than the limit leaves" in said
    assert "raise teacher.served.limit" in said


def test_probabilities_are_not_learnt_from_where_none_are_told(fake, made, tmp_path, monkeypatch, capsys):
    told = told_of(fake, made, tmp_path) | {"objective": {"labels": 0.5, "divergence": 0.5}}
    code, _ = run(told, tmp_path / "home", monkeypatch)
    said = " ".join(capsys.readouterr().err.split())
    assert code
    assert "logits" in said
    assert "Traceback" not in said
    assert not fake.asked
