"""Images: decoded the same way wherever they come from; damage is named; random numbers depend on nothing but address."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from limbeck.data.augment import Augment
from limbeck.data.draw import normals, shuffled, uniforms, words
from limbeck.data.images import ImageFiles, ImageReader, ImageTable, brightness, image_keys
from limbeck.data.pixels import decoded, picture, shape_of
from limbeck.errors import DataError

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], -1)
ZERO = torch.zeros(1, dtype=torch.int64)


def png(array) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def reader(channels=3, side=16):
    return ImageReader(height=side, width=side, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)


@pytest.fixture
def mixed_folder(tmp_path):
    """Paths of images of several modes and sizes, most of them 16 x 16."""
    images = {
        "a.png": Image.fromarray(GREY),
        "b.png": Image.fromarray(COLOUR),
        "c.png": Image.fromarray(COLOUR).convert("RGBA").resize((40, 20)),
        "d.gif": Image.fromarray(COLOUR).convert("P"),
        "e.jpg": Image.fromarray(COLOUR),
        "f.png": Image.fromarray(GREY > 100),
        "g.png": Image.fromarray(GREY.astype(np.uint16) * 257),
        "h.bmp": Image.fromarray(COLOUR).resize((3, 5)),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
    return [tmp_path / name for name in images]


def test_mixed_sizes_and_modes_become_one_column(mixed_folder):
    assert shape_of(mixed_folder) == (16, 16, 3)
    column = reader().encode(mixed_folder)["pixel_values"]
    assert column.shape == (8, 3, 16, 16)
    assert column.dtype == torch.float32
    assert bool(column.isfinite().all())
    each = [reader().encode([path])["pixel_values"][0] for path in mixed_folder]
    assert torch.equal(torch.stack(each), column), "no image depends on those read with it"


def test_a_path_its_bytes_and_its_pixels_are_one_image(tmp_path):
    content = png(COLOUR)
    (tmp_path / "a.png").write_bytes(content)
    kinds = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        content,
        {"bytes": content, "path": None},
        {"bytes": None, "path": str(tmp_path / "a.png")},
        Image.fromarray(COLOUR),
    ]
    found = decoded(kinds, 16, 16, 3)
    assert all(torch.equal(image, found[0]) for image in found)
    assert np.array_equal(np.asarray(picture(content)), COLOUR)


def test_grey_is_found_only_if_all_are_grey(tmp_path):
    for name, array in (("a", GREY), ("b", GREY), ("c", COLOUR)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    assert shape_of([tmp_path / "a.png", tmp_path / "b.png"])[2] == 1
    assert shape_of([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"])[2] == 3


@pytest.mark.parametrize("lazy", [False, True])
def test_damaged_images_are_counted_and_named(tmp_path, lazy):
    paths = [tmp_path / f"{row}.png" for row in range(9)]
    for row, path in enumerate(paths):
        path.write_bytes(png(COLOUR) if row < 2 else png(COLOUR)[:60])
    paths[8].write_bytes(b"")
    with pytest.raises(DataError, match=r"^7 images cannot be read.*2\.png.*6\.png, \.\.\.\. Mend or remove them"):
        ImageFiles(paths, 16, 16, 3)[torch.arange(9)] if lazy else decoded(paths, 16, 16, 3)
    with pytest.raises(DataError, match=r"^1 image cannot be read.*3\.png"):
        reader().encode([paths[0], paths[3]])
    with pytest.raises(DataError, match=r"^7 images"):
        shape_of(paths[2:])


def test_files_that_vanished_are_named(tmp_path):
    (tmp_path / "here.png").write_bytes(png(COLOUR))
    files = ImageFiles([tmp_path / "here.png", tmp_path / "gone.png"], 16, 16, 3)
    for act in (files.keys, lambda: files[torch.arange(2)], lambda: ImageTable(files, reader())):
        with pytest.raises(DataError, match=r"^(1 image cannot be read|There is no file).*gone\.png"):
            act()


def test_an_array_that_is_no_image_is_named_by_its_row():
    with pytest.raises(DataError, match=r"^image 1: an image of float64 numbers holds values from -2"):
        reader().encode([GREY, np.full((4, 4), -2.0)])


@given(st.integers(1, 30), st.sampled_from([1, 3]), st.integers(0, 2**20))
@settings(deadline=None, max_examples=25)
def test_brightness_is_that_of_the_rows_asked_for(count, channels, seed):
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (40, channels, 5, 4), generator=draw, dtype=torch.uint8)
    rows = torch.randperm(40, generator=draw)[:count]
    mean, std = brightness(pixels, rows)
    seen = pixels[rows].double() / 255
    assert mean == pytest.approx(seen.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert std == pytest.approx(seen.std((0, 2, 3), correction=0).tolist(), abs=1e-6)
    assert brightness(pixels, rows.flip(0)) == (mean, std), "the order of rows does not matter"


def test_normalised_training_rows_have_mean_0_and_deviation_1():
    pixels = torch.randint(0, 256, (50, 3, 6, 6), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    mean, std = brightness(pixels, torch.arange(50))
    seen = ImageReader(height=6, width=6, channels=3, mean=mean, std=std).normalised(pixels.float() / 255)
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_images_without_contrast_are_not_divided_by_0():
    assert brightness(torch.full((4, 1, 3, 3), 51, dtype=torch.uint8), torch.arange(4)) == ((0.2,), (1.0,))


def test_keys_are_equal_where_images_are():
    pixels = torch.randint(0, 256, (6, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels[5] = pixels[2]
    keys = image_keys(pixels)
    assert keys[5] == keys[2]
    assert len(set(keys)) == 5
    assert image_keys(pixels.flip(0)) == keys[::-1]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_is_shown_and_read_again_as_it_is(channels):
    pixels = torch.randint(0, 256, (3, channels, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    table = ImageTable(pixels, reader(channels), Augment(flip=True))
    assert table.raw(1).equal(pixels[1])
    assert torch.equal(table.reader.encode([table.raw(1)])["pixel_values"], table.read(ZERO + 1, ZERO)["pixel_values"])
    shown = table.show(1)
    assert shown.shape == ((16, 16) if channels == 1 else (16, 16, 3))
    assert shown.dtype == np.uint8
    assert torch.equal(table.reader.encode([shown])["pixel_values"], table.read(ZERO + 1, ZERO)["pixel_values"])


def test_no_images_and_no_rows_are_no_trouble():
    none = torch.empty(0, dtype=torch.int64)
    assert reader().encode([])["pixel_values"].shape == (0, 3, 16, 16)
    table = ImageTable(
        torch.zeros(2, 3, 16, 16, dtype=torch.uint8), reader(), Augment(rotate=5.0, noise=0.1, erase=0.2)
    )
    assert table.read(none, none)["pixel_values"].shape == (0, 3, 16, 16)
    assert len(ImageTable(ImageFiles([], 16, 16, 3), reader()).fingerprint) == 64


@pytest.mark.parametrize(
    "wrong", [{"mean": (0.5,)}, {"std": (1.0, 1.0)}, {"std": (0.0, 1.0, 1.0)}, {"channels": 2}, {"height": 0}]
)
def test_a_reader_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        ImageReader.model_validate(reader().model_dump() | wrong)


@pytest.mark.parametrize(
    "wrong", [{"shift": -1}, {"rotate": 181}, {"scale": 1.0}, {"erase": 1.0}, {"noise": -0.1}, {"turn": 1}]
)
def test_an_augmentation_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        Augment.model_validate(wrong)


def test_one_file_read_twice_a_jpeg_included_gives_the_same_bits(mixed_folder):
    twice = [reader(side=11).encode(mixed_folder)["pixel_values"] for _ in range(2)]
    assert torch.equal(*twice)


def test_random_numbers_are_those_of_splitmix64():
    """Their bits are part of every stored result, so they may never change."""
    first = words(0, ZERO, ZERO, 2)[0].tolist()
    mask = 2**64 - 1

    def mix(word):
        word = (word + 0x9E3779B97F4A7C15) & mask
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & mask
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & mask
        return word ^ (word >> 31)

    assert mix(0) == 0xE220A8397B1DCDAF, "the published first output for seed 0"
    address = mix(mix(mix(0)))
    assert first == [mix(address), mix((address + 0x9E3779B97F4A7C15) & mask)]


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**62)), min_size=1, max_size=9), st.integers(1, 40))
@settings(deadline=None, max_examples=50)
def test_random_numbers_depend_on_their_address_alone(pairs, count):
    ids, views = (torch.tensor(column, dtype=torch.int64) for column in zip(*pairs, strict=True))
    for draw in (words, uniforms, normals):
        together = draw(7, ids, views, count)
        for place in range(len(pairs)):
            alone = draw(7, ids[place : place + 1], views[place : place + 1], count)
            assert np.array_equal(np.asarray(alone[0]), np.asarray(together[place]))
        longer = draw(7, ids, views, count + 3)
        assert np.array_equal(np.asarray(longer)[:, :count], np.asarray(together)), "asking for more changes nothing"


def test_random_numbers_are_spread_as_they_should_be():
    ids = torch.arange(4000)
    even = uniforms(3, ids, ids * 0 + 1, 5)
    assert even.min() >= 0
    assert even.max() < 1
    assert abs(even.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(even[:-1, 0], even[1:, 0])[0, 1]) < 0.05, "neighbours are unrelated"
    assert abs(np.corrcoef(even[:, 0], uniforms(3, ids, ids * 0 + 2)[:, 0])[0, 1]) < 0.05, "and so are views"
    bell = normals(3, ids, ids * 0, 50)
    assert abs(float(bell.mean())) < 0.01
    assert abs(float(bell.var()) - 1) < 0.01
    assert float(bell.abs().max()) < 3.5
    order = shuffled(5, 0, ids).argsort()
    assert not torch.equal(order, shuffled(5, 1, ids).argsort())
    assert torch.equal(order, shuffled(5, 0, ids).argsort())


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path):
    reader = ImageReader(height=4, width=4, channels=1, mean=(0.0,), std=(1.0,))
    with pytest.raises(DataError, match=r"There is no file .*missing\.jpg\.$"):
        reader.encode([tmp_path / "missing.jpg"])
