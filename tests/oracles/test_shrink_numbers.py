"""Shrinking worked out again: singular values in NumPy, importance and cuts of a BERT by its parameters' names."""

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.models.factorised import FactorisedEmbedding, factorise, multiplied
from limbeck.models.narrow import narrow

transformers = pytest.importorskip("transformers")


def table(rows, width, rank=None):
    draw = np.random.default_rng(rows + width)
    whole = (
        draw.normal(size=(rows, width))
        if rank is None
        else draw.normal(size=(rows, rank)) @ draw.normal(size=(rank, width))
    )
    made = nn.Embedding(rows, width)
    made.weight.data = torch.tensor(whole, dtype=torch.float32)
    return made


@pytest.mark.parametrize(("rows", "width"), [(50, 8), (8, 50), (20, 20)])
@pytest.mark.parametrize("rank", [1, 3, 7])
def test_the_error_is_that_of_the_singular_values_left_out(rows, width, rank):
    whole = table(rows, width)
    made = FactorisedEmbedding.of(whole, rank)
    matrix = whole.weight.detach().double().numpy()
    values = np.linalg.svd(matrix, compute_uv=False)
    error = np.linalg.norm(made.weight.detach().double().numpy() - matrix) / np.linalg.norm(matrix)
    # 1e-5: the factors are rounded to float32, 6e-8 of each of up to 8 summands
    assert error == pytest.approx(np.sqrt((values[rank:] ** 2).sum() / (values**2).sum()), abs=1e-5)
    norms = [part.detach().double().norm(dim=0) ** 2 for part in (made.tokens.weight, made.up.weight)]
    assert np.allclose(norms[0], values[:rank], rtol=1e-5), "each factor has the root of the singular values"
    assert np.allclose(norms[1], values[:rank], rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 4])
def test_a_table_of_that_rank_is_kept_whole(rank):
    whole = table(40, 12, rank)
    ids = torch.tensor([[0, 39, 5], [7, 7, 1]])
    made = FactorisedEmbedding.of(whole, rank)
    # 1e-5: float32, entries of size 2
    assert torch.allclose(made(ids), whole(ids), atol=1e-5)
    assert made.rank == rank
    assert sum(value.numel() for value in made.parameters()) == rank * (40 + 12)


IDS = torch.randint(2, 60, (5, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(IDS)
MASK[2, 4:] = 0


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=12, num_attention_heads=3, num_hidden_layers=2, intermediate_size=10, num_labels=3
    )
    module = transformers.BertForSequenceClassification(config).eval()
    for value in module.parameters():
        value.data += 0.3 * torch.randn_like(value)
    return module


def answers(module):
    with torch.no_grad():
        return module(input_ids=IDS, attention_mask=MASK).logits


def test_full_rank_leaves_the_logits_and_multiplying_out_gives_them_back(bert):
    import copy

    before = answers(bert)
    full = copy.deepcopy(bert)
    full.set_input_embeddings(FactorisedEmbedding.of(bert.get_input_embeddings(), 12))
    assert torch.allclose(answers(full), before, atol=1e-5)
    some = factorise(copy.deepcopy(bert), 5).eval()
    plain = multiplied(some)
    assert isinstance(plain.get_input_embeddings(), nn.Embedding)
    assert torch.allclose(answers(plain), answers(some), atol=1e-5)
    assert multiplied(bert) is bert


def test_a_narrow_bert_by_hand(bert):
    """By the names in BERT: mean |x| of what each linear map reads, one choice of channels, sqrt for the fan-in."""
    hidden, heads, inner = 8, 2, 6
    seen = {}
    hooks = [
        part.register_forward_pre_hook(lambda _, given, path=path: seen.__setitem__(path, given[0]))
        for path, part in bert.named_modules()
        if isinstance(part, nn.Linear)
    ]
    answers(bert)
    for hook in hooks:
        hook.remove()

    def mean(path):
        value = seen[path].numpy().astype(np.float64)
        return np.abs(value[MASK.numpy().astype(bool)] if value.ndim == 3 else value).mean(0)

    layers = [f"bert.encoder.layer.{index}" for index in range(2)]
    readers = ["bert.pooler.dense", "classifier"]
    for layer in layers:
        readers += [f"{layer}.attention.self.{kind}" for kind in ("query", "key", "value")]
        readers.append(f"{layer}.intermediate.dense")
    channels = np.sort(np.argsort(-np.mean([mean(path) for path in readers], axis=0))[:hidden])
    state = {name: value.numpy() for name, value in bert.state_dict().items()}
    wanted = {}
    for name, value in state.items():
        layer = next((one for one in layers if name.startswith(one)), None)
        if layer:
            of_heads = mean(f"{layer}.attention.output.dense").reshape(3, 4).mean(1)
            kept = np.sort(np.argsort(-of_heads)[:heads])
            kept = np.concatenate([np.arange(4 * head, 4 * head + 4) for head in kept])
            neurons = np.sort(np.argsort(-mean(f"{layer}.output.dense"))[:inner])
        if ".attention.self." in name:
            value = value[kept] if value.ndim == 1 else value[kept][:, channels] * np.sqrt(12 / 8)
        elif name.endswith("attention.output.dense.weight"):
            value = value[channels][:, kept] * np.sqrt(12 / 8)
        elif ".intermediate." in name:
            value = value[neurons] if value.ndim == 1 else value[neurons][:, channels] * np.sqrt(12 / 8)
        elif layer and name.endswith("output.dense.weight"):
            value = value[channels][:, neurons] * np.sqrt(10 / 6)
        elif name == "classifier.weight":
            value = value[:, channels] * np.sqrt(12 / 8)
        elif name == "bert.pooler.dense.weight":
            value = value[channels][:, channels] * np.sqrt(12 / 8)
        elif name != "classifier.bias":
            value = value[..., channels]
        wanted[name] = value
    found = narrow(bert, {"input_ids": IDS, "attention_mask": MASK}, hidden=hidden, heads=heads, intermediate=inner)
    for name, value in found.state_dict().items():
        assert np.allclose(value.numpy(), wanted[name], rtol=1e-6), name
