"""A teacher sees images as it was trained on them: as Pillow would make them, whatever the student's reader does."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from tests.fakes.onnx import identity

from limbeck.data.batch import Batch
from limbeck.data.images import PIXELS, ImageReader
from limbeck.data.sight import Sees
from limbeck.errors import LimbeckError
from limbeck.models.identity import of_module
from limbeck.models.seeing import Seeing
from limbeck.models.specs import BuildContext, SmallCnn, SmallResnet, build
from limbeck.recipe import TeacherPart
from limbeck.signals.capture import show
from limbeck.teachers.onnx.settings import Onnx
from limbeck.teachers.onnx.teacher import OnnxTeacher

GREY = ImageReader(height=28, width=24, channels=1, mean=(0.3,), std=(0.7,))
COLOUR = ImageReader(height=28, width=24, channels=3, mean=(0.3, 0.4, 0.5), std=(0.2, 0.25, 0.3))
DRAW = np.random.default_rng(0)
RAW = {
    1: [DRAW.integers(0, 256, (28, 24), dtype=np.uint8) for _ in range(3)],
    3: [DRAW.integers(0, 256, (28, 24, 3), dtype=np.uint8) for _ in range(3)],
}


def seen(reader, **settings):
    """What a teacher sees of the images, [B, C, H, W]."""
    return Sees(**settings).sight((reader.mean, reader.std))(reader.encode(RAW[reader.channels])[PIXELS])


def pillow(reader, change):
    """The same images after ``change`` by Pillow, between 0 and 1."""
    made = [np.asarray(change(Image.fromarray(one)), dtype=np.float32) / 255 for one in RAW[reader.channels]]
    tensor = torch.tensor(np.stack(made))
    return tensor[:, None] if tensor.ndim == 3 else tensor.movedim(-1, 1)


def test_images_that_are_seen_alike_stay_as_they_are():
    for reader in (GREY, COLOUR):
        torch.testing.assert_close(seen(reader, size=(28, 24)), reader.encode(RAW[reader.channels])[PIXELS])


@pytest.mark.parametrize("size", [(14, 12), (56, 48), (33, 17)])
@pytest.mark.parametrize("reader", [GREY, COLOUR], ids=["grey", "colour"])
def test_they_are_resized_as_pillow_does_it(reader, size):
    theirs = pillow(reader, lambda one: one.resize(size[::-1], Image.Resampling.BILINEAR))
    torch.testing.assert_close(
        seen(reader, size=size, pixels="0-1"), theirs, rtol=0, atol=1.01 / 255
    )  # its bytes round
    # and normalised as the student reads them where nothing is said
    torch.testing.assert_close(seen(reader, size=size), reader.normalised(seen(reader, size=size, pixels="0-1")))


def test_colours_become_grey_as_in_pillow_and_grey_becomes_colours():
    theirs = pillow(COLOUR, lambda one: one.convert("L"))
    torch.testing.assert_close(seen(COLOUR, channels=1, pixels="0-1"), theirs, rtol=0, atol=1.01 / 255)
    torch.testing.assert_close(seen(GREY, channels=3, pixels="0-1"), pillow(GREY, lambda one: one.convert("RGB")))
    three = seen(GREY, channels=3)
    assert three.shape == (3, 3, 28, 24), "images, channels, height, width"
    torch.testing.assert_close(three, GREY.encode(RAW[1])[PIXELS].expand(-1, 3, -1, -1))


def test_scales():
    raw = pillow(COLOUR, lambda one: one)
    torch.testing.assert_close(seen(COLOUR, pixels="0-255"), 255 * raw, rtol=0, atol=1e-3)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    shape = (1, 3, 1, 1)
    torch.testing.assert_close(
        seen(COLOUR, mean=mean, std=std), (raw - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    )
    grey = pillow(GREY, lambda one: one)
    torch.testing.assert_close(
        seen(GREY, mean=mean, std=std), (grey - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    )


def context(reader=GREY):
    sample = reader.encode(RAW[reader.channels])
    return BuildContext(4, sample, normalised=(reader.mean, reader.std))


def test_a_model_is_made_for_what_it_sees_and_its_signals_keep_their_names():
    spec = Seeing(of=SmallResnet(width=4), sees=Sees(size=16, channels=3))
    module = build(spec, context(), 0).eval()
    columns = dict(context().sample)
    told = show(module, columns, ["logits", "stages.0", "head:in"])
    inner = show(module.model, {PIXELS: seen(GREY, size=16, channels=3)}, ["logits", "stages.0", "head:in"])
    assert module.model.get_submodule("stem")[0].in_channels == 3
    for name, value in inner.items():
        torch.testing.assert_close(told[name], value)
    assert told["logits"].shape == (3, 4), "three images, four classes"
    images = columns[PIXELS].clone().requires_grad_(True)
    module(images).sum().backward()
    assert images.grad.abs().sum() > 0, "what moves or makes images goes through"


def test_what_is_seen_is_part_of_what_a_teacher_is():
    def name(**settings):
        return of_module(build(Seeing(of=SmallCnn(width=4), sees=Sees(**settings)), context(), 0))

    several = [{"size": 16}, {"size": 20}, {"channels": 3}, {"pixels": "0-1"}, {"pixels": "0-255"}]
    several.append({"mean": (0.1,), "std": (0.9,)})
    assert len({name(**one) for one in several}) == len(several)
    assert name(size=16) == name(size=16)


def test_an_onnx_file_sees_so_too(tmp_path):
    path = identity(tmp_path / "i.onnx", (None, 3, 16, 12))
    with pytest.raises(LimbeckError, match="bring the data to the size"):
        asked(path)
    found = asked(path, size=[16, 12], channels=3, pixels="0-1")
    torch.testing.assert_close(found, seen(GREY, size=(16, 12), channels=3, pixels="0-1"))
    assert len({teacher(path, **one).fingerprint for one in ({}, {"size": 16}, {"size": 12})}) == 3


def teacher(path, **settings):
    onnx = TypeAdapter(Onnx).validate_python({"path": str(path), "outputs": "logits", **settings})
    return OnnxTeacher(onnx, normalised=(GREY.mean, GREY.std))


def asked(path, **settings):
    return teacher(path, **settings).observe(Batch.of(GREY.encode(RAW[1])), frozenset({"logits"}))["logits"]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"size": 0}, "at least one pixel"),
        ({"size": [8, 0]}, "at least one pixel"),
        ({"mean": [0.5]}, "belong together"),
        ({"mean": [0.5], "std": [0.0]}, "above 0"),
        ({"mean": [0.5, 0.5], "std": [1.0, 1.0]}, "1 or 3"),
        ({"mean": [0.5], "std": [1.0], "pixels": "0-1"}, "a scale of their own"),
        ({"mean": [0.5], "std": [1.0], "channels": 3}, "of 1 channels, and 'channels' says 3"),
        ({"channels": 2}, "1 or 3"),
    ],
)
def test_what_nobody_can_see_is_refused(settings, why):
    with pytest.raises(ValidationError, match=why):
        TeacherPart.model_validate({"model": "small-cnn", "training": {"steps": 1}, "sees": settings})


def test_who_sees_must_be_told_and_see_images():
    with pytest.raises(ValidationError, match="beside its path"):
        TeacherPart.model_validate({"onnx": "a.onnx", "sees": {"size": 8}})
    with pytest.raises(LimbeckError, match="'size: 8' is for images"):
        build(Seeing(of=SmallCnn(), sees=Sees(size=8)), BuildContext(2, {"x": torch.zeros(2, 3)}), 0)
    with pytest.raises(LimbeckError, match="sees grey and the data is in colour"):
        Sees(channels=1).sight((COLOUR.mean, COLOUR.std))
