"""What the Trainer that distils does with texts: inner layers, columns of the teacher's alone, and what it sends."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.fakes.experiments import apart
from torch import nn

transformers = pytest.importorskip("transformers")
from tests.fakes.trainers import bert, of_texts, padded, texts  # noqa: E402
from transformers import BertForSequenceClassification, Trainer, TrainerCallback  # noqa: E402

from limbeck.integrations.transformers import DistillationTrainer  # noqa: E402

pytestmark = pytest.mark.usefixtures("cheap_collections")


class Narrow(nn.Module):
    """A student that takes no token_type_ids, around one that does."""

    def __init__(self):
        super().__init__()
        self.inner = bert(1)

    def forward(self, input_ids, attention_mask, labels=None):
        return self.inner(input_ids, attention_mask, labels=labels)


class Listening(TrainerCallback):
    def __init__(self):
        self.logs, self.steps = [], 0

    def on_log(self, args, state, control, logs=None, **rest):
        self.logs.append(dict(logs))

    def on_step_end(self, args, state, control, **rest):
        self.steps += 1


INNER = {
    "labels": 0.1,
    "soft-targets": 0.9,
    "hints": [
        {"weight": 0.1, "student": "hidden.1", "teacher": "hidden.2"},
        {"weight": 0.1, "student": "bert.pooler", "teacher": "bert.pooler"},
    ],
    "attention-maps": {"weight": 0.1, "layers": "last"},
}


def test_inner_layers_by_number_by_name_and_by_rule_with_logs_callbacks_and_evaluation(tmp_path):
    heard = Listening()
    trainer = of_texts(
        tmp_path,
        bert(1),
        objective=INNER,
        callbacks=[heard],
        eval_dataset=texts(9),
        eval_strategy="steps",
        eval_steps=3,
        compute_metrics=lambda told: {"rows": len(told.label_ids)},
    )
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert heard.steps == 3
    assert {"loss", "grad_norm", *(f"loss/{name}" for name in trainer.objective.names)} <= heard.logs[0].keys()
    assert trainer.objective.names == ("labels", "soft-targets", "hints", "hints-2", "attention-maps")
    log = heard.logs[0]
    weights = dict(zip(trainer.objective.names, (0.1, 0.9, 0.1, 0.1, 0.1), strict=True))
    assert log["loss"] == pytest.approx(sum(weight * log[f"loss/{name}"] for name, weight in weights.items()), rel=1e-5)
    assert apart(before, trainer.model.state_dict()) > 0
    plain = Trainer(trainer.model, trainer.args, data_collator=padded, eval_dataset=texts(9))
    ours, theirs = trainer.evaluate(), plain.evaluate()
    assert ours["eval_loss"] == theirs["eval_loss"], "the model's own loss, as without a teacher"
    assert ours["eval_rows"] == 9
    unlabelled = [{name: value for name, value in row.items() if name != "label"} for row in texts(5)]
    assert (trainer.predict(unlabelled).predictions == plain.predict(unlabelled).predictions).all()
    trainer.save_model(tmp_path / "saved")
    again = BertForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert apart(again.state_dict(), trainer.model.state_dict()) == 0
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        "config.json",
        "model.safetensors",
        "training_args.bin",
    }


class Noting(nn.Module):
    """A teacher that notes which columns it was given."""

    def __init__(self):
        super().__init__()
        self.inner, self.given = bert(2, 24), []

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        self.given.append((input_ids, token_type_ids))
        return self.inner(input_ids, attention_mask, token_type_ids)


@pytest.mark.parametrize("kind", ["list", "datasets"])
def test_what_only_the_teacher_reads_is_neither_dropped_nor_given_to_the_student(tmp_path, kind):
    data = texts()
    if kind == "datasets":
        data = pytest.importorskip("datasets").Dataset.from_list(data)
    theirs = Noting()
    trainer = of_texts(tmp_path, Narrow(), data, theirs=theirs, eval_dataset=data)
    trainer.train()
    assert theirs.given
    assert all(kinds is not None and kinds.any() for _, kinds in theirs.given)
    trainer.evaluate()
    trainer.predict(data)


def test_columns_of_the_teachers_own_tokenizer_reach_it_alone(tmp_path):
    data = [{**row, "teacher.input_ids": torch.tensor([7, 8, 9])} for row in texts()]

    def collate(rows):
        own = torch.stack([row["teacher.input_ids"] for row in rows])
        return {
            **padded([{k: v for k, v in row.items() if k != "teacher.input_ids"} for row in rows]),
            "teacher.input_ids": own,
        }

    theirs = Noting()
    trainer = of_texts(tmp_path, bert(1), data, theirs=theirs, eval_dataset=data)
    trainer.data_collator = collate
    trainer.train()
    assert all(ids.tolist() == [[7, 8, 9]] * len(ids) and kinds is None for ids, kinds in theirs.given)
    trainer.evaluate()


def test_pushing_sends_the_student_alone(tmp_path, monkeypatch):
    sent = []
    hub = SimpleNamespace(
        create_repo=lambda *args, **given: SimpleNamespace(repo_id="someone/student"),
        upload_folder=lambda **given: sent.append(given),
    )
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: hub)
    trainer = of_texts(tmp_path, bert(1), hub_model_id="someone/student", push_to_hub=True, save_strategy="no")
    trainer.train()
    monkeypatch.setattr(DistillationTrainer, "create_model_card", lambda *args, **given: None)  # asks the hub
    trainer.push_to_hub()
    assert [one["repo_id"] for one in sent] == ["someone/student"]
    files = {path.name for path in Path(sent[0]["folder_path"]).rglob("*")}
    assert files == {"config.json", "model.safetensors", "training_args.bin"}
