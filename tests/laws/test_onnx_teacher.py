"""An ONNX file as a teacher: what it reads, in any type and shape, and what becomes of what it gives."""

import logging
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from tests.fakes.onnx import identity, linear, saved
from tests.fakes.rows import LOGITS

from limbeck.data.batch import Batch
from limbeck.data.tasks import CLASSES, MultiLabel, Numbers
from limbeck.teachers.onnx.settings import Onnx
from limbeck.teachers.onnx.teacher import OnnxTeacher

DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x / 16, y, LogisticRegression(max_iter=200).fit(x[:400] / 16, y[:400])


def shown(path, x, names=(), task=CLASSES, **settings):
    columns = x if isinstance(x, dict) else torch.as_tensor(x)
    return OnnxTeacher(Onnx(path=str(path), **settings), task, names).observe(Batch.of(columns), LOGITS)["logits"]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("rows", [None, 1, 7])
def test_scikit_learns_classifier_says_the_same(digits, tmp_path, zipped, rows):
    """Of any batch dimension, as a matrix or as a map of classes; float64 columns become float32."""
    x, _, model = digits
    path = linear(tmp_path / "m.onnx", model.coef_, model.intercept_, range(10), zipped, rows)
    found = shown(path, x[400:420], DIGITS, outputs="probabilities")
    assert (found.dtype, found.shape) == (torch.float32, (20, 10))
    own = np.maximum(model.predict_proba(x[400:420]), 1e-6)
    np.testing.assert_allclose(found.exp().numpy(), own, atol=1e-5)  # float32 of scores to 10


def test_classes_of_a_map_are_read_by_their_names(digits, tmp_path):
    """The file has its names as they sort, the data in another order."""
    x, _, model = digits
    names = list("abcdefghij")
    path = linear(tmp_path / "m.onnx", model.coef_, model.intercept_, names, zipped=True)
    found, order = shown(path, x[400:420], tuple(names[::-1]), outputs="probabilities"), torch.arange(9, -1, -1)
    torch.testing.assert_close(found[:, order], shown(path, x[400:420], tuple(names), outputs="probabilities"))


def test_what_it_gives_is_recognised_and_said(digits, tmp_path, caplog):
    x, _, model = digits
    path = linear(tmp_path / "m.onnx", model.coef_, model.intercept_, range(10))
    with caplog.at_level(logging.WARNING):
        guessed = shown(path, x[400:420], DIGITS)
    assert "read as probabilities" in caplog.text
    assert torch.equal(guessed, shown(path, x[400:420], DIGITS, outputs="probabilities"))
    caplog.clear()
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    same = identity(tmp_path / "i.onnx")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(shown(same, logits, tuple("abc")), logits)
    assert "read as logits" in caplog.text
    caplog.clear()
    logs = logits.log_softmax(-1)
    assert torch.equal(shown(same, logs, tuple("abc"), outputs="log-probabilities"), logs)
    assert not caplog.text


def test_probabilities_of_zero_have_a_floor_and_several_labels_their_odds(tmp_path):
    same = identity(tmp_path / "i.onnx")
    p = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.5, 0.25]])
    found = shown(same, p, tuple("abc"), outputs="probabilities", floor=1e-3)
    torch.testing.assert_close(found, p.clamp_min(1e-3).log())
    p = torch.tensor([[0.9, 0.2, 0.0], [0.5, 0.5, 1.0]])
    found = shown(same, p, tuple("abc"), MultiLabel(), outputs="probabilities")
    torch.testing.assert_close(found.sigmoid(), p, rtol=0, atol=2e-6)
    assert torch.equal(shown(same, 5 * p, ("a", "b", "c"), Numbers()), 5 * p)


def test_one_number_for_two_classes_is_that_of_the_second(tmp_path):
    """As Keras gives it."""
    same = identity(tmp_path / "i.onnx", (None, 1))
    p = torch.tensor([[0.9], [0.2]])
    found = shown(same, p, ("no", "yes"), outputs="probabilities")
    torch.testing.assert_close(found.softmax(-1), torch.cat([1 - p, p], 1))
    found = shown(same, p, ("no", "yes"), outputs="logits")
    torch.testing.assert_close(found.softmax(-1)[:, 1:], p.sigmoid())


