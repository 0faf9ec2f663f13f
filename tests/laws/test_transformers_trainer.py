"""Laws of the Trainer that distils: it is our own loop in another's script, and a Trainer in all else."""

import gc
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tests.fakes.experiments import (
    CLASSES,
    HINTS,
    LABELS,
    SGD,
    SHARED,
    SOFT,
    Knows,
    Net,
    Watching,
    apart,
    smooth,
    splits,
    stage,
    teacher,
)
from torch import nn

from limbeck.errors import DataError, LimbeckError, SettingError, SignalError
from limbeck.objective import Crd, Hints, Objective, RkdDistance
from limbeck.teachers.teacher import Provides
from limbeck.training.loop import train
from limbeck.training.order import Order, derived
from limbeck.training.settings import AdamW

transformers = pytest.importorskip("transformers")
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments  # noqa: E402

from limbeck.integrations.transformers import OBJECTIVE, DistillationTrainer  # noqa: E402

QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}


@pytest.fixture(autouse=True, scope="module")
def cheap_collections():
    """A Trainer collects garbage before it trains; what has been imported is none."""
    gc.freeze()
    yield
    gc.unfreeze()


def arguments(folder, **changes):
    return TrainingArguments(str(folder), **{**QUIET, "per_device_train_batch_size": 16, **changes})


# --- it is our own loop


def rows_of(one):
    """The rows that our loop's stage reads, in their order, labels hidden where it hides them."""
    settings, examples, found = one.training, one.examples, []
    order = Order(examples.rows, settings.batch_size, derived(one.seed, "data"), one.views)
    for step in range(settings.total):
        ids, views = order.step(step)
        batch = examples.batch(ids, views)
        found += [{"x": x, "labels": label} for x, label in zip(batch.inputs["x"], batch.labels["class"], strict=True)]
    return found


def trained_by_trainer(one, folder, **changes):
    settings = one.training
    kind = (
        (torch.optim.AdamW, {"betas": settings.optimizer.betas, "eps": settings.optimizer.eps})
        if settings.optimizer.name == "adamw"
        else (torch.optim.SGD, {"momentum": settings.optimizer.momentum})
    )
    args = arguments(
        folder,
        per_device_train_batch_size=changes.pop(
            "per_device_train_batch_size", settings.batch_size // settings.accumulate
        ),
        gradient_accumulation_steps=settings.accumulate,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        lr_scheduler_type="constant",
        weight_decay=settings.optimizer.weight_decay,
        max_grad_norm=settings.clip or 0.0,
        seed=one.seed,
        bf16=settings.precision == "bf16",
        **changes,
    )
    trainer = DistillationTrainer(
        one.start.module(),
        args,
        teacher=one.teacher.module if one.teacher else None,
        objective=one.terms,
        train_dataset=rows_of(one),
        optimizer_cls_and_kwargs=(kind[0], {"lr": settings.optimizer.learning_rate, **kind[1]}),
    )
    trainer.train()
    return trainer


SLOWER = Hints(student="body", teacher="body", owned={"rate": 0.1, "weight-decay": 0.2}, name="hints")
MANY = [
    term
    for name in ("a resting term", "relations", "a trained embedding", "gates")
    for term in SHARED[name]["terms"][1:]
]
LIKE_OURS = {
    "many terms": {"terms": (LABELS, SLOWER, *MANY), "optimizer": SGD},
    "few labels, in two micro-batches": {**SHARED["few labels"], "batch_size": 6, "accumulate": 2, "optimizer": SGD},
    "adamw in bf16": {
        "terms": (LABELS, SOFT, HINTS),
        "optimizer": AdamW(learning_rate=0.01, weight_decay=0.1),
        "precision": "bf16",
    },
    # weights that follow the losses, and a temperature that climbs where the student descends, enlarge differences from step to
    # step: nothing may be rounded otherwise, so gradients are not clipped
    "weights of their own": {**SHARED["weights of their own"], "optimizer": SGD, "clip": None},
    "a learned temperature": {**SHARED["a learned temperature"], "optimizer": SGD, "clip": None},
}


