"""How much memory a piece of work took at its peak, told by Linux."""

from __future__ import annotations

import contextlib
import ctypes
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Measured(Generic[Result]):
    """What a call gave and took.

    Args:
        result: of the call.
        seconds: of the clock.
        peak_gb: the process's largest resident memory during the call, all that it held before included, in units of
            2^30 bytes; NaN where the system does not tell.
    """

    result: Result
    seconds: float
    peak_gb: float


def measured(call: Callable[[], Result]) -> Measured[Result]:
    """Run a call without arguments, with clock and memory watched."""
    watched = _restart_peak()
    started = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - started
    return Measured(result, seconds, _peak_gb() if watched else math.nan)


def _restart_peak() -> bool:
    """Forget earlier peaks; False where that cannot be done.

    Memory that was freed goes back to the system first, or the call before would be counted.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library, which counts a little too much
        ctypes.CDLL(None).malloc_trim(0)
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # of proc(5): sets the peak to what is resident now
    except OSError:
        return False
    return True


def _peak_gb() -> float:
    with open("/proc/self/status") as file:
        sizes = dict(line.split(":", 1) for line in file)
    return int(sizes["VmHWM"].split()[0]) / 2**20 if "VmHWM" in sizes else math.nan
