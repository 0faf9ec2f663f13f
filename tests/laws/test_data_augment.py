"""Images: read, varied and mixed as pure functions of (id, view)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from limbeck.data.augment import Augment
from limbeck.data.batch import CLASS, NO_LABEL
from limbeck.data.examples import Examples
from limbeck.data.images import ImageFiles, ImageReader, ImageTable, image_keys
from limbeck.data.mixup import mixed, partners
from limbeck.data.pixels import decoded, pixels_of, shape_of
from limbeck.errors import DataError

READER = ImageReader(height=9, width=12, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
PIXELS = torch.randint(0, 256, (40, 3, 9, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
EACH = [
    {"shift": 2},
    {"flip": True},
    {"rotate": 30.0},
    {"scale": 0.3},
    {"noise": 0.2},
    {"erase": 0.4},
    {"shift": 3, "flip": True, "rotate": 180.0, "scale": 0.9, "noise": 1.0, "erase": 0.9},
]
PAIRS = st.lists(st.tuples(st.integers(0, 39), st.integers(0, 2**40)), min_size=1, max_size=9)


def int64(numbers):
    return torch.tensor(numbers, dtype=torch.int64)


def examples(augment=None, mixup=0.0, labelled=20):
    supervised = torch.arange(40) < labelled
    return Examples(
        ImageTable(PIXELS, READER, augment), torch.arange(40), torch.arange(40) % 4, supervised, tuple("abcd"), mixup
    )


@given(st.sampled_from(EACH), PAIRS, st.just(0.0) | st.floats(0.01, 1))
@settings(deadline=None, max_examples=80)
def test_a_row_is_the_same_in_any_batch(augment, pairs, mixup):
    data = examples(Augment(**augment), mixup)
    ids, views = int64([row for row, _ in pairs]), int64([view for _, view in pairs])
    state = torch.get_rng_state()
    together = data.batch(ids, views)
    assert torch.equal(torch.get_rng_state(), state)
    for place in range(len(pairs)):
        alone = data.batch(ids[place : place + 1], views[place : place + 1])
        assert torch.equal(alone.inputs["pixel_values"][0], together.inputs["pixel_values"][place])
        assert torch.equal(alone.labels[CLASS][0], together.labels[CLASS][place])


@pytest.mark.parametrize("augment", EACH)
def test_view_0_is_the_image_as_it_is_and_others_differ(augment):
    ids = torch.arange(40)
    plain, varied = ImageTable(PIXELS, READER), ImageTable(PIXELS, READER, Augment(**augment))
    for view in (0, 1, 2):
        views = torch.full((40,), view)
        same = torch.equal(plain.read(ids, views)["pixel_values"], varied.read(ids, views)["pixel_values"])
        assert same == (view == 0)
    mixed_views = torch.arange(40) % 2
    seen = varied.read(ids, mixed_views)["pixel_values"][::2]
    assert torch.equal(seen, plain.read(ids, mixed_views)["pixel_values"][::2])
    assert not torch.equal(*(varied.read(ids, torch.full((40,), view))["pixel_values"] for view in (1, 2)))


def test_view_0_is_what_the_reader_gives():
    pictures = [Image.fromarray(image.movedim(0, -1).numpy()) for image in PIXELS]
    read = ImageTable(PIXELS, READER).read(torch.arange(40), torch.zeros(40, dtype=torch.int64))["pixel_values"]
    assert torch.equal(READER.encode(pictures)["pixel_values"], read)


@pytest.mark.parametrize("augment", EACH)
def test_varied_images_stay_between_black_and_white(augment):
    seen = Augment(**augment).apply(PIXELS, torch.arange(40), torch.ones(40, dtype=torch.int64))
    assert float(seen.min()) >= 0
    assert float(seen.max()) <= 1
    assert seen.dtype == torch.float32


def shifted(image, down, right):
    result = torch.zeros_like(image)
    height, width = image.shape[1:]
    result[:, max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = image[
        :, max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)
    ]
    return result


def test_a_shift_is_by_whole_pixels_and_reaches_every_one_of_them():
    seen = Augment(shift=1).apply(
        PIXELS[:1].expand(400, -1, -1, -1), torch.arange(400), torch.ones(400, dtype=torch.int64)
    )
    allowed = {
        shifted(PIXELS[0].float() / 255, down, right).numpy().tobytes(): (down, right)
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
    }
    found = [allowed[image.numpy().tobytes()] for image in seen]
    assert {found.count(move) > 20 for move in allowed.values()} == {True}


def test_a_flip_mirrors_about_half_of_the_views():
    seen = Augment(flip=True).apply(
        PIXELS[:1].expand(400, -1, -1, -1), torch.arange(400), torch.ones(400, dtype=torch.int64)
    )
    plain = PIXELS[0].float() / 255
    flipped = [torch.equal(image, plain.flip(-1)) for image in seen]
    assert all(torch.equal(image, plain) for image, mirror in zip(seen, flipped, strict=True) if not mirror)
    assert 150 < sum(flipped) < 250


def test_erasing_blackens_one_rectangle_of_the_given_share():
    white = torch.full((50, 3, 10, 20), 255, dtype=torch.uint8)
    seen = Augment(erase=0.3).apply(white, torch.arange(50), torch.ones(50, dtype=torch.int64))
    black = seen == 0
    assert bool((black.sum((2, 3)) == 3 * 6).all())
    assert bool((black.any(3).sum(2) == 3).all())


def test_noise_has_the_given_deviation():
    grey = torch.full((50, 1, 20, 20), 0.5)
    noise = Augment(noise=0.1).apply(grey, torch.arange(50), torch.ones(50, dtype=torch.int64)) - 0.5
    assert abs(float(noise.std()) - 0.1) < 0.002
    assert abs(float(noise.mean())) < 0.002


@given(PAIRS, st.floats(0.05, 4))
@settings(deadline=None, max_examples=50)
def test_mixing_is_a_weighted_mean_with_a_partner_of_the_same_part(pairs, mixup):
    data = examples(Augment(shift=1), mixup)
    ids, views = int64([row for row, _ in pairs]), int64([view for _, view in pairs])
    partner, share = partners(data, ids, views)
    assert bool((data.supervised[partner] == data.supervised[ids]).all())
    assert bool((share[views == 0] == 1).all())
    assert float(share.min()) >= 0
    assert float(share.max()) <= 1
    batch = data.batch(ids, views)
    mine, theirs = (data.table.read(rows, views)["pixel_values"] for rows in (ids, partner))
    weight = share.view(-1, 1, 1, 1)
    torch.testing.assert_close(batch.inputs["pixel_values"], weight * mine + (1 - weight) * theirs)
    labels, supervised = batch.labels[CLASS], data.supervised[ids]
    torch.testing.assert_close(labels.sum(1), supervised.float())
    rows = torch.arange(len(ids))
    due = torch.zeros_like(labels)
    due.index_put_((rows, data.labels[ids]), share, accumulate=True)
    due.index_put_((rows, data.labels[partner]), 1 - share, accumulate=True)
    torch.testing.assert_close(labels, due * supervised[:, None])
    assert torch.equal(batch.inputs["pixel_values"][views == 0], mine[views == 0])


def test_shares_are_symmetric_and_partners_are_many():
    partner, share = partners(examples(mixup=0.2), torch.arange(20).repeat(100), 1 + torch.arange(2000))
    assert abs(float(share.mean()) - 0.5) < 0.03
    assert float(share.var()) == pytest.approx(0.25 / 1.4, rel=0.1)  # of Beta(0.2, 0.2)
    assert len(partner.unique()) == 20


def test_tokens_are_not_mixed():
    tokens = {"input_ids": torch.zeros(2, 5, dtype=torch.int64)}
    with pytest.raises(DataError, match=r"mixup 0\.4 cannot mix the column 'input_ids'.*Set mixup to 0"):
        mixed(examples(mixup=0.4), int64([0, 1]), int64([1, 1]), tokens, int64([0, NO_LABEL]))


def test_fingerprints_change_with_every_byte_setting_and_augmentation():
    other = PIXELS.clone()
    other[39, 2, 8, 11] ^= 1
    settings = READER.model_dump()
    tables = [
        ImageTable(PIXELS, READER),
        ImageTable(other, READER),
        ImageTable(PIXELS.flip(0), READER),
        ImageTable(PIXELS, ImageReader(**settings | {"mean": (0.4, 0.5, 0.7)})),
        ImageTable(PIXELS, ImageReader(**settings | {"std": (0.2, 0.3, 0.5)})),
        *(ImageTable(PIXELS, READER, Augment(**augment)) for augment in [*EACH, {"shift": 1}]),
    ]
    assert len({table.fingerprint for table in tables}) == len(tables)
    assert ImageTable(PIXELS.clone(), READER, Augment()).fingerprint == tables[0].fingerprint
    base = examples()
    kinds = [base, examples(mixup=0.1), examples(mixup=0.2), examples(labelled=21), examples(Augment(flip=True))]
    assert len({kind.fingerprint for kind in kinds}) == len(kinds)
    assert base.inputs_fingerprint == examples(labelled=21).inputs_fingerprint, "a teacher does not see labels"
    assert base.inputs_fingerprint != examples(mixup=0.1).inputs_fingerprint


def test_files_are_read_as_images_in_memory_are(tmp_path):
    paths = []
    for row, image in enumerate(PIXELS):
        paths.append(tmp_path / f"{row}.png")
        Image.fromarray(image.movedim(0, -1).numpy()).save(paths[-1])
    files = ImageFiles(paths, 9, 12, 3)
    ids, views = int64([3, 0, 3]), int64([0, 1, 2])
    augment = Augment(rotate=20.0, noise=0.1)
    lazy, eager = ImageTable(files, READER, augment), ImageTable(PIXELS, READER, augment)
    assert torch.equal(lazy.read(ids, views)["pixel_values"], eager.read(ids, views)["pixel_values"])
    before, keys = lazy.fingerprint, image_keys(files)
    paths[0].write_bytes(paths[1].read_bytes())
    assert ImageTable(files, READER, augment).fingerprint != before
    assert image_keys(files)[:2] == [keys[1]] * 2


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], -1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F", "HSV"])
def test_every_mode_gives_bytes(mode):
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)  # 16 bits
    image = deep.convert(mode) if mode.startswith("I") else Image.fromarray(COLOUR).convert(mode)
    for channels in (1, 3):
        seen = pixels_of(image, 16, 16, channels)
        assert seen.shape == (channels, 16, 16)
        assert seen.dtype == np.uint8
        assert seen.std() > 20
        assert pixels_of(image, 5, 7, channels).shape == (channels, 5, 7)


def test_kinds_of_one_image_give_the_same_bytes():
    tensor = torch.from_numpy(COLOUR).movedim(-1, 0)
    kinds = [
        Image.fromarray(COLOUR),
        COLOUR,
        tensor,
        tensor.float() / 255,
        COLOUR.astype(np.uint16) * 257,
        COLOUR.astype(int),
    ]
    assert all(np.array_equal(pixels_of(kind, 16, 16, 3), COLOUR.transpose(2, 0, 1)) for kind in kinds)
    sixteen = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert np.array_equal(pixels_of(sixteen, 16, 16, 1)[0], GREY), "16 bits are scaled, not cut off"


def test_transparency_is_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert pixels_of(clear, 4, 4, 3).min() == 255


def test_a_camera_that_lay_on_its_side_is_heeded(tmp_path):
    image = Image.fromarray(COLOUR[:8])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert shape_of([tmp_path / "turned.png"]) == (16, 8, 3)
    assert np.array_equal(pixels_of(tmp_path / "turned.png", 16, 8, 3), np.rot90(COLOUR[:8], -1).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.full((4, 4), -1.0), "values from -1.0 to -1.0, but 0 is black and 1 is white"),
        (np.full((4, 4), np.nan), "values from nan"),
        (np.full((4, 4), 300), "but 0 is black and 255 is white"),
        (np.zeros((4, 4, 2)), r"shape \(4, 4, 2\) cannot be read"),
        (np.zeros((0, 4)), r"shape \(0, 4\) cannot be read"),
        (7, "a int is no image"),
    ],
)
def test_numbers_that_are_no_image_are_refused(array, said):
    with pytest.raises(DataError, match=said):
        decoded([array], 4, 4, 1)