@pytest.mark.parametrize("name", LIKE_OURS)
def test_twenty_steps_are_those_of_our_loop(tmp_path, name):
    one = stage(smooth, **LIKE_OURS[name])
    changes = {"steps": 20, "warmup": 0.0, "decay": "none", "keep": "last", "evaluate_every": 20}
    one = replace(one, training=one.training.model_copy(update=changes))
    seen = Watching()
    outcome = train(one, tmp_path / "ours", seen)
    trainer = trained_by_trainer(one, tmp_path / "theirs")
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 20
    for mine, log in zip(seen.losses, logs, strict=True):
        told = {key[5:]: value for key, value in log.items() if key.startswith("loss/")} | {"loss": log["loss"]}
        told |= {f"{key[5:]}.kept": value for key, value in log.items() if key.startswith("kept/")}
        # the same operations on the same float32 numbers; only the norm that gradients are clipped by is summed in another order
        assert told == pytest.approx(mine, rel=1e-6, abs=1e-6)
    assert apart(trainer.model.state_dict(), outcome.weights) < 1e-6


# --- a step is one step, and stopped is not lost


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


def test_two_micro_batches_are_one_batch_where_labels_are_uneven(tmp_path):
    data = clouds(labelled=21)  # of 16 rows 16, 5 and none have a label, so halves have other denominators
    once = distilled(tmp_path, data=data, train_sampling_strategy="sequential")
    twice = distilled(
        tmp_path,
        data=data,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
    )
    assert apart(once.model.state_dict(), twice.model.state_dict()) < 1e-6  # sums of 16 numbers in another order
    assert apart(once.objective.state_dict(), twice.objective.state_dict()) < 1e-6


def test_resumed_is_uninterrupted_to_the_bit_and_the_teacher_is_not_kept(tmp_path):
    terms = (LABELS, SOFT, HINTS, Crd(student="body", teacher="body", width=4, negatives=8))
    saving = {"save_strategy": "steps", "save_steps": 4, "max_steps": 7, "objective": terms}
    theirs = teacher().module
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    whole = distilled(tmp_path / "whole", seeded(Net), theirs=theirs, **saving)
    checkpoint = tmp_path / "whole" / "checkpoint-4"
    again = DistillationTrainer(
        seeded(Net),
        arguments(tmp_path / "again", learning_rate=0.01, max_steps=7),
        teacher=theirs,
        objective=terms,
        train_dataset=clouds(),
    )
    torch.rand(5)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert apart(again.model.state_dict(), whole.model.state_dict()) == 0
    assert apart(again.objective.state_dict(), whole.objective.state_dict()) == 0
    assert again.state.log_history[-2]["loss"] == whole.state.log_history[-2]["loss"]
    assert all(torch.equal(value, before[name]) for name, value in theirs.state_dict().items())
    optimised = {id(one) for group in whole.optimizer.param_groups for one in group["params"]}
    assert not optimised & {id(one) for one in theirs.parameters()}
    assert {id(one) for one in whole.objective.parameters()} <= optimised
    assert load_file(checkpoint / "model.safetensors").keys() == Net().state_dict().keys()
    assert load_file(checkpoint / OBJECTIVE).keys() == whole.objective.state_dict().keys()
    (checkpoint / OBJECTIVE).unlink()
    with pytest.raises(LimbeckError, match="not of this objective"):
        again.train(resume_from_checkpoint=str(checkpoint))


def test_training_twice_goes_on_with_the_same_projector(tmp_path):
    trainer = distilled(tmp_path)
    objective = trainer.objective
    trainer.train()
    assert trainer.objective is objective
    assert not any(part._forward_hooks for part in trainer.model.modules()), "hooks are taken away"


def test_a_model_that_is_made_anew_gets_a_projector_of_its_own(tmp_path):
    trainer = DistillationTrainer(
        model_init=lambda: seeded(smooth),
        args=arguments(tmp_path, learning_rate=0.01, max_steps=4),
        teacher=teacher().module,
        objective=(LABELS, HINTS),
        train_dataset=clouds(),
    )
    runs = []
    for _ in range(2):
        trainer.train()
        runs.append({**trainer.model.state_dict(), **trainer.objective.state_dict()})
    assert apart(*runs) == 0


# --- texts, and what a Trainer does itself

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


class Narrow(nn.Module):
    """A student that takes no token_type_ids, around one that does."""

    def __init__(self):
        super().__init__()
        self.inner = bert(1)

    def forward(self, input_ids, attention_mask, labels=None):
        return self.inner(input_ids, attention_mask, labels=labels)


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


class Listening(TrainerCallback):
    def __init__(self):
        self.logs, self.steps = [], 0

    def on_log(self, args, state, control, logs=None, **rest):
        self.logs.append(dict(logs))

    def on_step_end(self, args, state, control, **rest):
        self.steps += 1


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


