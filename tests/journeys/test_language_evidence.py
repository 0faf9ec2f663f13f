"""What a run of a language model tells beside its score: what the arms write, and a control at equal compute."""

import json
import shutil

import jsonschema
import pytest
from tests.fakes import openai_server
from tests.journeys.test_language_recipe import made, recipe, run, untrained_is_enough  # noqa: F401
from transformers import AutoModelForCausalLM

from limbeck.cli.main import main
from limbeck.evidence import schema

pytestmark = pytest.mark.usefixtures("untrained_is_enough")


def test_the_report_has_what_they_write_and_the_control_at_equal_compute(made, tmp_path, monkeypatch, capsys):  # noqa: F811
    told = recipe(made)
    watch = {"the letter a": {"name": "pattern", "pattern": "a"}}
    told["evidence"] |= {"samples": 6, "new-tokens": 10, "equal-compute": True, "watch": watch}
    texts = made / "marked.txt"
    lines = (made / "texts.txt").read_text().split("\n\n")
    texts.write_text("\n\n".join(f"<b>a</b> & {line}" for line in lines))
    told["data"]["source"]["path"] = str(texts)
    code, out = run(told, tmp_path, monkeypatch)
    said = capsys.readouterr()
    assert not code, said.err
    evidence = json.loads((out / "evidence.json").read_text())
    jsonschema.Draft202012Validator(schema.json_schema()).validate(evidence)
    samples, arms = evidence["samples"], evidence["arms"]
    assert (samples["prompts"], samples["new_tokens"], samples["left_out"]) == (6, 10, {})
    assert set(samples["arms"]) == {"teacher", "control", "equal_compute", "distilled"}
    each = [samples["reference"], *(one[kind] for one in samples["arms"].values() for kind in ("likeliest", "drawn"))]
    assert all(0 <= one["watched"]["the letter a"] <= 1 for one in each)
    assert samples["reference"]["watched"]["the letter a"] > 0
    assert 0 < samples["reference"]["ended"] < 1, "some are longer than there is room for"
    assert samples["arms"]["teacher"]["likeliest"]["exact_match"] is None, (
        "a running text has no only right continuation"
    )
    assert all(one["teacher_nll"] > 0 for one in each), "the teacher reads the same tokens here"
    assert samples["reference"]["teacher_kl"] is None
    assert samples["arms"]["teacher"]["drawn"]["teacher_kl"] == 0 < samples["arms"]["distilled"]["drawn"]["teacher_kl"]
    assert arms["equal_compute"]["steps"][0] > arms["control"]["steps"][0] == arms["distilled"]["steps"][0]
    assert arms["equal_compute"]["flops"] == pytest.approx(arms["distilled"]["flops"], rel=0.05)
    page = (out / "report.html").read_text()
    assert "What they write" in page
    written = page.partition('id="writing"')[2].partition("</section>")[0]
    assert "&lt;b" in written
    assert "<b" not in written.replace("<blockquote", "")
    assert any("took" in note and "the compute of its control" in note for note in evidence["notes"])
    before = page
    (out / "report.html").unlink()
    with pytest.raises(SystemExit):
        main(["report", str(out)])
    assert (out / "report.html").read_text() == before, "the texts were kept"
    old = tmp_path / "old"
    shutil.copytree(out, old)
    for name in ("samples", "at_equal_compute"):
        del evidence[name]
    del evidence["arms"]["equal_compute"]
    (old / "evidence.json").write_text(json.dumps(evidence))
    for command in (["report", str(old)], ["compare", str(old), str(out)]):
        with pytest.raises(SystemExit) as end:
            main(command)
        assert not end.value.code, capsys.readouterr().err
    assert "What they write" not in (old / "report.html").read_text()


def test_a_served_teacher_is_left_out_and_its_cost_is_told_first(made, tmp_path, monkeypatch, capsys):  # noqa: F811
    module = AutoModelForCausalLM.from_pretrained(made / "model").eval()
    plain = openai_server.Tiny()
    plain.forward = lambda input_ids, attention_mask=None: module(input_ids=input_ids).logits
    with openai_server.running(openai_server.Fake(plain)) as server:
        served = {"url": server.url, "model": "tiny", "top": 40, "prices": {"input": 2.0, "output": 4.0}}
        told = recipe(made, served={**served, "limit": {"money": 1e-4}})
        told["evidence"] |= {"samples": 4, "new-tokens": 6}
        code, _ = run(told, tmp_path / "poor", monkeypatch)
        said = " ".join(capsys.readouterr().err.split())
        assert code
        assert "150 texts that are not answered yet" in said
        assert "the limit leaves 0.0001 of 0.0001 in money. Nothing was asked." in said
        assert not [one for one in server.asked if "prompt" in str(one)]
        told["teacher"]["served"]["limit"] = {"money": 5}
        code, out = run(told, tmp_path, monkeypatch)
        said = " ".join(capsys.readouterr().err.split())
        assert not code, said
        assert "150 requests to come" in said
        again, _ = run(told | {"seeds": 2}, tmp_path, monkeypatch, out="again")
        said = " ".join(capsys.readouterr().err.split())
        assert not again
        assert "0 requests to come, 0 tokens sent and 0 written: 0 at the prices given" in said
    evidence = json.loads((out / "evidence.json").read_text())
    assert set(evidence["samples"]["arms"]) == {"control", "distilled"}
    assert evidence["samples"]["left_out"] == {"teacher": "it is no model here"}
    assert "Teacher is left out: it is no model here." in (out / "report.html").read_text()
