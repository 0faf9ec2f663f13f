"""Two tokenizers, folders of them, and texts that both spell."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader

TEXTS = (
    "the cat sat on the mat and then it slept",
    "a dog ran under the tree, then it sang",
    "猫坐 on the roof",
    "the bird sang; the bird slept. it ran",
    "na\u00efve caf\u00e9 cats sit on mats 🙂",
)
CHAT = (
    "{% for one in messages %}<|{{ one['role'] }}|>{{ one['content'] | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_level(size, special=("<end>",), chat=None, **names):
    """A tokenizer of byte pairs; ``size``: its vocabulary, at least 256 and the special tokens. ``bos_token``: begins texts."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS * 3,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
        ),
    )
    if "bos_token" in names:
        begin = names["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, backend.token_to_id(begin))]
        )
    names = {"eos_token": special[0], "pad_token": special[0], **names}
    found = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    if chat:
        found.chat_template = chat
    return found


def saved(folder, tokenizer):
    """Its folder, as a recipe names it."""
    tokenizer.save_pretrained(folder)
    return str(folder)


def table(student, teacher, items, longest=64):
    """The items as both read them; tokenizers by their folders."""
    readers = [TextReader(tokenizer=one, max_length=longest, reads="sequences") for one in (student, teacher)]
    return TextTable(items, readers[0], readers[1])
