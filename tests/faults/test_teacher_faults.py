"""Teachers that cannot be: files, columns, classes, weights and settings that do not fit are named in one paragraph."""

import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from pydantic import TypeAdapter, ValidationError
from tests.fakes.onnx import identity, linear, saved
from tests.fakes.rows import LOGITS, local
from torch import nn

from limbeck.data.batch import Batch
from limbeck.data.language import NextToken
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.data.vectors import Vectors
from limbeck.errors import LimbeckError, SignalError
from limbeck.objective import Hints, Objective
from limbeck.recipe import TeacherPart
from limbeck.signals.logits import Offer
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.onnx.settings import Onnx
from limbeck.teachers.onnx.teacher import OnnxTeacher
from limbeck.teachers.precision import Asking
from limbeck.teachers.teacher import Provides
from limbeck.teachers.weighing import ByDomain, Fixed

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
ABC = ("a", "b", "c")


def asked(path, x=X, names=ABC, task: Task = CLASSES, normalised=None, **settings):
    teacher = OnnxTeacher(Onnx(path=str(path), **settings), task, names, normalised)
    return teacher.observe(Batch.of(x), LOGITS)


def refused(words, act, *given, **settings):
    with pytest.raises(LimbeckError) as found:
        act(*given, **settings)
    said = str(found.value)
    assert words in said, said
    assert "\n" not in said
    assert len(said) < 700


