"""Fingerprints of content: SHA-256 over names, types, shapes and bytes."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

_SEVERAL = b"\xff" * 8  # no text is so long


def tensors(named: Mapping[str, Tensor]) -> str:
    """One hash for named tensors; the order of names does not matter."""
    seen = hashlib.sha256()
    for name in sorted(named):
        value = named[name].detach().cpu().contiguous()
        seen.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        seen.update(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return seen.hexdigest()


def texts(items: Iterable[str | Sequence[str]]) -> str:
    """One hash for a sequence of strings, or of several strings a row; lengths are hashed too, so nothing runs together."""
    seen = hashlib.sha256()
    for item in items:
        parts = [item] if isinstance(item, str) else item
        if not isinstance(item, str):
            seen.update(_SEVERAL + len(parts).to_bytes(8, "little"))
        for part in parts:
            raw = part.encode()
            seen.update(len(raw).to_bytes(8, "little") + raw)
    return seen.hexdigest()


def file(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
