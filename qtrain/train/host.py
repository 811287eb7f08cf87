"""Settings of the host process that make CPU runs faster; scripts call them first."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # from glibc's malloc.h


def keep_freed_pages() -> bool:
    """Lets glibc's allocator reuse freed memory instead of returning it to the system.

    XLA allocates every result anew; with the default settings each large one costs a page
    fault per 4 KiB, which made our rounding and convolution kernels 1.5 to 5 times slower.
    Returns False where the C library has no `mallopt`.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 1 << 28}
    done = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(done)
