"""What a killed run needs to go on: one file, complete or not there, and whose it is.

The file holds tensors (model, optimiser, best weights, dev logits) and, in its header, JSON (epoch, history) and a
checksum. No random state is kept: order and dropout are drawn anew for each epoch from (seed, epoch).
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from labelreg import whole
from labelreg.errors import DivergedError, UserError
from labelreg.output import words_of
from labelreg.whole import checksum

FILE, OWNER, INTENT, LOCK, EPOCH = "checkpoint.safetensors", "run_id", "intent", "lock", "epoch"


@dataclass(frozen=True)
class Claim:
    """A folder of checkpoints that this process owns; without a folder nothing is kept.

    The file `run_id` names the run whose the checkpoint is, and below it those that their store did not know when
    another was begun here: what they had done lies beside, and is theirs again where a store knows them.
    """

    folder: Path | None

    @property
    def run_ids(self) -> list[str]:
        """The runs that were interrupted here: the one whose checkpoint is in place, then those put aside."""
        return re.findall(r"^[0-9a-f]{32}$", self._read(OWNER), re.MULTILINE)

    @property
    def intended(self) -> str | None:
        """What a run that was about to be made here is known by: its maker was killed before it noted the id."""
        return self._read(INTENT) or None

    def intend(self) -> str | None:
        """A name for the run that is about to be made, on disk before it is."""
        if self.folder is None:
            return None
        if not self.intended:
            self._write(INTENT, uuid.uuid4().hex)
        return self.intended

    def start(self, run_id: str) -> None:
        """From here on the folder is this run's; what others left is put aside, and what it left is put in place."""
        if self.folder is None:
            return
        held, file = self.run_ids, self.folder / FILE
        # files first, the note of whose they are last; a move that was made before a kill is not made again
        if held and held[0] != run_id and file.exists() and not self._aside(held[0]).exists():
            os.replace(file, self._aside(held[0]))
        if self._aside(run_id).exists():
            os.replace(self._aside(run_id), file)
        if held[:1] != [run_id]:
            self._write(OWNER, "\n".join([run_id, *(other for other in held if other != run_id)]))
        (self.folder / INTENT).unlink(missing_ok=True)

    def drop(self, run_id: str) -> None:
        """Nobody goes on with this run: it is finished, or another is wanted."""
        held = self.run_ids
        if self.folder is None or run_id not in held:
            return
        (self.folder / FILE if held[0] == run_id else self._aside(run_id)).unlink(missing_ok=True)
        self._write(OWNER, "\n".join(other for other in held if other != run_id))  # `start` puts its file in place

    def note(self, epoch: str) -> None:
        """How far the run is, for whoever looks on; a cosmetic matter."""
        if self.folder is not None and self.folder.is_dir():  # else it was removed, and stays so
            with contextlib.suppress(OSError):
                self._write(EPOCH, epoch)

    def forget(self) -> None:
        """The run needs no checkpoint any more."""
        for run_id in self.run_ids[:1]:
            self.drop(run_id)
        if self.folder is not None and not self.run_ids:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _aside(self, run_id: str) -> Path:
        assert self.folder is not None  # whoever asks has looked
        return self.folder / f"{run_id}.safetensors"

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8") if self.folder else ""
        except (FileNotFoundError, UnicodeDecodeError):
            return ""

    def _write(self, name: str, text: str) -> None:
        assert self.folder is not None
        with whole.file(self.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


@contextmanager
def claim(folder: Path, wait: bool = False) -> Iterator[Claim]:
    """Own `folder` while the run lives; one that is alive in another process is never taken over.

    With `wait` that process is waited for; without, the claim has no folder. What a diverged loss leaves behind is
    removed: going on would end there again. A mistake removes nothing. The lock is the kernel's (flock): it ends
    with its process, however that ends. Machines that share the folder need a file system whose flock reaches all
    of them, such as NFS 4, which frees a lost machine's locks after its lease.

    Raises:
        UserError: the file system has no locks.
    """
    with _locked(folder, wait) as mine:
        if not mine:
            yield Claim(None)
            return
        try:
            yield Claim(folder)
        except DivergedError:
            Claim(folder).forget()
            raise


@contextmanager
def _locked(folder: Path, wait: bool) -> Iterator[bool]:
    """Whether this process has the folder's lock. Not filelock's: where a file system has no flock, that takes a file
    for a lock, which stays behind when its process is killed, and the run would never go on."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = (folder / LOCK).open("w")
        except FileNotFoundError:  # its owner has just removed the folder
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, SIGKILL too
            except BlockingIOError:
                if not wait:
                    yield False
                    return
                print("another process trains this run: waiting for it", flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                raise UserError(f"cache_root: the file system of {folder} has no locks ({error.strerror})") from None
            # its owner may have removed the folder while this process waited: then a file without a name is locked,
            # and another process locks the new one of that name
            if not _in_place(lock, folder / LOCK):
                continue
            yield True
            return


def _in_place(lock: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


def save(folder: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write a checkpoint; the previous one stays until the new one is complete on disk.

    Where the folder was removed, none is written, and that is said: the run would not be found by it.
    """
    if not folder.is_dir():
        print(f"{folder}: removed while the run was going on, which now keeps no checkpoints", flush=True)
        return
    temporary = folder / f"{FILE}.tmp"  # one name, not whole.file's: what a kill leaves is written over, not kept
    tensors, text = _apart({name: value.contiguous().cpu() for name, value in tensors.items()}), json.dumps(record)
    try:
        about = {"record": text, "checksum": checksum(tensors, text), "place": folder.name}
        save_file(tensors, temporary, about)
        whole.settle(temporary)  # on the disk before it has its name: else a crash leaves the name and no content
        os.replace(temporary, folder / FILE)
    except SafetensorError as error:  # its text alone says which error of the system it was
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(temporary)) from error
    finally:
        temporary.unlink(missing_ok=True)
    whole.sync(folder)  # the name, too


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each with memory of its own, which safetensors asks for: T5 has one table of tokens under three names."""
    found: dict[str, Tensor] = {}
    seen = set[int]()
    for name, value in tensors.items():
        found[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return found


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and the record of the last complete checkpoint, or None without one; a wrong one is said."""
    try:
        with safe_open(folder / FILE, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, the file is no mapping
        record = json.loads(about["record"])
        if about.get("checksum", "") not in ("", checksum(tensors, about["record"])):  # earlier ones have none
            raise ValueError("its checksum is another")
        if about.get("place", folder.name) != folder.name:  # the folder's name is the run's fingerprint
            raise ValueError(f"it is that of another run, {about['place']}")
    except FileNotFoundError:
        return None
    except (SafetensorError, ValueError, KeyError) as error:
        why = words_of(error)
        print(f"{folder / FILE} is damaged ({why}): the run begins again at its first epoch", flush=True)
        return None
    return tensors, record
