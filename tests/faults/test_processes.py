"""One of the processes of a run fails, dies or stalls: all of them end, and the first cause is what is shown."""

import os
import signal
import time
from pathlib import Path

import pytest
from tests.fakes.experiments import SGD, examples, stage
from tests.fakes.failing import CAUSE
from tests.fakes.processes import two_processes

from limbeck.errors import DataError, LimbeckError
from limbeck.training import ahead
from limbeck.training.loop import train
from limbeck.training.order import Order, Steps

SECONDS = 60.0
ELSEWHERE = "Another process of this run has ended"


def alive(folder: Path) -> list[str]:
    """The processes, and those that they forked, whose command has the folder in it."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = one.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words and "tests.fakes.failing" in words:
            found.append(one.parent.name)
    return found


def gone(folder: Path, fault: str, shown: str, codes: tuple[int, int], **env: str) -> None:
    """Both processes and all that they started end in time after the fault; ``codes``: of the one that has it, and the other."""
    home = str(folder / "home")
    with two_processes("tests.fakes.failing", folder, FAULT=fault, LIMBECK_HOME=home, **env) as both:
        began = time.monotonic()
        while not (folder / "when").exists():
            assert time.monotonic() - began < 240, [(folder / f"said-{rank}.txt").read_text() for rank in range(2)]
            time.sleep(0.05)
        when = float((folder / "when").read_text() or time.time())
        while alive(folder):
            assert time.time() < when + SECONDS, f"{alive(folder)} of {[one.pid for one in both]} still run"
            for one in both:
                one.poll()  # else it stays as a zombie
            time.sleep(0.05)
        rank = int(fault[0])
        told = [" ".join((folder / f"said-{one}.txt").read_text().split()) for one in (rank, 1 - rank)]
        assert (both[rank].wait(), both[1 - rank].wait()) == codes, told
    assert shown in told[0], told
    assert ELSEWHERE in told[1], told
    assert "Traceback" not in "".join(told)


CASES = {
    "step raises": (CAUSE, (1, 2)),
    "step dies": ("", (-9, 2)),
    "worker raises": (CAUSE, (1, 2)),
    "worker dies": ("was ended from outside (DataLoader worker", (2, 2)),
    "worker stalls": ("a disk or a lock does not answer", (2, 2)),
}


@pytest.mark.proof("Q12")
@pytest.mark.parametrize(("rank", "case"), [(1, "step dies"), (0, "worker stalls")])
def test_of_two_processes_none_outlives_the_other(tmp_path, rank, case, tried):
    gone(tmp_path, f"{rank} {case}", *CASES[case], PATIENCE="4")
    tried(runs_of_two_processes=1)


@pytest.mark.faults
@pytest.mark.proof("Q12")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rank", [0, 1])
def test_whatever_happens_to_either_of_two_processes_both_are_gone_in_a_minute(tmp_path, rank, case, tried):
    gone(tmp_path, f"{rank} {case}", *CASES[case])
    tried(runs_of_two_processes=1)


# --- in one process


class Reading:
    """Steps whose third does ``act`` where it is read ahead."""

    def __init__(self, act):
        data = examples(40)
        self._steps, self._act, self._here = Steps(data, Order(data.rows, 8, 0)), act, os.getpid()

    def __getitem__(self, step):
        if step == 2 and os.getpid() != self._here:
            self._act()
        return self._steps[step]


def read(act, workers):
    return list(ahead.read_ahead(Reading(act), range(4), workers))


def fail(error):
    def act():
        raise error

    return act


@pytest.mark.proof("Q12")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_stalled_reader_is_not_waited_for(monkeypatch, workers, tried):
    monkeypatch.setattr(ahead, "PATIENCE", 1.0)
    began = time.monotonic()
    with pytest.raises(LimbeckError, match=r"No batch came for 1 seconds.*training\.workers to 0"):
        read(lambda: time.sleep(600), workers)
    assert time.monotonic() - began < 20
    tried(stalled_readers=1)


@pytest.mark.proof("Q12")
def test_a_slow_reader_that_works_is_waited_for(monkeypatch, tried):
    monkeypatch.setattr(ahead, "PATIENCE", 2.5)
    monkeypatch.setattr(
        ahead, "_BUSY", 0.02
    )  # less than in earnest, as the patience is, on a machine that has much else to do

    def works():
        end = time.monotonic() + 7
        while time.monotonic() < end:
            sum(range(1000))

    assert len(read(works, 1)) == 4
    tried(slow_readers=1)


def test_readers_wait_for_a_slow_training(monkeypatch):
    monkeypatch.setattr(ahead, "PATIENCE", 0.5)
    for _ in ahead.read_ahead(Reading(lambda: None), range(4), 1):
        time.sleep(1.0)


@pytest.mark.proof("Q12")
@pytest.mark.parametrize(
    "error",
    [DataError("row 7 of a.png cannot be read"), ValueError("seven"), OSError(5, "Input/output error", "a.png")],
    ids=lambda one: type(one).__name__,
)
def test_what_a_reader_raises_is_raised_as_it_was(error, tried):
    with pytest.raises(type(error)) as caught:
        read(fail(error), 2)
    assert str(caught.value) == str(error)
    assert "In a process that reads data ahead" in caught.value.__notes__[0]
    tried(readers_that_raise=1)


class Odd(Exception):
    """Does not come through a pipe as it is."""

    def __init__(self, one, other):
        super().__init__(one, lambda: other)

    def __str__(self):
        return "odd indeed"


def test_an_error_that_cannot_be_sent_is_told_in_words():
    with pytest.raises(RuntimeError, match="Odd: odd indeed"):
        read(fail(Odd(1, 2)), 1)


@pytest.mark.proof("Q12")
def test_a_killed_reader_is_named_with_what_helps(tmp_path, monkeypatch, tried):
    real, here = Steps.__getitem__, os.getpid()

    def killed(self, step):
        if step == 2 and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, step)

    monkeypatch.setattr(Steps, "__getitem__", killed)
    with pytest.raises(LimbeckError, match=r"ended from outside.*training\.workers.*goes on from the last checkpoint"):
        train(stage(workers=2, optimizer=SGD), tmp_path)
    tried(killed_readers=1)
