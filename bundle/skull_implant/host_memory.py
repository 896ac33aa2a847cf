"""Memory of the host that is freed and taken again: in every step of training, in every stage of a case."""

from __future__ import annotations

import ctypes
import logging

logger = logging.getLogger(__name__)

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next array; where it cannot be told so, nothing changes.

    glibc gives arrays above 32 MB back to the kernel, which clears each page anew when the next step takes them: a
    third of a training step at 128 x 128 x 64 on a CPU, a seventh of a warm case, and more in a worker of dask,
    which sets MALLOC_TRIM_THRESHOLD_ to 64 KB. The memory of the largest step stays with the process.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        logger.debug("this C library gives freed memory back")
        return
    mallopt(MMAP_MAX, 0)
    mallopt(TRIM_THRESHOLD, -1)
