"""Data files, stores and answers of a server that chance has altered: each is read or refused in one paragraph, and in time."""

import gzip
import hashlib
import io
import json
import random
import struct
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save as safetensors_of
from tests.fakes.memory import GIGABYTE, at_most
from tests.fakes.openai_server import Fake, Tiny, V, running
from tests.fakes.rows import LOGITS, Named, batch_of, examples
from tests.fakes.served_writers import writing
from tests.laws.test_groups import evidence

from limbeck.data.batch import Batch
from limbeck.data.sources import Data
from limbeck.errors import LimbeckError
from limbeck.evidence.schema import Evidence
from limbeck.federation.letters import Letter, decoded
from limbeck.models.weights import read as weights_of
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.served.settings import Served
from limbeck.teachers.served.teacher import ServedTeacher
from limbeck.teachers.served.writer import Sampling
from limbeck.teachers.stored import StoredTeacher

SECONDS = 5.0
WORDS = b"\x00\xff\xfe\xef\xbb\xbf\n\r\t,;\"'{}[]:<>&%\\$\xf0\x9f\x98\x80e1-9."


def altered(content: bytes, draw: random.Random) -> bytes:
    """Bytes flipped, cut, repeated, moved, or put in."""
    found = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 5])):
        if not found:
            break
        at, kind = draw.randrange(len(found)), draw.randrange(7)
        if kind == 0:
            found[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            found[at] = draw.randrange(256)
        elif kind == 2:
            del found[at:]
        elif kind == 3:
            del found[at : at + draw.randrange(1, 20)]
        elif kind == 4:
            found[at:at] = found[at : at + draw.randrange(1, 40)]
        elif kind == 5:
            found[at:at] = bytes(draw.choice(WORDS) for _ in range(draw.randrange(1, 6)))
        else:
            number = draw.choice([0, -1, 2**31, 2**63 - 1, 10**20])
            found[at : at + 1] = str(number).encode() if draw.random() < 0.5 else struct.pack(">q", number % 2**63)
    return bytes(found)


def csv() -> bytes:
    rows = [
        f'"a {("fine", "dull")[row % 2]} day, number {row}",{("no", "yes")[row % 2]},{row / 7}' for row in range(40)
    ]
    return ("text,label,score\n" + "\n".join(rows) + "\n").encode()


def jsonl() -> bytes:
    return b"".join(json.dumps({"text": f"day {row}", "label": "ab"[row % 2]}).encode() + b"\n" for row in range(40))


def parquet() -> bytes:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    stream = io.BytesIO()
    columns = {"text": [f"day {row}" for row in range(40)], "label": ["ab"[row % 2] for row in range(40)]}
    parquet.write_table(pyarrow.table(columns), stream)
    return stream.getvalue()


def conll() -> bytes:
    return b"".join(f"word{row} {'AB'[row % 2]}\n{'' if row % 4 else chr(10)}".encode() for row in range(120))


def squad() -> bytes:
    asked = [
        {"question": f"what is {row}", "text": f"it is {row} here", "answer": str(row), "start": 6} for row in range(30)
    ]
    return b"".join(json.dumps(one).encode() + b"\n" for one in asked)


def idx(rank: int) -> bytes:
    shape = (40, 6, 6)[:rank]
    values = np.arange(np.prod(shape)) % (2 if rank == 1 else 256)
    return struct.pack(">HBB", 0, 8, rank) + struct.pack(f">{rank}I", *shape) + values.astype(np.uint8).tobytes()


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 6), 9 * number, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def table(path, **more):
    Data(source={"name": "table", "path": str(path), "text": "text", **more}).load()


def pictures(folder, name, content):
    for first, one in ((0, "a"), (12, "b")):  # no picture stands there twice
        (folder / one).mkdir(parents=True, exist_ok=True)
        for number in range(12):
            (folder / one / f"{number}.png").write_bytes(png(first + number))
    (folder / "a" / "0.png").write_bytes(content)
    Data(source={"name": "image-folder", "path": str(folder)}).load()


def mnist(folder, name, content):
    zipped = name.endswith(".gz")
    for which, rank in (("images", 3), ("labels", 1)):
        (folder / f"{which}{'.gz' if zipped else ''}").write_bytes(gzip.compress(idx(rank)) if zipped else idx(rank))
    (folder / name).write_bytes(content)
    suffix = ".gz" if zipped else ""
    Data(
        source={"name": "idx", "images": str(folder / f"images{suffix}"), "labels": str(folder / f"labels{suffix}")}
    ).load()


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def shard(folder, name, content):
    with CachedTeacher(Named(), folder, "inputs") as cached:
        cached.observe(batch_of(examples(20), range(10)), LOGITS)
    (path,) = folder.glob("*/w-*/*.safetensors" if name == "shard" else "*/key.json")
    path.write_bytes(content)
    stored = StoredTeacher(folder)
    shown = stored.observe(batch_of(examples(20), range(10)), LOGITS)["logits"]
    assert torch.equal(shown[:, 0], torch.arange(10).float()), "an altered row was shown"


def pristine(folder, which) -> bytes:
    with CachedTeacher(Named(), folder, "inputs") as cached:
        cached.observe(batch_of(examples(20), range(10)), LOGITS)
    (path,) = folder.glob("*/w-*/*.safetensors" if which == "shard" else "*/key.json")
    return path.read_bytes()


def forged(folder, name, content):
    """A shard whose name has the checksum of what chance has made of it, as somebody may write who means harm."""
    with CachedTeacher(Named(), folder, "inputs") as cached:
        cached.observe(batch_of(examples(20), range(10)), LOGITS)
    (path,) = folder.glob("*/w-*/*.safetensors")
    path.unlink()
    number = path.name.partition("-")[0]
    (path.parent / f"{number}-{hashlib.sha256(content).hexdigest()}.safetensors").write_bytes(content)
    StoredTeacher(folder).observe(batch_of(examples(20), range(10)), LOGITS)


