"""What goes wrong around a run: folders, disks, memory, interruptions, and experiments that cannot work."""

import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.fakes.experiments import LABELS, SOFT, Clouds, Knows, Net, examples, smooth, stage, teacher
from torch import nn

from limbeck.advice.preflight import check_labels, dry_run
from limbeck.cli.main import main
from limbeck.errors import Busy, LimbeckError, PreflightError, RecipeError, SignalError
from limbeck.evidence.schema import Evidence
from limbeck.files import held
from limbeck.models.identity import of_module
from limbeck.objective import Hints, SoftTargets
from limbeck.run import distill
from limbeck.teachers.local import LocalTeacher
from limbeck.training.loop import train

RECIPE = """
limbeck: 1
name: tiny
data: {source: mnist-5k, limit: 200, validation: 60, test: 60}
teacher: {model: {name: mlp, hidden: 24}, training: {steps: 8, batch-size: 24}}
student: {name: mlp, hidden: 16, dropout: 0.2}
training: {steps: 8, batch-size: 24, checkpoint-every: 2}
seeds: 1
"""
COMMAND = Path(sys.executable).with_name("limbeck")
MORE = (250, 500, 750, 1500, 2000, 2500, 3000, 4500, 6000, 7500, 10_500, 12_000, 14_000, 16_000, 18_000)
BRIEF = {"steps": 4, "batch-size": 16}


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def rows(count=90):
    table = Clouds(count)
    return [(table.x[row], int(table.labels[row])) for row in range(count)]


