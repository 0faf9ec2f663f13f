"""Tiny models that attend, from configs, and what the recorder shows of them."""

import copy

import torch

from limbeck.signals.attention import KINDS, AttentionRecorder

IDS = torch.arange(10).reshape(2, 5) + 3
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
TEXT = {"input_ids": IDS, "attention_mask": MASK}
PIXELS = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 8, 8).sin()}
SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 16}
EVERY = [f"attention.{n}.{kind}" for n in (1, 2, 3) for kind in KINDS]


def build(kind, implementation="sdpa", seed=0):
    import transformers as tf

    torch.manual_seed(seed)
    words = {"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    named = {"n_layer": 3, "n_embd": 16, "n_head": 4, "n_positions": 16}
    config, model = {
        "bert": lambda: (tf.BertConfig(**SMALL, **words), tf.BertModel),
        "llama": lambda: (tf.LlamaConfig(**SMALL, **words, num_key_value_heads=2), tf.LlamaModel),
        "gpt2": lambda: (tf.GPT2Config(**named, **words), tf.GPT2Model),
        "vit": lambda: (tf.ViTConfig(**SMALL, image_size=8, patch_size=4), tf.ViTModel),
    }[kind]()
    config._attn_implementation = implementation
    made = model(config).eval()
    with torch.no_grad():  # larger than at initialisation, so that the maps are far from uniform
        for parameter in made.parameters():
            parameter.mul_(6 if parameter.ndim > 1 else 1).add_(0.02 * torch.randn_like(parameter))
    return made


def columns(kind):
    return PIXELS if kind == "vit" else TEXT


def seen(model, names, given):
    with AttentionRecorder(model, names) as recorder:
        model(**given)
        return {name: recorder.read(name) for name in names}


def eager(model):
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    return twin
