"""vLLM as a writer, by a stand-in: what is handed over when, and what is refused."""

import sys
from types import SimpleNamespace

import pytest
import torch
from tests.fakes import vllm as standin
from tests.fakes.writers import END, PROMPTS, model
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models import vllm
from limbeck.models.sampling import Ends
from limbeck.models.writers import Vllm
from limbeck.regimes.on_policy import OnPolicy

ENDS = Ends(24, (END,), 0)


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.setattr(vllm, "_running", [])
    monkeypatch.setitem(sys.modules, "vllm", standin)
    yield
    vllm.stop()
    assert not standin.RUNNING


def write(module, ends=ENDS, room=20, prompts=PROMPTS, **settings):
    return Vllm(**settings).of(module, "the student", ends, room)(module, prompts, range(len(prompts)), 5)


def test_what_is_frozen_is_handed_over_once():
    module = model().requires_grad_(False)
    for _ in range(3):
        write(module)
    (engine,) = standin.RUNNING
    assert len(engine.read) == 1
    write(model(seed=1).requires_grad_(False))
    assert len(engine.read) == 2


@pytest.mark.parametrize("foreach", [False, True, None], ids=["one by one", "together", "fused"])
def test_every_kind_of_step_is_seen(foreach):
    module = model()
    optimizer = torch.optim.AdamW(module.parameters(), 0.1, foreach=foreach, fused=foreach is None)
    write(module)
    module(input_ids=PROMPTS[0][None]).logits.square().sum().backward()
    optimizer.step()  # a fused one leaves no mark on what it wrote to
    write(module)  # and raises where the weights are those of before
    assert len(standin.RUNNING[0].read) == 3, "as it started, and before each text"


def test_models_of_one_architecture_share_one_and_another_takes_its_place():
    write(model(seed=0))
    write(model(seed=1))
    (first,) = standin.RUNNING
    assert len(first.read) == 3, "as it started, and before each text"
    write(model(layers=2))
    assert len(standin.RUNNING) == 1
    assert standin.RUNNING[0] is not first
    write(model(layers=2), memory=0.5)
    assert standin.RUNNING[0].options["gpu_memory_utilization"] == 0.5


def test_texts_of_another_model_are_refused(monkeypatch):
    module = model()
    write(module)
    monkeypatch.setattr(standin.LLM, "deaf", True)
    with torch.no_grad():
        module.lm_head.weight.mul_(3)
    with pytest.raises(LimbeckError, match=r"does not write as this model does: .* nats apart"):
        write(module)


def test_what_is_no_number_is_refused(monkeypatch):
    module, answer = model(), standin.LLM._one

    def spoilt(self, prompt, how):
        found = answer(self, prompt, how)
        for one in found.outputs[0].logprobs:
            for said in one.values():
                said.logprob = float("nan")
        return found

    monkeypatch.setattr(standin.LLM, "_one", spoilt)
    with pytest.raises(LimbeckError, match="does not write as this model does"):
        write(module)


def test_one_that_does_not_start_says_why(monkeypatch):
    def broken(self, **_):
        raise ValueError("no such attention")

    monkeypatch.setattr(standin.LLM, "__init__", broken)
    with pytest.raises(
        LimbeckError, match=r"vLLM cannot run LlamaForCausalLM: no such attention\. .*leave 'writer' out"
    ):
        write(model())


def test_without_vllm_it_is_said_what_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(LimbeckError, match=r"The writer 'vllm' needs vLLM.*limbeck\[vllm\]"):
        write(model())


class Adapted(nn.Module):
    """As PEFT wraps a model."""

    def __init__(self):
        super().__init__()
        self.inner = model()

    def get_base_model(self):
        return self.inner

    def generate(self, **given):
        return self.inner.generate(**given)


def test_what_cannot_be_handed_over_is_refused(monkeypatch):
    with pytest.raises(LimbeckError, match="this one is Adapted, whose weights are kept otherwise"):
        write(Adapted())
    with pytest.raises(LimbeckError, match="the student is an encoder with a decoder"):
        write(model(), ends=Ends(24, (END,), 0, begin=2))
    with pytest.raises(LimbeckError, match=r"Linear, the student, has no generate\(\)"):
        write(nn.Linear(2, 2))
    with pytest.raises(LimbeckError, match="only transformers does"):
        OnPolicy(mixed=0.2, writer="vllm")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LimbeckError, match="writes for one process"):
        write(model())


def test_on_a_gpu_it_computes_in_half_precision():
    def parameters(dtype, cuda):
        return SimpleNamespace(parameters=lambda: iter([SimpleNamespace(dtype=dtype, is_cuda=cuda)]))

    assert vllm._dtype(parameters(torch.float32, True)) == torch.bfloat16
    assert vllm._dtype(parameters(torch.float16, True)) == torch.float16
    assert vllm._dtype(parameters(torch.float32, False)) == torch.float32
