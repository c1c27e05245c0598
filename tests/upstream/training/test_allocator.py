"""Freed memory stays with the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from upstream.training.allocator import keep_memory
if sys.argv[1] == "keep" and not keep_memory():
    sys.exit(3)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(30_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
torch.ones(31_000_000)  # leaves a place with room to align the others: glibc 2.36 takes none of just their size
print(min(faults() for _ in range(8)))  # a small block in the way may cost a new place now and then
"""


def _faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode == 3:
        pytest.skip("the C library has no mallopt")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.processes
def test_a_tensor_in_the_place_of_a_freed_one_costs_no_page_faults():
    assert _faults("keep") < 100
    assert _faults("leave") > 200  # 120 MB: 29,000 small pages, or 57 large ones and what is left over
