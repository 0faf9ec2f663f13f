"""A small file of each task, that a tiny model can learn, a recipe's data part for it, and such a model."""

import json
import random

import torch

from limbeck.data.sources import Data
from limbeck.models.spec import BuildContext
from limbeck.models.specs import SmallTransformer, build
from limbeck.objective import Objective, SoftTargets

PLACES = ("rome", "paris", "oslo", "lima")
PEOPLE = ("anna", "bob", "carl", "dora")
THINGS = ("bread", "tea", "soup", "rice")


def draws(seed=0):
    return random.Random(seed)


def sentence(draw):
    """Words and their tags."""
    person, place, thing = draw.choice(PEOPLE), draw.choice(PLACES), draw.choice(THINGS)
    words = [person, "eats", thing, "in", place, *["today"] * draw.randrange(3)]
    return words, ["B-PER", "O", "O", "O", "B-LOC", *["O"] * (len(words) - 5)]


def rows_of(task, count, seed=0):
    """``count`` rows of different inputs as they stand in JSON lines."""
    draw, found = draws(seed), {}
    while len(found) < count:
        words, tags = sentence(draw)
        text = " ".join([*words, f"no {len(found)}"])
        person, thing, place = words[0], words[2], words[4]
        if task == "classes":
            row = {"text": text, "label": thing}
        elif task == "multi-label":
            row = {"text": text, "label": [name for name in (person, place) if name in ("anna", "bob", "rome", "oslo")]}
        elif task == "multi-task":  # some rows have the label of one task alone
            row = {"text": text, "meal": thing, "town": "" if len(found) % 5 == 3 else place}
        elif task == "numbers":
            row = {"text": text, "label": PLACES.index(place) - 1.5 + 0.5 * THINGS.index(thing)}
        elif task == "vectors":
            row = {"text": text, "answer": f"{thing} for {person} in {place} no {len(found)}"}
        elif task == "tags":
            row = {"words": [*words, "no", str(len(found))], "tags": [*tags, "O", "O"]}
        else:
            asks, answer = draw.choice([("who eats ?", person), ("where ?", place), ("how much ?", "")])
            row = {"question": asks, "text": text, "answer": answer, "start": text.index(answer)}
        found[json.dumps(row)] = row
    return list(found.values())


def written(folder, task, count=160, seed=0):
    """The data part of a recipe, its file written into ``folder``."""
    path = folder / f"{task}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows_of(task, count, seed))) + "\n")
    source = {"tags": "tagged", "spans": "questions"}.get(task, "table")
    pair = {"vectors": {"pair": "answer"}, "multi-task": {"label": ["meal", "town"]}}.get(task, {})
    return {"source": {"name": source, "path": str(path), **pair}, "task": task, "tokenizer": "words", "max-length": 32}


NAMES = ("classes", "multi-label", "multi-task", "numbers", "tags", "spans")
SPEC = SmallTransformer(hidden=16, layers=1, positions=32)
LOGITS = frozenset({"logits"})
EXACT = {"rtol": 1e-5, "atol": 1e-6}  # float32 sums over a few dozen answers, in two orders


def few_labelled(folder):
    """The data of each task, of which a third of the training rows keep their label."""
    return {name: Data.model_validate({**written(folder, name, 90), "labelled": 20}).load() for name in NAMES}


def context(splits, **more):
    rows = splits.train.rows[:4]
    sample = splits.train.batch(rows, torch.zeros_like(rows)).columns("student")
    names = splits.classes
    return BuildContext(len(names), sample, names, vocabulary=splits.reader.vocabulary, task=splits.task, **more)


def model(splits, seed=0):
    return build(SPEC, context(splits), seed).eval()


def batch_of(examples, rows):
    rows = torch.as_tensor(rows)
    return examples.batch(rows, torch.zeros_like(rows))


def supervised(splits):
    return splits.train.rows[splits.train.supervised[splits.train.rows]]


def soft(task):
    return SoftTargets(loss="logit-mse") if task.gives == "numbers" else SoftTargets(temperature=2.0)


def loss_of(task, term, student, teacher, batch, counts=None):
    return Objective([term], task)(
        {"logits": student}, teacher if teacher is None else {"logits": teacher}, batch, counts
    )[0]
