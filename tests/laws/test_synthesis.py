"""Made pictures: the teacher stays as it is, nothing is drawn, and what was made is kept whole or not at all."""

import numpy as np
import pytest
import torch
from tests.fakes.experiments import seeded_teacher
from tests.fakes.pictures import CLASSES, SIDE, Convolutions, experienced, splits

from limbeck.data.augment import Augment
from limbeck.data.images import ImageReader
from limbeck.models.identity import of_module
from limbeck.synthesis import kept
from limbeck.synthesis.games import Adversarial, Dafl
from limbeck.synthesis.generator import Generator, Playing
from limbeck.synthesis.inversion import Pictures, invert
from limbeck.synthesis.norms import norms_of
from limbeck.synthesis.space import InputSpace
from limbeck.teachers.local import LocalTeacher

TRAIN = splits().train
SPACE = InputSpace.of(TRAIN, "a test")
IDS = torch.arange(9)
FEW = Pictures(count=9, batch_size=9, steps=4)


def teacher(norm: bool = True):
    return seeded_teacher(lambda: experienced(norm))


def inverted(settings=FEW, student=None, module=None, ids=IDS):
    return invert(module or teacher().module, SPACE, ids % CLASSES, ids, settings, student)


# --- the space


def test_levels_and_numbers_are_the_same_pictures():
    levels = torch.arange(256, dtype=torch.uint8).repeat(SIDE * SIDE)[: 7 * SIDE * SIDE].view(7, 1, SIDE, SIDE)
    examples = SPACE.examples(levels, TRAIN)
    read = examples.batch(examples.rows, torch.zeros_like(examples.rows)).inputs["pixel_values"]
    assert torch.equal(SPACE.levels(read), levels)
    assert torch.equal(SPACE.levels(read - 99), torch.zeros_like(levels)), "blacker than black is black"
    assert torch.equal(SPACE.levels(read + 99), torch.full_like(levels, 255))
    assert not examples.supervised.any()
    assert np.array_equal(examples.table.show(3), levels[3, 0].numpy())


def test_noise_is_by_number_alone_and_between_black_and_white():
    low, high = SPACE.ends()
    every = SPACE.noise(torch.arange(50))
    assert torch.equal(every[[7, 3]], SPACE.noise(torch.tensor([7, 3])))
    assert not torch.equal(every, SPACE.noise(torch.arange(50), salt=1))
    assert (every >= low).all()
    assert (every <= high).all()
    assert (every[0] != every[1]).any()


# --- inversion


@pytest.mark.parametrize("prior", ["statistics", "entropy"])
def test_the_teacher_stays_as_it_is_to_the_bit(prior):
    """A teacher in training mode would take the made pictures into its statistics."""
    own, student = teacher(), seeded_teacher(Convolutions, 1).module
    before = [of_module(own.module), of_module(student)]
    inverted(FEW.model_copy(update={"prior": prior}), student, own.module)
    assert [of_module(own.module), of_module(student)] == before
    for module in (own.module, student):
        assert not any(part.training for part in module.modules())
        assert all(one.grad is None for one in module.parameters())
        assert not any(part._forward_pre_hooks or part._forward_hooks for part in module.modules())


def test_nothing_is_drawn_and_the_same_is_made_again():
    state = torch.random.get_rng_state()
    one = inverted()
    torch.manual_seed(99)
    two = inverted()
    torch.random.set_rng_state(state)
    assert torch.equal(one, two)
    assert not torch.equal(one, inverted(ids=IDS + 9)), "other numbers begin as other noise"


def test_pictures_lie_between_black_and_white():
    low, high = SPACE.ends()
    pictures = inverted(FEW.model_copy(update={"learning_rate": 5.0}))
    assert (pictures >= low).all()
    assert (pictures <= high).all()


