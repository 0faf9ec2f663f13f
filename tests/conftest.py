"""Examples are the same in every run, so that a red run is red again; `make faults` looks for new ones."""

import gc
import os

import pytest
from hypothesis import settings

pytest_plugins = ("tests.proofs",)
settings.register_profile("fixed", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("searching", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture(scope="module")
def cheap_collections():
    """A Trainer of transformers collects garbage before it trains; what has been imported is none."""
    gc.freeze()
    yield
    gc.unfreeze()
