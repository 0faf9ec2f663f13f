"""From a table of Chinese texts to a delivered student: no letter of it is ASCII, and no space parts the words."""

import csv
import random
import subprocess
import sys

import pytest

import limbeck
from limbeck.cli.main import main

KINDS = {
    "退款": ["钱还没有退给我", "什么时候能退款", "扣款扣了两次", "发票的金额不对"],
    "物流": ["快递三天没有动", "包裹寄错了地方", "快递员没有打电话", "配送太慢了"],
    "质量": ["用了一天就坏了", "做工很差", "颜色和图片不一样", "屏幕有一道裂纹"],
}
OPENINGS = ["你好,", "请问一下,", "客服在吗?", "我昨天买的东西,", "真的很生气,", ""]
ENDINGS = ["。", "!", ",请尽快处理。", ",谢谢。", "😡"]


def table(path):
    """300 sentences, made for the purpose."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["文本", "类别"])
        for number in range(300):
            kind = draw.choice(list(KINDS))
            text = draw.choice(OPENINGS) + draw.choice(KINDS[kind]) + draw.choice(ENDINGS) + f"订单{number}"
            rows.writerow([text, kind])


LOADS = """
import sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
assert "limbeck" not in sys.modules
inputs = tokenizer([sys.argv[2]], return_tensors="pt")
assert len(tokenizer(500 * sys.argv[2], truncation=True)["input_ids"]) == 128, "data.max-length"
with torch.no_grad():
    print(model.config.id2label[int(model(**inputs).logits.argmax())].encode("unicode_escape").decode())
"""


def test_chinese_texts_are_learnt_judged_and_delivered(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "家"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("limbeck.recipe.starting.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "反馈.csv")
    smaller = [
        f"--set={one}"
        for one in (
            "training.steps=60",
            "seeds=1",
            "teacher.training.steps=150",
            "teacher.training.optimizer.learning-rate=3e-3",
            "teacher.model.layers=1",
            "teacher.model.hidden=32",
        )
    ]
    for typed in (["init", "--data", "反馈.csv"], ["run", "recipe.yaml", *smaller, "--out", "结果"]):
        with pytest.raises(SystemExit) as end:
            main(typed)
        said = capsys.readouterr()
        assert not end.value.code, said.err
    student = limbeck.load("结果")
    asked = ["快递怎么还没有到", "屏幕坏了"]
    assert student.classes == tuple(sorted(KINDS))
    told = student.predict(asked)
    assert set(told) <= set(KINDS)
    page = (tmp_path / "结果" / "report.html").read_text(encoding="utf-8")
    assert all(kind in page for kind in KINDS)
    with pytest.raises(SystemExit) as end:
        main(["export", "结果", "--to", "hf", "--out", "模型"])
    assert not end.value.code, capsys.readouterr().err
    loaded = subprocess.run(
        [sys.executable, "-c", LOADS, "模型", asked[0]], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert loaded.stdout.strip().encode().decode("unicode_escape") == told[0]


def test_characters_are_tokens_of_their_own():
    from limbeck.data.text_reader import TextReader
    from limbeck.data.tokenizers import fitted

    reader = TextReader(tokenizer=fitted(["快递没有到", "快递到了", "没有退款"]), max_length=16)
    one, other = reader.encode(["快递没有到", "到没有快递"])["input_ids"].tolist()
    assert sorted(one) == sorted(other), "the same characters in another order"
    assert len({token for token in one if token}) >= 5
