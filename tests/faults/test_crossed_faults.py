"""Two tokenizers that do not fit the texts, or each other: what is said, and that nothing wrong is compared."""

import logging

import pytest
import torch
from tests.fakes import two
from tests.laws.test_crossed_terms import TASK, batch_of, examples
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from limbeck.data.aligned import CHUNKS
from limbeck.data.batch import Batch
from limbeck.data.byte_pairs import BPE
from limbeck.data.tokenizers import fitted, fitted_pairs, loaded, resolve
from limbeck.errors import DataError, SignalError
from limbeck.objective import Alm, Diverging, Labels, Objective, SharedVocabulary, SoftTargets, Uld
from limbeck.objective.crossed import VOCABULARY
from limbeck.signals.logits import Offer
from limbeck.teachers.teacher import Provides

SAID = {"logits": torch.zeros(2, 3, 5)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    small = two.byte_level(300, special=("</s>",))
    small.backend_tokenizer.normalizer = normalizers.Lowercase()
    chat = ("<end>", "<|user|>", "<|assistant|>")
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "the": 2, "cat": 3, "ran": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return {
        "short": two.saved(folder / "short", two.byte_level(270)),
        "small": two.saved(folder / "small", small),
        "chat": two.saved(folder / "chat", two.byte_level(300, special=chat, chat=two.CHAT)),
        "words": two.saved(
            folder / "words", PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="</s>")
        ),
    }


def test_a_tokenizer_that_changes_the_texts_is_told_with_a_row_and_the_reason(folders):
    found = examples(folders, "short", "small", ["The Cat ran", "a dog ran", "Who ran"])
    with pytest.raises(DataError, match=r"of 2 of 3 rows they do not\. Row 0: .*small letters"):
        found.table.aligned.demand()


def test_a_few_rows_that_do_not_line_up_have_no_chunks_and_are_told_once(folders, caplog):
    found = examples(folders, "short", "small", ["a dog ran and slept"] * 11 + ["A dog ran"])
    with caplog.at_level(logging.WARNING, "limbeck.data"):
        found.table.aligned.demand()
        found.table.aligned.demand()
    (said,) = [one.message for one in caplog.records if "line up" in one.message]
    assert said.startswith("1 of 12 rows do not line up between the two tokenizers")
    assert "Row 11" in said
    for side in ("student", "teacher"):
        chunks = batch_of(found).inputs[CHUNKS + side]
        assert (chunks[11] == -1).all()
        assert (chunks[:11].max(1).values > 0).all()


def test_a_text_with_the_name_of_a_special_token_is_compared_up_to_there(folders):
    found = examples(folders, "short", "small", ["the cat <end> ran on", "the cat </s> ran on", "the cat ran on"])
    batch = batch_of(found)
    most = [batch.inputs[CHUNKS + side].amax(1).tolist() for side in ("student", "teacher")]
    assert most[0] == most[1]
    assert max(most[0][:2]) < most[0][2]  # neither what follows nor the end of the text


def test_a_chat_template_on_one_side_only_is_no_part_of_the_text(folders):
    found = examples(folders, "short", "chat", [("who ran", "a dog ran"), ("who sat", "the cat sat")])
    batch = batch_of(found)
    assert not found.table.aligned.lost
    ids = loaded(folders["chat"]).tokenizer
    for row in range(2):
        begins = int((batch.inputs[CHUNKS + "teacher"][row] == 0).nonzero()[0])
        assert ids.decode([int(batch.inputs["teacher.input_ids"][row, begins])]) == "<|assistant|>"


def test_a_chat_template_that_trims_what_the_other_side_reads_is_told(folders):
    found = examples(folders, "short", "chat", [("who ran", " a dog ran"), ("who sat", " the cat sat")])
    with pytest.raises(DataError, match=r"go on with 'a dog ran' and the text with ' a dog ran'"):
        found.table.aligned.demand()


