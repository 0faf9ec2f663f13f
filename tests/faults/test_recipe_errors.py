"""Broken recipes: one paragraph that names file, line, key, what was found and what is allowed; never a traceback."""

import random
import time

import pytest
from tests.fakes.memory import GIGABYTE, at_most

from limbeck.errors import RecipeError
from limbeck.recipe.reading import bundled, parse, read

BASE = """\
limbeck: 1
name: base
data:
  source: mnist-5k
  labelled: 500
  augment: {shift: 2}
teacher:
  model: {name: small-resnet, width: 16}
  training:
    steps: 400
    optimizer:
      name: adamw
      learning-rate: 3e-3
student:
  name: mlp
  hidden: 32
objective:
  labels: 0.1
  soft-targets:
    weight: {schedule: linear, start: 0.5, end: 0.9}
    temperature: 4
training:
  steps: 500
  precision: no
seeds: 3
evidence: {metrics: [f1-macro]}
"""

# what is written in place of what; the place that must be named; what else must be said
CASES = [
    ("labels: 0.1", "lables: 0.1", "line 18: objective.lables:", "did you mean 'labels'?"),
    ("temperature: 4", "temprature: 4", "line 21: objective.soft-targets.temprature:", "did you mean 'temperature'?"),
    ("start: 0.5", "strat: 0.5", "line 20: objective.soft-targets.weight.strat:", "did you mean 'start'?"),
    (
        "linear",
        "liner",
        "line 20: objective.soft-targets.weight:",
        "cosine, fixed, gradient-norm, linear, steps, uncertainty, warm-up",
    ),
    ("temperature: 4", "temperature: hot", "line 21: objective.soft-targets.temperature:", "a number, or a mapping"),
    ("labels: 0.1", "labels: -1", "line 18: objective.labels:", "negative"),
    (
        "labels: 0.1",
        "hints: [{student: a, teacher: b}, {student: 3}]",
        "line 18: objective.hints.1.student:",
        "found 3",
    ),
    ("labels: 0.1", "hints: 1", "line 18: objective.hints: found 1:", "give student and teacher, or layers"),
    ("3e-3", "-1", "line 13: teacher.training.optimizer.learning-rate:", "found -1; allowed: a number above 0"),
    ("3e-3", "fast", "line 13: teacher.training.optimizer.learning-rate:", "found 'fast'; allowed: a number"),
    ("3e-3", ".inf", "line 13:", ".inf"),
    ("3e-3", "1e999", "line 13:", "too large"),
    ("steps: 500", "steps: 9" + 30 * "9", "line 23:", "more than 63 bits"),
    ("hidden: 32", "hidden: {a: 1}", "line 16: student.hidden:", "a whole number or a list"),
    ("hidden: 32", "hiden: 32", "line 16: student.hiden:", "did you mean 'hidden'? Allowed here: dropout, hidden"),
    ("hidden: 32", "width: 32", "line 16: student.width:", "unknown key"),
    ("name: mlp", "name: mlpp", "line 15: student:", "did you mean 'mlp'?"),
    ("limbeck: 1", "limbeck: 2", "line 1: limbeck:", "reads version 1"),
    ("limbeck: 1\n", "", "line 1: limbeck", "reads version 1"),
    ("name: base", "name: ../x", "line 2: name:", "letters, digits"),
    ("training:\n  steps: 500", "trainig:\n  steps: 500", "line 22: trainig:", "did you mean 'training'?"),
    ("steps: 500", "steps: 500\n  epochs: 3", "line 22: training:", "give either steps or epochs, not both"),
    ("  steps: 500\n", "", "line 22: training:", "give either steps or epochs"),
    ("steps: 500", "steps: 500.0", "line 23: training.steps:", "a whole number"),
    ("precision: no", "precision: bf15", "line 24: training.precision:", "did you mean 'bf16'?"),
    ("labelled: 500", "labelled: some", "line 5: data.labelled:", "a whole number or 'all'"),
    ("labelled: 500", "labelled: 500\n  labelled: 400", "line 6:", "given twice, first in line 5"),
    ("labelled: 500", "max-length: 5\n  max_length: 5", "line 6:", "given twice, first in line 5"),
    ("mnist-5k", "mnist", "line 4: data.source:", "did you mean 'mnist-5k'?"),
    ("mnist-5k", "image-folder", "line 4: data.source.path is missing", "the folder"),
    ("mnist-5k", "{name: table, path: x, txt: a}", "line 4: data.source.txt:", "did you mean 'text'?"),
    ("shift: 2", "shift: yes", "line 6: data.augment.shift:", "found 'yes'; allowed: a whole number"),
    (
        "  model: {name: small-resnet, width: 16}\n",
        "",
        "line 7: teacher:",
        "give model, stored, served, onnx or ensemble",
    ),
    ("metrics: [f1-macro]", "metrics: [3]", "line 26: evidence.metrics.0:", "found 3; allowed: text"),
    ("metrics: [f1-macro]", "metrics: f1", "line 26: evidence.metrics:", "allowed: a list"),
    ("name: adamw", "name: adamw\n      betas: [0.9]", "line 13: teacher.training.optimizer.betas:", "a list of 1"),
    ("seeds: 3", "seeds: 0", "line 25: seeds:", "found 0; allowed: a number from 1 up"),
    ("seeds: 3", "seeds: !!python/object/apply:os.system [x]", "line 25:", "tags such as"),
    ("seeds: 3", "\tseeds: 3", "line 25:", "tab"),
    ("seeds: 3", "seeds: *x", "line 25:", "*x stands for nothing"),
    ("seeds: 3", "<<: {a: 1}", "line 25:", "merge keys"),
    ("seeds: 3", "? [a]\n: 3", "line 25:", "a key must be a word"),
    ("seeds: 3", "seeds: 3\n---\na: 1", "line 26:", "second document"),
    ("seeds: 3", 'seeds: "\\0"', "line 25:", "control character"),
    ("name: base", "name: a: b", "line 2:", "needs quotes"),
]


