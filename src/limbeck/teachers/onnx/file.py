"""An ONNX file on the disk: what it holds, what it keeps outside, and what names both."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from limbeck.config import digest
from limbeck.data import fingerprint
from limbeck.data.raw import existing
from limbeck.errors import LimbeckError
from limbeck.extras import imported

_NEEDS: Final = "A teacher in an ONNX file needs {}"


def library() -> Any:
    """``onnxruntime``.

    Raises:
        LimbeckError: it, or ``onnx``, is not installed.
    """
    imported("onnx", _NEEDS.format("onnx"), "onnx")  # reads what the file keeps outside
    return imported("onnxruntime", _NEEDS.format("onnxruntime"), "onnx")


def checked(path: str) -> tuple[Path, str]:
    """The file, and a fingerprint of its content with all that it keeps outside.

    Raises:
        LimbeckError: it is not there, is no ONNX file, or names weights outside its folder or not there.
    """
    library()
    import onnx

    place = existing(path)
    try:
        model = onnx.load(place, load_external_data=False)
        if not model.graph.node:
            raise ValueError("it holds no graph")
    except Exception as error:  # protobuf raises many kinds
        raise LimbeckError(f"{place} is no ONNX file: {' '.join(str(error).split())[:200]}.") from error
    folder, beside = place.parent.resolve(), set[Path]()
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        named = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        found = (folder / named).resolve()
        if not named or not found.is_relative_to(folder):
            raise LimbeckError(
                f"{place} keeps the weight {tensor.name!r} in {named!r}, outside its folder, and such a file is not read: put "
                "model and weights into one folder, or save the model as one file."
            )
        if not found.is_file():
            raise LimbeckError(
                f"{place} keeps the weight {tensor.name!r} in {named!r}, and there is no such file beside it."
            )
        beside.add(found)
    return place, digest([fingerprint.file(one) for one in (place, *sorted(beside))])


def _tensors(model: Any) -> Iterator[Any]:
    """Every tensor of the model, those inside branches, loops and functions included."""
    graphs = [model.graph, *model.functions]
    while graphs:
        graph = graphs.pop()
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                graphs += [attribute.g, *attribute.graphs]
