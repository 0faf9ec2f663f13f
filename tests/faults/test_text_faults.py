"""What a hostile or unlucky user gives on the side of texts: refused before step 0 in one paragraph, never trained in silence."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.fakes import asked
from tests.fakes.writing import tokenizer_at
from transformers import BertConfig, BertForSequenceClassification

from limbeck.cli.main import main
from limbeck.data.batch import ALIKE, Batch
from limbeck.data.labels import flagged, measured, named, tagged
from limbeck.data.tabular import TextFile
from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenizers import fitted, tokenizer_of
from limbeck.data.trust import demand_safetensors
from limbeck.data.writing.masked import MaskedWords
from limbeck.errors import DataError, LimbeckError, SignalError
from limbeck.models.huggingface import HuggingFace
from limbeck.models.spec import BuildContext
from limbeck.models.specs import build
from limbeck.objective.pairs import demand_the_same_tokens

TRAINING = {"batch-size": 16, "optimizer": {"name": "adamw", "learning-rate": 0.01}}
BERT = {"name": "small-transformer", "hidden": 16, "layers": 1, "heads": 1}
TEXT = BuildContext(2, {"input_ids": torch.tensor([[2, 9, 7, 3]])}, ("bad", "good"))


def bert_at(folder, layers=2, texts=(), **settings):
    """A classifier with trained weights, for all that can be seen; its tokenizer knows the words of ``texts``, if any."""
    if texts:
        tokenizer = tokenizer_of(fitted(texts))
        tokenizer.save_pretrained(folder)
        size = len(tokenizer)
    else:
        size = tokenizer_at(folder)
    sizes = {"vocab_size": size, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 1}
    torch.manual_seed(0)
    config = BertConfig(num_hidden_layers=layers, **{**sizes, "max_position_embeddings": 48, **settings})
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def said():
    return tuple(row["text"] for row in asked.rows_of("classes", 40))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, said):
    return bert_at(tmp_path_factory.mktemp("bert"), texts=said)


@pytest.fixture
def checked(tmp_path, monkeypatch, capsys):
    """What `limbeck check` says to a recipe with some of it changed, and how it ended."""
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(data=(), **parts):
        recipe = {
            "limbeck": 1,
            "name": "attacked",
            "data": {**asked.written(tmp_path, "classes", 60), **dict(data)},
            "teacher": {"model": {**BERT, "layers": 2}, "training": {**TRAINING, "steps": 5}},
            "student": BERT,
            "objective": {"labels": 1},
            "training": {**TRAINING, "steps": 5},
            "seeds": 1,
            **parts,
        }
        recipe["data"] = {key: value for key, value in recipe["data"].items() if value is not None}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
        with pytest.raises(SystemExit) as end:
            main(["check", str(tmp_path / "r.yaml")])
        return end.value.code, " ".join(capsys.readouterr().err.split())

    return run


def trained(path):
    return {"model": {"name": "huggingface", "path": str(path)}, "training": {**TRAINING, "steps": 5}}


# --- two tokenizers

PAIR = {"student": "hidden.1", "teacher": "hidden.2"}


@pytest.mark.parametrize(
    "term",
    [
        {"hints": PAIR},
        {"vid": PAIR},
        {"cosine": PAIR},
        {"attention-transfer": PAIR},
        {"attention-maps": {"student": "attention.1", "teacher": "attention.2"}},
        {"minilm": {"student": "attention.1", "teacher": "attention.2", "heads": 1}},
        {"jacobian": {}},
    ],
    ids=lambda term: next(iter(term)),
)
def test_terms_between_tokens_are_refused_where_the_tokens_are_not_the_same(term, checked, tmp_path):
    # both cut at spaces, so all shapes and masks agree: nothing but the tokens can tell
    model = bert_at(tmp_path / "other", texts=("eats in no today",) * 2)
    code, told = checked(teacher=trained(model), objective={"labels": 0.5, **term})
    assert code == 2
    assert f"The term '{next(iter(term))}' compares token by token" in told


@pytest.mark.parametrize(
    "term", [{"soft-targets": 0.5}, {"hints": {**PAIR, "tokens": "first"}}, {"rkd-distance": PAIR}]
)
def test_terms_between_answers_or_texts_take_two_tokenizers(term, checked, tmp_path):
    model = bert_at(tmp_path / "other", texts=("eats in no today",) * 2)
    assert checked(teacher=trained(model), objective={"labels": 0.5, **term})[0] == 0


def test_a_reduced_tokenizer_gives_the_same_tokens(checked, tmp_path):
    student = {"name": "shrunk", "vocabulary": "task"}
    code, told = checked(
        {"tokenizer": None}, teacher=trained(bert_at(tmp_path / "x")), student=student, objective={"cosine": PAIR}
    )
    assert code == 0, told


def test_a_table_knows_which_rows_are_the_same_to_both(folder, tmp_path, said):
    other = bert_at(tmp_path / "other", texts=(*said[:5], "more words"))
    texts = [*said[:3], "dora eats unheard things", "x"]
    table = TextTable(texts, TextReader(tokenizer=folder), TextReader(tokenizer=other))
    inputs = table.read(torch.arange(5), torch.zeros(5, dtype=torch.int64))
    words = [tokenizer_of(one).convert_ids_to_tokens for one in (folder, other)]
    same = []
    for row in range(5):
        sides = [
            words[side](inputs[prefix + "input_ids"][row][inputs[prefix + "attention_mask"][row] > 0].tolist())
            for side, prefix in enumerate(("", "teacher."))
        ]
        same.append(sides[0] == sides[1])
    assert table.alike(inputs).tolist() == same
    assert same[0]


def test_columns_of_the_same_tokens_may_be_given_twice():
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    demand_the_same_tokens(Batch.of({"input_ids": ids, "teacher.input_ids": ids.clone()}), "hints")
    other = Batch.of({"input_ids": ids, "teacher.input_ids": ids + 1})
    with pytest.raises(SignalError, match="'hints' compares token by token"):
        demand_the_same_tokens(other, "hints")
    told = {**other.masks, ALIKE: torch.tensor([True, False])}
    with pytest.raises(SignalError, match="'hints' compares token by token"):
        demand_the_same_tokens(Batch(other.inputs, other.labels, told, other.ids, other.views), "hints")


def test_a_trained_student_is_not_given_other_words(checked, folder, tmp_path):
    code, told = checked(student={"name": "huggingface", "path": folder}, data={"tokenizer": "words"})
    assert code == 2
    assert "The student was trained with the tokenizer" in told
    copied = shutil.copytree(folder, tmp_path / "copied")
    assert checked(student={"name": "huggingface", "path": folder}, data={"tokenizer": str(copied)})[0] == 0


def test_a_tokenizer_of_more_tokens_than_the_model_has_is_named(checked, tmp_path, said):
    model = bert_at(tmp_path / "few", texts=said, vocab_size=9)
    code, told = checked({"tokenizer": None}, teacher=trained(model))
    assert code == 2
    assert "has 9 tokens, but the tokenizer gave the data a token" in told


def test_a_folder_without_a_tokenizer_is_not_read_as_one_of_no_words(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "bare")
    for file in copied.glob("tok*"):
        file.unlink()
    with pytest.raises(DataError, match="knows no token but its special ones"):
        tokenizer_of(str(copied))


def test_a_tokenizer_for_other_texts_is_told(tmp_path, caplog):
    tokenizer_at(tmp_path)
    TextTable(["zebra quagga okapi", "film"], TextReader(tokenizer=str(tmp_path)))
    assert "does not know" in caplog.text


# --- long texts


@pytest.mark.parametrize("side", ["teacher", "student"])
@pytest.mark.parametrize("words", [3, 60])  # a delivered student may be asked more than the data shows
def test_a_length_that_a_model_cannot_read_is_refused_whatever_the_rows(side, words, checked, folder, tmp_path):
    rows = asked.rows_of("classes", 60)
    rows[50]["text"] += " tea" * words  # one row, in whichever part
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"source": {"name": "table", "path": str(tmp_path / "long.jsonl")}, "max-length": 100, "tokenizer": None}
    model = {"teacher": trained(folder)} if side == "teacher" else {"student": {**BERT, "positions": 48}}
    code, told = checked(data, **model)
    assert code == 2
    assert "Set data.max-length to 48 or less" in told or "48 positions, but the data has" in told
    assert checked({**data, "max-length": 48}, **model)[0] == 0


# --- weights


def altered(folder, to, change):
    copied = shutil.copytree(folder, to)
    change(copied)
    return str(copied)


def in_a_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


class Opened:
    def __reduce__(self):
        return Path.touch, (Path("opened"),)


def test_weights_in_a_pickle_are_refused_and_the_advice_works(folder, tmp_path, monkeypatch):
    place = altered(folder, tmp_path / "pickled", in_a_pickle)
    with pytest.raises(DataError, match="weights in a pickle") as refused:
        build(HuggingFace(path=place), TEXT, 0)
    code = str(refused.value).partition('python -c "')[2].removesuffix('"')
    monkeypatch.chdir(place)
    exec(code)  # what the user is told to run
    build(HuggingFace(path=place), TEXT, 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "pytorch_model.bin").write_bytes(pickle.dumps(Opened()))
    with pytest.raises(DataError, match="could run any code"):
        demand_safetensors("evil", str(tmp_path / "evil"))
    assert not (tmp_path / "opened").exists()
    with pytest.raises(DataError, match="weights in a pickle"):
        TextTable(
            ["a"], TextReader(tokenizer=folder), writer=MaskedWords(model=altered(folder, tmp_path / "m", in_a_pickle))
        )


def told(**settings):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **settings}))

    return change


def other_weights(folder):
    save_file({"x": torch.zeros(3)}, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "change", [told(num_hidden_layers=3), told(hidden_size=32), other_weights], ids=["a layer more", "wider", "others"]
)
def test_weights_that_are_not_the_models_would_be_random(change, folder, tmp_path):
    with pytest.raises(LimbeckError, match=r"missing or of another shape .* would be random"):
        build(HuggingFace(path=altered(folder, tmp_path / "x", change)), TEXT, 0)


def test_a_new_head_is_no_fault(folder):
    build(HuggingFace(path=folder), BuildContext(5, TEXT.sample), 0)


def test_nobody_is_told_to_trust_code(folder, tmp_path):
    change = told(
        model_type="theirs", auto_map={"AutoConfig": "code.C", "AutoModelForSequenceClassification": "code.M"}
    )
    place = altered(folder, tmp_path / "x", change)
    (tmp_path / "x" / "code.py").write_text(
        "import pathlib; pathlib.Path('opened').touch()\nclass C: pass\nclass M: pass"
    )
    with pytest.raises(LimbeckError, match="code of its own, which is never run here") as refused:
        build(HuggingFace(path=place), TEXT, 0)
    assert "trust_remote_code" not in str(refused.value)


# --- labels


def test_labels_that_say_nothing_or_too_much(caplog):
    with pytest.raises(DataError, match="no label at all: not one row names any"):
        flagged([[], []], "x")
    with pytest.raises(DataError, match=r"a label is a list \(\['a', 'b'\]\).*task: multi-label"):
        named([["a", "b"], ["a"]], "x")
    with pytest.raises(DataError, match="1e\\+300 of row 1 is no number that can be learnt"):
        measured([1.0, 1e300], "x")
    with pytest.raises(DataError, match="every word has the tag 'O'"):
        tagged([["O", "O"], ["O"]], "x")
    assert tagged([["O"]], "x", ("O", "B"))[1] == ("O", "B")  # of known tags one may be all there is
    named(["Yes", "no", "yes"], "x")
    assert "'Yes' and 'yes' differ in case alone" in caplog.text


def test_a_column_that_is_there_twice_is_not_chosen(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,text\none,a,two\n")
    with pytest.raises(DataError, match="2 columns called 'text'"):
        TextFile(path=str(tmp_path / "a.csv")).load()


def test_utf_16_is_told_by_its_mark(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\none,a\n".encode("utf-16"))
    with pytest.raises(DataError, match="encoding: utf-16"):
        TextFile(path=str(tmp_path / "a.csv")).load()


# --- regimes


def staged(**part):
    before = [{"name": "general", "objective": {"hints": PAIR}, "training": {**TRAINING, "steps": 2}, **part}]
    return {"name": "staged", "before": before}


def test_a_teacher_of_a_part_reads_its_own_words(checked, folder, tmp_path, said):
    own = {"name": "huggingface", "path": folder}
    for layers in (PAIR, {"layers": "uniform"}):
        part = staged(teacher=own, objective={"hints": layers})
        assert checked({"tokenizer": None}, teacher=trained(folder), regime=part)[0] == 0
    other = {"name": "huggingface", "path": bert_at(tmp_path / "other", texts=said[5:])}
    code, told = checked({"tokenizer": None}, teacher=trained(folder), regime=staged(teacher=other))
    assert code == 2
    assert "The teacher of the training 'general' was trained with the tokenizer" in told


def test_a_teacher_of_a_part_knows_what_it_is_asked(checked, folder):
    code, told = checked(regime=staged(teacher={**BERT, "layers": 2}))
    assert code == 2
    assert "never trained: name a model" in told
    part = staged(teacher={"name": "huggingface", "path": folder}, objective={"soft-targets": 1})
    code, told = checked({"tokenizer": None}, teacher=trained(folder), regime=part)
    assert code == 2
    assert "classifier.weight of it were never trained: compare layers" in told


def test_other_texts_have_no_labels_to_learn(checked, tmp_path):
    rows = asked.rows_of("classes", 30, seed=3)
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts = {"name": "table", "path": str(tmp_path / "other.jsonl")}
    code, told = checked(regime=staged(texts=texts, objective={"labels": 1}))
    assert code == 2
    assert "learns from labels alone" in told


@pytest.mark.parametrize(
    ("student", "why"),
    [
        ({"vocabulary": "task"}, "reads other tokens"),
        ({"embedding-rank": 2}, "differs from the teacher outside of its layers"),
    ],
)
def test_theseus_replaces_layers_alone(student, why, checked, tmp_path):
    student = {"name": "shrunk", "layers": 1, **student}
    code, told = checked(
        {"tokenizer": None}, teacher=trained(bert_at(tmp_path / "x")), student=student, regime={"name": "theseus"}
    )
    assert code == 2
    assert why in told


def test_patterns_of_maps_are_not_those_of_tokens(checked):
    code, told = checked(objective={"labels": 0.5, "nst": PAIR})
    assert code == 2
    assert "'nst' needs maps" in told


def test_the_gradient_of_answers_at_tokens_is_refused_before_anything_is_trained(checked, tmp_path):
    for task in ("tags", "spans"):
        code, told = checked(asked.written(tmp_path, task, 60), objective={"labels": 0.5, "jacobian": {}})
        assert code == 2
        assert "'gradient' is of the logits of one answer an example" in told
        assert "Traceback" not in told
