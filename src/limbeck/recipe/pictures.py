"""Images on disk: folders of classes, and IDX files."""

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from limbeck.recipe.found import PARTS, TRAIN, Found

_IMAGES: Final = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_OTHERS: Final = (*PARTS["validation"], *PARTS["test"], "unlabelled", "unlabeled")
_LOOKED_AT: Final = 60  # images, spread over the folders


def images(path: Path) -> Found | None:
    """A folder with one folder of images a class."""
    top = next((path / name for name in TRAIN[:1] if (path / name).is_dir()), path)
    kinds = [item for item in sorted(top.iterdir()) if item.is_dir() and not item.name.startswith(".")]
    counts = {kind.name: [file for file in kind.rglob("*") if file.suffix.lower() in _IMAGES] for kind in kinds}
    held = {name: files for name, files in counts.items() if files}
    classes = [name for name in held if name not in _OTHERS]
    if len(classes) < 2:
        return None
    rows = sum(map(len, held.values()))
    each = [files[:: max(1, len(files) * len(held) // _LOOKED_AT)] for files in held.values()]
    sides = sorted({side for files in each for side in map(_side, files) if side})
    told = f"{rows:,} images in {len(classes)} folders of classes" + _large(sides)
    own = frozenset(
        part for part, names in PARTS.items() if top != path and any((path / one).is_dir() for one in names)
    )
    largest = sides[-1] if sides else None
    return Found({"name": "image-folder", "path": str(path)}, "images", rows, len(classes), told, largest, own)


def _large(sides: Sequence[int]) -> str:
    if not sides:
        return ""
    return f", {'all ' * (len(sides) == 1)}{sides[0]}{f' to {sides[-1]}' * (len(sides) > 1)} pixels on the longer side"


def _side(file: Path) -> int | None:
    """The longer side of an image in pixels."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            return int(max(image.size))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None


def idx(files: Sequence[Path]) -> Found | None:
    """IDX files as MNIST has them, among ``files``."""

    def named(*words: str) -> Path | None:
        return next((file for file in files if all(word in file.name for word in words)), None)

    test = named("t10k", "images") or named("test", "images")
    test_labels = named("t10k", "labels") or named("test", "labels")
    rest = [file for file in files if "t10k" not in file.name and "test" not in file.name]
    images = next((file for file in rest if "images" in file.name), None)
    labels = next((file for file in rest if "labels" in file.name), None)
    shape = _shape(images) if images else None
    if images is None or labels is None or shape is None or len(shape) < 3:
        return None
    source = {"name": "idx", "images": str(images), "labels": str(labels)}
    if test and test_labels:
        source |= {"test-images": str(test), "test-labels": str(test_labels)}
    told = f"{shape[0]:,} images of {shape[1]} x {shape[2]} pixels in IDX files"
    own = frozenset({"test"} if "test-images" in source else ())
    return Found(source, "images", shape[0], 10, told, max(shape[1:3]), own)


def _shape(file: Path) -> tuple[int, ...] | None:
    """The shape in the head of an IDX file of bytes."""
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        try:
            head = stream.read(32)
        except (gzip.BadGzipFile, EOFError):
            return None
    if len(head) < 32 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 4:
        return None
    return struct.unpack(f">{head[3]}I", head[4 : 4 + 4 * head[3]])
