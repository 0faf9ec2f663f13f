"""A WordNet of a few words, and tiny models that write nonsense, for the tests of writing."""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from limbeck.data.tokenizers import quiet
from limbeck.data.writing.rules import Rules

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    *("film", "plot", "actor", "scene", "music", "story", "bright", "dull", "funny", "slow", "warm", "cold", "grand"),
    *("bleak", "gentle", "noisy", "Paris", "good"),
)
PIECES = ("sun", "##light", "##s", ".", ",", "3", "the", "was")
PARTS = ("noun", "verb", "adj", "adv")
# part, words, how many of the lemma's senses were tagged; the order is that of the senses
SYNSETS = (
    ("noun", ("film", "movie", "moving_picture"), 2),
    ("noun", ("film", "Kodak", "cinema"), 2),
    ("noun", ("film", "plastic_film"), 2),
    ("verb", ("film", "shoot"), 1),
    ("noun", ("movie", "picture"), 1),
    ("adj", ("dull", "boring(p)"), 1),
    ("adv", ("slowly", "tardily"), 1),
)


def wordnet_at(folder, synsets=SYNSETS):
    """A folder in the format of wndb(5)."""
    folder.mkdir(parents=True, exist_ok=True)
    licence = "".join(f"  {line} This is not WordNet.  \n" for line in range(1, 4))
    for part in PARTS:
        data, index = licence, {}
        for kind, words, tagged in synsets:
            if kind == part:
                index.setdefault(words[0], [tagged]).append(len(data.encode()))
                listed = " ".join(f"{word} 0" for word in words)
                data += (
                    f"{len(data.encode()):08d} 03 {part[0]} {len(words):02x} {listed} 001 @ 00000001 n 0000 | a gloss\n"
                )
        (folder / f"data.{part}").write_text(data)
        lines = [
            f"{lemma} {part[0]} {len(places)} 2 @ ~ {len(places)} {tagged} {' '.join(f'{at:08d}' for at in places)}  \n"
            for lemma, (tagged, *places) in sorted(index.items())
        ]
        (folder / f"index.{part}").write_text(licence + "".join(lines))
    return folder


def tokenizer_at(folder, types=False):
    names = [*SPECIAL, *WORDS, *PIECES]
    vocabulary = {word: index for index, word in enumerate(names)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    columns = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[SEP]", model_input_names=columns, **special)
    fast.save_pretrained(folder)
    return len(names)


def _saved(model, folder, by):
    with torch.no_grad():
        for value in model.parameters():  # far from uniform, so that another input gives another answer
            value.mul_(by)
    with quiet():
        model.save_pretrained(folder)
    return str(folder)


def bert_at(folder, seed=0):
    size = tokenizer_at(folder, types=True)
    torch.manual_seed(seed)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return _saved(BertForMaskedLM(BertConfig(vocab_size=size, max_position_embeddings=48, **small)), folder, 6)


def bart_at(folder, seed=0):
    size = tokenizer_at(folder)
    torch.manual_seed(seed)
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in
             (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))}  # fmt: skip
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    config = BartConfig(vocab_size=size, d_model=16, max_position_embeddings=64, **sides, **special)
    return _saved(BartForConditionalGeneration(config), folder, 4)


def t5_at(folder, seed=0):
    size = tokenizer_at(folder)
    torch.manual_seed(seed)
    special = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0}
    config = T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, **special)
    return _saved(T5ForConditionalGeneration(config), folder, 2)


def facts_at(folder):
    """A file of facts of which some speak of what others do."""
    path = folder / "facts.csv"
    path.write_text(
        "subject,relation,object\nfilm,is seen in,cinemas\nactor,plays in,films\nthe actor,is,a star\n电影,在,电影院\n"
        'film,"is, mostly,",90 minutes\nC++,is,a language\nfilm noir,is,dark\n'
    )
    return str(path)


def rules(wordnet, share=1.0, **given):
    reads = {"synonyms_from": wordnet} if given.keys() & {"synonyms", "insert"} else {}
    return Rules(share=share, **reads, **given)


TEXTS = [
    "The film was dull, but the actor (a star) moved slowly.",
    "Dull film! A film of no use; it isn't good.",
    "这部电影很好看，我喜欢。",
    "हिन्दी में लिखा हुआ एक वाक्य है।",
    "word",
    "?!",
    "Ça va très bien: l’été est là...",
    "一 film を 見ました",
] * 5


def write(writer, rows, views, texts=TEXTS):
    return writer.write(texts, torch.tensor(rows), torch.tensor(views))
