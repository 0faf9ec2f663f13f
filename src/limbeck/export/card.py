"""The model card of an exported student: what it is, how it is used, and the evidence, as Markdown."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from limbeck.config import Config
from limbeck.evidence import summary, words
from limbeck.evidence.schema import Evidence
from limbeck.models.identity import parameters
from limbeck.models.student import Student
from limbeck.signals.call import accepts

CARD: Final = "README.md"
_LICENCE: Final = "No licence is stated here: it follows from those of the data and the models that it was made from."
# what marks up, makes links of addresses or pictures of names between colons, and what begins an item of a list
_MARKS: Final = re.compile(r"([\\`*_{}\[\]#|~!$@]|:(?=\S)|(?<=www)\.|^[-=+])")
_NUMBER: Final = re.compile(r"^(\d+)(?=[.)])")
_MACHINE: Final = ("Command",)  # may name folders of the machine
_CLASSES: Final = 20
_SEVERAL: Final = "multi_label_classification"  # as transformers calls it


@dataclass(frozen=True)
class Story:
    """What is known of a student beside itself.

    ``evidence``: of its run. ``datasets``, ``base_model``: names on the Hugging Face hub, never local places.
    """

    evidence: Evidence | None = None
    datasets: tuple[str, ...] = ()
    base_model: str | None = None


def card(student: Student, story: Story, columns: Sequence[str]) -> str:
    """The card as text. All that did not come from this package is escaped for Markdown and HTML.

    Args:
        student: as it was exported.
        story: what is known of it.
        columns: that it reads.
    """
    parts = [_header(student, story, columns), *_about(student, story), *_use(student, columns)]
    if story.evidence:
        parts += _evidence(story.evidence)
    return "\n\n".join([*parts, _LICENCE]) + "\n"


def escaped(text: str) -> str:
    """One line of text that says in Markdown what it said before: no markup, no HTML, no links."""
    line = " ".join(text.split())
    return _NUMBER.sub(r"\1\\", _MARKS.sub(r"\\\1", html.escape(line, quote=False)))


def _header(student: Student, story: Story, columns: Sequence[str]) -> str:
    known: dict[str, Any] = {"library_name": "transformers"}
    if "pixel_values" in columns:
        known["pipeline_tag"] = "image-classification"
    elif student.task.gives == "vectors":
        known["pipeline_tag"] = "sentence-similarity"
    elif student.task.gives == "tokens":
        known["pipeline_tag"] = "text2text-generation" if student.task.reads == "sources" else "text-generation"
    elif "ForSequenceClassification" in type(student.module).__name__ and not student.task.heads:
        known["pipeline_tag"] = "text-classification"
    known["tags"] = ["limbeck", "knowledge-distillation"]
    if story.datasets:
        known["datasets"] = list(story.datasets)
    if story.base_model:
        known["base_model"] = story.base_model
    return f"---\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True)}---"


def _about(student: Student, story: Story) -> list[str]:
    evidence, names = story.evidence, [escaped(name) for name in student.classes[:_CLASSES]]
    more = f" and {len(student.classes) - _CLASSES:,} more" if len(student.classes) > _CLASSES else ""
    vectors, heads = student.task.gives == "vectors", student.task.heads.values()
    kind = escaped(type(getattr(student.module, "encoder", student.module) if vectors else student.module).__name__)
    title = escaped(evidence.name) if evidence else "A distilled student"
    gives = f"Its classes are {', '.join(names)}{more}."
    if student.task.gives == "numbers":
        gives = f"It gives numbers: {', '.join(names)}{more}."
    elif student.task.head().get("problem_type") == _SEVERAL:
        gives = f"Of each of these it says whether it holds: {', '.join(names)}{more}."
    if heads:
        each = "; ".join(f"{escaped(one.name)}, outputs {one.start} to {one.stop - 1}" for one in heads)
        gives = f"It has a head for each of {len(heads)} tasks, to be read each by itself: {each}. {gives}"
    if vectors:
        gives = "It gives a vector for each text."
    elif student.task.gives == "tokens":
        gives = "It turns a text into another." if student.task.reads == "sources" else "It goes on with a text."
    said = f"{kind} with {parameters(student.module):,} parameters, a student distilled with limbeck. {gives}"
    if evidence is None:
        return [
            f"# {title}",
            said,
            "The run that it is from was not at hand when it was exported, so there are no figures here.",
        ]
    return [f"# {title}", said, f"**{escaped(words.headline(evidence)[0])}** {escaped(evidence.sentence)}"]


def _use(student: Student, columns: Sequence[str]) -> list[str]:
    head = "## How to use it"
    if "pixel_values" in columns:
        return [
            head,
            "`AutoModelForImageClassification` reads this folder; `limbeck.json` says how pixels are prepared for it.",
        ]
    reader = student.reader.plain() if isinstance(student.reader, Config) else {}
    if "tokenizer" not in reader:
        return [
            head,
            "`from_pretrained` reads this folder. The tokenizer was in memory when it was trained, and is not here.",
        ]
    if student.task.gives == "vectors":
        code = """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(".")  # this folder, or its name on the hub
