"""How the command ends: with its code, and in one of several processes at once."""

import sys
from types import SimpleNamespace

import pytest

from limbeck.cli import main


@pytest.mark.parametrize("talking", [False, True])
def test_only_who_talks_with_other_processes_ends_at_once(talking, monkeypatch):
    ended = []
    monkeypatch.setattr(main.os, "_exit", ended.append)
    talk = SimpleNamespace(is_available=lambda: True, is_initialized=lambda: talking)
    monkeypatch.setitem(sys.modules, "torch.distributed", talk)
    with pytest.raises(SystemExit) as end:
        main._fail(2)
    assert end.value.code == 2
    assert ended == [2] * talking
