"""Files and folders that are there whole or not at all, and with the rights that the umask gives."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UMASK = os.umask(0)  # it can be read only by setting it; nobody else runs yet
os.umask(UMASK)
PREFIX = "tmp"  # of what a killed process leaves


def beside(target: Path) -> Path:
    """A temporary name in the target's folder, which is made; nobody can foresee it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.parent / f"{PREFIX}{secrets.token_hex(8)}"


@contextmanager
def file(target: Path) -> Iterator[Path]:
    """A temporary path that becomes the file `target` at the end: complete and on the disk, or not at all."""
    temporary = beside(target)
    try:
        yield temporary
        settle(temporary)
        os.replace(temporary, target)
        sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder(target: Path, last: str = "") -> Iterator[Path]:
    """A temporary folder that becomes `target` at the end: complete and on the disk, or not at all.

    Where there is a folder already, each of its files is replaced whole, the one named `last` after the others: it was
    damaged, or another process was first, with the same content. So processes that do this at once do no harm.
    """
    temporary = beside(target)
    temporary.mkdir()
    try:
        yield temporary
        settle(temporary)
        if os.path.lexists(target) and not target.is_dir():
            target.unlink()
        try:
            os.replace(temporary, target)
        except OSError:
            if not target.is_dir():
                raise
            for path in sorted(filter(Path.is_file, temporary.iterdir()), key=lambda path: path.name == last):
                if (target / path.name).is_dir() and not (target / path.name).is_symlink():
                    shutil.rmtree(target / path.name, ignore_errors=True)
                os.replace(path, target / path.name)
            sync(target)
        sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def settle(path: Path) -> None:
    """Bring a file, or a folder with all that is in it, to the disk, with the rights that the umask gives.

    Libraries write files of weights for their owner alone.
    """
    for each in [*(path.rglob("*") if path.is_dir() else ()), path]:
        give_rights(each)
        sync(each)


def give_rights(path: Path) -> None:
    """The rights that the umask gives to a new file or folder."""
    path.chmod((0o777 if path.is_dir() else 0o666) & ~UMASK)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
