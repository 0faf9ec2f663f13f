"""Laws of the Trainer that distils: it is our own loop in another's script, and a Trainer in all else."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.fakes.experiments import (
    HINTS,
    LABELS,
    SGD,
    SHARED,
    SOFT,
    Net,
    Watching,
    apart,
    smooth,
    splits,
    stage,
    teacher,
)

from limbeck.errors import LimbeckError
from limbeck.objective import Crd, Hints, RkdDistance
from limbeck.training.loop import train
from limbeck.training.order import Order, derived
from limbeck.training.settings import AdamW

transformers = pytest.importorskip("transformers")
from tests.fakes.trainers import arguments, clouds, distilled, seeded  # noqa: E402

from limbeck.integrations.transformers import OBJECTIVE, DistillationTrainer  # noqa: E402

pytestmark = pytest.mark.usefixtures("cheap_collections")


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
