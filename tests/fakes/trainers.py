"""The Trainer that distils, over the clouds and over little texts."""

import torch
from tests.fakes.experiments import HINTS, LABELS, SOFT, smooth, stage, teacher
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from limbeck.integrations.transformers import DistillationTrainer

QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}


def arguments(folder, **changes):
    return TrainingArguments(str(folder), **{**QUIET, "per_device_train_batch_size": 16, **changes})


def clouds(rows=48, labelled=None, first=0):
    """Rows of the clouds with their numbers; labels beyond ``labelled`` are not told."""
    table = stage().examples.table
    return [
        {
            "x": table.x[row],
            "labels": int(table.labels[row]) if labelled is None or row < labelled else -100,
            "ids": row,
        }
        for row in range(first, first + rows)
    ]


def distilled(folder, model=None, data=None, objective=(LABELS, SOFT, HINTS), theirs="default", **changes):
    """A trainer over the clouds that has trained."""
    trainer = DistillationTrainer(
        seeded(smooth) if model is None else model,
        arguments(folder, **{"learning_rate": 0.01, "max_steps": 6, **changes}),
        teacher=teacher().module if theirs == "default" else theirs,
        objective=objective,
        train_dataset=clouds() if data is None else data,
    )
    trainer.train()
    return trainer


def seeded(make):
    torch.manual_seed(0)
    return make()


WORDS = 40


def bert(layers, hidden=16, **changes):
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=hidden,
        max_position_embeddings=16,
        **{"num_labels": 3, **changes},
    )
    return seeded(lambda: BertForSequenceClassification(config))


def texts(rows=24):
    generator = torch.Generator().manual_seed(1)
    found = []
    for row in range(rows):
        length = 4 + row % 5
        tokens = torch.randint(1, WORDS, (length,), generator=generator).tolist()
        kinds = [int(place >= 2) for place in range(length)]
        found.append({"input_ids": tokens, "token_type_ids": kinds, "label": row % 3, "source": "a name"})
    return found


def padded(rows):
    """What a tokenizer's collator does, and a column of the teacher's alone beside it."""
    length = max(len(row["input_ids"]) for row in rows)
    columns = {
        name: torch.tensor([row[name] + [0] * (length - len(row[name])) for row in rows])
        for name in ("input_ids", "token_type_ids")
        if name in rows[0]
    }
    assert "source" not in rows[0]
    columns["attention_mask"] = torch.tensor(
        [[1] * len(r["input_ids"]) + [0] * (length - len(r["input_ids"])) for r in rows]
    )
    return columns | ({"labels": torch.tensor([row["label"] for row in rows])} if "label" in rows[0] else {})


def of_texts(folder, student, data=None, objective=None, theirs=None, **changes):
    more = {name: changes.pop(name) for name in ("callbacks", "eval_dataset", "compute_metrics") if name in changes}
    return DistillationTrainer(
        student,
        arguments(folder, per_device_train_batch_size=8, max_steps=3, learning_rate=1e-3, **changes),
        teacher=bert(2, 24) if theirs is None else theirs,
        objective=objective,
        train_dataset=texts() if data is None else data,
        data_collator=padded,
        **more,
    )