def complaint(text, *overrides):
    with pytest.raises(RecipeError) as caught:
        parse(text, "mine.yaml", overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1500
    return message


def test_the_base_is_right():
    assert parse(BASE).training.precision == "no"


@pytest.mark.parametrize(("old", "new", "place", "said"), CASES, ids=[new.strip()[:30] for _, new, _, _ in CASES])
def test_place_and_remedy(old, new, place, said):
    assert BASE.count(old) >= 1
    message = complaint(BASE.replace(old, new, 1))
    assert message.startswith(f"mine.yaml, {place}")
    assert said in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.steps=-3", "training.steps: found -3; allowed: a number from 1 up"),
        ("training.batch-sze=4", "did you mean 'batch-size'?"),
        ("seeds.x=4", "seeds is 3, which has no part to set"),
        ("foo", "key=value"),
        ("=3", "key=value"),
        ("a..b=3", "key=value"),
        ("student.hidden=[3", "not YAML"),
        ("student.hidden=!!int 3", "tags"),
        ("evidence.metrics.7=x", "no place 7"),
        ("evidence.metrics.x=y", "by its number"),
        ("objective.hints.student=a", "objective.hints: give student and teacher, or layers"),
        ("objective=3", "such as {labels: 0.1, soft-targets: 0.9}"),
        ("data=null", "data: found nothing"),
    ],
)
def test_overrides_are_named(override, said):
    message = complaint(BASE, override)
    assert message.startswith(f"--set {override}: ")
    assert said in message


def test_several_mistakes_are_counted():
    message = complaint(BASE.replace("seeds: 3", "seeds: no").replace("hidden: 32", "hidden: wide"))
    assert "And 1 more: seeds." in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the recipe is empty; 'limbeck init'"),
        (b"# nothing\n", "the recipe is empty"),
        (b"- a\n- b", "but this is a list"),
        (b"hello", "but this is a single value"),
        (b"limbeck: 1\nname: caf\xe9", "line 2: not UTF-8 text (byte 0xe9)"),
        (BASE.encode("utf-16"), "not UTF-8"),
        (b"x" * 1_000_001, "at most 1,000,000"),
        (b"a: \x00", "U+0000"),
        (b"a: " + b"[" * 5000, "more than 50 levels deep"),
        (b"{a: " * 5000, "more than 50 levels deep"),
        (b"a: &a [*a]", "*a stands for nothing"),
        (
            b"".join(
                b"k%d: &k%d [%s]\n" % (n, n, b",".join([b"*k%d" % (n - 1) if n else b"1"] * 10)) for n in range(9)
            ),
            "line 5: more than 100,000 values",
        ),
        (
            b"".join(b"k%d: &k%d [%s]\n" % (n, n, b"*k%d" % (n - 1) if n else b"1") for n in range(99)),
            "more than 50 levels deep",
        ),
    ],
)
def test_files_that_are_no_recipes(tmp_path, content, said):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    began = time.perf_counter()
    with pytest.raises(RecipeError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}, line ")
    assert said in str(caught.value)
    assert time.perf_counter() - began < 1


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(RecipeError, match=r"There is no recipe file 'digts'.*did you mean 'digits'\?"):
        read("digts")
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        read(tmp_path)


