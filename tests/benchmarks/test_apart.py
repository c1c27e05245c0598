"""Measurements in processes of their own."""

import resource
import sys
from pathlib import Path

from benchmarks.apart import peak_memory


def test_memory_is_measured_where_the_kernel_does_not_tell_its_peak(monkeypatch):
    """`IndexError` in sandboxes whose /proc/self/status has no VmHWM."""
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    monkeypatch.setattr(Path, "read_text", lambda self, encoding=None: "Name:\tpython\nVmRSS:\t1 kB\n")
    unit = 1 if sys.platform == "darwin" else 1024
    assert peak_memory() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
