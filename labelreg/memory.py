"""The most memory that a run has held, and what becomes of that which it frees.

A worker does one run after another, so the count is set back before each.
"""

import contextlib
import ctypes
import os
import re
import resource
from pathlib import Path

import torch

SELF = Path("/proc/self")  # Linux
LIBC = ctypes.CDLL(None)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
ASKED = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")  # how a user decides it


def keep_freed() -> None:
    """Keep what a training step frees for the next one.

    glibc gives it back to the system, which clears each page before a step has it again: with minilm-3l and batches
    of 8 that was 3,400 page faults and about a tenth of a step's time (Python 3.11). Where there is
    no glibc, nothing is changed.
    """
    if hasattr(LIBC, "mallopt") and not any(name in os.environ for name in ASKED):
        LIBC.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes; a larger tensor is still given back
        LIBC.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def forget_peak() -> None:
    """Let `peak_mb` begin anew; where the system cannot, the peak is the process's."""
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)  # what the run before has freed is not this one's
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        (SELF / "clear_refs").write_text("5")  # sets the high-water mark of what is resident to what is resident now


def peak_mb() -> float:
    """The most memory since `forget_peak`, in MB: of a GPU what was allocated, else what was resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    with contextlib.suppress(OSError):
        if marked := re.search(r"VmHWM:\s*(\d+) kB", (SELF / "status").read_text()):
            return int(marked[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