def test_tokenizers_that_do_not_say_how_they_spell_are_refused_by_the_terms_alone(folders, monkeypatch):
    def mute(_):
        raise DataError("Slow does not say how its tokens are spelled.")

    monkeypatch.setattr("limbeck.data.aligned._spelling", mute)
    found = examples(folders, "short", "chat")
    batch = batch_of(found)  # labels are learnt as ever
    assert CHUNKS + "student" not in batch.inputs
    with pytest.raises(DataError, match="Slow does not say how"):
        found.table.aligned.demand()
    with pytest.raises(SignalError, match="this batch does not say which tokens go together"):
        Objective([Alm()], TASK)(SAID, SAID, batch)


@pytest.mark.parametrize("term", [Diverging(), Diverging(kind="reverse-kl"), SoftTargets(temperature=1)])
def test_a_term_that_goes_token_by_token_names_those_that_do_not(term, folders):
    batch = batch_of(examples(folders, "short", "chat"))
    with pytest.raises(SignalError, match=r"(?s)two tokenizers.*uld, shared-vocabulary or alm.*sequence-level"):
        Objective([Labels(), term], TASK).build(SAID, SAID, batch=batch)


def test_two_lengths_that_agree_by_chance_are_refused_too(folders):
    """Both sides have as many tokens, which are others."""
    batch = batch_of(examples(folders, "short", "chat", ["the cat"]))
    size = batch.inputs["input_ids"].shape[1]
    assert size == batch.inputs["teacher.input_ids"].shape[1]
    logits = {"logits": torch.zeros(1, size, 5)}
    with pytest.raises(SignalError, match="'divergence' compares next tokens one by one"):
        Objective([Diverging()], TASK)(logits, logits, batch)


def test_vocabularies_without_a_token_in_common_are_refused(folders):
    found = examples(folders, "short", "words", ["the cat ran"])
    assert not found.table.aligned.lost
    told = found.table.aligned.vocabulary  # one has white space in its tokens, and the other one leaves it out
    assert (told == -1).all()
    with pytest.raises(
        SignalError, match="no token in common, so 'shared-vocabulary' compares nothing: use uld or alm"
    ):
        Objective([SharedVocabulary()], TASK).build(SAID, {**SAID, VOCABULARY: told})


def test_a_shared_vocabulary_is_not_guessed(folders):
    batch = batch_of(examples(folders, "short", "chat"))
    objective = Objective([SharedVocabulary()], TASK)
    objective.build(SAID, SAID)
    with pytest.raises(SignalError, match="must be told which tokens"):
        objective(SAID, SAID, batch)


@pytest.mark.parametrize("term", [Uld(), SharedVocabulary(), Alm()])
def test_what_a_store_does_not_hold_is_refused(term):
    with pytest.raises(SignalError, match=f"'{term.name}' reads .* stored as samples"):
        Objective([term], TASK).check(Provides(offers=Offer.EXPECTATIONS))


@pytest.mark.parametrize("term", [Uld(), SharedVocabulary(), Alm()])
def test_they_are_of_language_models_alone(term):
    with pytest.raises(SignalError, match=f"'{term.name}'"):
        Objective([term]).check(Provides())


def test_byte_pairs_are_fitted_alike_and_spell_what_they_never_saw():
    texts = ["the cat sat on the mat"] * 3
    name = fitted_pairs(texts)
    assert name == fitted_pairs(texts) != fitted_pairs([*texts, "the dog the dog"])
    assert name != fitted(texts)
    known = loaded(name).tokenizer
    for text in ("the cat", " Üb  \u00e9r\n", "🙂", "蒸"):
        assert known.decode(known(text)["input_ids"]) == text
    assert known.eos_token_id == known.pad_token_id
    with pytest.raises(DataError, match="fitted on the training texts of a run"):
        resolve(BPE)


def test_a_batch_of_ones_own_needs_no_table():
    """One tokenizer, in a loop of one's own: each token that has a label is a chunk."""
    ids = torch.tensor([[1, 2, 3], [4, 0, 0]])
    batch = Batch.of({"input_ids": ids}, torch.tensor([[2, 3, -100], [-100, -100, -100]]))
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    loss, _ = Objective([Alm()], TASK)({"logits": logits}, {"logits": logits}, batch)
    assert float(loss) == pytest.approx(0, abs=1e-6)
