"""Two processes that train together, as a launcher starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def in_two_processes(module: str, folder: Path, **env: str) -> None:
    """Runs ``python -m module folder`` as rank 0 and 1 of a world of two, one thread each; both must succeed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    whole = {**os.environ, **env, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    whole |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2"}
    both = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(folder)],
            env={**whole, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [one.communicate(timeout=300)[1] for one in both]
    finally:
        for one in both:
            one.kill()
    assert [one.returncode for one in both] == [0, 0], told
