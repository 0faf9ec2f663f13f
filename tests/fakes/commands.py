"""The command line, called in this process."""

import pytest

from limbeck.cli.main import main


def call(*words):
    """The exit code of ``limbeck words``."""
    with pytest.raises(SystemExit) as end:
        main(list(words))
    return end.value.code
