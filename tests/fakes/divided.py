"""What one of two processes does under FSDP, with divided weights."""

import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from tests.fakes import causal
from tests.fakes.experiments import (
    HINTS,
    LABELS,
    SGD,
    SOFT,
    Convolutions,
    Layered,
    Watching,
    control_c,
    examples,
    language,
    stage,
)

from limbeck.errors import Interrupted
from limbeck.models.given import Given
from limbeck.objective import Hints, RkdDistance, SoftTargets
from limbeck.training.loop import train
from limbeck.training.settings import AdamW
from limbeck.training.stage import Stage

LAUNCHED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "Residual",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}
"""What ``accelerate launch`` puts into the environment for a file that says ``distributed_type: FSDP``."""


def layered() -> Layered:
    """Layers that are gathered one by one; nothing is drawn."""
    return Layered(drop=0.0)


def trainings() -> dict[str, Stage]:
    """What one process and two must do alike."""
    terms = (
        LABELS,
        SoftTargets(weight={"schedule": "uncertainty"}),
        Hints(student="layers.1", teacher="body", weight={"schedule": "gradient-norm", "every": 3}),
        RkdDistance(student="layers.2", teacher="body", weight=0.5),
    )
    hints = Hints(student="layers.1", teacher="body", weight=0.2)
    smooth = AdamW(learning_rate=0.01, eps=1e-3)  # or its quotient magnifies the rounding of small gradients
    return {
        "layers": stage(layered, terms=terms, optimizer=smooth, clip=0.5),
        # one row to judge by: a process has none, and the other needs its weights
        "parts": stage(
            layered,
            terms=(LABELS, SOFT, hints),
            optimizer=SGD,
            max_norm=0.5,
            clip=0.1,  # far below the norm of all gradients, which each process knows in part
            batch_size=15,
            accumulate=2,
            validation=examples(100, 50, 51),
        ),
        "next tokens": language(batch_size=15, accumulate=2, steps=6),
        "next tokens by size": untied(language(steps=6)),
    }


def untied(one: Stage) -> Stage:
    """The same training of a student whose head is a matrix of its own."""
    spec = Given(lambda: causal.made("llama", num_hidden_layers=2, tie_word_embeddings=False))
    return replace(one, start=replace(one.start, spec=spec))


def statistics() -> Stage:
    """A batch normalisation sees a process's own rows, so this is another training than that of one process."""
    return stage(Convolutions, terms=(LABELS, SOFT, HINTS.model_copy(update={"student": "norm"})), optimizer=SGD)


class Shares(Watching):
    """Notes which share of the student's weights, gradients and optimiser states this process holds, and the layers apart."""

    def gradients(self, model):
        super().gradients(model)
        every = list(model.student.parameters())
        whole = sum(one.numel() for one in every)
        self.weights = sum(one.to_local().numel() for one in every) / whole
        self.slopes = sum(one.grad.to_local().numel() for one in every) / whole
        self.units = sum(type(one).__name__.startswith("FSDP") for one in model.student.modules())


def main(folder: Path) -> None:
    """All of them, one of them stopped and resumed."""
    found, held = {}, {}
    for name, one in trainings().items():
        if name == "next tokens by size":  # the head and what is tied to it would be apart by their size
            os.environ |= {"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP", "FSDP_MIN_NUM_PARAMS": "100"}
        seen = Shares()
        found[name] = train(one, folder / name, lambda stage, curve, seen=seen: seen(stage, curve)).weights
        if os.environ["RANK"] == "0":
            held[name] = (seen.weights, seen.slopes, seen.units)
    os.environ["FSDP_AUTO_WRAP_POLICY"] = "TRANSFORMER_BASED_WRAP"
    for name, one in (("layers", trainings()["layers"]), ("statistics", statistics())):
        if name == "statistics":
            found[name] = train(one, folder / name).weights
        with suppress(Interrupted):  # only the first process is told to stop
            train(one, folder / f"{name} cut", Watching(after=7, act=control_c))
            raise AssertionError("not stopped")
        found[f"{name} resumed"] = train(one, folder / f"{name} cut").weights
    torch.save({"weights": found, "held": held}, folder / f"{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
