"""Two processes that train together, as a launcher starts them."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def two_processes(module: str, folder: Path, **env: str) -> Iterator[list[subprocess.Popen]]:
    """``python -m module folder`` as rank 0 and 1 of a world of two, one thread each, for the length of the block.

    What they say is in ``folder / "said-0.txt"`` and ``"said-1.txt"``: a pipe would be kept open by workers that outlive them.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    whole = {**os.environ, **env, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    whole |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2"}
    both = []
    for rank in range(2):
        with (folder / f"said-{rank}.txt").open("w") as said:
            command = [sys.executable, "-m", module, str(folder)]
            own = {**whole, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            both.append(subprocess.Popen(command, env=own, stdout=said, stderr=said))
    try:
        yield both
    finally:
        for one in both:
            one.kill()
            one.wait()


def in_two_processes(module: str, folder: Path, **env: str) -> None:
    """Runs ``python -m module folder`` as `two_processes`; both must succeed."""
    with two_processes(module, folder, **env) as both:
        for one in both:
            one.wait(timeout=300)
        told = [(folder / f"said-{rank}.txt").read_text() for rank in range(2)]
        assert [one.returncode for one in both] == [0, 0], told