def test_files_that_are_none(tmp_path):
    refused("There is no file", asked, tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("not a graph at all, but words" * 9)
    refused("is no ONNX file", asked, tmp_path / "text.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    refused("is no ONNX file", asked, tmp_path / "empty.onnx")
    whole = identity(tmp_path / "i.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    refused("cut.onnx", asked, tmp_path / "cut.onnx")
    strange = [helper.make_node("Dream", ["x"], ["y"], domain="nowhere")]
    refused(
        "ONNX Runtime cannot run",
        asked,
        saved(tmp_path / "s.onnx", strange, [("x", 1, [None, 3])], [("y", 1, [None, 3])]),
    )


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "gone.bin"])
@pytest.mark.proof("Q14")
def test_weights_outside_the_folder_are_not_read(tmp_path, location, tried):
    folder = tmp_path / "model"
    folder.mkdir()
    weights = {"w": np.eye(3, dtype=np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    outside = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    path = saved(folder / "m.onnx", nodes, [("x", 1, [None, 3])], [("y", 1, [None, 3])], weights, **outside)
    (folder / "w.bin").rename(tmp_path / "w.bin")
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
    refused("there is no such file" if location == "gone.bin" else "outside its folder", asked, path)
    tried(paths_outside=1)


def test_columns_that_do_not_fit(tmp_path):
    path = identity(tmp_path / "i.onnx")
    refused("has the shape [None, 3]", asked, path, torch.zeros(4, 5))
    refused("'x', and the data has 'a', 'b'", asked, path, {"a": X, "b": X})
    refused("has no input 'z'", asked, path, inputs={"z": "a"})
    whole = identity(tmp_path / "n.onnx", dtype=TensorProto.INT64)
    refused("holds fractions", asked, whole, output_name="y")
    words = saved(
        tmp_path / "w.onnx", [helper.make_node("Identity", ["x"], ["y"])], [("x", 8, [None])], [("y", 8, [None])]
    )
    refused("columns are tensors of numbers", asked, words)
    refused("this data holds none", asked, path, pixels="0-255")


def test_outputs_that_do_not_answer(tmp_path):
    nodes = [helper.make_node("Identity", ["x"], ["one"]), helper.make_node("Neg", ["x"], ["two"])]
    path = saved(tmp_path / "t.onnx", nodes, [("x", 1, [None, 3])], [(name, 1, [None, 3]) for name in ("one", "two")])
    refused("say with 'output-name'", asked, path)
    refused("has no output 'three'", asked, path, output_name="three")
    assert torch.equal(asked(path, output_name="two")["logits"], -X)


def test_classes_that_are_others(tmp_path):
    path = identity(tmp_path / "i.onnx")
    refused("gives 3 numbers an example, and the data has 2 classes", asked, path, names=("a", "b"))
    single = identity(tmp_path / "s.onnx", (None, 1))
    refused("one number for two classes", asked, single, X[:, :1], ("no", "yes"))
    coefficients = np.eye(3)
    zipped = linear(tmp_path / "z.onnx", coefficients, [0, 0, 0], ["x", "y", "z"], zipped=True)
    refused("has the classes ['x', 'y', 'z']", asked, zipped, outputs="probabilities")
    matrix = linear(tmp_path / "m.onnx", 9 * coefficients, [0, 0, 0], ["c", "b", "a"])
    refused("in another order", asked, matrix, outputs="probabilities")


def test_answers_that_are_no_numbers(tmp_path):
    path = identity(tmp_path / "i.onnx")
    wrong = X.clone()
    wrong[2, 1] = torch.nan
    refused("NaN or infinities for 1 of 4 rows (first: id 2)", asked, path, wrong)
    refused("do not sum to 1", asked, path, outputs="probabilities")


def test_other_signals_are_refused_before_they_are_asked(tmp_path):
    teacher = OnnxTeacher(Onnx(path=str(identity(tmp_path / "i.onnx"))), names=ABC)
    both = EnsembleTeacher([teacher, teacher])
    for one in (teacher, both):
        with pytest.raises(SignalError, match="logits alone"):
            one.observe(Batch.of(X), frozenset({"hidden.1"}))
        with pytest.raises(SignalError, match="does not show it"):
            Objective([Hints(student="body", teacher="body")]).check(one.provides)


class Known:
    module, fingerprint = None, "known"

    def __init__(self, classes=3, offers=Offer.MATRIX):
        self.provides = Provides(LOGITS, offers, classes)


def test_ensembles_that_cannot_be():
    refused("was given none", EnsembleTeacher, [])
    refused("know [3, 4] classes", EnsembleTeacher, [Known(), Known(4)])
    refused("nothing but draws", EnsembleTeacher, [Known(), Known(offers=Offer.EXPECTATIONS)])
    refused("vectors of two models", EnsembleTeacher, [Known()], task=Vectors())
    EnsembleTeacher([Known(8), Known(10)], task=NextToken())  # vocabularies are padded
    refused("none may be negative", Fixed, [1, -1])
    refused("one must be above 0", Fixed, [0, 0])
    refused("names no domains", ByDomain, {"law": [1]}, None)
    refused("did you mean 'law'?", ByDomain, {"lew": [1]}, ("law",))
    refused("no weights for the domain 'news'", ByDomain, {"law": [1]}, ("law", "news"))
    with pytest.raises(SignalError, match="these rows have none"):
        EnsembleTeacher([local()], ByDomain({"law": [1]}, ("law",))).observe(Batch.of(torch.zeros(2, 16)), LOGITS)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({}, "give model, stored, served, onnx or ensemble"),
        ({"onnx": "a.onnx", "model": "mlp"}, "not model and onnx"),
        ({"onnx": "a.onnx", "training": {"steps": 3}}, "an ONNX file is not trained here"),
        ({"onnx": "a.onnx", "precision": "bf16"}, "give a model, or leave them out"),
        ({"onnx": "a.onnx", "compile": True}, "give a model, or leave them out"),
        ({"ensemble": [{"onnx": "a"}], "training": {"steps": 3}}, "train each by itself"),
        ({"ensemble": [{}]}, "give model, onnx, served or stored"),
        ({"ensemble": []}, "at least 1"),
        ({"ensemble": {"members": [{"onnx": "a"}], "weights": [1, 2]}}, "1 teachers and 2 weights"),
        ({"ensemble": {"members": [{"onnx": "a"}], "weights": {"law": [0]}}}, "all weights for 'law' are 0"),
        ({"model": "mlp", "precision": "fp8"}, "'fp32', 'bf16' or 'int8'"),
    ],
)
def test_recipes_that_say_it_wrong(part, words):
    with pytest.raises(ValidationError) as found:
        TypeAdapter(TeacherPart).validate_python(part)
    assert words in str(found.value)


def test_precision_without_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    refused('pip install "limbeck[int8]"', Asking(precision="int8").module, nn.Linear(3, 3))


def test_onnx_without_its_libraries(monkeypatch, tmp_path):
    path = identity(tmp_path / "i.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused('pip install "limbeck[onnx]"', asked, path)