INNER = {
    "labels": 0.1,
    "soft-targets": 0.9,
    "hints": [
        {"weight": 0.1, "student": "hidden.1", "teacher": "hidden.2"},
        {"weight": 0.1, "student": "bert.pooler", "teacher": "bert.pooler"},
    ],
    "attention-maps": {"weight": 0.1, "layers": "last"},
}


def test_inner_layers_by_number_by_name_and_by_rule_with_logs_callbacks_and_evaluation(tmp_path):
    heard = Listening()
    trainer = of_texts(
        tmp_path,
        bert(1),
        objective=INNER,
        callbacks=[heard],
        eval_dataset=texts(9),
        eval_strategy="steps",
        eval_steps=3,
        compute_metrics=lambda told: {"rows": len(told.label_ids)},
    )
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert heard.steps == 3
    assert {"loss", "grad_norm", *(f"loss/{name}" for name in trainer.objective.names)} <= heard.logs[0].keys()
    assert trainer.objective.names == ("labels", "soft-targets", "hints", "hints-2", "attention-maps")
    log = heard.logs[0]
    weights = dict(zip(trainer.objective.names, (0.1, 0.9, 0.1, 0.1, 0.1), strict=True))
    assert log["loss"] == pytest.approx(sum(weight * log[f"loss/{name}"] for name, weight in weights.items()), rel=1e-5)
    assert apart(before, trainer.model.state_dict()) > 0
    plain = Trainer(trainer.model, trainer.args, data_collator=padded, eval_dataset=texts(9))
    ours, theirs = trainer.evaluate(), plain.evaluate()
    assert ours["eval_loss"] == theirs["eval_loss"], "the model's own loss, as without a teacher"
    assert ours["eval_rows"] == 9
    unlabelled = [{name: value for name, value in row.items() if name != "label"} for row in texts(5)]
    assert (trainer.predict(unlabelled).predictions == plain.predict(unlabelled).predictions).all()
    trainer.save_model(tmp_path / "saved")
    again = BertForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert apart(again.state_dict(), trainer.model.state_dict()) == 0
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        "config.json",
        "model.safetensors",
        "training_args.bin",
    }


class Noting(nn.Module):
    """A teacher that notes which columns it was given."""

    def __init__(self):
        super().__init__()
        self.inner, self.given = bert(2, 24), []

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        self.given.append((input_ids, token_type_ids))
        return self.inner(input_ids, attention_mask, token_type_ids)


@pytest.mark.parametrize("kind", ["list", "datasets"])
def test_what_only_the_teacher_reads_is_neither_dropped_nor_given_to_the_student(tmp_path, kind):
    data = texts()
    if kind == "datasets":
        data = pytest.importorskip("datasets").Dataset.from_list(data)
    theirs = Noting()
    trainer = of_texts(tmp_path, Narrow(), data, theirs=theirs, eval_dataset=data)
    trainer.train()
    assert theirs.given
    assert all(kinds is not None and kinds.any() for _, kinds in theirs.given)
    trainer.evaluate()
    trainer.predict(data)


def test_columns_of_the_teachers_own_tokenizer_reach_it_alone(tmp_path):
    data = [{**row, "teacher.input_ids": torch.tensor([7, 8, 9])} for row in texts()]

    def collate(rows):
        own = torch.stack([row["teacher.input_ids"] for row in rows])
        return {
            **padded([{k: v for k, v in row.items() if k != "teacher.input_ids"} for row in rows]),
            "teacher.input_ids": own,
        }

    theirs = Noting()
    trainer = of_texts(tmp_path, bert(1), data, theirs=theirs, eval_dataset=data)
    trainer.data_collator = collate
    trainer.train()
    assert all(ids.tolist() == [[7, 8, 9]] * len(ids) and kinds is None for ids, kinds in theirs.given)
    trainer.evaluate()


def test_pushing_sends_the_student_alone(tmp_path, monkeypatch):
    sent = []
    hub = SimpleNamespace(
        create_repo=lambda *args, **given: SimpleNamespace(repo_id="someone/student"),
        upload_folder=lambda **given: sent.append(given),
    )
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: hub)
    trainer = of_texts(tmp_path, bert(1), hub_model_id="someone/student", push_to_hub=True, save_strategy="no")
    trainer.train()
    monkeypatch.setattr(DistillationTrainer, "create_model_card", lambda *args, **given: None)  # asks the hub
    trainer.push_to_hub()
    assert [one["repo_id"] for one in sent] == ["someone/student"]
    files = {path.name for path in Path(sent[0]["folder_path"]).rglob("*")}
    assert files == {"config.json", "model.safetensors", "training_args.bin"}


