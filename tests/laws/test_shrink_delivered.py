"""What is delivered of a shrunk student: the same answers from its folder, and from a plain transformers folder."""

import random

import pytest
import torch

import limbeck
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenizers import quiet
from limbeck.export import export
from limbeck.models.identity import of_module
from limbeck.models.saved import load_student, save_student
from limbeck.models.specs import BuildContext, Shrunk, SmallTransformer, build
from limbeck.recipe.reading import read
from limbeck.run.deeds import run
from limbeck.run.experiment import from_recipe

transformers = pytest.importorskip("transformers")
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
KINDS = {
    "billing": "refund invoice card charge refunded invoices",
    "delivery": "parcel courier late box parcels couriers",
    "quality": "broke cheap thin loose broken cheaper",
}
OTHER = "wander yonder ponder fonder blunder thunder asunder launder " * 3


def rows(count, seed):
    draw = random.Random(seed)
    for place in range(count):
        kind = draw.choice(list(KINDS))
        words = [draw.choice(KINDS[kind].split()) for _ in range(3)]
        yield f"my {words[0]} was {words[1]} and {words[2]} on day {place}", kind


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A folder with a small BERT and a WordPiece tokenizer that knows more than the texts need."""
    folder = tmp_path_factory.mktemp("teacher")
    one = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    one.normalizer, one.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=220, special_tokens=SPECIAL, show_progress=False)
    one.train_from_iterator([*(text for text, _ in rows(40, 1)), OTHER], trainer)
    ends = [(name, one.token_to_id(name)) for name in ("[SEP]", "[CLS]")]
    one.post_processor = processors.BertProcessing(*ends)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    columns = ["input_ids", "token_type_ids", "attention_mask"]
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=one, model_input_names=columns, **names)
    whole.save_pretrained(folder)
    sample = {"input_ids": torch.tensor([[2, 7, 3]])}
    spec = SmallTransformer(layers=3, hidden=24, heads=3, dropout=0.0)
    model = build(spec, BuildContext(3, sample, tuple(KINDS), vocabulary=len(whole)), 0)
    for value in model.parameters():
        value.data += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel()))
    model.save_pretrained(folder)
    return folder


def recipe(teacher, folder, student):
    lines = "".join(f'"{text}",{kind}\n' for text, kind in rows(90, 2))
    (folder / "rows.csv").write_text("text,label\n" + lines)
    (folder / "recipe.yaml").write_text(
        f"""
limbeck: 1
name: shrunk
data: {{source: {{name: table, path: {folder / "rows.csv"}, text: text, label: label}}, max-length: 32}}
teacher:
  model: {{name: huggingface, path: {teacher}}}
  training: {{steps: 40, batch-size: 16, optimizer: {{name: adamw, learning-rate: 5e-3}}}}
student: {student}
objective: {{soft-targets: {{weight: 1, temperature: 2}}, hints: {{layers: {{hidden.2: hidden.3}}, weight: 0.1}}}}
training: {{steps: 4, batch-size: 8}}
seeds: 1
"""
    )
    return read(folder / "recipe.yaml")


SMALL = "{name: shrunk, layers: 2, hidden: 16, heads: 2, intermediate: 48, embedding-rank: 6, vocabulary: task}"


def test_a_run_shrinks_the_trained_teacher_and_delivers_the_student(teacher, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    run(recipe(teacher, tmp_path, SMALL), tmp_path / "run", quiet=True)
    student = limbeck.load(tmp_path / "run")
    whole = transformers.AutoTokenizer.from_pretrained(teacher)
    config = student.module.config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (2, 16, 48)
    assert student.reader.vocabulary == config.vocab_size < len(whole)
    assert student.module.get_input_embeddings().rank == 6
    texts = [text for text, _ in rows(20, 3)]
    assert set(student.predict(texts)) <= set(KINDS)
    caplog.clear()
    made = student.export("hf", tmp_path / "hf", texts)
    assert 0 <= made.max_difference <= made.tolerance
    assert "multiplied out" in caplog.text
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert type(plain.get_input_embeddings()) is torch.nn.Embedding
    columns = words(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        found = plain(**columns).logits
    # 1e-4: float32 sums in another order and padding of another length, logits of size 1
    assert torch.allclose(found, student.logits(texts), atol=1e-4)
    assert student.export("safetensors", tmp_path / "again", texts).max_difference == 0


def test_nothing_changed_is_the_teacher_and_its_tokens(teacher, tmp_path):
    for fields in ("", ", vocabulary: task"):
        experiment = from_recipe(recipe(teacher, tmp_path, f"{{name: shrunk{fields}}}"))
        donor = build(experiment.teacher_spec, experiment.context("teacher"), 0)
        own = experiment.context("student")
        student = build(experiment.student, BuildContext(**{**vars(own), "donor": donor}), 0)
        assert 4 < len(next(iter(own.sample.values()))) <= 64
        batch = experiment.sample(20)
        with torch.no_grad():
            ours, theirs = (
                module.eval()(**batch.columns(side)).logits
                for module, side in ((student, "student"), (donor, "teacher"))
            )
        assert torch.equal(ours, theirs)


def test_a_teacher_without_a_tokenizer_of_its_own_may_be_reduced_too(teacher, tmp_path):
    asked = recipe(teacher, tmp_path, "{name: shrunk, vocabulary: task}")
    source = asked.data.model_copy(update={"tokenizer": str(teacher)})
    model = SmallTransformer(layers=2, hidden=16)
    experiment = from_recipe(
        asked.model_copy(update={"data": source, "teacher": asked.teacher.model_copy(update={"model": model})})
    )
    donor = build(model, experiment.context("teacher"), 0)
    assert donor.config.vocab_size == len(transformers.AutoTokenizer.from_pretrained(teacher))
    own = experiment.context("student")
    student = build(experiment.student, BuildContext(**{**vars(own), "donor": donor}), 0)
    assert student.config.vocab_size == own.vocabulary < donor.config.vocab_size


def test_a_factorised_student_is_built_again_from_its_folder(teacher, tmp_path):
    reader = TextReader(tokenizer=str(teacher), max_length=32)
    texts = [text for text, _ in rows(6, 4)]
    with quiet():
        donor = transformers.AutoModelForSequenceClassification.from_pretrained(teacher)
    context = BuildContext(3, reader.encode(texts), tuple(KINDS), donor=donor)
    spec = Shrunk(embedding_rank=5)
    module = build(spec, context, 0)
    save_student(tmp_path / "student", module, spec, reader, tuple(KINDS))
    student = load_student(tmp_path / "student")
    assert of_module(student.module) == of_module(module)
    with torch.no_grad():
        assert torch.equal(student.logits(texts), module.eval()(**reader.encode(texts)).logits)
    again = build(Shrunk(layers=2), BuildContext(**{**vars(context), "donor": student.module}), 0)
    assert type(again.get_input_embeddings()) is torch.nn.Embedding, "a student's student has the product"
    save_student(tmp_path / "whole", donor, None, reader, tuple(KINDS))
    plain = load_student(tmp_path / "whole")
    assert export(plain, "hf", tmp_path / "hf", texts).tolerance == 0
