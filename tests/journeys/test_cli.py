"""The commands a user types: what they are called, how fast they answer, how they fail."""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer.main

import limbeck
from limbeck.cli import tell
from limbeck.cli.main import app, main
from limbeck.errors import Interrupted, LimbeckError
from limbeck.evidence.records import Quality
from limbeck.evidence.results import ArmResult, ArmResults
from limbeck.evidence.schema import Counts, Provenance
from limbeck.evidence.weigh import weigh
from limbeck.objective import TERMS
from limbeck.recipe import Recipe
from limbeck.recipe.reading import bundled, parse
from limbeck.teachers.part import Part

# Scripts rely on these: a change here is a change for users.
OPTIONS = {
    "": ["--debug", "--help", "--install-completion", "--show-completion", "--version", "-h"],
    "check": ["--allow-code", "--help", "--quick", "--set", "-h", "RECIPE"],
    "compare": ["--help", "-h", "RUN RUN..."],
    "evaluate": ["--data", "--help", "--label", "--text", "-h", "RUN"],
    "export": ["--help", "--out", "--to", "-h", "-o", "RUN"],
    "init": ["--data", "--force", "--help", "--out", "--student", "--task", "--teacher", "-h", "-o"],
    "label": ["--allow-code", "--help", "--part", "--ray", "--reuse", "--set", "--workers", "-h", "RECIPE"],
    "methods": ["--help", "-h", "NAME"],
    "recipes": ["--copy", "--help", "--schema", "--show", "-h"],
    "report": ["--help", "--open", "-h", "RUN"],
    "run": ["--allow-code", "--help", "--max-minutes", "--out", "--quick", "--set", "-h", "-o", "RECIPE"],
    "runs": ["--help", "-h", "FOLDER"],
    "search": [
        "--allow-code",
        "--budget",
        "--confirm",
        "--help",
        "--method",
        "--no-prune",
        "--out",
        "--over",
        "--prune",
        "--set",
        "--storage",
        "--trials",
        "-h",
        "-o",
        "RECIPE",
    ],
    "store": ["--help", "-h"],
    "store clean": ["--help", "--older-than", "--yes", "-h", "FOLDER"],
    "store compact": ["--help", "-h", "FOLDER"],
    "store list": ["--help", "-h", "FOLDER"],
    "store verify": ["--help", "-h", "FOLDER"],
}
COMMAND = [sys.executable, "-m", "limbeck.cli.main"]


def names(command, context):
    found = []
    for one in command.get_params(context):
        is_option = one.param_type_name == "option"
        found += [*one.opts, *one.secondary_opts] if is_option else [one.metavar or one.name.upper()]
    return sorted(set(found))


@pytest.fixture(autouse=True)
def plain(monkeypatch, tmp_path):
    """A pipe of 80 columns, and a folder of one's own."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def limbeck_command(capsys):
    """Runs a command line in this process: exit code, output, errors in one line."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(one) for one in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert all(len(line) <= 80 or " " not in line.strip() for line in err.splitlines())
        return stop.value.code or 0, out, " ".join(err.split())

    return run


