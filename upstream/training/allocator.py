"""Memory of the C library, kept from update to update.

glibc takes a large block from the system and gives it back when it is freed. An update of BASE allocates gigabytes so,
and every page of them is a fault again and zeroed again, which on a busy virtual machine takes a good part of the time.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h


def keep_memory() -> bool:
    """Let this process keep what it frees for its next allocations, until it ends; false where that can't be said.

    What training needs at its peak it then holds all the time. Does nothing to memory of GPUs.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
