"""What codecs refuse, and that damage is found."""

import pytest
import torch
from tests.fakes.coded import DATA, Talking, logits_of, rows_of
from tests.fakes.rows import LOGITS, batch_of

from limbeck.data.batch import TOKENS, Batch
from limbeck.errors import SettingError, SignalError
from limbeck.signals.logits import Chunked, Dense, Head
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.labelling import label
from limbeck.teachers.store import describe
from limbeck.teachers.store.codecs import HiddenCodec, SampledCodec, TopKCodec
from limbeck.teachers.stored import StoredTeacher

CODECS = (TopKCodec(k=5), SampledCodec(draws=9))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("codec", [*CODECS, SampledCodec(draws=9, entropy=False)])
def test_a_row_that_is_no_distribution_is_left_empty(codec, bad):
    logits = logits_of(3, 4, 80)
    logits[1, 2, 70] = bad
    rows = codec.encode(Dense(logits), rows_of(3))
    assert rows.any(1).tolist() == [True, False, True]
    everything = torch.full((2, 4, 80), -torch.inf)
    assert not codec.encode(Dense(everything), rows_of(2)).any()


def test_nan_rows_are_named_never_stored_and_the_others_are(tmp_path):
    teacher = Talking()
    teacher.broken = {7}
    cached = CachedTeacher(teacher, tmp_path, "inputs", codec=TopKCodec(k=3))
    with pytest.raises(SignalError, match=r"1 rows \(first: id 7 view 0\) are no distributions.*float32"):
        cached.observe(batch_of(DATA, [5, 7, 8]), LOGITS)
    teacher.broken = set()
    cached.observe(batch_of(DATA, [5, 7, 8]), LOGITS)
    assert teacher.rows == 4
    cached.close()
    assert describe(cached.store).rows == 3


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.proof("Q4")
def test_flipped_bits_are_found_and_asked_again(tmp_path, codec, tried):
    with CachedTeacher(Talking(), tmp_path, "inputs", codec=codec) as cached:
        label(cached, DATA, (0,), 8, LOGITS)
        (shard,) = cached.store.shards()
    content = bytearray(shard.path.read_bytes())
    content[-100] ^= 4
    shard.path.write_bytes(content)
    with pytest.raises(SignalError, match="have no stored 'logits'"):
        StoredTeacher(tmp_path).observe(batch_of(DATA, range(40)), LOGITS)
    teacher = Talking()
    again = CachedTeacher(teacher, tmp_path, "inputs", codec=codec)
    again.observe(batch_of(DATA, range(40)), LOGITS)
    assert teacher.rows == 40
    tried(damages_of_shards=1)


def test_another_head_is_refused(tmp_path):
    teacher = Talking(head=True)
    codec = HiddenCodec().made(teacher.head)
    with CachedTeacher(teacher, tmp_path, "inputs", codec=codec) as cached:
        cached.observe(batch_of(DATA, [1, 2]), LOGITS)
    with pytest.raises(SignalError, match="is not here: give it"):
        StoredTeacher(tmp_path)
    other = Head(teacher.head.weight + 1e-3)
    for wrong in (other, Head(teacher.head.weight, softcap=30.0)):
        with pytest.raises(SignalError, match="would make other logits"):
            StoredTeacher(tmp_path, wrong)
    with pytest.raises(SignalError, match="would make other logits"):
        codec.encode(Chunked(torch.zeros(1, 8), other), rows_of(1))
    alike = Head(teacher.head.weight.clone())
    assert codec.encode(Chunked(torch.zeros(1, 8), alike), rows_of(1)).any()


def test_what_is_not_known_cannot_be_stored(tmp_path):
    top = TopKCodec(k=5).decode(TopKCodec(k=5).encode(Dense(logits_of(2, 30)), rows_of(2)))
    with pytest.raises(SignalError, match="Only outcomes of these logits"):
        SampledCodec().encode(top, rows_of(2))
    with pytest.raises(SignalError, match="shows logits as matrix"):
        HiddenCodec().made(Head(torch.ones(30, 2))).encode(Dense(logits_of(2, 30)), rows_of(2))
    inner = CachedTeacher(Talking(), tmp_path / "inner", "inputs", codec=TopKCodec(k=3))
    with pytest.raises(SignalError, match="cannot be stored in full"):
        CachedTeacher(inner, tmp_path / "outer", "inputs").observe(batch_of(DATA, [1]), LOGITS)


def test_shapes_that_cannot_be_stored_are_named():
    with pytest.raises(SignalError, match=r"leading dimensions \[2, 3, 4\]: a codec"):
        TopKCodec().encode(Dense(logits_of(2, 3, 4, 9)), rows_of(2))
    with pytest.raises(SignalError, match=r"\[2, 3\], and a mask of the shape \[2, 5\]"):
        TopKCodec().encode(Dense(logits_of(2, 3, 9)), rows_of(2, torch.ones(2, 5, dtype=torch.bool)))
    codec = TopKCodec(k=3)
    wide, narrow = (codec.encode(Dense(logits_of(1, n, 9)), rows_of(1)) for n in (4, 3))
    both = torch.zeros(2, wide.shape[1], dtype=torch.uint8)
    both[0], both[1, : narrow.shape[1]] = wide[0], narrow[0]
    with pytest.raises(SignalError, match="different shapes"):
        codec.decode(both)


def test_tokens_that_did_not_count_when_stored_are_named(tmp_path):
    with CachedTeacher(Talking(), tmp_path, "inputs", codec=TopKCodec(k=3)) as cached:
        batch = batch_of(DATA, [11, 30, 5])
        fewer = batch.masks[TOKENS] & (torch.arange(batch.masks[TOKENS].shape[1]) != 1)
        cached.observe(
            Batch(batch.inputs, batch.labels, {**batch.masks, TOKENS: fewer}, batch.ids, batch.views), LOGITS
        )
        with pytest.raises(SignalError, match="tokens that count have no stored logits"):
            cached.observe(batch, LOGITS)


@pytest.mark.parametrize("make", [lambda: TopKCodec(k=0), lambda: SampledCodec(draws=0), lambda: SampledCodec(seed=-1)])
def test_settings_are_refused(make):
    with pytest.raises(SettingError):
        make()
