"""A tiny language model that writes, its teacher, and prompts with continuations: all that on-policy training needs."""

from dataclasses import replace

import torch
import transformers

from limbeck.data.examples import Examples
from limbeck.data.language import NextToken
from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenizers import fitted, quiet
from limbeck.models.given import Given
from limbeck.models.identity import of_module
from limbeck.models.spec import BuildContext
from limbeck.objective import Diverging, Labels
from limbeck.objective.returns import Returns
from limbeck.objective.schedules import Place
from limbeck.regimes.on_policy import OnPolicy
from limbeck.teachers.local import LocalTeacher
from limbeck.training.settings import Sgd, Training
from limbeck.training.stage import Stage, Start

WORDS = ("cat", "dog", "bird", "mouse", "sat", "ran", "sang", "slept", "on", "under", "mat", "tree", "roof", "red")
WORDS = (*WORDS, "the", "a", "and", "then", "it", "was")
END = 3  # the tokenizer's [SEP]
TRAINING = Training(steps=6, batch_size=8, evaluate_every=3, optimizer=Sgd(name="sgd", learning_rate=0.3))
ALWAYS = OnPolicy(share=1.0, max_new_tokens=6)
LABELS, NEAR = Labels(weight=0.3), Diverging(kind="jensen-shannon", weight=0.7)


def pairs(rows=40, seed=0):
    draw = torch.Generator().manual_seed(seed)

    def some(least, most):
        count = int(torch.randint(least, most, (1,), generator=draw))
        return " ".join(WORDS[at] for at in torch.randint(len(WORDS), (count,), generator=draw))

    return [(some(1, 5), some(2, 7)) for _ in range(rows)]


def table(rows=40):
    items = pairs(rows)
    reader = TextReader(tokenizer=fitted(WORDS * 2), max_length=32, reads="sequences")
    return TextTable(items, reader)


def examples(rows=40, supervised=None):
    texts = table(rows)
    labels = texts.placed(torch.zeros(rows, dtype=torch.int64), NextToken())
    seen = torch.ones(rows, dtype=torch.bool) if supervised is None else supervised
    return Examples(texts, torch.arange(rows), labels, seen, (), task=NextToken())


def model(layers=1, seed=0, spread=0.3, kind="Llama", width=16, **more):
    """Random, with enough weight that it neither says one thing nor everything; without dropout."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    sizes = {"hidden_size": width, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": layers}
    if kind == "GPT2":
        sizes = {"n_embd": 16, "n_head": 2, "n_layer": layers, "n_positions": 64}
    with quiet():
        config = getattr(transformers, f"{kind}Config")(
            vocab_size=24,
            pad_token_id=0,
            eos_token_id=END,
            bos_token_id=2,
            **{"max_position_embeddings": 64} | more,
            **sizes,
        )
        module = transformers.AutoModelForCausalLM.from_config(config).eval()
    for value in module.parameters():
        value.data += spread * torch.randn_like(value)
    torch.random.set_rng_state(state)
    return module


def teacher(seed=7):
    module = model(2, seed).requires_grad_(False)
    return LocalTeacher(module, of_module(module))


def stage(writing=ALWAYS, make=model, terms=(LABELS, NEAR), supervised=None, **changes):
    every = examples(supervised=supervised)
    training = TRAINING.model_copy(
        update={name: changes.pop(name) for name in list(changes) if name in Training.model_fields}
    )
    sample = every.batch(every.rows[:2], torch.zeros(2, dtype=torch.int64)).columns("student")
    context = BuildContext(0, sample, task=NextToken(), vocabulary=24)
    return replace(
        Stage(
            "tiny",
            Start(Given(make), 0, context),
            terms,
            replace(every, rows=every.rows[:32]),
            replace(every, rows=every.rows[32:]),
            training,
            teacher(),
            0,
            0,
            writing=writing,
        ),
        **changes,
    )


PROMPTS = [torch.tensor(one) for one in ([2, 5, 9], [2, 7], [2, 4, 8, 15, 16, 20], [2, 11, 6, 5])]
BOTH = OnPolicy(share=0.5, each="text", max_new_tokens=6)
MINILLM = (LABELS, Diverging(kind="reverse-kl", texts="written", returns=Returns(gamma=0.9)))
DISTILLM2 = (Diverging(kind="skew-kl", texts="given"), Diverging(kind="skew-reverse-kl", texts="written"))


def logs(module, text):
    """Log-probabilities [T, V] of the tokens that follow each of ``text``, from one pass over all of it."""
    with torch.no_grad():
        return torch.log_softmax(module(input_ids=text[None]).logits[0].float(), -1)


def written(settings, step=0, one=None, terms=(LABELS, NEAR)):
    """The micro-batches of a step before and after, and what wrote them."""
    one = stage(settings, terms=terms) if one is None else one
    student = one.model()
    rows = one.examples.rows[:8]
    before = one.examples.batch(rows, torch.zeros_like(rows))
    pen = settings.pen(one, student)
    return before, pen.written(student, [before], Place(step, 10))[0], student, one.teacher.module


def rows_of(batch, mask):
    return batch.masks[mask].nonzero()[:, 0].tolist()


def text_of(batch, row):
    return batch.inputs["input_ids"][row][batch.inputs["attention_mask"][row].bool()]
