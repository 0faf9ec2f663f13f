"""Laws of the workshop: an arm is trained once, a damaged one again, and its key names all that determines it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.fakes.experiments import (
    HINTS,
    LABELS,
    SGD,
    SOFT,
    Watching,
    apart,
    examples,
    flipped,
    smooth,
    splits,
    stage,
    teacher,
)

from limbeck.objective import Labels, SoftTargets
from limbeck.training.loop import train
from limbeck.training.order import derived
from limbeck.training.settings import AdamW, Training
from limbeck.training.workshop import Workshop


def test_a_trained_arm_is_trained_once(tmp_path):
    first, again = Watching(), Watching()
    one = Workshop(tmp_path, first).train(stage())
    two = Workshop(tmp_path, again).train(replace(stage(), name="another name"))
    assert first.log
    assert not again.log
    assert (one.reused, two.reused) == (False, True)
    assert (one.key, one.fingerprint, one.metrics, one.points) == (two.key, two.fingerprint, two.metrics, two.points)
    assert two.name == "another name"
    assert not (Workshop(tmp_path).folder(stage()) / "checkpoints").exists()
    assert apart(one.module().state_dict(), train(stage(), tmp_path / "alone").weights) == 0
    assert not one.module().training


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["model.safetensors", "result.json"])
@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        _cut,
        lambda path: path.write_bytes(b""),
        *(lambda path, share=share: flipped(path, int(share * path.stat().st_size), 3) for share in (0, 0.4, 0.99)),
    ],
)
def test_a_damaged_arm_is_trained_again(tmp_path, name, harm):
    one = stage(steps=2)
    first = Workshop(tmp_path).train(one)
    harm(first.weights.parent / name)
    second = Workshop(tmp_path).train(one)
    assert not second.reused
    assert second.fingerprint == first.fingerprint
    assert Workshop(tmp_path).train(one).reused


def _key(one):
    return Workshop(Path("nowhere")).folder(one).name


@pytest.mark.parametrize(
    "change",
    [
        {"terms": (LABELS, SOFT)},
        {"terms": (LABELS, HINTS, SOFT)},
        {"terms": (LABELS, SOFT.model_copy(update={"loss": "cross-entropy"}), HINTS)},
        {"seed": 1},
        {"examples": examples(100, 0, 49)},
        {"examples": splits(labelled=49).train},
        {"examples": replace(splits().train, mixup=0.1)},
        {"validation": examples(100, 50, 69)},
        {"teacher": teacher(seed=6)},
        {"teacher": None},
        {"views": 2},
        {"make": smooth},
        {"steps": 13},
        {"batch_size": 15},
        {"accumulate": 2},
        {"warmup": 0.1},
        {"decay": "none"},
        {"clip": None},
        {"precision": "bf16"},
        {"evaluate_every": 3},
        {"patience": 100},
        {"keep": "last"},
        {"optimizer": AdamW(learning_rate=0.01, eps=1e-7)},
        {"optimizer": SGD},
    ],
    ids=lambda change: " ".join(change),
)
def test_an_arms_key_names_all_that_determines_it(change):
    assert _key(stage(**change)) != _key(stage())


def test_an_arms_key_names_the_threads():
    before = _key(stage())
    torch.set_num_threads(2)
    try:
        assert _key(stage()) != before
    finally:
        torch.set_num_threads(1)
    assert _key(stage()) == before


def test_an_arms_key_names_nothing_else():
    first = _key(stage())
    assert _key(replace(stage(), name="x")) == first
    assert _key(stage(workers=2, checkpoint_every=3)) == first
    written = Training(
        **{"steps": 12, "batch-size": 16, "evaluate-every": 4, "warmup": 0.05, "clip": 1, "accumulate": 1},
        optimizer={"name": "adamw", "learning-rate": 0.01, "weight-decay": 0.01, "betas": [0.9, 0.999]},
    )
    assert _key(replace(stage(), training=written)) == first
    terms = (Labels(weight=0.3, smoothing=0), SoftTargets(weight=0.7, temperature=2, loss="kl"), HINTS)
    assert _key(replace(stage(), terms=terms)) == first


def test_initial_weights_and_data_order_have_seeds_of_their_own():
    names = [("data",), ("objective",), ("training", 0), ("training", 1), ("order", 0)]
    assert len({derived(seed, *name) for seed in range(20) for name in names}) == 100
    assert all(0 <= derived(seed, "data") < 2**63 for seed in range(100))
