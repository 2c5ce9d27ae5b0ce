"""Files of weights: their digests, and safetensors made of what exists only as a pickle."""

import json
import shutil
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors.torch import save_file

from labelreg import whole
from labelreg.errors import UserError
from labelreg.output import words_of
from labelreg.whole import file_digest

LISTED = "files.sha256"  # of a converted checkpoint, as sha256sum writes it


def converted(name: str, binary: Path, cache: Path, write: bool = True, beside: Collection[Path] = ()) -> Path:
    """The folder in `cache` whose model.safetensors holds the tensors of `binary` (.bin, .pth), with copies of the
    files `beside` it.

    The binary file is read once, weights_only, and its digest is recorded: in the header (`source_sha256`), and in a
    line that says so. The folder is named after the digests of all files that it is made of, appears whole, and is
    made anew where a file in it is not what was written.

    Raises:
        UserError: damaged, or more than weights; or not converted yet, without `write`.
    """
    digest = file_digest(binary)
    made_of = [digest, *(f"{path.name} {file_digest(path)}" for path in sorted(beside))]
    target = cache / "converted" / whole.digest("\n".join(made_of))
    if _is_whole(target):
        return target
    if not write:
        raise UserError(f"model {name}: {binary} is not converted yet")
    again = "again, as the copy is damaged, " if target.is_dir() else ""
    print(f"model {name}: converting {binary.name} (sha256 {digest}) {again}to safetensors in {target}", flush=True)
    with whole.folder(target, last=LISTED) as folder:
        _convert(name, binary, folder / "model.safetensors", digest)
        for path in beside:
            shutil.copyfile(path, folder / path.name)
        lines = [f"{file_digest(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
        (folder / LISTED).write_text("".join(lines), encoding="utf-8")
    return target


def _convert(name: str, binary: Path, target: Path, digest: str) -> None:
    try:
        loaded = torch.load(binary, map_location="cpu", weights_only=True)
        tensors = {key: value.clone().contiguous() for key, value in loaded.items() if torch.is_tensor(value)}
    except Exception as error:  # damaged, or more than weights: torch raises a dozen types
        raise UserError(f"model {name}: {binary} is not a plain checkpoint ({words_of(error, 100)})") from None
    save_file(tensors, target, metadata={"format": "pt", "source_sha256": digest})
    _sort_header(target)


def _sort_header(path: Path) -> None:
    """The library writes the names of a header's facts in another order each time, and their digest is a fact of runs.

    The format: 8 bytes with the header's length, the header as JSON, which spaces may follow, and the tensors.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length))


def _is_whole(folder: Path) -> bool:
    """Whether all files that were written are there, as they were written."""
    try:
        listed = dict(line.split("  ", 1)[::-1] for line in (folder / LISTED).read_text(encoding="utf-8").splitlines())
        return all(file_digest(folder / name) == digest for name, digest in listed.items()) and bool(listed)
    except (OSError, ValueError):
        return False