def test_the_prior_does_what_it_says():
    """Longer optimisation: pictures are of their class, and only those held to statistics have them."""
    module = teacher().module

    def seen(settings):
        ids = torch.arange(30)
        pictures = inverted(settings, ids=ids, module=module)
        zero = settings.model_copy(update={"prior": "statistics"})
        norms = norms_of(module)
        read = {}
        hooks = [
            one.register_forward_pre_hook(lambda _, inputs, name=name: read.update({name: inputs[0]}))
            for name, one in norms.items()
        ]
        logits = module(pictures)
        for hook in hooks:
            hook.remove()
        far = zero.loss(pictures, {"logits": logits, **read}, ids % CLASSES, norms, None)
        own = torch.nn.functional.cross_entropy(logits, ids % CLASSES)
        return float(own), float(far - own)

    settings = Pictures(count=30, batch_size=30, steps=60, learning_rate=0.1, jitter=0)
    noise = seen(settings.model_copy(update={"steps": 1}))
    held, free = seen(settings), seen(settings.model_copy(update={"prior": "entropy"}))
    assert held[0] < noise[0]
    assert free[0] < held[0], "nothing else is asked of them"
    assert held[1] < 0.5 * noise[1], "their statistics come near"
    assert held[1] < 0.5 * free[1], "and those of the others do not"


def test_who_competes_shows_where_it_differs():
    own, student = teacher().module, seeded_teacher(Convolutions, 1).module
    ids = torch.arange(30)
    with torch.no_grad():  # untrained, they are sure of nothing
        for module in (own, student):
            module.head.weight *= 8
    settings = Pictures(count=30, batch_size=30, steps=40, learning_rate=0.1, competition=30)
    alone, against = (inverted(settings, one, own, ids) for one in (None, student))

    def apart(pictures):
        with torch.no_grad():
            return float((own(pictures).softmax(1) - student(pictures).softmax(1)).abs().sum(1).mean())  # 0 to 2

    assert apart(against) > apart(alone) + 0.05
    mute = settings.model_copy(update={"competition": 0.0})
    assert torch.equal(inverted(mute, student, own, ids), alone)


@pytest.mark.parametrize("field", ["statistics", "variation", "norm", "jitter", "learning_rate", "steps"])
def test_every_setting_is_used(field):
    value = 7 if field in ("jitter", "steps") else 5.0
    assert not torch.equal(inverted(), inverted(FEW.model_copy(update={field: value})))


# --- on the disk


def made(*given, **more):
    """The pictures, without the time."""
    return kept.made(*given, **more)[0]


def test_a_teacher_that_was_left_in_training_mode_learns_nothing(tmp_path):
    own = teacher()
    one = made(own, SPACE, CLASSES, FEW, tmp_path / "one")
    before = of_module(own.module)
    own.module.train()  # a parent's train() reaches it
    assert torch.equal(made(own, SPACE, CLASSES, FEW, tmp_path / "two"), one)
    playing(Dafl(), own.module).pictures(6, 0, None)
    assert of_module(own.module) == before


def test_what_was_made_is_read_and_what_was_cut_off_goes_on(tmp_path, monkeypatch):
    settings = Pictures(count=20, batch_size=8, steps=2)  # 7, 7 and 6 together

    def all_of(root, **changes):
        return made(teacher(), SPACE, CLASSES, settings, root, **changes)

    whole = all_of(tmp_path / "whole")
    assert whole.shape == (20, 1, SIDE, SIDE)
    done = 0

    def third(*given):
        nonlocal done
        done += 1
        if done == 3:
            raise KeyboardInterrupt
        return invert(*given)

    monkeypatch.setattr(kept, "invert", third)
    with pytest.raises(KeyboardInterrupt):
        all_of(tmp_path / "cut")
    assert len(list((tmp_path / "cut").rglob("*.safetensors"))) == 2
    assert torch.equal(all_of(tmp_path / "cut"), whole)
    assert done == 4, "the last one alone is made again"
    heard = []
    assert torch.equal(all_of(tmp_path / "cut", on_progress=lambda *seen: heard.append(seen)), whole)
    assert done == 4
    assert heard == [(7, 20), (14, 20), (20, 20)]


def test_the_time_of_making_is_told_whenever_it_was(tmp_path, monkeypatch):
    clock = iter([0.0, 2.0, 10.0, 15.0])  # a batch began and ended, and another
    monkeypatch.setattr(kept.time, "perf_counter", lambda: next(clock))
    settings = Pictures(count=8, batch_size=4, steps=1)
    for _ in range(2):
        assert kept.made(teacher(), SPACE, CLASSES, settings, tmp_path)[1] == 7.0


