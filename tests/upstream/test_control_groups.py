"""What containers and schedulers' jobs give a process of the machine's cores."""

import pytest

from upstream import control_groups
from upstream.control_groups import available_cores


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Writes what the system says of this process's groups; the machine has 64 cores."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(64))
    monkeypatch.setattr(control_groups, "OWN", tmp_path / "own")
    monkeypatch.setattr(control_groups, "TOP", tmp_path / "groups")

    def write(own, files):
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return write


@pytest.mark.parametrize(("own", "files", "cores"), [
    ("", {}, 64),
    ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
    ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
    ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
    ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
    ("0::/pod/box\n", {"pod/box/cpu.max": "max 100000\n", "pod/cpu.max": "800000 100000\n"}, 8),
    ("5:cpu,cpuacct:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ("5:cpu,cpuacct:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
])
def test_a_container_has_the_cores_that_it_is_given(groups, own, files, cores):
    """`docker run --cpus=4` on 64 cores changes no affinity: decoding started 64 processes."""
    groups(own, files)
    assert available_cores() == cores
