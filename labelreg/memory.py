"""The most memory that a run has held. A worker does one run after another, so the count is set back before each."""

import contextlib
import re
import resource
from pathlib import Path

import torch

SELF = Path("/proc/self")  # Linux


def forget_peak() -> None:
    """Let `peak_mb` begin anew; where the system cannot, the peak is the process's."""
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