# --- what cannot be is said before the first step


def test_terms_that_remember_examples_are_told_their_numbers(tmp_path):
    crd = Crd(student="body", teacher="body", width=4, negatives=8)
    kept = []

    class Keeping(TrainerCallback):
        def on_step_begin(self, args, state, control, **rest):
            kept.append(trainer.objective.parts["crd"].student_memory.clone())

    trainer = DistillationTrainer(
        seeded(smooth),
        arguments(tmp_path, max_steps=2, per_device_train_batch_size=8, train_sampling_strategy="sequential"),
        teacher=teacher().module,
        objective=(LABELS, crd),
        train_dataset=clouds(20)[::-1],
        callbacks=[Keeping()],
    )
    trainer.train()
    moved = (kept[0] != kept[1]).any(1).nonzero().flatten().tolist()
    assert moved == list(range(12, 20)), "the first batch are the last rows"
    with pytest.raises(SignalError, match=r"from 40 to 47 .* of 8"):
        distilled(tmp_path, objective=(LABELS, crd), data=clouds(8, first=40))
    unnumbered = [{name: value for name, value in row.items() if name != "ids"} for row in clouds()]
    with pytest.raises(SignalError, match="'ids' or 'id', counted from 0"):
        distilled(tmp_path, objective=(LABELS, crd), data=unnumbered)


class Stored:
    """A teacher that is asked by row numbers."""

    fingerprint, module = "stored", None
    provides = Provides(names=frozenset({"logits"}), unseen=False)

    def __init__(self):
        self.asked = []

    def observe(self, batch, needs):
        self.asked += batch.ids.tolist()
        return {"logits": torch.zeros(len(batch), CLASSES)}


def test_a_stored_teacher_is_asked_by_the_rows_numbers(tmp_path):
    theirs = Stored()
    distilled(tmp_path, objective=None, theirs=theirs, data=clouds(32, first=40), max_steps=2)
    assert set(theirs.asked) == set(range(40, 72))
    unnumbered = [{name: value for name, value in row.items() if name != "ids"} for row in clouds()]
    with pytest.raises(SignalError, match="stored by row"):
        distilled(tmp_path, objective=None, theirs=theirs, data=unnumbered)
    with pytest.raises(SignalError, match="needs \\['body'\\] of the teacher, which does not show it"):
        distilled(tmp_path, theirs=theirs)


class Sharing(Net):
    def __init__(self, other):
        super().__init__()
        self.body = other.body


def renamed(rows):
    return [{"x": row["x"], "klass": row["labels"]} for row in rows]


THEIRS = teacher().module.requires_grad_(True)
WRONG = {
    "a misspelt setting": (
        {"objective": {"soft-targets": {"temprature": 2}}},
        SettingError,
        "did you mean 'temperature'",
    ),
    "an unknown term": ({"objective": {"soft-target": 1.0}}, SettingError, "objective"),
    "no terms": ({"objective": ()}, LimbeckError, "must be a list of terms"),
    "a built objective": ({"objective": "built"}, LimbeckError, "built already"),
    "no teacher": ({"theirs": None}, SignalError, "'soft-targets' needs a teacher, and there is none"),
    "another thing": ({"theirs": "bert-base"}, LimbeckError, "teacher is a str"),
    "other classes": ({"theirs": Net(classes=4)}, SignalError, "4 logits an example and the student 3"),
    "a layer that is not there": (
        {"objective": (Hints(student="bodi", teacher="body"),)},
        SignalError,
        "no module 'bodi': did you mean 'body'",
    ),
    "a teacher that cannot read": (
        {"theirs": nn.Linear(5, 3), "objective": (SOFT,)},
        DataError,
        "The teacher fails on the data: RuntimeError",
    ),
    "a shared layer": ({"model": Sharing(THEIRS), "theirs": THEIRS}, LimbeckError, "share the parameter 'body.weight'"),
    "no labels": (
        {"data": renamed(clouds()), "remove_unused_columns": False},
        DataError,
        "no column of a batch is called",
    ),
    "labels of other classes": ({"data": [{**row, "labels": 7} for row in clouds()]}, DataError, "A label is 7"),
    "tokens": (
        {"data": [{**row, "labels": torch.tensor([1, 2])} for row in clouds()]},
        DataError,
        "one class an example",
    ),
    "numbers": ({"data": [{**row, "labels": 0.5} for row in clouds()]}, DataError, "numbers of shape"),
    "no rows": ({"data": []}, DataError, "training set is empty"),
    "parts of a batch": (
        {"objective": (RkdDistance(student="body", teacher="body"),), "gradient_accumulation_steps": 2},
        SignalError,
        "compares the examples of a batch",
    ),
    "a silent term": (
        {"objective": (LABELS, Hints(student="norm", teacher="norm")), "model": "silent"},
        LimbeckError,
        "'hints' was exactly zero for a whole epoch",
    ),
    "a loss that is not finite": ({"learning_rate": 1e30, "max_grad_norm": 0.0}, LimbeckError, "not finite"),
}