def told(capsys, code, *arguments) -> str:
    """What the command says on the error stream when it exits with ``code``."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(one) for one in arguments])
    said = " ".join(capsys.readouterr().err.split())
    assert (end.value.code or 0) == code, said
    assert "Traceback" not in said
    return said


# --- folders


def test_a_folder_in_use_is_named(tmp_path, recipe, capsys):
    with held(tmp_path / "out", "a run writes there"):
        said = told(capsys, 2, "run", recipe, "--out", "out")
    assert "out is in use by another process (a run writes there)" in said
    assert not (tmp_path / "out" / "recipe.json").exists()


@pytest.mark.proof("Q10")
def test_a_folder_is_free_at_once_when_its_holder_is_killed_though_its_workers_live(tmp_path, tried):
    code = f"""
        import os, time
        from pathlib import Path
        from limbeck.files import held
        with held(Path({str(tmp_path)!r}) / "held", "test"):
            worker = os.fork()
            if not worker:
                print(os.getpid(), flush=True)  # by the worker: until it runs it has not let go
                time.sleep(60)
                os._exit(0)
            time.sleep(60)
    """
    holder = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    worker = int(holder.stdout.readline())
    try:
        with pytest.raises(Busy), held(tmp_path / "held", "test"):
            pass
        holder.kill()
        began = time.monotonic()
        holder.wait()
        os.kill(worker, 0)  # it is still there
        with held(tmp_path / "held", "test"):
            pass
        assert time.monotonic() - began < 30
    finally:
        os.kill(worker, signal.SIGKILL)
        holder.kill()
        holder.stdout.close()
    tried(stale_locks=1)


def test_a_worker_that_ends_does_not_free_what_its_parent_holds(tmp_path):
    with held(tmp_path / "held", "test"):
        worker = os.fork()
        if not worker:
            os._exit(0)
        os.waitpid(worker, 0)
        with pytest.raises(Busy), held(tmp_path / "held", "test"):
            pass
    with held(tmp_path / "held", "test"):
        pass


def test_a_folder_of_another_recipe_says_what_differs(tmp_path, recipe, capsys):
    told(capsys, 0, "run", recipe, "--out", "out")
    before = (tmp_path / "out" / "recipe.json").read_bytes()
    said = told(capsys, 2, "run", recipe, "--out", "out", "--set", "training.steps=9", "--set", "student.hidden=8")
    assert "out holds a run of another recipe" in said
    assert "what differs: student.hidden, training.steps" in said
    assert (tmp_path / "out" / "recipe.json").read_bytes() == before


def test_a_folder_with_strangers_files_is_left_alone(tmp_path, recipe, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    said = told(capsys, 2, "run", recipe, "--out", "out")
    assert "holds no run (it has 'thesis.tex')" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) in (["thesis.tex"], [".lock", "thesis.tex"])


def test_a_file_in_place_of_the_folder_is_named(tmp_path, recipe, capsys):
    (tmp_path / "out").write_text("a file")
    assert "out" in told(capsys, 2, "run", recipe, "--out", "out")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"hash": 1}'])
def test_a_damaged_run_folder_is_named(tmp_path, recipe, capsys, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.json").write_text(content)
    assert "recipe.json is damaged" in told(capsys, 2, "run", recipe, "--out", "out")


# --- interruptions


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(tmp_path, recipe, capsys):
    slow = ["--set", "training.steps=600", "--set", "training.checkpoint-every=100"]
    process = subprocess.Popen(
        [COMMAND, "run", recipe, "--out", "out", *slow],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},  # what it is goes on here
    )
    until = time.monotonic() + 60
    while not list((tmp_path / "home").glob("arms/*/*/checkpoints/step-*")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = " ".join(process.communicate(timeout=60)[1].split())
    assert process.returncode == 130, said
    assert "of 600 of control, seed 0; nothing is lost." in said
    assert (
        f"The same command goes on: limbeck run {recipe} --out out --set training.steps=600 --set training.checkpoint-every=100"
        in said
    )
    assert not (tmp_path / "out" / "evidence.json").exists()
    assert "control, seed 0: goes on after step" in told(capsys, 0, "run", recipe, "--out", "out", *slow)
    assert Evidence.read(tmp_path / "out").verdict == "cannot tell"


def test_one_seed_cannot_tell(tmp_path):
    result = distill(Knows(), Net(), rows(), training=BRIEF, seeds=1, quiet=True, out=tmp_path / "out")
    assert result.verdict == "cannot tell"
    assert "seed" in result.sentence


# --- a full disk


@pytest.mark.proof("Q3")
@pytest.mark.parametrize(
    "bytes_", [0, 1000, 3500, 9000, 20_000, *(pytest.param(one, marks=pytest.mark.faults) for one in MORE)]
)
def test_a_full_disk_is_said_with_its_place_and_the_run_goes_on_afterwards(tmp_path, bytes_, tried):
    """No file may grow beyond so many bytes: each size stops another write, the report last of all."""

    def go():
        return distill(
            Knows(),
            smooth,
            rows(),
            training={**BRIEF, "checkpoint-every": 1},
            seeds=1,
            quiet=True,
            out=tmp_path / "out",
        )

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    try:
        with pytest.raises(LimbeckError) as said:
            go()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(tmp_path) in str(said.value)
    assert not (tmp_path / "out" / "evidence.json").exists()
    assert go().verdict == "cannot tell"
    tried(full_disks=1)


# --- memory


class Greedy(Net):
    """Runs out of memory in its first step of training, as ``error`` says."""

    error: Exception = MemoryError()

    def forward(self, x):
        if self.training:
            raise self.error
        return super().forward(x)


class Huge(Net):
    """Asks the allocator for more than there is."""

    def forward(self, x):
        return super().forward(x) + (torch.empty(1 << 50).sum() if self.training else 0)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        torch.cuda.OutOfMemoryError("an allocator that says it otherwise"),
        RuntimeError("HIP out of memory"),
        None,
    ],
    ids=str,
)
@pytest.mark.parametrize("do", ["train", "dry run"])
def test_out_of_memory_says_what_to_do(tmp_path, monkeypatch, error, do):
    monkeypatch.setattr(Greedy, "error", error)
    one = stage(Huge if error is None else Greedy, accumulate=2)
    with pytest.raises(LimbeckError, match=r"Out of memory with batch-size 16 in 2 .*training.accumulate to 4"):
        train(one, tmp_path) if do == "train" else dry_run(one, "cpu")


def test_other_errors_of_a_model_are_not_called_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(Greedy, "error", RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(stage(Greedy), tmp_path)


# --- experiments that cannot work


def refused(kind, match, **changes):
    given = {
        "teacher": teacher().module,
        "student": Net(),
        "data": rows(),
        "training": BRIEF,
        "seeds": 1,
        "quiet": True,
    }
    with pytest.raises(kind, match=match):
        distill(**{**given, **changes})
    left = list(Path("home").rglob("model.safetensors")) if Path("home").exists() else []
    assert not left, "nothing was trained before it was refused"


def test_a_batch_larger_than_the_data():
    refused(
        PreflightError,
        r"batch-size is 100, but there are only \d+ training examples",
        training={**BRIEF, "batch-size": 100},
    )


def test_a_teacher_of_other_classes():
    refused(SignalError, "student has 3 classes and the teacher 4", teacher=Net(classes=4).eval())


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_a_student_of_other_classes(classes):
    refused(
        LimbeckError, f"gives {classes} logits an example .*but the data has 3 classes", student=Net(classes=classes)
    )


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_hint_at_a_module_that_is_not_there_suggests_the_nearest(side):
    names = {"student": "body", "teacher": "body", side: "boddy"}
    refused(SignalError, "has no module 'boddy': did you mean 'body'", objective=(LABELS, Hints(**names)))


def test_a_teacher_no_better_than_chance():
    refused(
        PreflightError,
        r"On the validation part the teacher's accuracy is .*%.*Are they in the order",
        teacher=Knows(order=(1, 2, 0)),
    )


def test_a_teacher_that_was_trained_too_little_says_so(tmp_path):
    def flat():
        net = smooth()
        with torch.no_grad():
            net.head.weight.zero_()
            net.head.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))  # one class, whatever it sees
        return net

    with pytest.raises(
        PreflightError, match=r"it has learnt nothing in 1 steps? of training on \d+ labelled rows"
    ) as said:
        distill(
            flat(), Net, rows(), training=BRIEF, teacher_training={"steps": 1, "batch-size": 16}, seeds=1, quiet=True
        )
    assert "still has to be trained" not in str(said.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": {"epoch": 3}}, "training.epoch: unknown key; did you mean 'epochs'?"),
        ({"training": {"epochs": 3, "optimizer": {"name": "sgd", "momentun": 0.5}}}, "training.optimizer.momentun"),
        ({"teacher_training": {"steps": "many"}}, "teacher_training.steps: found 'many'; allowed: a whole number"),
        ({"objective": {"lables": 0.1}}, "objective.lables: unknown name 'lables'; did you mean 'labels'?"),
        ({"objective": {}}, "objective: an objective needs at least one term"),
    ],
)
def test_a_wrong_mapping_is_named_as_in_a_recipe(changes, said):
    refused(RecipeError, "limbeck.distill: " + re.escape(said), **changes)


class Mute(Net):
    """Shows a module that is always zero."""

    def __init__(self):
        super().__init__()
        self.mute = nn.Threshold(1e9, 0.0)

    def forward(self, x):
        return super().forward(x) + self.mute(x).sum(1, keepdim=True)


def test_a_term_that_is_exactly_zero():
    term = Hints(student="mute", teacher="mute")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mute = Mute()
    refused(
        PreflightError,
        "'hints' is exactly zero .*weight is above 0",
        teacher=mute,
        student=Mute(),
        objective=(LABELS, term),
    )


def test_a_student_that_starts_as_its_teacher_may_differ_by_nothing():
    """A term that is zero at a match says nothing of a mistake where the student is the teacher."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = smooth()
    one = stage(module, teacher=LocalTeacher(smooth_copy(module), of_module(module)), terms=(LABELS, SOFT))
    assert dry_run(one, "cpu").parts["soft-targets"] == 0
    other = LocalTeacher(smooth_copy(module), "another")
    assert dry_run(replace(one, teacher=other), "cpu").parts["soft-targets"] == 0, "it answers the same"
    unseen = SimpleNamespace(fingerprint="another", provides=other.provides, module=None, observe=other.observe)
    with pytest.raises(PreflightError, match="exactly zero"):
        dry_run(replace(one, teacher=unseen), "cpu")


