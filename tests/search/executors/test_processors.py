import math
import os

import pytest

from paramap_d2.search.executors import processors as module
from paramap_d2.search.executors.processors import processors, quota


def files(folder, content):
    for name, text in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    "own, content, expected",
    [
        ("0::/", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "200000 100000\n"}, 0.5),
        ("0::/../elsewhere\n", {"cpu.max": "300000 100000\n"}, 3.0),  # as it may look in a container
        ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "250000\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, 2.5),
        ("4:cpu:/x\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ("0::/\n", {"cpu.max": "nonsense\n"}, math.inf),
        ("", {}, math.inf),
    ],
)
def test_quota(tmp_path, own, content, expected):
    files(tmp_path / "cgroup", content)
    files(tmp_path, {"own": own})
    assert quota(tmp_path / "cgroup", tmp_path / "own") == expected


def test_no_control_groups(tmp_path):
    assert quota(tmp_path, tmp_path / "none") == math.inf


@pytest.mark.parametrize("limit, expected", [(0.2, 1), (1.5, 2), (math.inf, None)])
def test_a_quota_counts_as_processors(monkeypatch, limit, expected):
    monkeypatch.setattr(module, "quota", lambda: limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert processors() == (expected or 64)
