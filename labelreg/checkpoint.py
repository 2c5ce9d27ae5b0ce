"""What a killed run needs to go on: one file, complete or not there, and whose it is.

The file holds tensors (model, optimiser, best weights, dev logits) and, in its header, JSON (epoch, history).
No random state is kept: order and dropout are drawn anew for each epoch from (seed, epoch).
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from labelreg.errors import DivergedError, UserError

FILE, OWNER, LOCK = "checkpoint.safetensors", "run_id", "lock"


@dataclass(frozen=True)
class Claim:
    """A folder of checkpoints that this process owns; without a folder nothing is kept."""

    folder: Path | None

    @property
    def run_id(self) -> str | None:
        """The run that was interrupted here."""
        owner = self.folder and self.folder / OWNER
        return owner.read_text(encoding="utf-8") if owner and owner.is_file() else None

    def start(self, run_id: str, anew: bool) -> None:
        """From here on the folder is this run's; `anew` forgets what an earlier one left."""
        if self.folder is None:
            return
        if anew:
            (self.folder / FILE).unlink(missing_ok=True)
        temporary = self.folder / f"{OWNER}.tmp"
        temporary.write_text(run_id, encoding="utf-8")
        os.replace(temporary, self.folder / OWNER)

    def forget(self) -> None:
        """The run needs no checkpoint any more."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def claim(folder: Path) -> Iterator[Claim]:
    """Own `folder` while the run lives; one that is alive in another process is never taken over.

    What a mistake or a diverged loss leaves behind is removed: going on would end there again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield Claim(None)
            return
        mine = Claim(folder)
        try:
            yield mine
        except (UserError, DivergedError):
            mine.forget()
            raise


def save(folder: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write a checkpoint; the previous one stays until the new one is complete on disk."""
    temporary = folder / f"{FILE}.tmp"
    save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, {"record": json.dumps(record)})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, folder / FILE)


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and the record of the last complete checkpoint, or None without one."""
    try:
        with safe_open(folder / FILE, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["record"])  # noqa: SIM118
    except (FileNotFoundError, SafetensorError):
        return None