HOSTILE = [
    "", "null", "[]", "{}", "-1", "0", "1e999", "-.inf", ".nan", "!!python/object:os.system", "&a [*a]", "*b", "'", '"', "\t",
    "\x00", "9" * 400, "0x" + "f" * 100,
    "a" * 5000, "[" * 300, "{" * 300, "\u202e", "true", "2024-01-01", "1_000", "- - -",
    "? a", "<<: *x", "%", "@", "`", "|", ">", "1e-400", "-0.0", "0o777", "yes", "{name: 3}", "[[[]]]", "{a: {b: {c: d}}}",
    "--- a", "...", "#", ": :", "a: b: c", "'\\x1b[31m'", '"\\x1b[31m"', '"\\ud800"',
    "!", "!!binary aGk=", "{name: mlp, name: mlp}",
    "{schedule: linear}", "{schedule: steps, values: []}", "[0, 1e300]", "9223372036854775807", "~",
]  # fmt: skip


def mutated(text, draw):
    """One to three small disasters, as bytes."""
    lines = text.split("\n")
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(lines))
        kind = draw.randrange(8)
        if kind == 0 and len(lines) > 1:
            del lines[at]
        elif kind == 1:
            lines.insert(draw.randrange(len(lines)), lines[at])
        elif kind == 2:
            lines[at] = " " * draw.randrange(5) + lines[at].lstrip()
        elif kind in (3, 4):
            lines[at] = lines[at].partition(":")[0] + ": " + draw.choice(HOSTILE)
        elif kind == 5:
            lines[at] = draw.choice(HOSTILE) + lines[at][draw.randrange(len(lines[at]) + 1) :]
        elif kind == 6:
            cut = draw.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:cut] + chr(draw.randrange(32, 127)) + lines[at][cut:]
        else:
            other = draw.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
    content = bytearray("\n".join(lines).encode())
    if draw.random() < 0.2:
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)


def survive(count, tmp_path, seed):
    """How many of ``count`` mutated recipes were refused; every one in time, and in one named paragraph."""
    draw = random.Random(seed)
    texts = [BASE, *(path.read_text() for path in bundled().values())]
    keys = [
        "training.steps",
        "student",
        "student.hidden",
        "objective",
        "objective.labels",
        "data.source.path",
        "a.b.c",
        "",
    ]
    path, refused = tmp_path / "mutated.yaml", 0
    for _ in range(count):
        path.write_bytes(mutated(draw.choice(texts), draw))
        overrides = [f"{draw.choice(keys)}={draw.choice(HOSTILE)}"] if draw.random() < 0.1 else []
        began = time.perf_counter()
        try:
            recipe = read(path, overrides)
            assert recipe.hash
        except RecipeError as error:
            refused += 1
            message = str(error)
            assert message.startswith((f"{path}, line ", "--set ")), message
            assert "\n" not in message
            assert len(message) < 2000
        except Exception as error:
            raise AssertionError(f"{error!r} over {path.read_bytes()!r} with {overrides}") from error
        assert time.perf_counter() - began < 1
    return refused


@pytest.mark.proof("Q15")
def test_mutated_recipes_never_give_a_traceback(tmp_path, tried):
    with at_most(GIGABYTE):
        refused = survive(300, tmp_path, seed=0)
    assert refused > 150
    tried(mutated_recipes=300, recipes_refused=refused)


def test_a_choice_under_a_name_of_ones_own_is_told_what_it_may_be():
    text = (
        "limbeck: 1\nname: a\ndata: {source: uci-digits}\nteacher: {model: mlp, training: {steps: 1}}\nstudent: mlp\n"
    )
    text += "training: {steps: 1}\nevidence:\n  watch:\n    refusals: {name: patern, pattern: sorry}\n"
    with pytest.raises(
        RecipeError, match=r"line 9: evidence\.watch\.refusals: unknown name 'patern'; did you mean 'pattern'"
    ):
        parse(text)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (
            "student.name=small_net",
            r"--set student\.name=small_net: student: unknown name 'small_net'; did you mean 'small-",
        ),
        (
            "data.source.name=csv",
            r"--set data\.source\.name=csv: data\.source: unknown name 'csv'; did you mean 'table'\?",
        ),
        ("data.task=regression", r"--set data\.task=regression: .*'regression'; did you mean 'numbers'\?"),
    ],
)
def test_a_wrong_name_is_told_where_it_was_given_with_what_may_be_meant(setting, told):
    with pytest.raises(RecipeError, match=told):
        read("hints", [setting])


@pytest.mark.faults
@pytest.mark.proof("Q15")
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_mutated_recipes_never_give_a_traceback(tmp_path, seed, tried):
    with at_most(GIGABYTE):
        refused = survive(5000, tmp_path, seed)
    assert refused > 2500
    tried(mutated_recipes=5000, recipes_refused=refused)
