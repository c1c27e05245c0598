"""Limits of containers and of schedulers' jobs, by hand."""

import pytest
import torch

from upstream import control_groups
from upstream.training import free_memory
from upstream.training.free_memory import free_bytes

CPU = torch.device("cpu")
GB = 10**9


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Writes files of /proc and /sys; 200 GB are available."""
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(control_groups, "OWN", tmp_path / "own")
    monkeypatch.setattr(control_groups, "TOP", tmp_path / "groups")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)

    def write(own, **files):
        (tmp_path / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {200 * 10**9 // 1024} kB\n")
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            path = tmp_path / "groups" / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(content))

    return write


def test_without_limits_it_is_what_the_machine_has(machine):
    machine("0::/\n", memory_DOT_max="max\n", memory_DOT_current="5\n")
    assert free_bytes(CPU, 1) == pytest.approx(200 * GB, rel=1e-6)
    assert free_bytes(CPU, 4) == pytest.approx(50 * GB, rel=1e-6)


def test_pages_of_files_are_free(machine):
    """A container of 32 GB has just read 30 GB of recordings: they count as used, and make room for whoever asks."""
    machine("0::/\n", memory_DOT_max=32 * GB, memory_DOT_current=31 * GB,
            memory_DOT_stat=f"anon {GB}\ninactive_file {20 * GB}\nactive_file {10 * GB}\nsock 0\n")
    assert free_bytes(CPU, 1) == 31 * GB


def test_a_job_is_limited_by_every_group_above_it(machine):
    machine("0::/slurm/job_7/step\n", slurm__job_7__memory_DOT_max=10 * GB, slurm__job_7__memory_DOT_current=4 * GB,
            slurm__memory_DOT_max=100 * GB, slurm__memory_DOT_current=GB)
    assert free_bytes(CPU, 2) == 3 * GB


@pytest.mark.parametrize("place", ["/", "/docker/of-the-host"])
def test_control_groups_of_the_first_version(machine, place):
    machine(f"5:cpu,cpuacct:/\n4:memory:{place}\n0::/\n", memory__memory_DOT_limit_in_bytes=8 * GB,
            memory__memory_DOT_usage_in_bytes=6 * GB, memory__memory_DOT_stat=f"cache 3\ntotal_inactive_file {GB}\n")
    assert free_bytes(CPU, 1) == 3 * GB


def test_where_nothing_says_there_is_no_limit(machine, tmp_path):
    machine("")
    (tmp_path / "meminfo").unlink()
    assert free_bytes(CPU, 1) == float("inf")
