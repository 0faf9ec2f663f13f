"""Liger's kernel of the generalised Jensen-Shannon divergence (Hsu et al. 2024, arXiv:2410.10989), where it is installed."""

import importlib
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import torch
from torch import Tensor

PACKAGE: Final = "liger-kernel"


@cache
def kernel() -> Callable[..., Any] | None:
    """What calls a kernel of Liger's by its name; None: it is not installed, or is of before 0.8."""
    try:
        importlib.import_module("liger_kernel.functional")  # it registers them
        return importlib.import_module("liger_kernel.backends").dispatch  # type: ignore[no-any-return]
    except (ImportError, AttributeError):
        return None


def accelerated(tensor: Tensor) -> bool:
    """Whether it is where Triton's kernels run."""
    return tensor.is_cuda


def jensen_shannon(beta: float, log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor] | None:
    """Contributions and slopes, see `limbeck.losses.divergences.Divergence`, in one pass over [n, V]; None: by whoever asks.

    ``beta KL(p || m) + (1 - beta) KL(q || m)`` with ``m = beta p + (1 - beta) q``; forward KL at 0, reverse KL at 1. Only in
    float32 on an accelerator, and without a graph.
    """
    fits = accelerated(log_q) and log_q.ndim == 2 and log_q.dtype == log_p.dtype == torch.float32
    call = kernel() if fits and not (log_q.requires_grad or log_p.requires_grad) else None
    if call is None:
        return None
    place = log_q.clone()  # slopes take the place of what is given
    given = (place, log_p.contiguous(), None, float(beta), -100, 1.0)  # no row is left out, and nothing is divided
    value, slope = call("jsd_loss_and_grad", *given, impl="nvidia-triton")
    return value, slope


def versions() -> dict[str, str]:
    """The version of what computes on an accelerator in the place of torch; empty where nothing does."""
    try:
        return {PACKAGE: version(PACKAGE)} if torch.cuda.is_available() and kernel() else {}
    except PackageNotFoundError:
        return {}
