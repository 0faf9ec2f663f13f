"""The folder for transformers needs nothing of limbeck, and its card says what the evidence says."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tests.laws.test_evidence_report import realistic

from limbeck.data.images import ImageReader
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenizers import fitted
from limbeck.export import Story, export
from limbeck.export.card import card, escaped
from limbeck.files import write_json
from limbeck.models.specs import BuildContext, SmallTransformer, build
from limbeck.models.student import Student
from limbeck.run.delivered import Delivered

pytest.importorskip("transformers")

TEXTS = [
    f"the {a} parcel came {b}, and the {a} box" for a in ("red", "blue", "green") for b in ("late", "soon", "never")
]
NAMES = ("a | b", "<script>alert(1)</script>", "_good_ [x](https://example.org)")
ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "limbeck":
            raise ImportError("limbeck is not here")

sys.meta_path.insert(0, Blocked())
{code}
assert not any(name.partition(".")[0] == "limbeck" for name in sys.modules)
from safetensors.torch import save_file
save_file({{"logits": logits}}, "logits.safetensors")
"""


@pytest.fixture(scope="module")
def evidence():
    return realistic(rows=120, seeds=2)[0]


@pytest.fixture(scope="module")
def student():
    reader = TextReader(tokenizer=fitted(TEXTS), max_length=8)
    context = BuildContext(3, reader.encode(TEXTS), NAMES, vocabulary=reader.vocabulary)
    module = build(SmallTransformer(layers=1, hidden=16), context, 0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(5)  # logits of a size that differences show in
    return Student(module.eval(), reader, NAMES, {"teacher": "secret-teacher"})


@pytest.fixture(scope="module")
def folder(student, evidence, tmp_path_factory):
    path = tmp_path_factory.mktemp("exports") / "hf"
    story = Story(evidence, ("stanfordnlp/imdb",), "google/bert_uncased_L-2_H-128_A-2")
    return export(student, "hf", path, TEXTS, story=story).path


def front(text):
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_cards_own_lines_answer_as_the_student_where_limbeck_cannot_be_imported(folder, student):
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    texts = [*TEXTS, "an unknown word, and the longest of all texts that are cut"]
    code = code.replace('["one text", "another"]', repr(texts))
    assert repr(texts) in code
    # -I: neither the current folder nor PYTHONPATH nor the user's packages
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE.format(code=code)], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    from safetensors.torch import load_file

    logits = load_file(folder / "logits.safetensors")["logits"]
    assert torch.equal(logits, student.logits(texts))
    assert done.stdout.strip() == str(student.predict(texts))


def test_the_front_matter_names_what_is_known_and_no_more(folder, student, evidence):
    told, _ = front((folder / "README.md").read_text())
    assert told == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["limbeck", "knowledge-distillation"],
        "datasets": ["stanfordnlp/imdb"],
        "base_model": "google/bert_uncased_L-2_H-128_A-2",
    }
    bare, body = front(card(student, Story(), ["input_ids"]))
    assert bare.keys() == {"library_name", "pipeline_tag", "tags"}
    assert "there are no figures here" in body
    assert "license" not in told


class Words(HTMLParser):
    """The text of a page, and the elements that it has."""

    def __init__(self):
        super().__init__()
        self.text, self.kinds, self.cells, self.open = "", set(), [], False

    def handle_starttag(self, tag, attributes):
        self.kinds.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")
            self.open = True

    def handle_endtag(self, tag):
        self.open &= tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.open:
            self.cells[-1] += data


RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def read(markdown):
    page = Words()
    page.feed(RENDERER.render(markdown))
    return page


def test_the_card_says_what_the_evidence_says(folder, evidence):
    _, body = front((folder / "README.md").read_text())
    page = read(body)
    text = " ".join(page.text.split())
    assert " ".join(evidence.sentence.split()) in text
    for note in evidence.notes:
        assert note in text
    distilled = evidence.arms.distilled
    row = page.cells[page.cells.index("Distilled") :]
    assert row[1].split()[0] == f"{100 * distilled.mean.accuracy:.1f}"
    assert "94,410" in row[4]
    assert "0.41 ms" in row[5]
    assert page.cells.count("Teacher") == page.cells.count("Control") == 1
    for known in ("4,000 training, 500 labelled, 500 validation, 120 test", "Seeds: 0, 1", "torch 2.13.0", "3f9a" * 16):
        assert known in text
    assert "limbeck run" not in text, "a command may name folders of the machine"


def test_names_are_text_and_nothing_else(folder):
    _, body = front((folder / "README.md").read_text())
    page = read(body)
    assert not page.kinds & {"script", "a", "img", "em"}
    assert all(name in page.text for name in NAMES)
    assert "<script" not in body


HARD = st.text(
    st.sampled_from(list("ab1 .)*_`#[]()<>&|\\!~-+=.:/@${}'\"\n")) | st.characters(codec="utf-8"), max_size=30
)


@settings(max_examples=200)
@given(text=HARD)
@example("1. one")
@example("123) one")
@example("+ one")
@example("&lt;b&gt; \\*")
def test_escaped_text_reads_as_it_was_in_a_paragraph_a_cell_and_an_item(text):
    clean = "".join(letter for letter in text if letter.isprintable() or letter == "\n")
    wanted = " ".join(clean.split())
    for around in ("{} y", "- {} y", "| a |\n| --- |\n| {} y |"):
        page = read(around.format(escaped(clean)))
        assert f"{wanted} y".strip() in " ".join(page.text.split())
        assert page.kinds <= {"p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}


def test_a_link_is_not_one_for_readers_who_make_links_of_addresses():
    for address in ("https://example.org", "www.example.org", "a@example.org"):
        assert address not in escaped(f"see {address}")


def finished(run: Path, evidence, recipe):
    write_json(run / "recipe.json", {"hash": "0", "began": "", "recipe": recipe})
    write_json(run / "evidence.json", evidence.plain())


def recipe(data, student):
    return {
        "limbeck": 1,
        "data": {"source": {"name": "huggingface", "path": data}},
        "student": {"name": "huggingface", "path": student},
    }


def test_a_runs_export_has_its_evidence_and_hub_names_that_were_fetched_alone(student, evidence, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    (cache / "datasets--owner--reviews").mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    finished(tmp_path / "run", evidence, recipe("owner/reviews", "folders/private-model"))
    delivered = Delivered.of(student, tmp_path / "run")
    text = (delivered.export("hf", tmp_path / "hf", TEXTS).path / "README.md").read_text()
    told, body = front(text)
    assert told["datasets"] == ["owner/reviews"]
    assert "base_model" not in told
    assert "private-model" not in text
    assert str(tmp_path) not in text
    assert "tiny-images" in body
    (tmp_path / "run/evidence.json").unlink()
    told, body = front((delivered.export("hf", tmp_path / "hf", TEXTS).path / "README.md").read_text())
    assert "there are no figures here" in body


def test_other_formats_have_no_card(student, tmp_path):
    assert not (export(student, "safetensors", tmp_path / "a", TEXTS).path / "README.md").exists()


def test_images_are_told_where_their_preparation_is(evidence):
    from transformers import ViTConfig, ViTForImageClassification

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    module = ViTForImageClassification(ViTConfig(image_size=12, patch_size=6, num_channels=1, num_labels=3, **small))
    reader = ImageReader(height=12, width=12, channels=1, mean=(0.2,), std=(0.5,))
    told, body = front(card(Student(module, reader, NAMES), Story(evidence), ["pixel_values"]))
    assert told["pipeline_tag"] == "image-classification"
    assert "`limbeck.json` says how pixels are prepared" in body
    assert "AutoTokenizer" not in body