class Constant(Net):
    """Its ``norm`` gives the same whatever it is given."""

    def __init__(self):
        super().__init__(32, norm=False)
        self.norm = nn.Linear(32, 32).requires_grad_(False)
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_said_in_one_paragraph(tmp_path, name):
    given, kind, said = WRONG[name]
    given = dict(given)
    if given.get("objective") == "built":
        given["objective"] = Objective([HINTS])
        given["objective"].build({"body": torch.zeros(2, 16)}, {"body": torch.zeros(2, 32)})
    if given.get("model") == "silent":
        given |= {"model": Constant(), "theirs": Constant()}
    model = given.setdefault("model", seeded(smooth))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(kind, match=said) as caught:
        distilled(tmp_path, **given)
    assert "\n" not in str(caught.value)
    if name not in ("a silent term", "a loss that is not finite"):
        assert apart(before, model.state_dict()) == 0


def test_classes_in_another_order_are_refused(tmp_path):
    names = [{0: "bad", 1: "fair", 2: "good"}, {0: "good", 1: "fair", 2: "bad"}]
    student, theirs = (bert(1, id2label=one, label2id={name: index for index, name in one.items()}) for one in names)
    with pytest.raises(SignalError, match="read for the wrong classes"):
        of_texts(tmp_path, student, theirs=theirs).train()


def test_two_losses_are_refused(tmp_path):
    with pytest.raises(LimbeckError, match="label_smoothing_factor has no effect on an objective"):
        of_texts(tmp_path, bert(1), label_smoothing_factor=0.1)
    with pytest.raises(LimbeckError, match="two losses for one training"):
        DistillationTrainer(bert(1), arguments(tmp_path), compute_loss_func=print)


def test_an_optimiser_that_does_not_know_the_projector_is_refused(tmp_path):
    model = seeded(smooth)
    for objective, fits in (((LABELS, SOFT), True), ((LABELS, HINTS), False)):
        trainer = DistillationTrainer(
            model,
            arguments(tmp_path, max_steps=2),
            teacher=teacher().module,
            objective=objective,
            train_dataset=clouds(),
            optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None),
        )
        if fits:
            trainer.train()
            continue
        with pytest.raises(LimbeckError, match="which the optimizer in 'optimizers' does not know"):
            trainer.train()


def test_a_teacher_at_chance_is_pointed_out(tmp_path, caplog):
    distilled(tmp_path, theirs=Knows(order=(1, 2, 0)), max_steps=1, objective=(LABELS, SOFT))
    assert "where always the same answer is right on 16" in caplog.text
    caplog.clear()
    distilled(tmp_path, theirs=Knows(), max_steps=1, objective=(LABELS, SOFT))
    assert caplog.text == ""


# --- several processes


def as_one_of_two(folder):
    """What one of two processes does: half of every batch."""
    trainer = trained_by_trainer(tiny(), folder / "both", per_device_train_batch_size=8)
    torch.save({**trainer.model.state_dict(), **trainer.objective.state_dict()}, folder / f"{os.environ['RANK']}.pt")


HERE = "tests.laws.test_transformers_trainer"


def tiny():
    terms = (LABELS, SOFT, HINTS, RkdDistance(student="body", teacher="body", weight=0.5))
    return stage(smooth, terms=terms, optimizer=SGD, steps=6, clip=0.5, examples=splits(labelled=9).train)


@pytest.mark.faults  # each process imports all anew
def test_two_processes_are_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    code = f"from {HERE} import Path, as_one_of_two; as_one_of_two(Path({str(tmp_path)!r}))"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(2)
    ]
    alone = trained_by_trainer(tiny(), tmp_path / "alone")
    try:
        told = [one.communicate(timeout=240)[1] for one in both]
    finally:
        for one in both:
            one.kill()
    assert [one.returncode for one in both] == [0, 0], told
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert apart(ours, theirs) == 0
    assert apart(ours, {**alone.model.state_dict(), **alone.objective.state_dict()}) < 1e-6  # sums of halves
