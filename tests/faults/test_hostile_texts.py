"""A hundred texts that would run in a page, in every place of a report where somebody else's text stands: none is a node."""

import itertools
import json
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pytest
from pydantic import ValidationError
from tests.laws.test_evidence_report import realistic

from limbeck.evidence.besides import (
    Crossing,
    GroupScores,
    Member,
    Pair,
    Retained,
    Retention,
    Samples,
    Teachers,
    Traffic,
    Writing,
    Written,
)
from limbeck.evidence.report import Example, Sample, render
from limbeck.evidence.schema import Evidence

BREAKS = ["", '">', "'>", "</td>", "</style>", "</script>", "</title>", "-->", "]]>", "`>"]
ACTS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<a href=javascript:alert(1)>x</a>",
    "<body onload=alert(1)>",
    "<style>@import 'http://evil'</style>",
    "<object data=data:text/html,x></object>",
    "{{ 7 * 7 }}{% for x in y %}",
    "\u202e<b onmouseover=alert(1)>\u0000x</b>&lt;script&gt;",
]
PAYLOADS = [before + act for before, act in itertools.product(BREAKS, ACTS)]


class Skeleton(HTMLParser):
    """The nodes of a page: tags, the names of their attributes, and what could fetch or run."""

    LIVE = ("src", "href", "action", "data", "srcdoc", "srcset", "xlink:href", "style")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.nodes = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        named = [(name, value if name in self.LIVE else None) for name, value in attrs]
        self.nodes.append((tag, tuple(sorted(named, key=str))))


def whole() -> tuple[Evidence, dict, np.ndarray]:
    """Evidence with every part that a report may have."""
    evidence, arms, labels = realistic(rows=200, seeds=2)
    wrote = Written(
        texts=2, distinct_1=0.5, distinct_2=0.5, repetition=0.1, looping=0.1, mean_length=3.0, ended=1.0, exact_match=0.5,
        watched={"watched": 0.5},
    )  # fmt: skip
    (gain,) = [evidence.difference]
    assert gain is not None
    return (
        evidence.model_copy(
            update={
                "groups": tuple(
                    GroupScores(
                        name=f"group {one}", examples=5, scores={"distilled": 0.5}, sd={"distilled": None}, gains={}
                    )
                    for one in "ab"
                ),
                "samples": Samples(
                    prompts=2,
                    new_tokens=4,
                    temperature=1.0,
                    seed=0,
                    reference=wrote,
                    arms={"distilled": Writing(likeliest=wrote, drawn=wrote)},
                    left_out={"teacher": "it cannot write"},
                ),
                "teachers": Teachers(
                    members=tuple(Member(name=f"t{one}", score=0.5, weight=0.5, agreement=0.5) for one in "ab"),
                    pairs=(Pair(one="ta", other="tb", differing=0.1, js=0.1),),
                ),
                "retention": Retention(
                    tasks=("first", "second"),
                    arms={
                        "distilled": Retained(
                            matrix=((0.5, 0.1), (0.4, 0.6)), forgetting=0.1, transfer=-0.1, per_seed=(0.1,)
                        )
                    },
                ),
                "traffic": Traffic(
                    rows=(3, 4),
                    commonest=0.5,
                    public=5,
                    arms={"distilled": (Crossing(asked=2, answered=1, down=5, up=6),)},
                ),
            }
        ),
        {name: getattr(arms, name).curves for name in ("control", "distilled")},
        labels,
    )


def filled(evidence: Evidence, text: str) -> tuple[Evidence, int]:
    """The evidence with ``text`` in place of every string that may be any, and how many these are."""
    plain, places = evidence.plain(), []

    def look(value, path):
        if isinstance(value, str):
            places.append(path)
        for key, one in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            look(one, (*path, key))

    def put(path, new):
        at = plain
        for key in path[:-1]:
            at = at[key]
        old, at[path[-1]] = at[path[-1]], new
        return old

    look(plain, ())
    count = 0
    for path in places:
        old = put(path, text)
        try:
            Evidence.model_validate(plain)
            count += 1
        except ValidationError:  # one of a few words
            put(path, old)
    return Evidence.model_validate(plain), count


@pytest.fixture(scope="module")
def parts():
    evidence, curves, _ = whole()
    kept, count = filled(evidence, "PLACE")
    assert count > 25
    return kept.plain(), curves


def page_of(parts, text: str) -> str:
    plain, curves = parts
    kept = Evidence.model_validate(json.loads(json.dumps(plain).replace('"PLACE"', json.dumps(text))))
    example = Example(text, text, text, text, 0.5, 0.5, 3)
    sample = Sample(prompt=text, reference=text, likeliest={"distilled": text}, drawn={"distilled": text})
    return render(kept, curves, [example], text, samples=[sample])


def test_there_are_a_hundred_of_them():
    assert len(set(PAYLOADS)) == 100


@pytest.fixture(scope="module")
def plain(parts):
    """The nodes of a page of plain texts of a length."""
    return cache(lambda length: Skeleton(page_of(parts, "w" * length)).nodes)


@pytest.mark.parametrize("start", range(10))
@pytest.mark.proof("Q14")
def test_the_nodes_of_a_page_are_those_of_plain_texts_of_that_length(parts, plain, start, tried):
    for text in PAYLOADS[start * 10 : start * 10 + 10]:
        expected = plain(len(text))
        assert len(expected) > 100
        assert Skeleton(page_of(parts, text)).nodes == expected, text
    tried(texts_that_would_run=10)
