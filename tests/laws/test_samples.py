"""What is told of written texts: it hangs on no batch, no padding and no global random state."""

import json
from dataclasses import replace
from typing import get_args

import pytest
import torch
from tests.fakes import causal
from tests.laws.test_evidence_report import realistic
from tests.laws.test_next_token import table

from limbeck.data.examples import Examples
from limbeck.data.language import NextToken
from limbeck.data.sifting import Length, Pattern
from limbeck.data.tokenizers import Tokenizer
from limbeck.errors import LimbeckError
from limbeck.evidence.besides import Form, Samples, Writing
from limbeck.evidence.samples import FORMS, Wrote, told
from limbeck.evidence.tables import writing
from limbeck.models.generation import Text
from limbeck.models.marking import Marks
from limbeck.recipe.reading import parse
from limbeck.run import samples
from limbeck.run.experiment import from_recipe
from limbeck.run.samples import Prompt, prompts_of, reference, writings

MOST = 8


class Numbers:
    """A tokenizer whose text is its ids; 2 ends a text."""

    eos_token_id, sep_token_id, unk_token_id = 2, None, None

    def __len__(self):
        return 60

    def decode(self, ids, **_):
        return " ".join(map(str, ids))


KNOWN = Tokenizer(Numbers(), "numbers", 1, 0, False)


def prompts(count=10):
    draw = torch.Generator().manual_seed(3)
    sizes = torch.randint(1, 7, (count,), generator=draw).tolist()
    heads = [torch.randint(3, 60, (size,), generator=draw) for size in sizes]
    return [Prompt(10 + place, head, torch.tensor([5, 2]), True) for place, head in enumerate(heads)]


def written(asked, sample):
    return writings(causal.made("llama"), [one.ids for one in asked], KNOWN, MOST, asked, sample)


@pytest.mark.parametrize("sample", [False, True])
def test_what_is_written_hangs_on_the_prompt_alone(sample, monkeypatch):
    every, state = prompts(), torch.random.get_rng_state()
    whole = written(every, sample)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert whole == written(every, sample)
    monkeypatch.setattr(samples, "_BATCH", 3)
    assert whole == written(every, sample), "of any batch"
    alone = [written([one], sample) for one in every]
    assert [one.texts[0] for one in alone] == list(whole.texts)
    turned = written(every[::-1], sample)
    assert turned.texts == whole.texts[::-1]


