"""Two processes that meet over gloo and add a number: what `hubertkit doctor` tries, as `--ranks 2` would."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from tools.child import module_command

HOST = "127.0.0.1"
ALONE_SECONDS = 10.0  # for a process to reach itself
SECONDS = 60.0  # for both to start, which imports torch, and to meet


def problem_of_two_ranks() -> str | None:
    """What stands in the way of two ranks on this machine; None where nothing does."""
    try:
        store = dist.TCPStore(HOST, 0, None, True, timeout=timedelta(seconds=ALONE_SECONDS), wait_for_workers=False)
    except (RuntimeError, OSError) as error:  # its retries fill pages
        return f"no connection to {HOST} ({str(error).splitlines()[0][:200]})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    both = [subprocess.Popen([*module_command("tools.two_ranks"), str(rank), str(store.port)], env=environment,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for rank in (0, 1)]
    try:
        for process in both:
            _, said = process.communicate(timeout=SECONDS)
            if process.returncode:
                return (said.strip().splitlines() or ["it ended without a word"])[-1]
    except subprocess.TimeoutExpired:
        return f"they did not meet within {SECONDS:.0f} s"
    finally:
        for process in both:
            process.kill()
            process.communicate()
    return None


def main() -> None:
    """One of the two; its rank and the store's port are its arguments."""
    rank, port = int(sys.argv[1]), int(sys.argv[2])
    store = dist.TCPStore(HOST, port, None, False, timeout=timedelta(seconds=SECONDS))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=SECONDS))
    number = torch.tensor([rank + 1.0])
    dist.all_reduce(number)
    dist.destroy_process_group()
    if number.item() != 3:
        sys.exit(f"the sum over two ranks is {number.item():g}, not 3")
