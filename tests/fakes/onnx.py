"""ONNX files, made node by node: nobody's exporter is needed."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_DOMAINS = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]


def saved(path, nodes, inputs, outputs, weights=None, **more):
    """A file with these nodes. ``inputs``, ``outputs``: (name, type, shape), or what `helper` made of one."""

    def told(one):
        return helper.make_tensor_value_info(*one) if isinstance(one, tuple) else one

    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "graph", [*map(told, inputs)], [*map(told, outputs)], initializer=tensors)
    model = helper.make_model(graph, opset_imports=_DOMAINS, ir_version=9)
    onnx.save(model, path, **more)
    return path


def plain_file(folder, module):
    """`tests.fakes.rows.Plain` as it answers in evaluation mode."""
    state = {name: value.detach().numpy() for name, value in module.state_dict().items()}
    node = helper.make_node
    nodes = [
        node("Gemm", ["x", "body.weight", "body.bias"], ["a"], transB=1),
        node(
            "BatchNormalization",
            ["a", *(f"norm.{one}" for one in ("weight", "bias", "running_mean", "running_var"))],
            ["b"],
            epsilon=1e-5,
        ),
        node("Relu", ["b"], ["c"]),
        node("Gemm", ["c", "head.weight", "head.bias"], ["logits"], transB=1),
    ]
    weights = {name: value for name, value in state.items() if "num_batches" not in name}
    sizes = state["body.weight"].shape[1], state["head.weight"].shape[0]
    return saved(
        folder / "plain.onnx",
        nodes,
        [("x", TensorProto.FLOAT, ["rows", sizes[0]])],
        [("logits", TensorProto.FLOAT, ["rows", sizes[1]])],
        weights,
    )


def identity(path, inputs=(None, 3), dtype=TensorProto.FLOAT, name="y", **more):
    """Gives back what it reads."""
    shape = list(inputs)
    return saved(
        path, [helper.make_node("Identity", ["x"], [name])], [("x", dtype, shape)], [(name, dtype, shape)], **more
    )


def linear(path, coefficients, intercepts, classes, zipped=False, rows=None):
    """What scikit-learn's logistic regression is converted to: a label, and probabilities as a matrix or a map of classes."""
    names = isinstance(classes[0], str)
    key = "classlabels_strings" if names else "classlabels_ints"
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["X"],
            ["label", "scores"],
            domain="ai.onnx.ml",
            coefficients=[float(one) for one in np.ravel(coefficients)],
            intercepts=[float(one) for one in intercepts],
            multi_class=1,
            post_transform="SOFTMAX",
            **{key: list(classes)},
        )
    ]
    kind = TensorProto.STRING if names else TensorProto.INT64
    outputs = [("label", kind, [rows])]
    if zipped:
        own = {key.replace("ints", "int64s"): list(classes)}
        nodes.append(helper.make_node("ZipMap", ["scores"], ["output_probability"], domain="ai.onnx.ml", **own))
        value = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        mapped = helper.make_map_type_proto(kind, value)
        outputs.append(helper.make_value_info("output_probability", helper.make_sequence_type_proto(mapped)))
    else:
        nodes.append(helper.make_node("Identity", ["scores"], ["probabilities"]))
        outputs.append(("probabilities", TensorProto.FLOAT, [rows, len(classes)]))
    width = np.asarray(coefficients).shape[1]
    return saved(path, nodes, [("X", TensorProto.FLOAT, [rows, width])], outputs)