def smooth_copy(module):
    copy = smooth()
    copy.load_state_dict(module.state_dict())
    return copy


def test_a_term_that_rests_at_first_is_no_error():
    term = SoftTargets(weight={"schedule": "steps", "values": [[0, 0], [0.5, 1]]})
    assert "soft-targets" not in dry_run(stage(terms=(LABELS, term)), "cpu").parts


def test_a_student_that_gets_no_gradient():
    class Deaf(Net):
        def forward(self, x):
            return super().forward(x).detach() + 0 * self.head.bias

    refused(PreflightError, "No parameter of the student gets a gradient", student=Deaf())


def test_inputs_that_are_no_numbers_are_refused():
    module = Net()
    with torch.no_grad():
        module.head.weight.fill_(float("nan"))
    refused(LimbeckError, "nan", student=module)


@pytest.mark.parametrize("wrong", [3, 99, -7])
def test_labels_out_of_range(wrong):
    some = examples(30)
    labels = some.labels.clone()
    labels[4] = wrong
    with pytest.raises(PreflightError, match=rf"1 labels are outside 0 to 2 \(the first is {wrong}\)"):
        check_labels(replace(some, labels=labels))
    check_labels(replace(some, rows=some.rows[5:], labels=labels))


def test_the_preflight_trains_and_draws_nothing(tmp_path):
    one = stage()
    before = {name: value.clone() for name, value in one.teacher.module.state_dict().items()}
    state = torch.random.get_rng_state()
    dry_run(one, "cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    after = one.teacher.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
