"""What a user does with a recipe or a run: one function each."""

from limbeck.run.deeds import check, evaluate, export_run, label, load, report, run
from limbeck.run.memory import distill
from limbeck.run.result import Result

__all__ = ["Result", "check", "distill", "evaluate", "export_run", "label", "load", "report", "run"]
