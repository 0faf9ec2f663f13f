"""Laws of the order of data: nothing is drawn, nothing is lost, nothing comes twice."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.experiments import examples, stage

from limbeck.advice.preflight import dry_run
from limbeck.data.batch import CLASS, REAL, SUPERVISED
from limbeck.errors import DataError
from limbeck.training.loop import train
from limbeck.training.order import Order, Steps

COUNTS = st.integers(1, 40)


def stream(order, steps):
    """Ids and views of the first steps, one after the other."""
    found = [order.step(step) for step in range(steps)]
    return torch.cat([ids for ids, _ in found]), torch.cat([views for _, views in found])


@settings(max_examples=60, deadline=None)
@given(rows=COUNTS, batch=COUNTS, seed=st.integers(0, 2**63 - 1))
def test_each_epoch_is_a_permutation_under_one_view(rows, batch, seed):
    some = torch.arange(rows) * 3 + 1
    ids, views = stream(Order(some, batch, seed), -(-4 * rows // batch))
    assert len(ids) % batch == 0, "every step is a whole one, however few rows there are"
    for epoch in range(4):
        part = slice(epoch * rows, (epoch + 1) * rows)
        assert torch.equal(ids[part].sort().values, some)
        assert (views[part] == epoch + 1).all()


@settings(max_examples=60, deadline=None)
@given(rows=COUNTS, batch=COUNTS, seed=st.integers(0, 2**63 - 1), step=st.integers(0, 400))
def test_by_length_each_epoch_is_a_permutation_and_a_step_a_pure_function(rows, batch, seed, step):
    some, lengths = torch.arange(rows) * 3 + 1, torch.arange(rows) * 7 % 12
    order = Order(some, batch, seed, lengths=lengths)
    ids, views = stream(order, -(-4 * rows // batch))
    for epoch in range(4):
        part = slice(epoch * rows, (epoch + 1) * rows)
        assert torch.equal(ids[part].sort().values, some)
        assert (views[part] == epoch + 1).all()
    order.step(step + 3)
    fresh = Order(some, batch, seed, lengths=lengths).step(step)
    assert all(torch.equal(*both) for both in zip(order.step(step), fresh, strict=True))


def test_by_length_a_step_has_little_padding():
    """Lengths as of sentences, 3 to 60 tokens: a step is as long as its longest text."""
    lengths = (torch.randn(7001, generator=torch.Generator().manual_seed(0)).abs() * 20 + 3).long().clamp(max=60)
    rows = torch.arange(len(lengths))

    def padded(order):
        steps = [order.step(step)[0] for step in range(3 * len(rows) // 32)]
        return sum(32 * int(lengths[ids].max()) for ids in steps), steps

    (mixed, _), (alike, steps) = (padded(Order(rows, 32, 5, lengths=one)) for one in (None, lengths))
    least = 3 * int(lengths.sum())
    assert least <= alike < 1.1 * least < 1.9 * least < mixed
    sizes = torch.tensor([float(lengths[ids].float().mean()) for ids in steps[: len(rows) // 32]])
    neighbours = torch.corrcoef(torch.stack([sizes[:-1], sizes[1:]]))[0, 1]
    assert abs(float(neighbours)) < 0.25, "lengths come in an order"  # 218 pairs: 0.25 is 3.7 standard errors of none


@pytest.mark.parametrize("rows", [300, 1000])
def test_by_length_the_same_texts_seldom_meet_again(rows):
    """Of texts that meet in a step few meet in the next epoch, too, however few texts there are."""
    lengths = (torch.randn(rows, generator=torch.Generator().manual_seed(0)).abs() * 20 + 3).long().clamp(max=60)
    order = Order(torch.arange(rows), 32, 1, lengths=lengths)
    met, per = [], rows // 32
    for epoch in range(2):
        first = -(-epoch * rows // 32)
        together = torch.zeros(rows, rows, dtype=torch.bool)
        for step in range(first, first + per - 1):
            ids = order.step(step)[0]
            together[ids[:, None], ids] = True
        met.append(together.fill_diagonal_(False))
    again = float((met[0] & met[1]).sum() / met[0].sum())
    assert again < 0.25, "0.14 to 0.17 here; 0.48 if an epoch were sorted as a whole"


def test_by_length_is_for_texts():
    data = examples()
    assert Order.of(data, 8, 0, None).lengths is None
    with pytest.raises(DataError, match="'group-by-length: true' is for texts"):
        Order.of(data, 8, 0, None, by_length=True)


def test_a_training_is_grouped_by_length_if_its_settings_say_so(tmp_path):
    """And is then another training than the one that is not; one that is not has the name that it had before."""
    plain, grouped = (stage(steps=3, group_by_length=by) for by in (False, True))
    train(plain, tmp_path / "plain")
    with pytest.raises(DataError, match="'group-by-length: true' is for texts"):
        train(grouped, tmp_path / "grouped")
    with pytest.raises(DataError, match="'group-by-length: true' is for texts"):
        dry_run(grouped, "cpu")
    names = [one.training.identity() for one in (plain, grouped)]
    assert "group-by-length" not in names[0]
    assert names[1]["group-by-length"] is True


@settings(max_examples=40, deadline=None)
@given(rows=COUNTS, batch=COUNTS, step=st.integers(0, 10**6), seed=st.integers(0, 2**63 - 1))
def test_a_step_is_a_pure_function(rows, batch, step, seed):
    order = Order(torch.arange(rows), batch, seed)
    first = order.step(step)
    state = torch.random.get_rng_state()
    torch.rand(3)
    order.step(step + 1)
    again = Order(torch.arange(rows), batch, seed).step(step)
    torch.random.set_rng_state(state)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert torch.equal(torch.random.get_rng_state(), state)


@settings(max_examples=40, deadline=None)
@given(
    times=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    batch=COUNTS,
    views=st.integers(1, 7),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_repeated_row_comes_under_all_of_its_views_in_turn(times, batch, views, seed):
    rows = torch.cat([torch.full((count,), 5 * row) for row, count in enumerate(times)])
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed % 2**32))]
    ids, seen = stream(Order(rows, batch, seed, views), -(-6 * len(rows) // batch))
    for epoch in range(6):
        part = slice(epoch * len(rows), (epoch + 1) * len(rows))
        assert torch.equal(ids[part].sort().values, rows.sort().values)
        for row, count in enumerate(times):
            own = seen[part][ids[part] == 5 * row]
            expected = [(epoch * count + copy) % views + 1 for copy in range(count)]
            assert sorted(own.tolist()) == sorted(expected)


def test_without_an_end_of_views_a_repeated_row_has_one_an_epoch():
    order = Order(torch.tensor([3, 3, 4]), 3, 0)
    assert [order.step(epoch)[1].tolist() for epoch in range(3)] == [[1] * 3, [2] * 3, [3] * 3]


def test_epochs_and_seeds_differ():
    rows = torch.arange(50)
    epochs = [Order(rows, 50, seed).step(epoch)[0] for seed in range(3) for epoch in range(3)]
    assert len({tuple(ids.tolist()) for ids in epochs}) == 9
    assert all(not torch.equal(ids, rows) for ids in epochs)


@pytest.mark.parametrize(
    ("views", "wanted"), [(None, [1, 2, 3, 4, 5, 6]), (4, [1, 2, 3, 4, 1, 2]), (1, [1] * 6), (0, [0] * 6)]
)
def test_the_views_of_the_epochs(views, wanted):
    order = Order(torch.arange(7), 7, 0, views)
    assert [order.view(epoch) for epoch in range(6)] == wanted
    assert [order.step(epoch)[1].unique().tolist() for epoch in range(6)] == [[view] for view in wanted]


def test_a_step_across_epochs_has_the_views_of_both():
    ids, views = Order(torch.arange(5), 8, 0).step(1)
    assert views.tolist() == [2, 2, 3, 3, 3, 3, 3, 4]
    assert sorted(ids[2:7].tolist()) == [0, 1, 2, 3, 4]


def test_a_batch_wider_than_the_data_goes_round():
    ids, views = Order(torch.arange(3), 10, 0).step(0)
    assert sorted(torch.bincount(ids).tolist()) == [3, 3, 4]
    assert views.tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4]
    assert len(set(zip(ids.tolist(), views.tolist(), strict=True))) == 10, "no pair twice"


@settings(max_examples=60, deadline=None)
@given(batch=st.integers(1, 24), world=st.integers(1, 5), accumulate=st.integers(1, 5), step=st.integers(0, 9))
def test_ranks_and_micro_batches_partition_the_step(batch, world, accumulate, step):
    data = examples(30)
    order = Order(data.rows, batch, 1)
    parts = [Steps(data, order, accumulate, rank, world)[step] for rank in range(world)]
    assert len({len(micro) for part in parts for micro in part}) == 1, "or a process would wait for ever"
    ids, views = order.step(step)
    real = [
        pair
        for micro in range(accumulate)  # micro by micro, rank by rank: the order of the whole step
        for part in parts
        for pair, counts in zip(
            zip(part[micro].ids.tolist(), part[micro].views.tolist(), strict=True),
            part[micro].masks[REAL].tolist(),
            strict=True,
        )
        if counts
    ]
    assert real == list(zip(ids.tolist(), views.tolist(), strict=True))


def test_padding_rows_are_rows_of_the_step_that_do_not_count():
    data = examples(30)
    order = Order(data.rows, 4, 0)
    last = Steps(data, order, accumulate=1, rank=2, world=3)[0][0]
    assert last.masks[REAL].tolist() == [False, False]
    assert set(last.ids.tolist()) <= set(order.step(0)[0].tolist()), "no row that a store does not hold"
    assert last.masks[SUPERVISED].all(), "another mask is not what leaves it out"
    assert (last.labels[CLASS] >= 0).all()
    assert last.inputs["x"].isfinite().all()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_reading_ahead_changes_nothing_and_starts_anywhere(workers):
    data = examples(20)
    steps = Steps(data, Order(data.rows, 7, 3, views=2), accumulate=2)
    wanted = [steps[step] for step in range(4, 9)]
    state = torch.random.get_rng_state()
    found = list(steps.iterate(4, 9, workers))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(found) == 5
    for ours, theirs in zip(found, wanted, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.ids, other.ids)
            assert torch.equal(one.inputs["x"], other.inputs["x"])
            assert torch.equal(one.masks[REAL], other.masks[REAL])
