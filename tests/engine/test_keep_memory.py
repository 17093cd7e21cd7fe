"""The allocator's setting, by what it changes: how often the system has to find pages for memory that was freed."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from paramap_d2.engine.cpu_speed import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def use():
    return len(b"x" * 2**26)

for _ in range(10):  # by then the heap has settled
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode):
    process = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(process.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has the setting")
def test_freed_memory_is_used_again():
    kept, given_back = page_faults("keep"), page_faults("give back")
    assert kept * 5 < given_back


def test_another_platform_is_left_alone(monkeypatch):
    from paramap_d2.engine import cpu_speed as memory

    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False
