"""What a store holds, for a person."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.teachers.store.shard import ASIDE
from limbeck.teachers.store.store import OWN, Store


@dataclass(frozen=True)
class StoreInfo:
    """``rows``: committed (id, view) pairs. ``bytes``: of their files. ``signals``: dtype and shape of a row by name,
    ``*`` where it varies. ``aside``: damaged files that were set aside.
    """

    folder: Path
    key: Mapping[str, Any]
    rows: int
    bytes: int
    signals: Mapping[str, str]
    writers: int
    shards: int
    aside: int


def describe(store: Store) -> StoreInfo:
    """What was committed so far, by whatever process."""
    store.refresh()
    shards = store.shards()
    kinds: dict[str, set[str]] = {}
    for shard in shards:
        for name, column in shard.columns.items():
            if name.startswith(OWN):
                continue
            dtype, dimensions, _ = column.kind
            shape = column.shape if column.shape is not None else ("*",) * dimensions
            kinds.setdefault(name, set()).add(f"{dtype} [{', '.join(map(str, shape))}]")
    return StoreInfo(
        folder=store.folder,
        key=store.key,
        rows=len(store.pairs()),
        bytes=sum(shard.path.stat().st_size for shard in shards if shard.path.exists()),
        signals={name: " or ".join(sorted(kind)) for name, kind in sorted(kinds.items())},
        writers=len({shard.path.parent for shard in shards}),
        shards=len(shards),
        aside=sum(1 for _ in (store.folder / ASIDE).glob("*")),
    )
