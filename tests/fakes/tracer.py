"""A process that is killed at its n-th system call: what a power cut leaves, at every moment that there is."""

import ctypes
import os
import signal
from collections.abc import Callable

_LIBC = ctypes.CDLL(None, use_errno=True)
_TRACE_ME, _GO_ON = 0, 24  # PTRACE_TRACEME, PTRACE_SYSCALL
_DONE, _FAILED = 0, 77


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    _LIBC.ptrace.argtypes = [ctypes.c_ulong, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p]
    _LIBC.ptrace.restype = ctypes.c_long
    if _LIBC.ptrace(request, pid, None, data) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def killed_at(count: int, work: Callable[[], object]) -> bool:
    """Runs ``work`` in a child that is killed before its system call number ``count`` takes place; whether it came to that.

    The child is a copy of this process with one thread. ``work`` must not need others.

    Raises:
        AssertionError: the work failed by itself.
        OSError: the system does not let a process trace its child.
    """
    pid = os.fork()
    if pid == 0:
        code = _FAILED
        try:
            _ptrace(_TRACE_ME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)  # the parent counts from here
            work()
            code = _DONE
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        raise OSError(0, "this child cannot be traced")
    seen = 0
    while True:
        _ptrace(_GO_ON, pid)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == _DONE, "the work failed"
            return False
        if os.WIFSIGNALED(status):
            raise AssertionError(f"the work was ended by signal {os.WTERMSIG(status)}")
        seen += 1  # a call is stopped at twice: before it, and after
        if seen > 2 * count:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return True
