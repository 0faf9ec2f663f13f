"""A data set that grew: rows that an earlier store holds of the same teacher, for the same input, are not asked again."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.rows import LOGITS, Named, Plain, Reader, Texts, batch_of, examples, local

from limbeck.data.batch import CLASS, TOKENS, Batch
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.contents import CONTENT, contents
from limbeck.teachers.earlier import Earlier
from limbeck.teachers.labelling import label
from limbeck.teachers.part import Part
from limbeck.teachers.store import Store, describe

LARGE = examples(200)
SMALL = replace(LARGE, rows=LARGE.rows[:100])
STATES = frozenset({"logits", "states"})


class Counting:
    """A local teacher that counts the rows it is asked for."""

    def __init__(self, kind=Plain):
        self._inner, self.rows = local(kind), 0
        self.fingerprint, self.provides, self.module = self._inner.fingerprint, self._inner.provides, None

    def observe(self, batch, needs):
        self.rows += len(batch)
        return self._inner.observe(batch, needs)


def labelled(root, teacher, data, inputs, reuse=False, needs=LOGITS, views=(0,), part=None):
    with CachedTeacher(teacher, root, inputs, shard_rows=40) as cached:
        if reuse:
            cached.reuse()
        label(cached, data, views, 32, needs, **({"part": part} if part else {}))
    return cached


@pytest.mark.parametrize(
    ("kind", "rows", "needs"), [(Plain, None, LOGITS), (Reader, Texts, STATES)], ids=["vectors", "texts"]
)
def test_only_new_rows_are_asked(tmp_path, kind, rows, needs):
    large = examples(200, *([rows] if rows else []))
    small = replace(large, rows=large.rows[:100])
    first = labelled(tmp_path, Counting(kind), small, "small", needs=needs)
    teacher = Counting(kind)
    again = labelled(tmp_path, teacher, large, "large", reuse=True, needs=needs)
    assert (teacher.rows, again.reused, again.misses) == (100, 100, 100)
    assert describe(again.store).rows == 200
    live = local(kind)
    for ids in torch.randperm(200, generator=torch.Generator().manual_seed(0)).split(48):
        batch = batch_of(large, ids)
        shown, expected = again.observe(batch, needs), live.observe(batch, needs)
        for name in needs:
            at = (batch.masks[TOKENS],) if shown[name].ndim > 2 else (...,)
            # other batches: the rounding of sums
            torch.testing.assert_close(shown[name][at], expected[name][at], rtol=0, atol=1e-6)
    batch = batch_of(small, range(100))
    taken, held = again.observe(batch, needs), first.observe(batch, needs)
    counted = batch.masks.get(TOKENS)
    for name in needs:
        at = counted if taken[name].ndim > 2 else ...
        assert torch.equal(taken[name][at], held[name][at]), "what was taken over is what was stored, bit for bit"


def test_rows_in_another_order_are_known_again(tmp_path):
    labelled(tmp_path, Counting(), SMALL, "small")
    turned = replace(LARGE, table=Turned(LARGE.table))
    teacher = Counting()
    cached = labelled(tmp_path, teacher, turned, "turned", reuse=True)
    assert (teacher.rows, cached.reused) == (100, 100)
    again = cached.observe(batch_of(turned, [199, 198, 0]), LOGITS)["logits"]
    expected = local().observe(batch_of(LARGE, [0, 1, 199]), LOGITS)["logits"]
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-6)


class Turned:
    """A table with its rows in the opposite order."""

    texts = None

    def __init__(self, inner):
        self._inner, self.reader, self.fingerprint = inner, inner.reader, f"{inner.fingerprint} turned"

    def __len__(self):
        return len(self._inner)

    def read(self, ids, views):
        return self._inner.read(len(self._inner) - 1 - ids, views)


def test_nothing_is_taken_over_unless_asked_for(tmp_path):
    labelled(tmp_path, Counting(), SMALL, "small")
    teacher = Counting()
    assert labelled(tmp_path, teacher, LARGE, "large").reused == 0
    assert teacher.rows == 200


def test_another_teacher_or_signal_or_view_is_asked(tmp_path):
    labelled(tmp_path, Named("one"), SMALL, "small")
    other = Named("another")
    assert labelled(tmp_path, other, LARGE, "large", reuse=True).reused == 0
    assert other.rows == 200
    same = Named("one")
    assert labelled(tmp_path, same, LARGE, "large", reuse=True, needs=frozenset({"body"})).reused == 0
    augmented = labelled(tmp_path, Named("one"), SMALL, "views", reuse=True, views=(1,))
    seen = not torch.equal(*(batch_of(SMALL, [3], views=[view]).inputs["x"] for view in (0, 1)))
    assert augmented.reused == (0 if seen else 100)


def test_parts_and_a_resumed_labelling_take_over_too(tmp_path):
    labelled(tmp_path, Counting(), SMALL, "small")
    teacher = Counting()
    for number in (2, 1, 1):
        labelled(tmp_path, teacher, LARGE, "large", reuse=True, part=Part(number, 2))
    assert teacher.rows == 100


def test_several_earlier_stores(tmp_path):
    labelled(tmp_path, Counting(), SMALL, "first")
    labelled(tmp_path, Counting(), replace(LARGE, rows=torch.arange(90, 150)), "second")
    teacher = Counting()
    assert labelled(tmp_path, teacher, LARGE, "all", reuse=True).reused == 150
    assert teacher.rows == 50


def test_a_damaged_earlier_store_is_asked_again(tmp_path):
    first = labelled(tmp_path, Counting(), SMALL, "small")
    path = first.store.shards()[0].path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "key.json").write_text("{")
    teacher = Counting()
    cached = labelled(tmp_path, teacher, LARGE, "large", reuse=True)
    assert teacher.rows + cached.reused == 200
    assert 0 < cached.reused < 100


def test_rows_stored_without_their_content_are_asked(tmp_path):
    small = CachedTeacher(Named(), tmp_path, "small")
    with Store(tmp_path, small.store.key) as store:
        store.add(np.arange(100), np.zeros(100, np.int64), {"logits": torch.zeros(100, 2)})
    teacher = Named()
    assert labelled(tmp_path, teacher, LARGE, "large", reuse=True).reused == 0
    assert teacher.rows == 200


def test_the_content_is_no_signal(tmp_path):
    cached = labelled(tmp_path, Named(), SMALL, "small")
    assert CONTENT not in cached.store.names
    assert list(describe(cached.store).signals) == ["logits"]


# --- contents


def hashed(**columns) -> torch.Tensor:
    count = len(next(iter(columns.values())))
    made = Batch.of(torch.zeros(count, 1))
    masks = dict(made.masks)
    if "attention_mask" in columns:
        masks[TOKENS] = columns["attention_mask"].bool()
    return contents(Batch(columns, made.labels, masks, made.ids, made.views))


def by_hand(value: np.ndarray, of: str) -> list[tuple[int, int]]:
    """The definition, in Python's own integers."""
    import hashlib

    words = value.reshape(len(value), -1).view(np.int32)
    key = int.from_bytes(hashlib.sha256(of.encode()).digest()[:16], "little")
    drawn = np.random.Philox(key=key).random_raw(2 * words.shape[1]).reshape(-1, 2)
    return [
        tuple(sum(int(word) * int(factor) for word, factor in zip(row, drawn[:, which], strict=True)) % 2**64 for which in (0, 1))
        for row in words
    ]  # fmt: skip


