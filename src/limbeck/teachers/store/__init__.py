"""Teacher outputs kept on disk, by (id, view) and signal name; any number of processes may write at once."""

from limbeck.teachers.store.describe import StoreInfo, describe
from limbeck.teachers.store.store import Store, store_key

__all__ = ["Store", "StoreInfo", "describe", "store_key"]
