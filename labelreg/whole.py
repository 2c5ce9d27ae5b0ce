"""Files and folders that are there whole or not at all, and with the rights that the umask gives."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UMASK = os.umask(0)  # it can be read only by setting it; nobody else runs yet
os.umask(UMASK)


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that becomes it at the end: complete and on disk, or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix="tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        settle(temporary)
        os.replace(temporary, target)
        sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes it at the end: complete and on disk, or not at all.

    A folder that is there already, of another process that was faster, stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix="tmp"))
    try:
        yield temporary
        settle(temporary)
        try:
            os.replace(temporary, target)
        except OSError:
            if not target.is_dir():
                raise
        sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def settle(path: Path) -> None:
    """Bring a file, or a folder with all that is in it, to the disk, with the rights that the umask gives.

    Libraries write files of weights, and Python makes temporary ones, for their owner alone.
    """
    for each in [*(path.rglob("*") if path.is_dir() else ()), path]:
        if not each.is_symlink():
            each.chmod((0o777 if each.is_dir() else 0o666) & ~UMASK)
            sync(each)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