def test_contents_are_what_they_are_defined_to_be():
    value = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(0))
    found = [tuple(int(one) % 2**64 for one in row) for row in hashed(x=value).tolist()]
    assert found == by_hand(value.numpy(), "x torch.float32 (3, 7)")


@given(st.integers(0, 40), st.integers(1, 12))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_padding_changes_nothing_and_a_token_does(more, length):
    draw = torch.Generator().manual_seed(length)
    ids, mask = torch.randint(0, 99, (3, length), generator=draw), torch.ones(3, length, dtype=torch.int64)
    wide = hashed(
        input_ids=torch.cat([ids, torch.full((3, more), 7)], 1),
        attention_mask=torch.cat([mask, torch.zeros(3, more, dtype=torch.int64)], 1),
    )
    assert torch.equal(wide, hashed(input_ids=ids, attention_mask=mask))
    other = ids.clone()
    other[1, length // 2] += 1
    assert (wide != hashed(input_ids=other, attention_mask=mask)).any(1).tolist() == [False, True, False]


def test_a_longer_text_is_another_one_even_if_it_ends_in_zeros():
    short = hashed(input_ids=torch.tensor([[5, 0]]), attention_mask=torch.tensor([[1, 0]]))
    long = hashed(input_ids=torch.tensor([[5, 0]]), attention_mask=torch.tensor([[1, 1]]))
    assert not torch.equal(short, long)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool, torch.float64])
def test_every_bit_counts(dtype):
    value = torch.randint(0, 2, (4, 600), generator=torch.Generator().manual_seed(0)).to(dtype)
    once = hashed(x=value)
    assert len({tuple(row) for row in once.tolist()}) == 4
    value[2, 599] = 1 - value[2, 599] if dtype != torch.bool else ~value[2, 599]
    assert (once != hashed(x=value)).any(1).tolist() == [False, False, True, False]


def test_names_and_shapes_count():
    value = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    found = [hashed(x=value), hashed(y=value), hashed(x=value.view(2, 3, 4)), hashed(x=value, y=value)]
    assert len({tuple(one[0].tolist()) for one in found}) == 4


def test_labels_count_where_what_is_stored_depends_on_them():
    batch = batch_of(SMALL, [1, 2])
    other = Batch(batch.inputs, {CLASS: batch.labels[CLASS] + 1}, batch.masks, batch.ids, batch.views)
    assert torch.equal(contents(batch), contents(other))
    assert (contents(batch, labels=True) != contents(other, labels=True)).all()


def test_rows_whose_first_words_are_alike_are_told_apart(tmp_path):
    store = Store(tmp_path, CachedTeacher(Named(), tmp_path, "small").store.key)
    held = torch.tensor([[7, 1], [7, 2], [7, 3], [9, 1]])
    store.add(np.arange(4), np.zeros(4, np.int64), {CONTENT: held, "logits": torch.arange(4.0)[:, None]})
    store.flush()
    there, places = Earlier(store).find(np.array([[7, 3], [7, 9], [9, 1], [8, 1], [7, 1]]), LOGITS)
    assert there.tolist() == [True, False, True, False, True]
    assert store.read("logits", places["logits"])[:, 0][torch.from_numpy(there)].tolist() == [2, 3, 0]
