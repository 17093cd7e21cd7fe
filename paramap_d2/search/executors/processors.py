"""How many processors this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def processors() -> int:
    """Those that it may run on, or fewer where a container's quota of their time comes to less (at least 1)."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(there, quota())))


def quota(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float:
    """Processors' worth of time that the control groups of this process allow; infinite without a limit.

    Of version 2, the least of the process's own group and those above it; of version 1, its own or the root of what a
    container sees.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return math.inf
    least = math.inf
    for _, controllers, path in (line for line in lines if len(line) == 3):
        inside = path.strip("/")
        if not controllers:
            group = root / inside
            while group == root or root in group.parents:
                least = min(least, _ratio(group / "cpu.max"))
                group = group.parent
        elif "cpu" in controllers.split(","):
            for group in (root / "cpu" / inside, root / "cpu"):
                least = min(least, _ratio(group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us"))
    return least


def _ratio(*files: Path) -> float:
    try:
        amount, period = " ".join(file.read_text() for file in files).split()
        return int(amount) / int(period) if int(amount) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return math.inf