@pytest.mark.parametrize("harm", ["flipped", "short", "empty"])
def test_what_is_damaged_is_made_again(harm, tmp_path):
    one = made(teacher(), SPACE, CLASSES, FEW, tmp_path)
    (path,) = tmp_path.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes({"flipped": bytes(content), "short": bytes(content[:-9]), "empty": b""}[harm])
    assert torch.equal(made(teacher(), SPACE, CLASSES, FEW, tmp_path), one)


def test_pictures_are_kept_by_all_that_they_depend_on(tmp_path):
    other = LocalTeacher(Convolutions(6), "another")
    made(teacher(), SPACE, CLASSES, FEW, tmp_path)
    made(teacher(), SPACE, CLASSES, FEW, tmp_path, student=other)
    made(other, SPACE, CLASSES, FEW, tmp_path)
    made(teacher(), SPACE, CLASSES, FEW.model_copy(update={"steps": 3}), tmp_path)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    made(teacher(), SPACE, CLASSES, FEW, tmp_path, first=9)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 5


# --- games


def playing(game, module=None, seed=3, **changes):
    given = {"latent": 8, "width": 4, "learning_rate": 0.01, **changes}
    return Playing(game, module or teacher().module, SPACE, seed, **given)


@pytest.mark.parametrize("game", [Dafl(), Adversarial(student_steps=2)], ids=lambda one: one.name)
def test_a_game_leaves_teacher_student_and_randomness_alone(game):
    own, student = teacher().module, seeded_teacher(Convolutions, 1).module
    before, state = [of_module(own), of_module(student)], torch.random.get_rng_state()
    one = playing(game, own)
    for step in range(3):
        pictures, parts = one.pictures(6, step, student)
        assert bool(parts) == (step % game.every == 0)
        assert not pictures.requires_grad
        assert pictures.shape == (6, 1, SIDE, SIDE)
    assert [of_module(own), of_module(student)] == before
    assert all(one.grad is None for module in (own, student) for one in module.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    "game",
    [Dafl(), Dafl(statistics=1), Adversarial(student_steps=1, balance=1)],
    ids=["dafl", "statistics", "adversarial"],
)
def test_a_generator_gets_better_at_its_game(game):
    one, student = playing(game), seeded_teacher(Convolutions, 1).module
    told = [sum(one.pictures(24, step, student)[1].values()) for step in range(60)]
    assert np.mean(told[-10:]) < np.mean(told[:10]) - 0.05


def test_the_student_is_asked_by_adversaries_alone():
    def never(_):
        raise AssertionError("nobody asks")

    playing(Dafl()).pictures(4, 0, never)
    with pytest.raises(AssertionError, match="nobody asks"):
        playing(Adversarial()).pictures(4, 0, never)


def test_a_game_goes_on_as_if_it_had_not_been_cut():
    whole, first = playing(Dafl()), playing(Dafl())
    every = [whole.pictures(6, step, None)[0] for step in range(5)]
    for step in range(2):
        first.pictures(6, step, None)
    again = playing(Dafl(), seed=3)
    again.load_state_dict(first.state_dict())
    for step in range(2, 5):
        assert torch.equal(again.pictures(6, step, None)[0], every[step])
    still = playing(Dafl(), learning_rate=1e-12)
    one, two = (still.pictures(6, step, None)[0] for step in range(2))
    assert float((one - two).abs().max()) > 0.01, "each step has noise of its own"
    assert not torch.equal(every[0], playing(Dafl(), seed=4).pictures(6, 0, None)[0])


def test_what_dafl_stirs_is_what_the_head_reads():
    assert Dafl().reads(teacher().module) == {"logits", "head:in"}
    assert Dafl(activation=0).reads(teacher().module) == {"logits"}
    named = {"one-hot", "balance", "activation"}
    assert set(playing(Dafl()).pictures(4, 0, None)[1]) == named
    assert set(playing(Dafl(statistics=1)).pictures(4, 0, None)[1]) == {*named, "statistics"}


@pytest.mark.parametrize("size", [(1, 5, 7), (3, 1, 1), (1, 28, 28)])
def test_pictures_are_of_the_size_that_is_read(size):
    channels, height, width = size
    reader = ImageReader(height=height, width=width, channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    assert Generator(InputSpace(reader, Augment()), 5, 2)(torch.randn(2, 5)).shape == (2, *size)
