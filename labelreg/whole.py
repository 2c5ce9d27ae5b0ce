"""Files and folders that are there whole or not at all, with the rights that the umask gives; and their digests."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

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
        settle(temporary)  # content before name: a crash after the rename must not leave an empty file of this name
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
        except OSError:  # a folder that is not empty cannot be replaced in one step
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


def digest(text: str) -> str:
    """32 hex digits of a text's sha256: what names a run, its data, a folder of the cache."""
    return digest_of([text])


def digest_of(parts: Iterable[str]) -> str:
    """`digest` of a text whose parts are never held together."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part.encode())
    return hashed.hexdigest()[:32]


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex; read once per process as long as the file stays as it is."""
    facts = path.stat()
    return _file_digest(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=1024)
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(tensors: Mapping[str, "Tensor"], text: str = "") -> str:
    """sha256 of tensors (names, types, shapes, bytes) and a text, in hex: what a file of both is checked by."""
    import torch  # whoever writes files of text needs none

    hashed = hashlib.sha256(text.encode())
    for name, value in sorted(tensors.items()):
        hashed.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        hashed.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()
