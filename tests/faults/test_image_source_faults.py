"""Files and folders of images that are missing, damaged or impossible, and odd ones that work."""

import gzip
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fakes.sources import refused, source

from limbeck.data.batch import NO_LABEL
from limbeck.data.sources import Data
from limbeck.errors import DataError

# --- digits and idx


def test_digits_without_their_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused("mnist-5k", r'not installed: pip install "limbeck\[demo\]"')


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no gzip",
        *(gzip.compress(text, mtime=0) for text in (b"1,2,3\n4,5,6\n", b"a,b\n")),
        gzip.compress(b"0\n" * 99, mtime=0)[:-9],
    ],
    ids=["empty", "no gzip", "few columns", "letters", "cut off"],
)
def test_damaged_digits(tmp_path, monkeypatch, content):
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(content)
    monkeypatch.setattr("limbeck.data.digits._path", lambda: path)
    refused("mnist-5k", "digits.csv.gz (is damaged|does not hold).*--force-reinstall")


def idx(path, array, kind=8):
    body = b"\0\0" + bytes([kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return str(path)


IMAGES = np.random.default_rng(0).integers(0, 256, (60, 5, 4), dtype=np.uint8)
LABELS = np.arange(60, dtype=np.uint8) % 3


def test_idx_files(tmp_path):
    images, labels = idx(tmp_path / "images.gz", IMAGES), idx(tmp_path / "labels", LABELS)
    raw = source("idx", images=images, labels=labels).load()
    assert raw.items.shape == (60, 1, 5, 4)
    assert np.array_equal(raw.items[:, 0].numpy(), IMAGES)
    assert raw.classes == ("0", "1", "2")
    assert raw.test is None
    both = Data(
        source={"name": "idx", "images": images, "labels": labels, "test-images": images, "test-labels": labels}
    )
    assert both.source.load().test.tolist() == list(range(60, 120))
    with pytest.raises(DataError, match="every labelled row to train on stands in"):
        both.load()  # all of train stands in test


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"images": "imags"}, "There is no file .*imags; did you mean 'images'"),
        ({"images": "/no/such/place"}, "no file /no/such/place, nor a folder /no/such that can be read"),
        ({"labels": "fewer"}, r"images holds bytes \[60, 5, 4\] and .*fewer \[59\]: .*of the same count"),
        ({"labels": "floats"}, "floats is no IDX file of bytes"),
        ({"labels": "images"}, "expected are images"),
        ({"images": "cut"}, r"cut is cut off or damaged: it promises bytes \[60, 5, 4\] and holds 1199"),
        ({"images": "broken.gz"}, "broken.gz cannot be read, being damaged"),
        ({"images": "empty"}, "empty is no IDX file"),
        ({"classes": ["a", "b"]}, "the label 2 of row 2 is none of the 2 classes"),
        ({"test_images": "images"}, "'test-images' and 'test-labels' belong together"),
        ({"test_images": "wider", "test_labels": "labels"}, "hold images of different sizes"),
    ],
)
def test_impossible_idx_files(tmp_path, settings, said):
    idx(tmp_path / "images", IMAGES), idx(tmp_path / "labels", LABELS), idx(tmp_path / "fewer", LABELS[:-1])
    idx(tmp_path / "floats", LABELS.astype(">f4"), kind=0x0D), idx(tmp_path / "wider", IMAGES.reshape(60, 4, 5))
    (tmp_path / "cut").write_bytes((tmp_path / "images").read_bytes()[:-1])
    (tmp_path / "broken.gz").write_bytes(gzip.compress((tmp_path / "images").read_bytes())[:-20])
    (tmp_path / "empty").write_bytes(b"")
    paths = {"images": "images", "labels": "labels"} | settings
    refused("idx", said, **{k: str(tmp_path / v) if isinstance(v, str) else v for k, v in paths.items()})


def test_garments_without_their_package(tmp_path):
    refused("fashion-mnist", "apt install dataset-fashion-mnist.*source 'huggingface'", path=str(tmp_path / "none"))
    refused("fashion-mnist", "There is no file .*train-images-idx3-ubyte.gz", path=str(tmp_path))


