"""How this process's allocator treats memory that is freed."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGEST = 2**31 - 1  # what both take: an int, in bytes


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next allocation, instead of handing it back to the system.

    A training step on the CPU frees tensors of megabytes that the next step asks for again; each time the system
    would have to find and clear their pages anew. Results are the same. The process stays as large as it has once
    been, and does not shrink between a training and the next. For the life of the process.

    Returns:
        whether the C library took it; False, and nothing done, where it is not glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, _LARGEST) for name in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))
