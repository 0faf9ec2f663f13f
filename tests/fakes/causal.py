"""Tiny causal language models of several architectures, and a GGUF file of one."""

import numpy as np
import torch
import transformers

from limbeck.data.language import NextToken
from limbeck.data.tokenizers import quiet
from limbeck.models.specs import BuildContext

IDS = torch.randint(3, 60, (10, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[1, 6:] = 0
IDS[1, 6:] = 1
COLUMNS = {"input_ids": IDS, "attention_mask": MASK}
TEXT = BuildContext(60, COLUMNS, task=NextToken(), vocabulary=60)
SIZES = {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 4, "intermediate_size": 40}
COMMON = {"vocab_size": 60, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
GROUPED = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 64}
KINDS = {
    "llama": ("Llama", {**GROUPED, "tie_word_embeddings": True}),  # as SmolLM2: query heads share key heads
    "qwen2": ("Qwen2", {**GROUPED, "sliding_window": 4, "use_sliding_window": True, "max_window_layers": 2}),
    "gemma2": ("Gemma2", {**GROUPED, "head_dim": 8, "sliding_window": 4}),  # heads are not a part of the hidden size
    "gpt2": ("GPT2", {"n_embd": 24, "n_head": 4, "n_layer": 4, "n_positions": 64}),  # one map: queries, keys, values
    "gpt-neox": ("GPTNeoX", {**SIZES, "max_position_embeddings": 64}),  # one map: they take turns by head
    "phi3": ("Phi3", {**GROUPED}),  # one map, of grouped heads; another for gate and up
}


def made(kind, **more):
    """As trained: no zero biases, no norms of exactly one, large effects."""
    name, sizes = KINDS[kind]
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    with quiet():
        config = getattr(transformers, f"{name}Config")(**{**COMMON, **sizes, **more})
        module = transformers.AutoModelForCausalLM.from_config(config).eval()
    for value in module.parameters():
        value.data += 0.2 * torch.randn_like(value)
    torch.random.set_rng_state(state)
    return module


def logits(module, columns=COLUMNS):
    with torch.no_grad():
        return module.eval()(**columns).logits


def written(folder, name, module, kind="F32"):
    """A GGUF file of a Llama, as llama.cpp lays it out, with a tokenizer of bytes."""
    import gguf

    config, state = module.config, {key: value.numpy() for key, value in module.state_dict().items()}
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    writer = gguf.GGUFWriter(folder / name, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tokens = ["<s>", "<pad>", "</s>", *(chr(97 + index % 26) * (1 + index // 26) for index in range(57))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * 57)
    writer.add_token_merges([f"{token[0]} {token[1:]}" for token in tokens[3:] if len(token) > 1])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(1)

    def turned(weight, count):  # llama.cpp pairs neighbours where transformers pairs halves
        whole = weight.reshape(count, 2, -1, weight.shape[1])
        return np.ascontiguousarray(whole.swapaxes(1, 2)).reshape(weight.shape)

    def add(name, value):
        quantised = value.ndim == 2 and kind != "F32"
        how = getattr(gguf.GGMLQuantizationType, kind if quantised else "F32")
        writer.add_tensor(name, gguf.quantize(value, how) if quantised else value, raw_dtype=how)

    add("token_embd.weight", state["model.embed_tokens.weight"])
    add("output_norm.weight", state["model.norm.weight"])
    if not config.tie_word_embeddings:
        add("output.weight", state["lm_head.weight"])
    parts = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    for layer in range(config.num_hidden_layers):
        for short, long in parts.items():
            value = state[f"model.layers.{layer}.{long}.weight"]
            count = {"attn_q": heads, "attn_k": shared}.get(short)
            add(f"blk.{layer}.{short}.weight", value if count is None else turned(value, count))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / name
