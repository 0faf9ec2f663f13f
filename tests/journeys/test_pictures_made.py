"""A student without data, from a recipe to the report."""

import json

import numpy as np
import pytest
import yaml
from tests.fakes.pictures import splits

from limbeck.cli.main import main

RATE = {"name": "adamw", "learning-rate": 0.01}


def idx(path, array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(int(side).to_bytes(4, "big") for side in array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())
    return str(path)


def recipe(folder, **changes):
    train = splits().train
    images = idx(folder / "images", train.table.pixels[:, 0].numpy())
    labels = idx(folder / "labels", train.labels.numpy())
    return {
        "limbeck": 1,
        "name": "without data",
        "data": {"source": {"name": "idx", "images": images, "labels": labels}, "validation": 20, "test": 30},
        "teacher": {
            "model": {"name": "small-resnet", "width": 2, "stages": 2},
            "training": {"steps": 20, "batch-size": 16, "optimizer": RATE},
        },
        "student": {"name": "small-cnn", "width": 2, "blocks": 2},
        "objective": {"soft-targets": {"temperature": 2}},
        "regime": {"name": "inversion", "pictures": {"count": 24, "batch-size": 12, "steps": 3}},
        "training": {"steps": 4, "batch-size": 16, "optimizer": RATE},
        "seeds": 1,
    } | changes


def limbeck(folder, monkeypatch, *words):
    monkeypatch.setenv("LIMBECK_HOME", str(folder / "home"))
    with pytest.raises(SystemExit) as end:
        main([*words])
    return end.value.code


def run(told, folder, monkeypatch):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(told))
    return limbeck(folder, monkeypatch, "run", str(folder / "recipe.yaml"), "--out", str(folder / "out"))


@pytest.mark.parametrize(
    "regime", [None, {"name": "generator", "width": 2, "latent": 4}], ids=["inversion", "generator"]
)
def test_the_report_shows_what_was_learnt_from(regime, tmp_path, monkeypatch, capsys):
    code = run(recipe(tmp_path, **({"regime": regime} if regime else {})), tmp_path, monkeypatch)
    said = capsys.readouterr().err
    assert not code, said
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert [name for name, arm in evidence["arms"].items() if arm] == ["teacher", "control", "with_data", "distilled"]
    assert [(step["source"], step["target"], step["step"]) for step in evidence["attribution"]] == [
        ("control", "with_data", "soft targets"),
        ("with_data", "distilled", "made pictures in place of the data"),
    ]
    assert "saw no training example" in evidence["notes"][0]
    assert not any("Every student saw" in note for note in evidence["notes"])
    (own,) = evidence["arms"]["distilled"]["trainings"]
    assert (own["making"] > 0) is (regime is None), "a generator makes them while the student learns"
    assert evidence["arms"]["distilled"]["training_seconds"] == [own["making"] + own["seconds"]]
    page = (tmp_path / "out" / "report.html").read_text()
    pictures = 16 if regime else 20  # a step has no more
    assert page.count('alt="Made picture') == pictures
    assert "Distilled with data" in page
    assert (
        "A student that saw no training example against the same student trained on 50 examples (all labelled)" in page
    )
    grid = page[page.index('<section aria-labelledby="made">') :]
    assert len(grid[: grid.index("</section>")]) < 400 * pictures, "a few bytes each"
    (tmp_path / "out" / "report.html").unlink()
    assert not limbeck(tmp_path, monkeypatch, "report", str(tmp_path / "out"))
    assert (tmp_path / "out" / "report.html").read_text() == page, "from what was kept"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {
                "regime": {"name": "inversion"},
                "teacher": {"model": {"name": "mlp"}, "training": {"steps": 2, "batch-size": 16}},
            },
            "BatchNorm",
        ),
        ({"regime": "generator", "objective": {"labels": 1, "soft-targets": 1}}, "would never speak"),
        ({"regime": {"name": "generator", "game": "chess"}}, "dafl"),
        ({"regime": {"name": "inversion", "pictures": {"prior": "none"}}}, "statistics"),
        ({"regime": {"name": "inversion", "rounds": 0}}, "rounds"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(change, why, tmp_path, monkeypatch, capsys):
    assert run(recipe(tmp_path, **change), tmp_path, monkeypatch) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert why in said
    assert "Traceback" not in said
    assert not (tmp_path / "home" / "arms").exists()


def test_without_data_the_report_of_others_is_as_before(tmp_path, monkeypatch, capsys):
    assert not run(recipe(tmp_path, regime="offline"), tmp_path, monkeypatch), capsys.readouterr().err
    page = (tmp_path / "out" / "report.html").read_text()
    assert "What the student learnt from" not in page
    assert "saw no training example" not in page
