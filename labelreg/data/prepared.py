"""Prepared examples: kept on disk whole, checked whenever they are read, made anew where they are damaged."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from labelreg import whole
from labelreg.data.batching import REST, UNLABELLED, Split
from labelreg.errors import UserError
from labelreg.output import one_line, words_of
from labelreg.whole import digest, file_digest

META = "meta.json"
NAMED = 10  # classes that are named with their counts; of more, the least and the most frequent
NAME_LENGTH = 40  # characters of a class's name that are shown

Made = tuple[dict, Iterable[tuple[str, str, dict[str, torch.Tensor]]]]  # facts; name, fingerprint, tensors of a split


@dataclass(frozen=True)
class PreparedTask:
    """All splits of a task, ready for training; `digest` is of all examples of all splits but `rest`.

    `remarks` are lines of what a reader of the scores should know of the examples. `groups`: the names of what they
    belong to, by number. `columns`: where the source has what a model reads, by its own names.
    """

    task: str
    metric: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    digest: str
    glue: dict[str, str]
    remarks: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    columns: tuple[str, ...] = ("image",)

    @property
    def rest(self) -> str | None:
        """The fingerprint of the split that max_train_examples leaves unused, where it is a test set."""
        return self.splits[REST].fingerprint if REST in self.splits else None


def lines(data: PreparedTask) -> list[str]:
    """What was read, for people: rows and classes of each split in one line, then the remarks."""
    unit = "images" if data.splits["train"].unit == "images" else "rows"
    names = [shown(name) for name in data.classes]
    parts = [f"{split} {len(each)} {unit} ({_counts(each.labels, names)})" for split, each in data.splits.items()]
    return [f"data {data.task}: {'; '.join(parts)}", *(f"data {data.task}: {remark}" for remark in data.remarks)]


def tell(lines: Iterable[str], said: set[str] | None = None) -> None:
    """Print those of the lines that have not been `said` yet."""
    said = set() if said is None else said
    if new := [line for line in lines if line not in said]:
        print("\n".join(new), flush=True)
    said.update(new)


def _counts(labels: torch.Tensor, names: list[str]) -> str:
    """How many examples each class has, or where there are many classes, the rarest and the most frequent."""
    known = labels[labels != UNLABELLED]
    if not len(known):
        return "no labels"
    counts = torch.bincount(known, minlength=len(names)).tolist()
    low, high = min(counts), max(counts)
    if len(names) <= NAMED:
        told = [f"{name} {count}" for name, count in zip(names, counts, strict=True)]
    elif low == high:
        told = [f"{len(names)} classes of {low}"]
    else:
        rarest, largest = names[counts.index(low)], names[counts.index(high)]
        told = [f"{len(names)} classes, from {low} ({rarest}) to {high} ({largest})"]
    without = [f"without a label {len(labels) - len(known)}"] if len(known) < len(labels) else []
    return ", ".join(told + without)


def shown(name: object) -> str:
    """A name or a value of the data, as a line can show it."""
    return one_line(str(name), NAME_LENGTH)


def kept(folder: Path, make: Callable[[], Made]) -> tuple[dict, dict[str, dict[str, torch.Tensor]]]:
    """The facts and the tensors (by split) that `folder` keeps; made first where it keeps none that are intact.

    Raises:
        UserError: what is there may not be read.
    """
    if os.path.lexists(folder):
        try:
            return _read(folder)
        except _Damaged as damage:
            print(f"prepared data is damaged ({damage}): preparing it anew", flush=True)
    facts, splits = make()  # splits may be a generator: of images, one split at a time is enough to hold twice
    with whole.folder(folder, META) as temporary:
        fingerprints, files, sizes, labelled = {}, {}, {}, []
        for split, fingerprint, tensors in splits:
            path = temporary / f"{split}.safetensors"
            save_file(tensors, path)
            fingerprints[split], files[split] = fingerprint, file_digest(path)
            labelled += [split] if (tensors["labels"] != UNLABELLED).all() else []
            sizes[split] = [len(tensors["labels"]), len(tensors["ids" if "ids" in tensors else "labels"])]
        decisive = {split: each for split, each in fingerprints.items() if split != REST}  # no run trains on the rest
        facts |= {"fingerprints": fingerprints, "digest": digest(json.dumps(decisive, sort_keys=True))}
        facts |= {"files": files, "sizes": sizes, "labelled": labelled}
        content = json.dumps(facts | {"checksum": _checksum(facts)})
        (temporary / META).write_text(content, encoding="utf-8")
    try:  # what is trained on is what is on the disk, whoever wrote it first
        return _read(folder)
    except _Damaged as damage:
        raise UserError(f"what was just written is damaged ({damage}); give another cache_root") from None


class _Damaged(ValueError):
    """Prepared data is not what was written: the file, and what is wrong with it."""


def known(folder: Path) -> dict | None:
    """What is known of prepared data without its tensors, or None where it is missing or damaged.

    `sizes` are examples and units (tokens, images) of each split, `labelled` the splits whose labels are all known (not
    of what was prepared before there was that).
    """
    try:
        return _facts(folder)
    except (_Damaged, UserError):
        return None


def _facts(folder: Path) -> dict:
    path = folder / META
    with _reading(path):
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts.pop("checksum") != _checksum(facts):
            raise _Damaged(f"{path}: the checksum differs")
        return facts


def _read(folder: Path) -> tuple[dict, dict[str, dict[str, torch.Tensor]]]:
    facts, splits = _facts(folder), {}
    for split, checksum in facts["files"].items():
        path = folder / f"{split}.safetensors"
        with _reading(path):
            content = path.read_bytes()  # a mapped file would follow what happens to it later, and end the process
            if hashlib.sha256(content).hexdigest() != checksum:
                raise _Damaged(f"{path}: the checksum differs")
            splits[split] = load(content)
    return facts, splits


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise UserError(f"{path}: {error.strerror}; it may be another user's: give another cache_root") from None
    except _Damaged:
        raise
    except OSError as error:  # missing, no file, or a disk that fails
        raise _Damaged(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, SafetensorError) as error:  # JSON, or none
        raise _Damaged(f"{path}: {words_of(error, 100)}") from None


def _checksum(facts: dict) -> str:
    return digest(json.dumps(facts, sort_keys=True))
