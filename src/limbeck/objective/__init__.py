"""What the student is to learn: terms, their weights over time, and their sum."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, create_model

from limbeck.config import Config, choice
from limbeck.objective.answers import Confidence, Decoupled, Dist, Nkd, Wsld
from limbeck.objective.attention import AttentionMaps, MiniLm
from limbeck.objective.contrast import Adversarial, Contrastive, Crd
from limbeck.objective.crossed import Alm, SharedVocabulary, Uld
from limbeck.objective.divergence import Diverging
from limbeck.objective.domains import Coral, DomainAdversarial
from limbeck.objective.features import AttentionTransfer, ChannelWise, Cosine, Jacobian
from limbeck.objective.grams import Fsp, Gram, Nst
from limbeck.objective.heads import by_task
from limbeck.objective.hints import Hints
from limbeck.objective.labels import Labels
from limbeck.objective.layer_choice import LayerChoice
from limbeck.objective.mapping import matched
from limbeck.objective.objective import Objective
from limbeck.objective.penalties import GradientPenalty
from limbeck.objective.perturbed import Perturbed
from limbeck.objective.regressions import Mgd, Ofd, Review, SimKd, Vid
from limbeck.objective.relations import (
    CorrelationCongruence,
    Pkt,
    RkdAngle,
    RkdDistance,
    SimilarityPreserving,
)
from limbeck.objective.routing import Routing
from limbeck.objective.soft_targets import EarlierClasses, SoftTargets
from limbeck.objective.term import Needs, Scope, Term
from limbeck.objective.vectors import MarginMse, Partners, untaught

TERMS: tuple[type[Config], ...] = (
    *(Labels, SoftTargets, Diverging, Decoupled, Dist, Nkd, Wsld, Confidence, Perturbed, Routing),
    *(Uld, SharedVocabulary, Alm),
    *(Hints, Cosine, AttentionTransfer, ChannelWise, Vid, Ofd, Mgd, SimKd, Review, LayerChoice, Jacobian),
    *(AttentionMaps, MiniLm),
    *(RkdDistance, RkdAngle, SimilarityPreserving, CorrelationCongruence, Pkt, Gram, Nst, Fsp, Contrastive, Crd),
    *(Partners, MarginMse, Adversarial),
    *(Coral, DomainAdversarial, GradientPenalty),
)
"""Every term there is. A new one is a function in `limbeck.losses`, a config here, and its name in this tuple."""

PROGRESSIVE = "progressive"
"""In a recipe's objective: stages ``[weight of labels, temperature, epochs]`` of labels and soft targets together."""

__all__ = [
    "TERMS",
    "Adversarial",
    "Alm",
    "AttentionMaps",
    "AttentionTransfer",
    "ChannelWise",
    "Confidence",
    "Contrastive",
    "Coral",
    "CorrelationCongruence",
    "Cosine",
    "Crd",
    "Decoupled",
    "Dist",
    "Diverging",
    "DomainAdversarial",
    "EarlierClasses",
    "Fsp",
    "GradientPenalty",
    "Gram",
    "Hints",
    "Jacobian",
    "Labels",
    "LayerChoice",
    "MarginMse",
    "Mgd",
    "MiniLm",
    "Needs",
    "Nkd",
    "Nst",
    "Objective",
    "Ofd",
    "Partners",
    "Perturbed",
    "Pkt",
    "Review",
    "RkdAngle",
    "RkdDistance",
    "Routing",
    "Scope",
    "SharedVocabulary",
    "SimKd",
    "SimilarityPreserving",
    "SoftTargets",
    "Term",
    "Terms",
    "Uld",
    "Vid",
    "Wsld",
    "by_task",
    "matched",
    "untaught",
]


def _listed(value: Any) -> Any:
    """``{labels: 0.1, hints: [{...}, {...}]}`` as a list of terms; a number is short for ``{weight: number}``."""
    if not isinstance(value, Mapping):
        return value
    given_by_name = {**value}
    if PROGRESSIVE in given_by_name:
        given_by_name |= _progressive(given_by_name.pop(PROGRESSIVE), given_by_name)
    return tuple(
        {**(one if isinstance(one, Mapping) else {"weight": one}), "name": name}
        for name, given in given_by_name.items()
        for one in (given if isinstance(given, list | tuple) else (given,))
    )


def _progressive(stages: Any, others: Mapping[str, Any]) -> dict[str, Any]:
    """Stages ``[weight of labels, temperature, epochs]`` as the schedules of both terms that they stand for."""
    if taken := {"labels", "soft-targets", "soft_targets"} & others.keys():
        raise ValueError(f"{PROGRESSIVE} stands for labels and soft-targets: leave {min(taken)} out")
    numbers = isinstance(stages, list | tuple) and all(
        isinstance(stage, list | tuple) and len(stage) == 3 and all(_is_number(one) for one in stage)
        for stage in stages
    )
    if not numbers or not stages or any(not 0 <= w <= 1 or t <= 0 or epochs <= 0 for w, t, epochs in stages):
        raise ValueError(
            f"{PROGRESSIVE} is a list of stages [weight of labels from 0 to 1, temperature above 0, epochs above 0], "
            "such as [[0.9, 2, 5], [0.5, 4, 10]]"
        )
    total, begun = sum(stage[2] for stage in stages), 0.0
    labels, soft, temperatures = [], [], []
    for weight, temperature, epochs in stages:
        share = begun / total
        labels.append((share, float(weight)))
        soft.append((share, 1.0 - weight))
        temperatures.append((share, float(temperature)))
        begun += epochs
    return {
        "labels": {"weight": {"schedule": "steps", "values": tuple(labels)}},
        "soft-targets": {
            "weight": {"schedule": "steps", "values": tuple(soft)},
            "temperature": {"schedule": "steps", "values": tuple(temperatures)},
        },
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _some(terms: Any) -> Any:
    if not terms:
        raise ValueError("an objective needs at least one term")
    return terms


def _mapping() -> Any:
    """What a recipe may write, for the JSON schema that editors read."""
    fields = {}
    for term in TERMS:
        name = term.model_fields["name"].default
        given: Any = Union[float, term, tuple[term, ...]]  # type: ignore[valid-type]  # noqa: UP007
        fields[name.replace("-", "_")] = (given, Field(default=None, alias=name))
    stage = tuple[float, float, float]
    fields[PROGRESSIVE] = (tuple[stage, ...], Field(default=None, description=_progressive.__doc__))
    return create_model("ObjectiveByName", __config__=ConfigDict(extra="forbid"), **fields)  # type: ignore[call-overload]


if TYPE_CHECKING:
    Terms = tuple[Term, ...]
else:
    Terms = Annotated[
        tuple[choice(*TERMS), ...],
        BeforeValidator(_listed, json_schema_input_type=_mapping()),
        AfterValidator(_some),
    ]
    """The ``objective`` of a recipe: terms by name, each a number (its weight), a mapping, or a list of mappings."""
