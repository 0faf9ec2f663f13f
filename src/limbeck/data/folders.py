"""Images in folders, one folder a class."""

from pathlib import Path
from typing import Final, Literal

from limbeck.config import Config
from limbeck.data.raw import Raw, named, rows_of
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

    def load(self) -> Raw:
        """The paths of the images; they are opened later.

        Raises:
            DataError: there is no such folder, or no image in it, or a class of another part is unknown.
        """
        top = Path(self.path).expanduser()
        if not top.is_dir():
            raise DataError(f"There is no folder {top} to take images from.")
        parts = {part: next((top / name for name in names if (top / name).is_dir()), None) for part, names in _PARTS.items()}
        if parts["train"] is None:
            parts = {"train": top, "validation": None, "test": None}
        files: list[Path] = []
        labels: list[str | None] = []
        lengths: list[int] = []
        classes: list[str] = []
        for part, folder in parts.items():
            before = len(files)
            for kind in sorted(item for item in folder.iterdir() if _shown(item)) if folder else ():
                known = None if kind.name in _UNLABELLED else kind.name
                found = sorted(file for file in kind.rglob("*") if file.suffix.lower() in _ENDINGS and _shown(file, 0))
                if part == "train" and known and found:
                    classes.append(known)
                elif found and known and known not in classes:
                    hint = nearest(known, classes)
                    raise DataError(f"{kind} is a class that 'train' does not have{'; ' + hint if hint else ''}.")
                files += found
                labels += [known] * len(found)
            lengths.append(len(files) - before)
        if not lengths[0]:
            raise DataError(
                f"{parts['train']} has no images in folders of classes: expected is {top.name}/<class>/<image>.png "
                f"(or {', '.join(sorted(ending[1:] for ending in _ENDINGS))})."
            )
        numbers, names = named(labels, str(top), classes)
        _, validation, test = rows_of(lengths)
        return Raw("images", files, numbers, names, validation, test, str(top))


def _shown(path: Path, folder: int = 1) -> bool:
    return not path.name.startswith(".") and (path.is_dir() if folder else path.is_file())
