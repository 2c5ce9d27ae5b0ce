"""What a killed run needs to go on: one file, complete or not there, and whose it is.

The file holds tensors (model, optimiser, best weights, dev logits) and, in its header, JSON (epoch, history).
No random state is kept: order and dropout are drawn anew for each epoch from (seed, epoch).
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from labelreg.errors import DivergedError, UserError

FILE, OWNER, LOCK, EPOCH = "checkpoint.safetensors", "run_id", "lock", "epoch"


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

    def note(self, epoch: str) -> None:
        """How far the run is, for whoever looks on."""
        if self.folder is not None:
            with contextlib.suppress(OSError):  # nothing that the run needs
                (self.folder / EPOCH).write_text(epoch, encoding="utf-8")

    def forget(self) -> None:
        """The run needs no checkpoint any more."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def claim(folder: Path, wait: bool = False) -> Iterator[Claim]:
    """Own `folder` while the run lives; one that is alive in another process is never taken over.

    With `wait` that process is waited for; without, the claim has no folder. What a mistake or a diverged loss
    leaves behind is removed: going on would end there again. The lock is the kernel's (flock): it ends with its
    process, however that ends. Machines that share the folder need a file system whose flock reaches all of
    them, such as NFS 4, which frees a lost machine's locks after its lease.

    Raises:
        UserError: the file system has no locks.
    """
    with _locked(folder, wait) as mine:
        if not mine:
            yield Claim(None)
            return
        try:
            yield Claim(folder)
        except (UserError, DivergedError):
            Claim(folder).forget()
            raise


@contextmanager
def _locked(folder: Path, wait: bool) -> Iterator[bool]:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = (folder / LOCK).open("w")
        except FileNotFoundError:  # its owner has just removed the folder
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    yield False
                    return
                print("another process trains this run: waiting for it", flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                raise UserError(f"cache_root: the file system of {folder} has no locks ({error.strerror})") from None
            if not _in_place(lock, folder / LOCK):  # locked is a file that its owner removed meanwhile
                continue
            yield True
            return


def _in_place(lock: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


def save(folder: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write a checkpoint; the previous one stays until the new one is complete on disk."""
    folder.mkdir(parents=True, exist_ok=True)  # somebody may have emptied the cache meanwhile
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
