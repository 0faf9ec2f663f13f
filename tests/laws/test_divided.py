"""Laws of FSDP: weights that are divided among processes train as whole ones do; what cannot is refused before step 0."""

import os

import pytest
import torch
from tests.fakes.divided import LAUNCHED, layered, statistics, trainings
from tests.fakes.experiments import LABELS, Layered, apart, language, stage
from tests.fakes.processes import in_two_processes
from torch import nn

from limbeck.errors import LimbeckError, SignalError
from limbeck.models.seeded import everything_loaded
from limbeck.objective import Objective, SoftTargets
from limbeck.training import launch, sharding
from limbeck.training.loop import train
from limbeck.training.pieces import gathered, local, parted, whole


def test_two_processes_with_divided_weights_are_one(tmp_path):
    in_two_processes("tests.fakes.divided", tmp_path, **LAUNCHED)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert ours["weights"].keys() == theirs["weights"].keys()
    for name, weights in ours["weights"].items():
        assert apart(weights, theirs["weights"][name]) == 0, name
    for name, one in trainings().items():
        alone = train(one, tmp_path / "alone" / name).weights
        # as with DistributedDataParallel: the rounding of sums (1e-7) for each of 12 steps of size 0.1
        assert apart(ours["weights"][name], alone) < 1e-6, name
        weights, slopes, units = ours["held"][name]
        assert 0.45 < weights < 0.6, name
        assert weights == slopes, name
        assert units >= {"layers": 4, "parts": 4}.get(name, 2), name
    for name in ("layers", "statistics"):
        assert apart(ours["weights"][f"{name} resumed"], ours["weights"][name]) == 0, name
    assert ours["weights"]["statistics"].keys() == statistics().start.module().state_dict().keys()


# --- which layers are gathered by themselves


@pytest.fixture
def launched(monkeypatch):
    """Sets what a launcher's file would."""

    def say(**settings):
        for name, value in {**LAUNCHED, "WORLD_SIZE": "2", **settings}.items():
            monkeypatch.setenv(name, str(value))

    say()
    return say


def units(module):
    return [name for name, one in module.named_modules() if any(one is unit for unit in sharding._units(module))]


def test_layers_are_apart_as_the_launcher_says(launched, caplog):
    layers = [f"layers.{place}" for place in range(4)]
    assert units(layered()) == layers
    launched(FSDP_TRANSFORMER_CLS_TO_WRAP="Residual, Linear")
    assert units(layered()) == ["body", *(one for layer in layers for one in (layer, f"{layer}.inner")), "head"]
    launched(FSDP_AUTO_WRAP_POLICY="SIZE_BASED_WRAP", FSDP_MIN_NUM_PARAMS=16 * 17)
    assert units(layered()) == [one for layer in layers for one in (layer, f"{layer}.inner")]
    assert not caplog.text
    launched(FSDP_TRANSFORMER_CLS_TO_WRAP="Missing", FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP")
    assert units(layered()) == []
    assert "no layer to gather by itself" in caplog.text
    launched(FSDP_AUTO_WRAP_POLICY="NO_WRAP")
    assert units(layered()) == []


def test_the_head_and_what_shares_a_parameter_are_never_apart(launched):
    launched(FSDP_TRANSFORMER_CLS_TO_WRAP="Missing")
    module = language().start.module()
    untied = trainings()["next tokens by size"].start.module()
    assert units(module) == ["model.layers.0", "model.layers.1"], "a transformers model names its own layers"
    launched(FSDP_AUTO_WRAP_POLICY="SIZE_BASED_WRAP", FSDP_MIN_NUM_PARAMS=1)
    apart = set(units(module))
    assert {"model.layers.0.mlp", "model.norm"} <= apart
    assert not {"lm_head", "model.embed_tokens", "model"} & apart
    assert set(units(untied)) - apart == {"model.embed_tokens", "model"}, "a head that is read and not run is not apart"
    tied = Layered()
    tied.layers[0].inner.weight = tied.layers[1].inner.weight
    launched(FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP", FSDP_TRANSFORMER_CLS_TO_WRAP="Residual")
    assert units(tied) == ["layers.2", "layers.3"]


# --- what is refused


@pytest.mark.parametrize(
    ("settings", "precision", "said"),
    [
        ({"FSDP_VERSION": "1"}, "no", r"fsdp_version: 1 .*write fsdp_version: 2"),
        ({"FSDP_VERSION": ""}, "no", r"fsdp_version: 1 .*write fsdp_version: 2"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "no", r"fsdp_offload_params: true"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "True"}, "no", r"fsdp_activation_checkpointing: true.*accumulate"),
        ({}, "fp16", r"precision fp16.*bf16"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "no", r"DeepSpeed.*use FSDP"),
    ],
)
def test_a_launcher_that_asks_for_more_is_refused(launched, tmp_path, settings, precision, said):
    launched(**settings)
    with pytest.raises(LimbeckError, match=said) as caught:
        train(stage(precision=precision), tmp_path)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_one_process_has_nothing_to_share(launched, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE")
    launch.demand_launch("fp16")
    assert not launch.asked()


class Scalar(Layered):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


def test_students_and_terms_that_need_whole_weights_are_refused():
    plain = Objective([LABELS])
    sharding.demand(layered(), plain, writes=False)
    with pytest.raises(LimbeckError, match=r"'scale', a single number: give it the shape \[1\]"):
        sharding.demand(Scalar(), plain, writes=False)
    with pytest.raises(LimbeckError, match="on-policy"):
        sharding.demand(layered(), plain, writes=True)
    with pytest.raises(LimbeckError, match=r"training\.average"):
        sharding.demand(layered(), plain, writes=False, averaged=True)
    changing = layered()
    changing.training_moments = object()
    with pytest.raises(LimbeckError, match="theseus"):
        sharding.demand(changing, plain, writes=False)

    class Reads:
        def __init__(self, name):
            self.name = name

        def needs(self):
            return SoftTargets().needs() | type(SoftTargets().needs())(frozenset({self.name}), frozenset())

    for name in ("gradient", "perturbed.0.1"):
        with pytest.raises(SignalError, match=f"'{name}'.*backward pass within the forward pass"):
            sharding.demand(layered(), Reads(name), writes=False)


# --- pieces, and what names them


def test_whole_tensors_are_what_they_are():
    value = torch.arange(3.0)
    assert whole(value) is value
    assert local(value) is value
    assert parted(value, value) is value
    tree = {1: [value, (2, None)], "a": {"b": value}}
    assert gathered(tree)[1][0] is value
    assert gathered(tree)[1][1] == (2, None)


def test_an_arm_with_divided_weights_has_a_name_of_its_own(launched, monkeypatch):
    module = layered()
    divided = stage(layered).identity(module)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    assert stage(layered).identity(module) == {key: value for key, value in divided.items() if key != "divided"}
    assert divided["divided"] is True


def test_every_process_loads_all_weights(launched):
    with everything_loaded():
        assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "true"