def test_the_likeliest_token_is_what_a_model_says_step_by_step():
    module, one = causal.made("llama"), prompts(1)[0]
    ids = one.ids[None]
    for _ in range(MOST):
        with torch.no_grad():
            ids = torch.cat([ids, module(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
        if int(ids[0, -1]) == 2:
            break
    own = ids[0, len(one.ids) :].tolist()
    assert list(written([one], False).tokens[0]) == [token for token in own if token != 2]
    assert written(prompts(6), True).texts != written(prompts(6), False).texts


def test_an_end_is_no_part_of_a_text():
    asked = [
        Prompt(0, torch.tensor([4]), torch.tensor([5, 6, 2]), True),
        Prompt(1, torch.tensor([4]), torch.tensor([5] * 9), False),
    ]
    found = reference(KNOWN, asked, 4)
    assert [list(one) for one in found.tokens] == [[5, 6], [5, 5, 5, 5]]
    assert list(found.ended) == [True, False]


def test_the_numbers_are_what_they_say():
    wrote = Wrote([[1, 2, 3, 1], [7, 7, 7, 7, 7, 7], []], ["a  b\n", "c", ""], [True, False, True])
    found = told(wrote, [Text((1, 3), "a b", True), None, Text((4,), "x", True)])
    assert found.texts == 3
    assert found.distinct_1 == pytest.approx(4 / 10)
    assert found.distinct_2 == pytest.approx(4 / 8)  # 12 23 31 and five times 77
    assert found.repetition == pytest.approx((0 + 2 / 3) / 2)  # an empty text has no 4-grams
    assert found.looping == pytest.approx(1 / 3)
    assert found.mean_length == pytest.approx(10 / 3)
    assert found.ended == pytest.approx(2 / 3)
    assert found.exact_match == pytest.approx(1 / 2), "but for white space, where there is one right text"
    assert found.rouge_l == pytest.approx((2 * 2 / 6 + 0) / 2), "1 and 3 of four tokens, and nothing"
    assert (found.teacher_nll, found.teacher_kl) == (None, None)
    marks = told(replace(wrote, marks=Marks(1.5, 0.25)))
    assert (marks.teacher_nll, marks.teacher_kl) == (1.5, 0.25)
    assert told(wrote).exact_match is None
    assert told(wrote).rouge_l is None
    assert told(wrote, [None, None, None]).exact_match is None


FORMS_OF = {
    # said after the one prompt: whether it is "The Paris" in each form
    " The  Paris\n": (1, 1, 1),
    "the paris.": (0, 1, 1),
    "Ｔｈｅ Ｐａｒｉｓ": (0, 1, 0),  # full width, which SQuAD leaves
    "Paris!": (0, 0, 1),
    "The Pari": (0, 0, 0),
    "": (0, 0, 0),
}


@pytest.mark.parametrize("said", FORMS_OF, ids=repr)
def test_a_form_says_when_a_text_is_its_reference(said):
    right = [Text((1, 2), "The Paris", True)]
    found = {form: told(Wrote([[1]], [said], [True]), right, form=form) for form in get_args(Form)}
    assert tuple(one.exact_match for one in found.values()) == FORMS_OF[said]
    assert FORMS.keys() == found.keys()
    assert len({one.model_copy(update={"exact_match": None}).model_dump_json() for one in found.values()}) == 1


def test_a_recipe_says_the_form_and_is_the_same_recipe_without():
    base = (
        "limbeck: 1\nname: a\ndata: {source: uci-digits}\nstudent: mlp\nteacher: {model: mlp}\ntraining: {steps: 1}\n"
    )
    plain, text, squad = (
        parse(base + more) for more in ("", "evidence: {exact-match: text}\n", "evidence: {exact-match: squad}\n")
    )
    assert (plain.evidence.exact_match, squad.evidence.exact_match) == ("text", "squad")
    assert plain.hash == text.hash != squad.hash
    assert "exact-match" not in plain.plain()["evidence"]
    with pytest.raises(LimbeckError, match=r"'evidence\.exact-match' says how what language models write is compared"):
        from_recipe(squad)
    with pytest.raises(LimbeckError, match=r"evidence\.exact-match: .*rouge"):
        parse(base + "evidence: {exact-match: rouge}\n")


@pytest.mark.parametrize(("form", "says"), [("text", "white space"), ("squad", "English articles")])
def test_the_report_says_in_which_form_texts_were_compared(form, says):
    evidence, *_ = realistic(rows=60, seeds=1)
    wrote = told(Wrote([[1]], ["Paris"], [True]), [Text((1,), "the Paris", True)], form=form)
    both = Samples(
        prompts=1, new_tokens=4, temperature=1.0, seed=0, compared=form, reference=wrote,
        arms={"distilled": Writing(likeliest=wrote, drawn=wrote)},
    )  # fmt: skip
    note = writing(evidence.model_copy(update={"samples": both}))["note"]
    assert says in note.partition("Exactly the reference: but for ")[2]
    earlier = {name: value for name, value in both.model_dump(mode="json").items() if name != "compared"}
    assert Samples.model_validate_json(json.dumps(earlier)).compared == "text", "of before there was a choice"
    none = wrote.model_copy(update={"exact_match": None})
    bare = both.model_copy(update={"arms": {"distilled": Writing(likeliest=none, drawn=none)}})
    assert "Exactly" not in writing(evidence.model_copy(update={"samples": bare}))["note"], "nothing was compared"


def test_what_is_watched_for_is_a_share_of_the_texts():
    wrote = Wrote([[1], [2], [3]], ["I cannot say", "well", "no, I can't"], [True] * 3)
    watch = {"refusals": Pattern(pattern=r"\bcan(no|')t\b"), "short": Length(least=5)}
    assert told(wrote, watch=watch).watched == pytest.approx({"refusals": 2 / 3, "short": 1 / 3})
    assert told(Wrote([], [], []), watch=watch).watched == {}
    assert told(wrote).watched == {}


def test_prompts_are_those_of_the_data():
    items = [
        ("what did the cat do", "it sat"),
        "one two three four five six seven eight nine",
        ("who ran", "a dog ran far"),
    ]
    texts = table(items)
    labels = texts.placed(torch.zeros(3, dtype=torch.int64), NextToken())
    test = Examples(texts, torch.arange(3), labels, torch.ones(3, dtype=torch.bool), (), task=NextToken())
    pair, text, other = prompts_of(test, 5, 4)
    assert (pair.whole, text.whole, other.whole) == (True, False, False)
    assert (len(pair.ids), len(pair.following)) == (6, 3)  # with the token that begins a text, and the end
    assert (len(text.ids), len(text.following)) == (3, 8), "its first third"
    assert torch.equal(
        torch.cat([text.ids, text.following]), texts.read(torch.tensor([1]), torch.tensor([0]))["input_ids"][0][:11]
    )
    assert other.whole is False, "no room for five tokens"
    assert [one.row for one in prompts_of(test, 2, 4)] == [0, 1]
    short = prompts_of(test, 5, 4, room=6)
    assert [(one.row, len(one.ids)) for one in short] == [(1, 2)], "a prompt is never cut, running text is"