vectors = model.encode(["one text", "another"])
print(model.similarity(vectors, vectors))
```"""
        return [head, code]
    own = f"AutoModelFor{type(student.module).__name__.rpartition('For')[2]}"
    auto = student.task.auto if student.task.gives == "tokens" else own  # LlamaForCausalLM, but GPT2LMHeadModel
    if reader.get("reads", "texts") != "texts" or auto != "AutoModelForSequenceClassification":
        return [
            head,
            f"`{auto}` and `AutoTokenizer` read this folder; `limbeck.json` says how texts are prepared for it.",
        ]
    unread = "token_type_ids" in columns and not accepts(student.module, "token_type_ids")
    options = [
        *("texts", "padding=True", "pad_to_multiple_of=8", "truncation=True", f"max_length={reader['max-length']}"),
        *(["return_token_type_ids=False"] if unread else []),
        'return_tensors="pt"',
    ]
    tell = "print([model.config.id2label[index] for index in logits.argmax(-1).tolist()])"
    if student.task.gives == "numbers":
        tell = "print([dict(zip(model.config.id2label.values(), row)) for row in logits.tolist()])"
    elif student.task.head().get("problem_type") == _SEVERAL:
        tell = "for row in logits.sigmoid().tolist():\n"
        tell += "    print([model.config.id2label[index] for index, share in enumerate(row) if share > 0.5])"
    if student.task.heads:
        cuts = ", ".join(f"({one.start}, {one.stop})" for one in student.task.heads.values())
        tell = f"for start, stop in [{cuts}]:  # the head of each task\n    "
        tell += "print([model.config.id2label[start + index] for index in logits[:, start:stop].argmax(-1).tolist()])"
    code = f"""```python
import torch
from transformers import {auto}, AutoTokenizer

folder = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {auto}.from_pretrained(folder).eval()
texts = ["one text", "another"]  # a student of pairs reads (texts, others, ...) below
columns = tokenizer({", ".join(options)})
with torch.inference_mode():
    logits = model(**columns).logits
{tell}
```"""
    return [head, code]


def _evidence(evidence: Evidence) -> list[str]:
    heads = summary.columns(evidence)
    rows = [[cell if cell is not None else "–" for cell in row] for row in summary.rows(evidence)]
    table = [heads, ["---", *["---:"] * (len(heads) - 1)], *([escaped(cell) for cell in row] for row in rows)]
    found = ["## Evidence", escaped(words.compared(evidence)), "\n".join(f"| {' | '.join(row)} |" for row in table)]
    found += [escaped(one) for one in (*summary.paragraphs(evidence)[1:], words.timed(evidence)) if one]
    if evidence.notes:
        found += ["## Limitations", "\n".join(f"- {escaped(note)}" for note in evidence.notes)]
    told = [f"- {name}: {escaped(value)}" for name, value in words.facts(evidence) if name not in _MACHINE]
    return [*found, "## How it was trained", "\n".join(told)]