def evidence(gain=0.4, name="trial"):
    """Real evidence over made-up answers."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 200)

    def answers(skill):
        return draw.normal(size=(200, 3)) + skill * np.eye(3)[labels]

    def arm(skill):
        return ArmResult([answers(skill) for _ in range(3)], (0, 1, 2), seconds=(1.0, 2.0, 3.0))

    arms = ArmResults(distilled=arm(2 + gain), control=arm(2.0), teacher=ArmResult([answers(4.0)]))
    told = weigh(arms, labels, ["a", "b", "c"], name=name, data=Counts(test=200, classes=3))
    return told.model_copy(update={"provenance": Provenance(date="2026-01-02T03:04:05+00:00")})


def finished(folder, **options):
    folder.mkdir(parents=True)
    (folder / "evidence.json").write_text(json.dumps(evidence(**options).plain()))
    return folder


def test_the_options_are_frozen():
    group = typer.main.get_command(app)
    context = group.make_context("limbeck", ["methods"])
    found = {"": names(group, context)}

    def look(commands, above, before=""):
        for name, command in commands.items():
            own = command.make_context(name, [], parent=above, resilient_parsing=True)
            found[f"{before}{name}"] = names(command, own)
            look(getattr(command, "commands", {}), own, f"{before}{name} ")

    look(group.commands, context)
    assert found == OPTIONS


def test_help_answers_at_once_and_loads_nothing_heavy():
    code = "import sys, limbeck.cli.main; print([m for m in ('torch', 'numpy', 'pydantic', 'yaml', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    times = []  # of the processor, so that other work beside it does not count
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0
        assert all(name in done.stdout for name in OPTIONS if name and " " not in name)
    assert min(times) < 0.5


def test_version(limbeck_command):
    assert limbeck_command("--version") == (0, f"limbeck {limbeck.__version__}\n", "")


@pytest.mark.parametrize("name", [name for name in OPTIONS if name])
def test_every_command_explains_itself(limbeck_command, name):
    code, out, _ = limbeck_command(*name.split(), "--help")
    assert code == 0
    assert all(option in out for option in OPTIONS[name] if option.startswith("--"))


def test_what_the_user_can_mend_is_one_paragraph(limbeck_command):
    code, out, err = limbeck_command("run", "digits", "--set", "training.stps=5")
    assert (code, out) == (2, "")
    assert err.startswith("error: --set training.stps=5: training.stps: unknown key; did you mean 'steps'?")
    assert limbeck_command("run", "absent.yaml")[0] == 2
    assert limbeck_command("run")[0] == 2
    assert limbeck_command("nonsense")[0] == 2


def test_a_mistyped_line_is_one_paragraph_too(limbeck_command, tmp_path):
    assert "'--to'" in limbeck_command("export", tmp_path)[2]
    for typed in (("export", tmp_path), ("run",), ("nonsense",), ("run", "digits", "--quik")):
        code, out, err = limbeck_command(*typed)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert "--help" in err
        assert "\N{BOX DRAWINGS LIGHT HORIZONTAL}" not in err
    assert "Usage" in limbeck_command()[1]


def test_debug_shows_where():
    for place in ([*COMMAND, "--debug", "run", "absent.yaml"], [*COMMAND, "run", "absent.yaml", "--debug"]):
        done = subprocess.run(place, capture_output=True, text=True)
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "RecipeError" in done.stderr


def test_a_fault_of_ours_is_an_apology(limbeck_command, monkeypatch):
    def broken(*_, **__):
        raise KeyError("x\x1b[31my")

    monkeypatch.setattr("limbeck.recipe.reading.bundled", broken)
    code, _, err = limbeck_command("recipes")
    assert code == 1
    assert "no fault of yours. KeyError:" in err
    assert "--debug shows where" in err
    assert "\x1b" not in err


def test_stopping_says_how_to_go_on(limbeck_command, monkeypatch):
    def stopped(*_, **__):
        raise Interrupted("Stopped at step 40 of 600.")

    monkeypatch.setattr("limbeck.run.run", stopped)
    code, _, err = limbeck_command("run", "digits", "--set", "name=two words")
    assert code == 130
    assert "Stopped at step 40 of 600." in err
    assert "limbeck run digits --set 'name=two words'" in err

    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("limbeck.run.run", pressed)
    code, _, err = limbeck_command("run", "digits")
    assert (code, err) == (130, "Stopped. The same command goes on: limbeck run digits")


def test_a_reader_that_leaves_is_no_error():
    done = subprocess.run(f"{' '.join(COMMAND)} recipes --schema | head -1", shell=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("{\n", "")


@pytest.mark.parametrize(("quick", "steps"), [(False, 600), (True, 60)])
def test_run_passes_the_recipe_on_and_tells_the_verdict(limbeck_command, monkeypatch, quick, steps):
    heard = {}

    def fake(recipe, out, **options):
        heard.update(recipe=recipe, out=out, **options)
        told = evidence()
        return SimpleNamespace(evidence=told, report_path=Path("runs/x/report.html"))

    monkeypatch.setattr("limbeck.run.run", fake)
    flags = ["--quick"] if quick else []
    code, out, err = limbeck_command("run", "digits", "--set", "training.steps=600", "--max-minutes", "3", *flags)
    assert code == 0
    assert isinstance(heard["recipe"], Recipe)
    assert heard["recipe"].training.steps == steps
    assert heard["out"] == Path("runs/digits-quick" if quick else "runs/digits")
    assert (heard["max_minutes"], heard["allow_code"]) == (3.0, False)
    assert heard["command"].startswith("limbeck run digits --set training.steps=600")
    assert "Report: runs/x/report.html" in out
    assert all(arm in out for arm in ("Teacher", "Control", "Distilled"))
    assert "with the teacher" in " ".join(out.split())
    assert all(len(line) <= 80 for line in out.splitlines())
    assert ("quick run" in out) == ("quick run" in err) == quick


def test_check_and_label_say_what_they_found(limbeck_command, monkeypatch):
    found = SimpleNamespace(
        lines=lambda: [("data", "3,300 rows " * 12), ("student", "25,450 parameters")], warnings=["few rows"]
    )
    monkeypatch.setattr("limbeck.run.check", lambda recipe, allow_code: found)
    code, out, err = limbeck_command("check", "digits")
    assert (code, err) == (0, "warning: few rows")
    assert "25,450 parameters" in out
    assert max(map(len, out.splitlines())) <= 80
    made = SimpleNamespace(folder=Path("x" * 90), rows=2400, bytes=96_000, signals=("logits",))
    heard = {}
    monkeypatch.setattr("limbeck.run.label", lambda recipe, **options: heard.update(options) or made)
    code, out, _ = limbeck_command("label", "digits", "--part", "2/3")
    assert code == 0
    assert heard == {"allow_code": False, "part": Part(2, 3), "reuse": False}
    assert "x" * 90 in out  # a path that is broken cannot be copied
    assert "2,400" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--part", "5/4"], "There is no part 5/4"),
        (["--part", "half"], "written as 1/4"),
        (["--part", "1/2", "--ray"], "give one of them"),
        (["--ray"], "pip install 'limbeck[ray]'"),
        (["--ray", "--workers", "0"], "workers"),
    ],
    ids=["no such part", "no part", "two ways", "no Ray", "no workers"],
)
def test_a_labelling_that_cannot_be_shared_out_is_refused(limbeck_command, monkeypatch, options, said):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    code, _, err = limbeck_command("label", "digits", *options)
    assert code == 2
    assert said in err


def test_of_several_processes_the_first_says_what_came_out(capsys, monkeypatch):
    for rank, wanted in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        tell.say("result")
        tell.table(["a", "b"], [["1", "2"]])
        tell.pairs([("rows", "3")])
        assert bool(capsys.readouterr().out.strip()) == wanted
        tell.note("wrong", "error")
        assert "wrong" in capsys.readouterr().err


def test_init_writes_a_recipe_for_the_data_and_replaces_nothing(limbeck_command, tmp_path):
    (tmp_path / "talk.csv").write_text("message,intent\n" + "hello there,greet\nbye now,part\n" * 20)
    code, out, _ = limbeck_command("init", "--data", "talk.csv", "--teacher", "some/bert", "--out", "mine.yaml")
    assert code == 0
    assert "limbeck check mine.yaml" in " ".join(out.split())
    recipe = parse((tmp_path / "mine.yaml").read_text())
    assert (recipe.data.source.text, recipe.data.source.label) == ("message", "intent")
    assert recipe.teacher.model.path == "some/bert"
    code, _, err = limbeck_command("init", "--out", "mine.yaml")
    assert code == 2
    assert "--force" in err
    assert limbeck_command("init", "--out", "mine.yaml", "--force")[0] == 0
    assert parse((tmp_path / "mine.yaml").read_text()).data.source.name == "mnist-5k"
    assert limbeck_command("init", "--data", "absent", "--out", "other.yaml")[0] == 2
    assert not (tmp_path / "other.yaml").exists()


def test_recipes_are_listed_shown_and_copied(limbeck_command, tmp_path):
    code, out, _ = limbeck_command("recipes")
    assert code == 0
    assert all(name in out for name in bundled())
    assert parse(limbeck_command("recipes", "--show", "digits")[1]).name == "digits"
    assert json.loads(limbeck_command("recipes", "--schema")[1])["$schema"].endswith("2020-12/schema")
    assert limbeck_command("recipes", "--copy", "digits")[0] == 0
    assert (tmp_path / "digits.yaml").read_bytes() == bundled()["digits"].read_bytes()
    code, _, err = limbeck_command("recipes", "--copy", "digits")
    assert (code, "already" in err) == (2, True)
    assert "did you mean 'digits'?" in limbeck_command("recipes", "--show", "digts")[2]


def test_methods_are_made_from_the_types(limbeck_command):
    code, out, _ = limbeck_command("methods")
    text = " ".join(out.split())
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for term in TERMS:
        name = term.model_fields["name"].default
        assert f"\n  {name} " in out
        said = " ".join((term.__doc__ or "").partition("\n\n")[0].split())
        assert re.match(r".*?[.](?= [A-Z]|$)", said)[0] in text
        code, one, _ = limbeck_command("methods", name)
        assert code == 0
        assert max(map(len, one.splitlines())) <= 80
        assert term.about.paper in " ".join(one.split())
        assert all(f"\n  {field.replace('_', '-')} " in one for field in term.model_fields if field != "name")
    assert "did you mean 'hints'?" in " ".join(limbeck_command("methods", "hint")[2].split())


def test_runs_are_listed_with_their_state(limbeck_command, tmp_path):
    assert limbeck_command("runs")[0] == 2
    finished(tmp_path / "runs" / "good", gain=3.0)
    finished(tmp_path / "runs" / "harm", gain=-3.0)
    for name, file, content in (
        ("begun", "recipe.json", '{"began": "2026-05-06T07:08:09"}'),
        ("bad", "evidence.json", "{"),
    ):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / file).write_text(content)
    code, out, _ = limbeck_command("runs")
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0
    assert "finished" in rows["runs/good"]
    assert "helped" in rows["runs/good"]
    assert "points" in rows["runs/good"]
    assert "made it worse" in rows["runs/harm"]
    assert "2026-01-02 03:04" in rows["runs/good"]
    assert "unfinished" in rows["runs/begun"]
    assert "2026-05-06 07:08" in rows["runs/begun"]
    assert "damaged" in rows["runs/bad"]


def test_a_run_is_named_in_one_line(limbeck_command, tmp_path):
    name = f"{'very-' * 20}long"
    finished(tmp_path / "runs" / name)
    assert any(line.startswith(f"runs/{name} ") for line in limbeck_command("runs")[1].splitlines())


def test_evaluate_says_whose_figures_they_are(limbeck_command, tmp_path, monkeypatch):
    source = {"name": "image-folder", "path": str(tmp_path / "photos")}
    told = {"hash": "0", "recipe": {"limbeck": 1, "seeds": 3, "data": {"source": source}}}
    (tmp_path / "recipe.json").write_text(json.dumps(told))
    fake = Quality(examples=9, score=0.5, accuracy=0.5, nll=1.0, ece=0.1, brier=0.2)
    monkeypatch.setattr("limbeck.run.evaluate", lambda run, data: fake)
    assert "of the 3 seeds the one that was best on validation" in limbeck_command("evaluate", tmp_path)[2]
    assert limbeck_command("evaluate", tmp_path, "--data", "photos")[2].startswith(
        "warning: photos is what the run was"
    )
    assert limbeck_command("evaluate", tmp_path, "--data", "others")[2] == ""


def test_runs_are_compared(limbeck_command, tmp_path):
    one, two = finished(tmp_path / "a", name="first"), finished(tmp_path / "b", name="second", gain=2.0)
    code, out, err = limbeck_command("compare", one, two)
    assert code == 0
    assert "first" in out
    assert "second" in out
    assert "warning:" in err  # nothing says that they were judged on the same data
    assert limbeck_command("compare", one)[0] == 2
    assert limbeck_command("compare", one, tmp_path / "absent")[0] == 2


@pytest.mark.parametrize("command", [("evaluate",), ("report",), ("export", "--to", "onnx")])
def test_what_is_no_run_is_refused(limbeck_command, tmp_path, command):
    code, _, err = limbeck_command(command[0], tmp_path, *command[1:])
    assert code == 2
    assert err.startswith("error: ")
    if command == ("report",):
        assert "is not a run: it has no recipe.json. `limbeck runs` lists runs." in err


def test_an_error_cannot_write_to_the_terminal(limbeck_command, monkeypatch):
    def hostile(*_, **__):
        raise LimbeckError("a\x1b]0;title\x07 name\u202e and \x9b31m")

    monkeypatch.setattr("limbeck.recipe.reading.read", hostile)
    _, _, err = limbeck_command("check", "digits")
    assert all(letter.isprintable() for letter in err)
    assert tell.clean("a\N{NO-BREAK SPACE}b\nc\x00") == "a b\nc\N{REPLACEMENT CHARACTER}"
