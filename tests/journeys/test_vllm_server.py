"""A teacher behind vLLM's own server: what the fake server stands for, and what the real one refuses (make vllm)."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from tests.fakes.served_writers import writing
from tests.journeys import test_language_recipe as journey
from transformers import AutoConfig, AutoModelForCausalLM

from limbeck.data.batch import Batch
from limbeck.errors import LimbeckError
from limbeck.teachers.served.settings import Served
from limbeck.teachers.served.teacher import ServedTeacher
from limbeck.teachers.served.writer import Sampling

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make vllm installs it"),
]
made, untrained_is_enough = journey.made, journey.untrained_is_enough
LOGITS = frozenset({"logits"})
LONGEST, MOST = 64, 40
V = 300
KEY = "sesame-of-a-test-server"
WIDE = {**journey.SIZES, "hidden_size": 64, "num_key_value_heads": 2}  # vLLM on a processor wants heads of 32
SHARED = 40  # tokens that texts begin with alike: more than a block of vLLM's cache of beginnings


@contextmanager
def serving(folder, said):
    """vLLM's server of ``folder`` for the length of the block; what it says goes into the file ``said``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # `vllm serve` is the same server, but it looks for a distribution named vllm, and a build for processors has another name
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager", f"--model={folder}"]
    options = {"served-model-name": "tiny", "host": "127.0.0.1", "port": port, "dtype": "float32", "api-key": KEY}
    options |= {"max-model-len": LONGEST, "max-logprobs": MOST, "block-size": 32}
    options |= {"max-num-batched-tokens": 48, "max-num-seqs": 8}  # so few that a text is read in pieces
    command += [f"--{name}={value}" for name, value in options.items()]
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", **os.environ, "VLLM_NO_USAGE_STATS": "1"}
    with said.open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        end, up = time.monotonic() + 300, False
        while not up:
            assert process.poll() is None, f"The server ended: {said.read_text()[-3000:]}"
            assert time.monotonic() < end, f"The server did not start: {said.read_text()[-3000:]}"
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                up = True
            time.sleep(0.2)
        yield SimpleNamespace(process=process, url=f"http://127.0.0.1:{port}/v1")
    finally:
        stop(process)


