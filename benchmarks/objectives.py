"""The objectives of the methods gallery, for a student whose layers have given names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Objective = dict[str, Any]
KD: Objective = {"labels": 0.1, "soft-targets": {"weight": 0.9, "temperature": 4}}
BASELINES = ("soft-targets", "label smoothing")


@dataclass(frozen=True)
class Student:
    """A student's spec, and the layers that go with the teacher's last two stages; its head's input is a vector."""

    spec: str
    before: str
    last: str

    @property
    def ends(self) -> Objective:
        """Last layer to last stage."""
        return {"student": self.last, "teacher": "stages.2"}

    @property
    def several(self) -> Objective:
        """Its last layers and all of the teacher's stages, to choose from."""
        return {"student": [self.before, self.last], "teacher": ["stages.0", "stages.1", "stages.2"]}


CNN = Student("{name: small-cnn, width: 10}", "blocks.1", "blocks.2")
WIDE = Student("{name: small-cnn, width: 16}", "blocks.1", "blocks.2")
MIXER = Student("{name: mlp-mixer}", "layers.1", "layers.2")
HEAD: Objective = {"student": "head:in", "teacher": "head:in"}


def objectives(student: Student) -> dict[str, Objective]:
    """Objectives by name. Weights are what the middle of the search tries."""
    ends = student.ends
    return {
        "soft-targets": KD,
        "label smoothing": {"labels": {"smoothing": 0.1}},
        "soft-targets, standardised": _soft(temperature=2, standardize=True),
        "soft-targets, T learned": _soft(temperature={"schedule": "learned"}),
        "soft-targets, T by difficulty": _soft(temperature={"schedule": "by-difficulty", "easy": 2, "hard": 6}),
        "soft-targets, teacher correct": _soft(temperature=4, gate="teacher-correct"),
        "soft-targets, gap": _soft(temperature=4, gate="gap"),
        "logit-mse": _soft(loss="logit-mse"),
        "decoupled": {"labels": 1.0, "decoupled": {"weight": 1.0}},
        "dist": {"labels": 1.0, "dist": {"weight": 2.0}},
        "nkd": {"labels": 0.1, "nkd": {"weight": 1.0}},
        "wsld": {"labels": 1.0, "wsld": {"weight": 2.5}},
        "hints": {**KD, "hints": {**ends, "normalise": True, "weight": 0.5}},
        "cosine": {**KD, "cosine": {**HEAD, "projector": "always", "weight": 1.0}},
        "attention-transfer": {**KD, "attention-transfer": {**ends, "weight": 100.0}},
        "channel-wise": {**KD, "channel-wise": {**ends, "weight": 5.0}},
        "vid": {**KD, "vid": {**ends, "weight": 0.1}},
        "ofd": {**KD, "ofd": {**ends, "weight": 1e-3}},
        "mgd": {**KD, "mgd": {**ends, "weight": 7e-5}},
        "simkd": {**KD, "simkd": {**ends, "weight": 0.5}},
        "review": {
            **KD,
            "review": {"layers": {student.before: "stages.1", student.last: "stages.2"}, "weight": 0.5},
        },
        "jacobian": {**KD, "jacobian": {"weight": 0.1}},
        "rkd": {**KD, "rkd-distance": {**HEAD, "weight": 1.0}, "rkd-angle": {**HEAD, "weight": 2.0}},
        "similarity-preserving": {**KD, "similarity-preserving": {**HEAD, "weight": 100.0}},
        "correlation-congruence": {**KD, "correlation-congruence": {**HEAD, "weight": 10.0}},
        "pkt": {**KD, "pkt": {**HEAD, "weight": 40.0}},
        "gram": {**KD, "gram": {**ends, "weight": 100.0}},
        "nst": {**KD, "nst": {**ends, "weight": 5.0}},
        "contrastive": {**KD, "contrastive": {**HEAD, "weight": 0.1}},
        "crd": {**KD, "crd": {**HEAD, "weight": 0.02, "negatives": 256}},
        "dist, T by difficulty": {
            **_soft(temperature={"schedule": "by-difficulty", "easy": 2, "hard": 6}),
            "dist": {"weight": 2.0},
        },
        "layer-choice": {**KD, "layer-choice": {**student.several, "weight": 0.3}},
        "adversarial": {**KD, "adversarial": {"student": "logits", "teacher": "logits", "weight": 0.05}},
    }


def patient() -> dict[str, Objective]:
    """What is tried at length, without a label, on pictures mixed at will that both sides see (Beyer et al. 2022)."""
    return {
        "soft-targets": KD,
        "patient": {"soft-targets": {"weight": 1.0, "temperature": 1}},
        "patient, dist": {"dist": {"weight": 2.0}},
    }


def _soft(**settings: Any) -> Objective:
    return {"labels": 0.1, "soft-targets": {"weight": 0.9, **settings}}


def scaled(objective: Mapping[str, Any], factor: float) -> Objective:
    """The objective with the weight of what the method adds multiplied; for plain soft targets: theirs."""
    added = [name for name in objective if name not in ("labels", "soft-targets")] or ["soft-targets"]
    return {
        name: {**one, "weight": one["weight"] * factor} if name in added else one for name, one in objective.items()
    }
