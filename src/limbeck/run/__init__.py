"""What a user does with a recipe or a run: one function each."""

from limbeck.run.conduct import Result
from limbeck.run.deeds import check, evaluate, export_run, label, load, report, run
from limbeck.run.memory import distill

__all__ = ["Result", "check", "distill", "evaluate", "export_run", "label", "load", "report", "run"]