@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE", "FLOAT16", "INT32", "UINT8"])
def test_columns_become_what_it_reads(tmp_path, kind):
    """Images as one row of numbers, in the type of the graph, in the bytes that it was trained on."""
    dtype = getattr(TensorProto, kind)
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    path = saved(tmp_path / "m.onnx", nodes, [("x", dtype, [None, 4])], [("y", TensorProto.FLOAT, [None, 4])])
    pixels = torch.tensor([[0, 3], [128, 255]], dtype=torch.uint8).expand(5, 1, 2, 2)
    read = (pixels / 255 - 0.3) / 0.7
    teacher = OnnxTeacher(Onnx(path=str(path), pixels="0-255", outputs="logits"), normalised=((0.3,), (0.7,)))
    found = teacher.observe(Batch.of({"pixel_values": read}), LOGITS)["logits"]
    assert torch.equal(found, pixels.flatten(1).float())
    if kind in ("FLOAT", "DOUBLE"):
        teacher = OnnxTeacher(Onnx(path=str(path), pixels="0-1", outputs="logits"), normalised=((0.3,), (0.7,)))
        found = teacher.observe(Batch.of({"pixel_values": read}), LOGITS)["logits"]
        torch.testing.assert_close(found, pixels.flatten(1) / 255)


def test_inputs_are_found_by_name_or_as_they_are_told(tmp_path):
    nodes = [helper.make_node("Sub", ["a", "b"], ["y"])]
    both = [(name, TensorProto.FLOAT, [None, 3]) for name in "ab"]
    path = saved(tmp_path / "m.onnx", nodes, both, [("y", TensorProto.FLOAT, [None, 3])])
    a, b, c = (torch.randn(4, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    assert torch.equal(shown(path, {"c": c, "b": b, "a": a}), a - b)
    assert torch.equal(shown(path, {"c": c, "b": b}, inputs={"a": "c"}), c - b)
    x = saved(
        tmp_path / "x.onnx", [helper.make_node("Neg", ["odd"], ["y"])], [("odd", 1, [None, 3])], [("y", 1, [None, 3])]
    )
    assert torch.equal(shown(x, {"mine": a}), -a)


def test_texts_shorter_than_it_reads_are_padded(tmp_path):
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["z"]),
        helper.make_node("Cast", ["z"], ["y"], to=TensorProto.FLOAT),
    ]
    two = [(name, TensorProto.INT64, [None, 6]) for name in ("input_ids", "attention_mask")]
    path = saved(tmp_path / "m.onnx", nodes, two, [("y", TensorProto.FLOAT, [None, 6])])
    ids = torch.arange(8).view(2, 4) + 1
    found = shown(path, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, outputs="logits")
    assert found[:, :4].long().tolist() == ids.tolist()
    assert not found[:, 4:].any()


def test_content_and_settings_name_it_and_not_its_place(tmp_path):
    """Weights outside the file are content too."""
    weights = {"w": np.arange(400, dtype=np.float32).reshape(20, 20)}

    def made(folder, scale=1.0):
        folder.mkdir(exist_ok=True)
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        shape = [("x", 1, [None, 20])], [("y", 1, [None, 20])]
        outside = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
        return saved(folder / "m.onnx", nodes, *shape, {"w": scale * weights["w"]}, **outside)

    path = made(tmp_path / "a")
    assert (tmp_path / "a" / "w.bin").exists()
    x = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(shown(path, x), x @ torch.from_numpy(weights["w"]), rtol=1e-5, atol=1e-3)

    def named(path, **settings):
        return OnnxTeacher(Onnx(path=str(path), **settings)).fingerprint

    whole = (tmp_path / "a" / "m.onnx").read_bytes()
    other = [named(made(tmp_path / "c", 2.0)), named(path, outputs="logits"), named(path, floor=1e-3)]
    assert named(path) == named(made(tmp_path / "b"))
    assert (tmp_path / "c" / "m.onnx").read_bytes() == whole  # only what is outside differs
    assert len({named(path), *other}) == 4


def test_nothing_but_logits_and_no_model(tmp_path):
    teacher = OnnxTeacher(Onnx(path=str(identity(tmp_path / "i.onnx"))), names=("a", "b", "c"))
    assert (teacher.module, teacher.provides.names, teacher.provides.classes) == (None, LOGITS, 3)
    batch = Batch.of(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    assert teacher.observe(replace(batch), frozenset()) == {}
    assert onnx.load(tmp_path / "i.onnx").graph.node
