"""What the tests of reliability tried, and how often: `pytest --proofs=FILE` writes it, one entry for each of Q1 to Q15.

A test says with the marker ``proof("Q1")`` which of them it is of, and with the fixture ``tried`` what it tried, in numbers.
"""

import json
import platform
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

_NAME, _TRIED = "proof", "tried"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proofs", type=Path, help="where to write what the tests of reliability tried")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "proof(name): one of the tests of reliability, Q1 to Q15")
    if (path := config.getoption("--proofs")) and not hasattr(config, "workerinput"):  # a worker's reports come here
        config.pluginmanager.register(_Ledger(path))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.user_properties += [(_NAME, mark.args[0]) for mark in item.iter_markers(_NAME)]


@pytest.fixture
def tried(record_property):
    """Notes what a test tried, by what is counted: ``tried(kills=50)``."""

    def note(**counts: int) -> None:
        record_property(_TRIED, counts)

    return note


class _Ledger:
    """Sums over the tests of each proof."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, dict[str, dict]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        names = {value for key, value in report.user_properties if key == _NAME}
        if report.when != "call" and report.passed:
            return
        for name in names:
            own = self.found.setdefault(
                name, {"tests": 0, "failed": 0, "skipped": 0, "seconds": 0.0, "tried": Counter()}
            )
            own["tests"] += 1
            own["failed"] += report.failed
            own["skipped"] += report.skipped
            own["seconds"] += report.duration
            for key, counts in report.user_properties:
                own["tried"].update(counts if key == _TRIED else {})

    def pytest_terminal_summary(self, terminalreporter) -> None:
        order = sorted(self.found, key=lambda name: int(name[1:]))
        whole = {
            "date": datetime.now(UTC).isoformat(timespec="minutes"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "marked": terminalreporter.config.option.markexpr,
            "proofs": {name: {**self.found[name], "seconds": round(self.found[name]["seconds"])} for name in order},
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(whole, indent=1) + "\n")
        for name in order:
            own = self.found[name]
            counts = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in own["tried"].items())
            terminalreporter.write_line(f"{name:4} {own['tests']:4} tests, {own['failed']} failed; {counts}")
