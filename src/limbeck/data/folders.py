"""Images in folders, one folder a class."""

from pathlib import Path
from typing import Final, Literal

from limbeck.config import Config
from limbeck.data.labels import named
from limbeck.data.raw import Raw, Side, images_of, rows_of
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError, nearest

_ENDINGS: Final = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_PARTS: Final = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
_UNLABELLED: Final = ("unlabelled", "unlabeled")


class ImageFolder(Config):
    """``path/<class>/*.png``, or ``path/{train,validation,test}/<class>/*.png``, in the usual formats.

    Images in a folder ``unlabelled`` beside the classes are trained on without a label.
    """

    name: Literal["image-folder"] = "image-folder"
    """The kind of source."""
    path: str
    """The folder."""
    size: Side | tuple[Side, Side] | None = None
    """Side in pixels, or [height, width], to which images are resized; null: the commonest size of the data."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colour; null: grey if all images are."""
    links: bool = False
    """Whether links that lead out of the folder are followed; if not, the first is an error."""

    def load(self, task: Task = CLASSES) -> Raw:
        """The images; their labels are classes, whatever the ``task``.

        Raises:
            DataError: there is no such folder, no image in it, one that cannot be read, an unknown class, or a link that leads
            out of the folder.
        """
        top = Path(self.path).expanduser()
        if not top.is_dir():
            raise DataError(f"There is no folder {top} to take images from.")
        try:
            return self._read(top)
        except OSError as error:
            raise DataError(f"{top} cannot be read: {error}.") from error

    def _read(self, top: Path) -> Raw:
        parts = {
            part: next((top / name for name in names if (top / name).is_dir()), None) for part, names in _PARTS.items()
        }
        if parts["train"] is None:
            parts = {"train": top, "validation": None, "test": None}
        files: list[Path] = []
        labels: list[str | None] = []
        lengths: list[int] = []
        classes: list[str] = []
        for part, folder in parts.items():
            found = _images(folder, None if self.links else top.resolve()) if folder else {}
            if part == "train":
                classes = [name for name in found if name not in _UNLABELLED]
            for name, images in found.items():
                if name not in (*classes, *_UNLABELLED):
                    hint = nearest(name, classes)
                    raise DataError(
                        f"{folder}/{name} is a class that 'train' does not have{'; ' + hint if hint else '.'}"
                    )
                files += images
                labels += [None if name in _UNLABELLED else name] * len(images)
            lengths.append(sum(map(len, found.values())))
        if not lengths[0]:
            raise DataError(
                f"{parts['train']} has no images in folders of classes: expected is {top.name}/<class>/<image>.png "
                f"(or {', '.join(sorted(ending[1:] for ending in _ENDINGS))})."
            )
        numbers, names = named(labels, str(top), classes)
        _, validation, test = rows_of(lengths)
        return Raw("images", images_of(files, self.size, self.channels), numbers, names, validation, test, str(top))


def _images(folder: Path, top: Path | None) -> dict[str, list[Path]]:
    """The images under each folder in ``folder`` that has some; what is hidden is passed over. No link leads out of ``top``."""
    _demand_inside(folder, top)
    found = {}
    for inner in sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")):
        _demand_inside(inner, top)
        images = []
        for file in sorted(inner.rglob("*")):
            if file.suffix.lower() in _ENDINGS and not file.name.startswith(".") and file.is_file():
                _demand_inside(file, top)
                images.append(file)
        if images:
            found[inner.name] = images
    return found


def _demand_inside(item: Path, top: Path | None) -> None:
    if top is not None and item.is_symlink() and not (to := item.resolve()).is_relative_to(top):
        raise DataError(
            f"{item} is a link that leads out of {top}, to {to}. If it is yours, set 'links: true' in the recipe's data.source; "
            "in a folder from somebody else it may show what was not meant to be shown."
        )
