"""Wrong settings in Python: one paragraph that names type, setting, what was found and what is allowed."""

import pickle

import pytest
from pydantic import ValidationError

from limbeck.data.sources import Data
from limbeck.errors import LimbeckError, SettingError
from limbeck.objective import Hints, Labels, SoftTargets
from limbeck.training.settings import AdamW, Training

CASES = [
    (Hints, {"student": "body", "techer": "x"}, "Hints.techer: unknown setting; did you mean 'teacher'? Allowed: "),
    (Hints, {"student": "body"}, "Hints: give student and teacher, or layers."),
    (
        Training,
        {"epoch": 3},
        "Training.epoch: unknown setting; did you mean 'epochs'? Allowed: accumulate, average, ",
    ),
    (Training, {}, "Training: give either steps or epochs."),
    (Training, {"epochs": -1}, "Training.epochs: found -1; "),
    (
        Training,
        {"epochs": 3, "optimizer": {"name": "adamw", "momentum": 1}},
        "Training.optimizer.momentum: unknown setting; allowed: betas, eps, learning_rate, name, weight_decay.",
    ),
    (AdamW, {"learning_rat": 1}, "AdamW.learning_rat: unknown setting; did you mean 'learning_rate'?"),
    (
        SoftTargets,
        {"temperature": "hot"},
        "SoftTargets.temperature: found 'hot'; allowed: a number, or a mapping whose ",
    ),
    (
        SoftTargets,
        {"weight": {"schedule": "linear", "strat": 1}},
        "SoftTargets.weight.strat: unknown setting; did you mean",
    ),
    (Labels, {"weight": -1}, "Labels.weight: found -1; must be a finite number, not negative."),
    (Data, {"source": "mnist"}, "Data.source: found {'name': 'mnist'}; allowed: a mapping whose name is one of "),
    (Data, {"source": "mnist-5k", "labelled": 0}, "Data.labelled: found 0; "),
    (Data, {}, "Data.source is missing; allowed: a mapping whose name is one of "),
    (AdamW, {"betas": (0.9,)}, "AdamW.betas.1 is missing."),
]


@pytest.mark.parametrize(("kind", "given", "said"), CASES, ids=[said for _, _, said in CASES])
def test_one_paragraph_names_the_setting(kind, given, said):
    with pytest.raises(SettingError) as error:
        kind(**given)
    text = str(error.value)
    assert text.startswith(said)
    assert "\n" not in text
    assert "pydantic" not in text
    assert text.endswith(".")
    assert isinstance(error.value, LimbeckError)
    assert error.value.__suppress_context__
    assert str(pickle.loads(pickle.dumps(error.value))) == text


def test_what_pydantic_reads_is_still_told_by_pydantic():
    with pytest.raises(ValidationError) as error:
        Training.model_validate({"epochs": 1, "optimizer": {"name": "adamw", "lr": 1}})
    assert error.value.errors()[0]["loc"] == ("optimizer", "adamw", "lr")