def stop(process):
    """Ends the server and its engine, which is a process of its own."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(30)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    """The texts and the tokenizer of the other journey, with a model that vLLM's attention can compute."""
    folder = tmp_path_factory.mktemp("wide")
    shutil.copytree(made, folder, dirs_exist_ok=True)
    torch.manual_seed(0)
    told = {"vocab_size": V, "eos_token_id": 0, "bos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.2}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **told, **WIDE)).save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    with serving(folder / "model", tmp_path_factory.mktemp("said") / "server.txt") as one:
        yield one


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("THE_KEY", KEY)


def told(server, **more):
    return Served(**{"url": server.url, "model": "tiny", "key_from": "THE_KEY", "top": MOST, "retries": 1} | more)


def observed(server, batch, classes=V, **more):
    with ServedTeacher(told(server, **more), classes) as teacher:
        return teacher.observe(batch, LOGITS)["logits"]


def refused(act, *words):
    """``act`` is refused with one line that has all of ``words``, and not the key."""
    with pytest.raises(LimbeckError) as caught:
        act()
    line = str(caught.value)
    assert all(word in line for word in words), line
    assert "\n" not in line
    assert KEY not in line


def of_length(length):
    return Batch.of({"input_ids": torch.ones(1, length, dtype=torch.int64)})


def texts(rows=24, longest=LONGEST - 1):
    """Half of them begin alike; some are padded."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(V, (rows, longest), generator=draw)
    ids[1::2, :SHARED] = ids[0, :SHARED]
    lengths = torch.randint(SHARED + 2, longest + 1, (rows, 1), generator=draw)
    mask = torch.arange(longest) < lengths
    return Batch.of({"input_ids": ids * mask, "attention_mask": mask.long()})


def test_the_server_gives_the_log_probabilities_of_the_local_model(server, folder):
    batch = texts()
    module = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    with torch.no_grad():
        logs = module(**batch.inputs).logits.double().log_softmax(-1)
    shown, ids = observed(server, batch), batch.inputs["input_ids"]
    again = observed(server, batch)  # by now vLLM has their beginnings in its cache
    mask = batch.inputs["attention_mask"].bool()
    known = torch.zeros_like(mask)
    known[:, :-1] = mask[:, 1:]  # about the token that follows
    assert torch.equal((shown.ids >= 0).all(-1), known)
    assert torch.equal((shown.ids >= 0).any(-1), known)
    own = logs.gather(-1, shown.ids.long().clamp_min(0))
    # Logits of some 5 in size are sums of 64 products, behind two layers of such sums: float32 rounds them by some 1e-5.
    close = {"rtol": 0, "atol": 1e-4}
    for one in (shown, again):
        torch.testing.assert_close(one.log_probabilities[known].double(), own[known], **close)
    # All but the last are the likeliest, by their values: tokens that are as likely as each other may change places.
    likeliest = logs.topk(MOST).values
    torch.testing.assert_close(shown.log_probabilities[known][:, :-1].double(), likeliest[known][:, :-1], **close)
    following = (shown.ids[:, :-1] == ids[:, 1:, None]).any(-1)
    assert following[known[:, :-1]].all()
    last = shown.log_probabilities[known][:, -1]
    assert (last < likeliest[known][:, -1] - 1).any()  # so the token that follows was not always a likely one


@pytest.mark.usefixtures("untrained_is_enough")
def test_a_student_learns_of_the_server_what_it_learns_of_the_model(server, folder, tmp_path, monkeypatch, capsys):
    def student(name, **teacher):
        return journey.trained(folder, tmp_path / name, monkeypatch, capsys, **teacher)[0]

    def apart(one, other):
        return max(float((one[name] - value).abs().max()) for name, value in other.items())

    local = student("local", store={"name": "top-k", "k": MOST, "dtype": "float32"})
    served = {"url": server.url, "model": "tiny", "key-from": "THE_KEY", "top": MOST}
    found = student("served", served=served)
    fewer = student("fewer", served={**served, "top": MOST // 2})
    # The divergence changes a logit's gradient by at most the teacher's rounding, some 1e-5, at each position. Steps of 0.5 at a
    # weight of 0.5, twelve times, make 3e-5 of that; its sign is as good as drawn, so the mean over a batch's 200 positions
    # leaves less than a tenth. SGD has no division that would make more of it. Half as many tokens move a weight by 0.01.
    assert apart(found, local) < 1e-5
    assert apart(fewer, local) > 1e-3


@pytest.mark.parametrize("top", [MOST + 1, 10 * V])
def test_more_log_probabilities_than_the_server_gives_are_refused_with_its_option(server, top):
    words = f"does not give {top}", "max allowed: 40", "Lower 'top'", f"--max-logprobs {top}"
    refused(lambda: observed(server, of_length(3), top=top), *words)


def test_a_text_that_fills_the_context_is_refused_before_it_is_sent(server):
    assert observed(server, of_length(LONGEST - 1)).ids.shape == (1, LONGEST - 1, MOST)
    refused(lambda: observed(server, of_length(LONGEST)), f"reads {LONGEST}", f"'max-length' to {LONGEST - 1}")


@pytest.mark.parametrize("length", [LONGEST, LONGEST + 9])
def test_a_text_is_refused_by_the_server_where_nothing_said_how_long_it_may_be(server, length, monkeypatch):
    monkeypatch.setattr("limbeck.teachers.served.teacher._length", lambda said: None)  # as gateways leave it out
    refused(lambda: observed(server, of_length(length)), "longer than the model 'tiny'", "Lower 'max-length'")


def test_a_wrong_name_an_address_without_v1_and_a_wrong_key_are_told(server, monkeypatch):
    refused(lambda: observed(server, of_length(3), model="tinny"), "no model 'tinny'", "did you mean 'tiny'?")
    refused(lambda: observed(server, of_length(3), url=server.url.removesuffix("/v1")), "end in /v1")
    monkeypatch.setenv("THE_KEY", "another")
    refused(lambda: observed(server, of_length(3)), "refuses the key", "THE_KEY", "401")


def test_another_vocabulary_is_noticed(server):
    refused(lambda: observed(server, of_length(3), classes=200), "vocabulary of another model")
    outside = Batch.of({"input_ids": torch.tensor([[1, V, 2]])})
    words = "Token id 300 is out of vocabulary. The texts", "name the model's own in 'data.tokenizer'"
    refused(lambda: observed(server, outside, classes=V + 1), *words)


def test_texts_are_written_and_say_why_they_ended(server):
    with writing(told(server), Sampling(by="completions", max_tokens=4, samples=2)) as writer:
        (first, second), other = writer.write(["the cat", "a dog sat"])
    assert first != second
    assert all(one.finish in ("length", "stop") for one in (first, second, *other))
    with writing(told(server), Sampling(max_tokens=4)) as writer:
        refused(lambda: writer.write(["the cat"]), "no chat template", "by: completions")
    with writing(told(server), Sampling(by="completions", max_tokens=400)) as writer:
        refused(lambda: writer.write(["the cat"]), "cannot write so long a text", "Lower 'max-tokens'")


def test_a_server_that_is_stopped_loses_no_answer_and_says_so(server, tmp_path):  # the last: nobody answers any more
    with ServedTeacher(told(server), V, tmp_path) as teacher:
        first = teacher.observe(of_length(5), LOGITS)["logits"]
        stop(server.process)
        assert torch.equal(teacher.observe(of_length(5), LOGITS)["logits"].ids, first.ids)
        kept = "What it did answer is kept, and the same command goes on from there"
        refused(
            lambda: teacher.observe(of_length(6), LOGITS),
            "no answer in 2 tries",
            "Connection refused. Is it running",
            kept,
        )
    refused(lambda: observed(server, of_length(3)), "no answer in 2 tries", "Connection refused")