PROMPT = (3, 1, 4, 1, 5, 9)
ASKED = {
    "prompt": ("/completions", {"prompt": list(PROMPT), "prompt_logprobs": 5}),
    "text": ("/chat/completions", {"messages": [{"role": "user", "content": "a b c"}], "max_tokens": 9}),
}


def answer(which) -> bytes:
    return json.dumps(Fake(Tiny()).answer(*ASKED[which])).encode()


SERVER = Fake(Tiny())


@pytest.fixture(scope="module", autouse=True)
def running_server():
    with running(SERVER):
        yield


def answering(content) -> Served:
    """The settings of a server that answers just this."""
    SERVER.quirk = lambda number, answer: (200, {}, content)
    return Served(url=SERVER.url, model="tiny", top=5, retries=0, timeout=SECONDS, limit={"tokens": 10_000})


def prompted(folder, name, content):
    with ServedTeacher(answering(content), V, folder) as teacher:
        shown = teacher.observe(Batch.of({"input_ids": torch.tensor([PROMPT])}), LOGITS)["logits"]
        assert bool((shown.log_probabilities <= 0).all()), "what is no log-probability was shown"


def wrote(folder, name, content):
    with writing(answering(content), Sampling(max_tokens=9), folder) as writer:
        writer.write(["a b c"])


TENSORS = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.zeros(3)}
CASES = {
    "rows.csv": (lambda at: csv(), lambda at, name, said: table(written(at, name, said), label="label")),
    "numbers.csv": (
        lambda at: csv(),
        lambda at, name, said: Data(
            source={"name": "table", "path": str(written(at, name, said)), "text": "text", "label": "score"},
            task="numbers",
        ).load(),
    ),
    "rows.jsonl": (lambda at: jsonl(), lambda at, name, said: table(written(at, name, said), label="label")),
    "rows.parquet": (lambda at: parquet(), lambda at, name, said: table(written(at, name, said), label="label")),
    "words.conll": (
        lambda at: conll(),
        lambda at, name, said: Data(
            source={"name": "tagged", "path": str(written(at, name, said))}, task="tags"
        ).load(),
    ),
    "asked.jsonl": (
        lambda at: squad(),
        lambda at, name, said: Data(
            source={"name": "questions", "path": str(written(at, name, said))}, task="spans"
        ).load(),
    ),
    "images": (lambda at: idx(3), mnist),
    "labels": (lambda at: idx(1), mnist),
    "images.gz": (lambda at: gzip.compress(idx(3)), mnist),
    "picture.png": (lambda at: png(27), pictures),
    "weights.safetensors": (
        lambda at: safetensors_of(TENSORS),
        lambda at, name, said: weights_of(written(at, name, said)),
    ),
    "letter": (
        lambda at: Letter("weights", 1, 1, TENSORS, rows=3).encoded(),
        lambda at, name, said: decoded(said, "weights", 1, 1, TENSORS),
    ),
    "shard": (lambda at: pristine(at / "pristine", "shard"), shard),
    "forged shard": (lambda at: pristine(at / "pristine", "shard"), forged),
    "answer to a prompt": (lambda at: answer("prompt"), prompted),
    "answer with a text": (lambda at: answer("text"), wrote),
    "key": (lambda at: pristine(at / "pristine", "key"), shard),
    "evidence.json": (
        lambda at: evidence().model_dump_json().encode(),
        lambda at, name, said: Evidence.read(written(at, name, said)),
    ),
}


def survive(name, count, tmp_path, seed) -> int:
    """How many of so many altered files were refused."""
    whole, opened = CASES[name]
    with at_most(GIGABYTE):
        return _refused(opened, whole(tmp_path), random.Random(f"{name} {seed}"), count, tmp_path, name)


def _refused(opened, content, draw, count, tmp_path, name) -> int:
    refused = 0
    for turn in range(count):
        folder = tmp_path / f"{turn}"
        folder.mkdir()
        said, began = altered(content, draw), time.perf_counter()
        try:
            opened(folder, name, said)
        except LimbeckError as error:
            refused += 1
            message = str(error)
            if "\n" in message or len(message) > 2000:
                raise AssertionError(f"{message!r} over {said!r}") from error
        except Exception as error:
            raise AssertionError(f"{error!r} over {said!r}") from error
        assert time.perf_counter() - began < SECONDS, said
    return refused


@pytest.mark.parametrize("name", CASES)
def test_files_that_nobody_altered_are_read(name, tmp_path):
    whole, opened = CASES[name]
    opened(tmp_path, name, whole(tmp_path / "first"))


@pytest.mark.proof("Q15")
@pytest.mark.parametrize("name", CASES)
def test_altered_files_are_read_or_refused(name, tmp_path, tried):
    refused = survive(name, 40, tmp_path, seed=0)
    tried(altered_files=40, files_refused=refused)


def test_a_parquet_file_whose_text_is_no_text_is_named(tmp_path):
    content = parquet().replace(b"day 0", b"day \xff", 1)
    with pytest.raises(LimbeckError, match=r"rows\.parquet cannot be read: .*utf-8"):
        table(written(tmp_path, "rows.parquet", content), label="label")


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("name", CASES)
@pytest.mark.proof("Q15")
def test_many_altered_files_are_read_or_refused(name, seed, tmp_path, tried):
    refused = survive(name, 850, tmp_path, seed)
    assert refused > 0
    tried(altered_files=850, files_refused=refused)
