"""What a file, or tensors, hold, as a sha256."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex; read once per process as long as the file stays as it is."""
    facts = path.stat()
    return _file_digest(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=1024)
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(tensors: Mapping[str, torch.Tensor], text: str = "") -> str:
    """sha256 of tensors (names, types, shapes, bytes) and a text, in hex: what a file of both is checked by."""
    found = hashlib.sha256(text.encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