# --- folders


def picture(path, mode="RGB", size=(6, 4), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(
        mode
    ).save(path)


def folder(top, parts=("",), classes=("cat", "dog"), count=10):
    for part in parts:
        for kind in classes:
            for row in range(count):
                picture(top / part / kind / f"{row}.png", seed=zlib.crc32(f"{part}{kind}{row}".encode()))
    return str(top)


def test_images_of_mixed_sizes_and_modes_work(tmp_path):
    path = folder(tmp_path, classes=("cat", "dog", "unlabelled"))
    for row, mode in enumerate(["1", "L", "LA", "P", "RGBA", "I;16"]):
        picture(tmp_path / "cat" / f"mode-{row}.png", "RGB" if mode == "I;16" else mode, (3 + row, 7))
    picture(tmp_path / "dog" / "deep" / "photo.JPG", "CMYK", (50, 60))
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    splits = Data(source={"name": "image-folder", "path": path}).load()
    assert splits.classes == ("cat", "dog")
    assert splits.train.table.pixels.shape == (37, 3, 4, 6), "the commonest size"
    unlabelled = (splits.train.labels == NO_LABEL).nonzero()[:, 0]
    assert len(unlabelled) == 10
    assert set(unlabelled.tolist()) <= set(splits.train.rows.tolist())
    small = source("image-folder", path=path, size=[3, 2], channels=1).load()
    assert small.items.shape == (37, 1, 3, 2)


def test_folders_with_parts(tmp_path):
    raw = source("image-folder", path=folder(tmp_path, ("train", "val", "test"))).load()
    assert [len(raw), raw.validation.tolist(), raw.test.tolist()] == [60, list(range(20, 40)), list(range(40, 60))]


def test_grey_folders_have_one_channel(tmp_path):
    for row in range(8):
        picture(tmp_path / "ab"[row % 2] / f"{row}.png", "L", seed=row)
    assert source("image-folder", path=str(tmp_path)).load().items.shape[1] == 1


def test_damaged_images_are_named_and_counted(tmp_path):
    path = folder(tmp_path)
    whole = (tmp_path / "cat" / "0.png").read_bytes()
    (tmp_path / "cat" / "3.png").write_bytes(whole[:60])
    refused("image-folder", r"^1 image cannot be read.*cat/3\.png\. Mend or remove", path=path)
    for row in range(7):
        (tmp_path / "dog" / f"{row}.png").write_bytes(b"" if row % 2 else b"no image")
    refused("image-folder", r"^8 images cannot be read.*dog/3\.png, \.\.\.\. Mend or remove", path=path)


def test_impossible_folders(tmp_path):
    refused("image-folder", "There is no folder .*none to take images from", path=str(tmp_path / "none"))
    refused("image-folder", "has no images in folders of classes: expected is", path=str(tmp_path))
    folder(tmp_path / "a", ("train",))
    folder(tmp_path / "a", ("test",), ("dogs",))
    refused(
        "image-folder", "test/dogs is a class that 'train' does not have; did you mean 'dog'", path=str(tmp_path / "a")
    )


def test_images_that_do_not_fit_in_memory_are_decoded_when_read(tmp_path, monkeypatch):
    path = folder(tmp_path)
    plain = Data(source={"name": "image-folder", "path": path}, limit=10).load()
    monkeypatch.setattr("limbeck.data.raw._MEMORY", 0)
    lazy = Data(source={"name": "image-folder", "path": path}, limit=10).load()
    assert lazy.reader == plain.reader
    rows, views = lazy.train.rows, torch.zeros(10, dtype=torch.int64)
    one, other = (splits.train.batch(rows, views).inputs["pixel_values"] for splits in (lazy, plain))
    assert torch.equal(one, other)
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 image cannot be read.*cat/0\.png"):
        lazy.train.table.read(torch.tensor([0]), torch.tensor([0]))
