"""Files of weights: their digests, and safetensors made of what exists only as a pickle."""

import hashlib
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch

from labelreg.errors import UserError


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex; read once per process as long as the file stays as it is."""
    facts = path.stat()
    return _file_digest(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=1024)
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def converted(name: str, binary: Path, cache: Path, write: bool = True) -> Path:
    """The folder in `cache` whose model.safetensors holds the tensors of `binary` (.bin, .pth).

    The file is read once, weights_only, and its digest is recorded: in the folder's name, in the header
    (`source_sha256`), and in a line that says so.

    Raises:
        UserError: damaged, or more than weights; or not converted yet, without `write`.
    """
    from safetensors.torch import save_file

    digest = file_digest(binary)
    target = cache / "converted" / digest[:32]
    if not (target / "model.safetensors").is_file():
        if not write:
            raise UserError(f"model {name}: {binary} is not converted yet")
        print(f"model {name}: converting {binary.name} (sha256 {digest}) to safetensors in {target}", flush=True)
        try:
            found = torch.load(binary, map_location="cpu", weights_only=True)
            tensors = {key: value.clone().contiguous() for key, value in found.items() if torch.is_tensor(value)}
        except Exception as error:  # damaged, or more than weights: torch raises a dozen types
            raise UserError(
                f"model {name}: {binary} is not a plain checkpoint ({' '.join(str(error).split())[:100]})"
            ) from None
        target.mkdir(parents=True, exist_ok=True)
        save_file(tensors, target / "model.tmp", metadata={"format": "pt", "source_sha256": digest})
        os.replace(target / "model.tmp", target / "model.safetensors")
    return target


def checksum(tensors: Mapping[str, torch.Tensor], text: str = "") -> str:
    """sha256 of tensors (names, types, shapes, bytes) and a text, in hex: what a file of both is checked by."""
    found = hashlib.sha256(text.encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
