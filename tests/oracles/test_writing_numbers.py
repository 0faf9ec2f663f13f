"""Writing against independent ways to the same: wndb read by hand, masks one at a time, sampling by its distribution."""

import numpy as np
import pytest
import torch
from tests.fakes.writing import WORDS, bart_at, bert_at, wordnet_at
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

from limbeck.data.tokenizers import quiet
from limbeck.data.writing.masked import expected
from limbeck.data.writing.models import loaded
from limbeck.data.writing.translation import BackTranslation, _Sampled
from limbeck.data.writing.wordnet import WordNet
from limbeck.data.writing.writer import Chance, Writing, chances


def test_wordnet_says_what_its_files_say(tmp_path):
    known = WordNet(wordnet_at(tmp_path))
    assert known.of("film") == ("movie", "moving picture", "cinema")  # two senses of the noun; no names
    assert known.of("movie") == ("picture",)
    assert known.of("dull") == ("boring",)  # without its marker
    assert known.of("slowly") == ("tardily",)
    assert known.of("Film") == known.of("xyzzy") == known.of("") == ()


def test_a_line_of_the_real_format(tmp_path):
    # the layout of wndb(5): offset, file, type, words in hexadecimal, word and number..., pointers, gloss
    folder = wordnet_at(tmp_path, ())
    start = len((folder / "data.noun").read_bytes())
    words = [f"word_{number}" for number in range(17)]
    line = f"{start:08d} 06 n 11 {' '.join(f'{word} {number:x}' for number, word in enumerate(words))} 000 | gloss 99 n 01\n"
    with (folder / "data.noun").open("a") as stream:
        stream.write(line)
    with (folder / "index.noun").open("a") as stream:
        stream.write(f"word_0 n 1 3 @ ~ %p 1 0 {start:08d}  \n")
    assert WordNet(folder).of("word_0") == tuple(f"word {number}" for number in range(17))


def test_draws_are_uniform_and_apart():
    numbers = [chance.number() for chance in chances(1, torch.arange(4000), torch.ones(4000, dtype=torch.int64))]
    assert abs(np.mean(numbers) - 0.5) < 4 * (1 / 12 / 4000) ** 0.5
    counts = np.bincount([Chance(seed).below(5) for seed in range(5000)], minlength=5)
    assert ((counts - 1000) ** 2 / 1000).sum() < 18.5  # chi squared, 4 degrees of freedom, 0.1 %
    orders = np.zeros((4, 4))
    for seed in range(4000):
        for place, item in enumerate(Chance(seed).some(range(4), 4)):
            orders[place, item] += 1
    assert ((orders - 1000) ** 2 / 1000).sum() < 33  # 9 degrees of freedom, 0.01 %
    assert sorted(Chance(3).some("abc", 9)) == ["a", "b", "c"]


def test_the_share_is_drawn_by_pair_and_never_for_view_0():
    writing = Writing(share=0.25)
    ids = torch.arange(8000)
    chosen = writing.chosen(ids, ids * 0 + 3)
    assert abs(len(chosen) / 8000 - 0.25) < 4 * (0.1875 / 8000) ** 0.5
    assert set(chosen) - set(writing.chosen(ids, ids * 0 + 4))
    assert Writing(share=1.0).chosen(ids[:5], torch.tensor([0, 1, 0, 2, 0])) == [1, 3]


def test_expected_words_are_those_of_a_mask_at_a_time(tmp_path):
    folder = bert_at(tmp_path)
    with quiet():
        model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    text = ["film", "was", "dull", ",", "sun", "##light", "##s", "Paris"]
    pieces = tokenizer.convert_tokens_to_ids(text)
    found = expected(loaded(folder, "AutoModelForMaskedLM"), "film was dull, sunlights Paris", 5)
    assert found[1] == []  # a stop word
    allowed = [*WORDS, "sun", "the", "was"]
    ids = tokenizer.convert_tokens_to_ids(allowed)
    for place, (word, at) in {0: ("film", 0), 2: ("dull", 2), 4: ("Paris", 7)}.items():
        masked = [*pieces[:at], tokenizer.mask_token_id, *pieces[at + 1 :]]
        row = [2, *masked, 3, *pieces, 3]  # [CLS] masked [SEP] as it is [SEP]
        kinds = [0] * (len(pieces) + 2) + [1] * (len(pieces) + 1)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row]), token_type_ids=torch.tensor([kinds])).logits[0, 1 + at]
        order = sorted(range(len(ids)), key=lambda one: -logits[ids[one]])
        assert found[place] == [allowed[one] for one in order if allowed[one] != word][:5]
    vectors = model.get_input_embeddings().weight.detach()
    mean = vectors[tokenizer.convert_tokens_to_ids(["sun", "##light", "##s"])].mean(0)
    order = sorted(range(len(ids)), key=lambda one: -torch.cosine_similarity(vectors[ids[one]], mean, dim=0))
    assert found[3] == [allowed[one] for one in order][:5]


@pytest.mark.parametrize("temperature", [0.8, 2.0])
def test_sampling_follows_the_softmax(temperature):
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, -torch.inf])
    ids = torch.arange(20_000)
    sampled = _Sampled(temperature, 35, ids, ids * 0 + 1)
    first = sampled(torch.empty(0), logits.expand(20_000, -1)).argmax(1)
    second = sampled(torch.empty(0), logits.expand(20_000, -1)).argmax(1)
    shares = (logits / temperature).softmax(0)
    for draw in (first, second):
        counts = torch.bincount(draw, minlength=5)
        assert counts[4] == 0
        chi = ((counts[:4] - 20_000 * shares[:4]) ** 2 / (20_000 * shares[:4])).sum()
        assert chi < 16.3  # 3 degrees of freedom, 0.1 %
    together = (first == second).float().mean()
    assert abs(together - (shares**2).sum()) < 0.015  # steps are independent; 4 standard deviations of 20,000


def test_a_translation_is_what_sampling_step_by_step_gives(tmp_path):
    folder = bart_at(tmp_path)
    with quiet():
        model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts, ids, views = (
        ["film plot music", "dull", "slow story", "the"],
        torch.tensor([4, 9, 1, 7]),
        torch.tensor([1, 2, 1, 1]),
    )
    writer = BackTranslation(there=folder, back=folder, max_length=30, temperature=2.0)
    found = writer._translated(loaded(folder, "AutoModelForSeq2SeqLM"), texts, 35, ids, views)
    ended = []
    for row, text in enumerate(texts):  # one at a time, the whole decoder again at each step
        given = tokenizer([text], return_tensors="pt")
        sampled, said = _Sampled(2.0, 35, ids[row : row + 1], views[row : row + 1]), [3]
        for _ in range(30):
            with torch.no_grad():
                logits = model(**given, decoder_input_ids=torch.tensor([said])).logits[:, -1]
            said.append(int(sampled(torch.empty(0), logits).argmax()))
            if said[-1] == 3:
                break
        ended.append(said[-1] == 3)
        expected_text = tokenizer.decode(said, skip_special_tokens=True).strip()
        assert found[row] == (expected_text if ended[-1] and expected_text else None)
    assert {text is None for text in found} == {True, False}
