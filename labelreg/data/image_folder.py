"""A folder of images as the user keeps it: which files are images of which class and split, and what is left out."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from labelreg.data import files, image_files
from labelreg.data.image_files import said
from labelreg.errors import UserError
from labelreg.whole import digest, file_digest

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "dev": ("dev", "val", "validation", "valid"),
    "test": ("test", "testing"),
}
HIDDEN = ("__MACOSX", "@eaDir")  # copies of an archiver, thumbnails of a disk station; others begin with a dot
NO_SPLITS = {"train": Path()}
WAY_OUT = "lay it out as train/CLASS/*.png and perhaps dev/CLASS/*.png and test/CLASS/*.png"


@dataclass(frozen=True)
class Found:
    """The images of each split with their classes, in order of their paths, and a line for all that was left out."""

    root: Path
    splits: dict[str, list[tuple[Path, str]]]
    remarks: tuple[str, ...]

    def digest(self) -> str:
        """Of exactly the files that are read, their classes and splits, and the remarks."""
        read = [
            (split, label, str(path.relative_to(self.root)), _digest(path))
            for split, images in self.splits.items()
            for path, label in images
        ]
        return digest(repr((read, self.remarks)))  # escapes what is no UTF-8


def check(root: Path, name: str) -> None:
    """Raises UserError, as `find`, for a folder without an image, such as one of tables; another costs no time."""
    endings = image_files.readable()[1]
    if not any(path.suffix.lower() in endings and not _hidden(path.name) for path in _walk(root)):
        find(root, name)


def digest_below(root: Path) -> str:
    """Of the names and contents of all files below a folder that are not hidden; links are followed."""
    paths = sorted(path for path in _walk(root) if not _hidden(path.name))
    return digest(" ".join(f"{path.relative_to(root)} {_digest(path)}" for path in paths))


def find(root: Path, name: str) -> Found:
    """train/CLASS/*.png, and perhaps dev and test, or CLASS/*.png to be split; folders below a class belong to it.

    Raises:
        UserError: no images (tables, perhaps), a layout that can be read in two ways, a class whose name cannot be
            printed, a link that leads back, a folder that cannot be read.
    """
    images, hidden, other = _sorted_out(root)
    if tables := [path for path in other if path.suffix.lower() in files.ENDINGS and not images]:
        raise UserError(f"train_file={said(root)}: {_way_to(root, tables)}")
    splits, remarks = _split_folders(images, root, name)
    chosen, used = {}, set()
    for split, top in splits.items():
        depth = len(top.parts)
        own = [path for path in images if path.parts[:depth] == top.parts and len(path.parts) > depth + 1]
        if not own:
            ignored = f"; its files are none that Pillow reads as images ({_endings(other)})" if other else ""
            raise UserError(f"task {name}: {said(root / top)} has no images in folders of their class (CLASS/*.png)"
                            f"{ignored}; {WAY_OUT}")  # fmt: skip
        used.update(own)
        remarks += _count(
            [path for path in own if len(path.parts) > depth + 2],
            "in a folder below that of the class: read, as of that class",
        )
        chosen[split] = [(root / path, _class(path.parts[depth], root / top, name)) for path in own]
    remarks += _count([path for path in images if path not in used], "in no folder of a class: ignored")
    remarks += _count(hidden, "hidden or made by the system: ignored", "name")
    remarks += _count(other, f"not read as an image ({_endings(other)}): ignored", "file")
    return Found(root, chosen, tuple(remarks + _missing(chosen, splits, root)))


def _sorted_out(root: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Paths below the root: images by their endings, what is hidden, and other files."""
    endings = image_files.readable()[1]
    images: list[Path] = []
    hidden: list[Path] = []
    other: list[Path] = []
    for path in sorted(_walk(root)):
        kind = hidden if _hidden(path.name) else images if path.suffix.lower() in endings else other
        kind.append(path.relative_to(root))
    return images, hidden, other


def _walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Files below a folder, and hidden folders as one each; links are followed."""
    here = os.path.realpath(folder)
    if here in above:
        raise UserError(f"{said(folder)}: this link leads back to a folder that it is in ({said(here)}); remove it")
    try:
        for entry in os.scandir(folder):
            path = folder / entry.name
            if not _hidden(entry.name) and entry.is_dir():
                yield from _walk(path, (*above, here))
            else:
                yield path
    except OSError as error:
        raise UserError(f"{said(error.filename or folder)}: cannot be read ({error.strerror})") from None


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in HIDDEN


def _digest(path: Path) -> str:
    """sha256 of what is a file indeed: no pipe that would be waited for, no link to nothing."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{said(path)}: cannot be read (it is no file but a pipe or a device)")
        return file_digest(path)
    except OSError as error:
        why = "a link to nothing" if path.is_symlink() and isinstance(error, FileNotFoundError) else error.strerror
        raise UserError(f"{said(path)}: cannot be read ({why})") from None


def _split_folders(images: list[Path], root: Path, name: str) -> tuple[dict[str, Path], list[str]]:
    """The folder of each split below the root, decided by where the images stand; and how it was decided."""
    role = {
        entry.name: split
        for entry in os.scandir(root) if entry.is_dir()
        for split, names in SPLIT_FOLDERS.items() if entry.name.lower() in names
    }  # fmt: skip
    below: dict[str, set[str]] = {path.parts[0]: set() for path in images if len(path.parts) > 1}
    for path in images:
        if len(path.parts) > 2:
            below[path.parts[0]].add(path.parts[1])
    flat = {path.parts[0] for path in images if len(path.parts) == 2}
    others = sorted(set(below) - set(role))
    train = [top for top, split in role.items() if split == "train"]
    if not (train and below.get(train[0])):  # no split without classes to train on: an empty folder is none
        role = {top: split for top, split in role.items() if top in below}
        train = [top for top in train if top in role]
    if not role or train == list(role) and others and not below.get(train[0]):  # a class, or nothing, named train
        repeated = set.intersection(*below.values()) if len(below) > 1 else set()
        if repeated and not flat:
            why = f"each may be a class, or a split, as {said(min(repeated))} is in each"
            raise _two_ways(root, name, others[0], others[1:], why)
        return NO_SPLITS, [
            f"{said(root / top)}: taken for a class, as images stand in it" for top in train if top in flat
        ]
    twice = [split for split, count in Counter(role.values()).items() if count > 1]
    if twice:
        names = " and ".join(said(top) for top in sorted(role) if role[top] == twice[0])
        raise UserError(f"task {name}: {said(root)} has {names}: two folders for {twice[0]}; leave one")
    if others:
        classes = below.get(train[0], set()) if train else set()
        shared = any(classes & below.get(top, set()) for top in role if [top] != train)
        if not shared or train[0] in flat:
            raise _two_ways(root, name, min(role), others, "it may be a split, or a class")
    folders = {split: Path(top) for top, split in role.items()}
    return {split: folders.get(split, Path(split)) for split in SPLIT_FOLDERS if split in {"train", *folders}}, []


def _way_to(root: Path, tables: list[Path]) -> str:
    """What to give in the place of a folder that holds tables and no image, by the names that splits have."""
    of = {split: [path for path in tables if path.stem.lower() in names] for split, names in SPLIT_FOLDERS.items()}
    ways = [f"{split}_file={said(root / paths[0])}" for split, paths in of.items() if paths and of["train"]]
    listed = ", ".join(said(path) for path in tables[:3]) + ", ..." * (len(tables) > 3)
    way = " ".join(ways) or f"train_file={said(root)}/FILE"
    return f"a folder without an image, and with tables ({listed}): give {way}"


def _two_ways(root: Path, name: str, top: str, others: list[str], why: str) -> UserError:
    listed = ", ".join(map(said, others[:3])) + ", ..." * (len(others) > 3)
    return UserError(f"task {name}: {said(root)} can be read in two ways: {said(top)} stands beside {listed}; "
                     f"{why}; {WAY_OUT}")  # fmt: skip


def _class(folder: str, top: Path, name: str) -> str:
    if said(folder) != folder.strip():
        raise UserError(
            f"task {name}: {said(top)} has a class folder '{said(folder)}': rename it, without control characters, "
            "bytes that are not UTF-8, and spaces at its ends"
        )
    return folder


def _missing(chosen: dict[str, list[tuple[Path, str]]], splits: dict[str, Path], root: Path) -> list[str]:
    """Folders of classes without an image, and classes that a split lacks."""
    lines = []
    for split, top in splits.items():
        present = {label for _, label in chosen[split]}
        folders = {entry.name for entry in os.scandir(root / top) if entry.is_dir() and not _hidden(entry.name)}
        lines += _count(
            sorted(folders - present), f"of {said(root / top)} without an image that is read: no class", "folder"
        )
        lacking = sorted({label for _, label in chosen["train"]} - present)
        lines += _count(lacking, f"of train without an image in {said(root / top)}", "class")
    return lines


def _count(names: Sequence[object], what: str, of: str = "image") -> list[str]:
    """`3 images in no folder of a class: ignored (a.png, b.png, ...)`, or nothing."""
    several = of if len(names) == 1 else f"{of}es" if of.endswith("s") else f"{of}s"
    listed = ", ".join(said(name) for name in names[:3]) + ", ..." * (len(names) > 3)
    return [f"{len(names)} {several} {what} ({listed})"] if names else []


def _endings(paths: list[Path]) -> str:
    counts = Counter(said(path.suffix.lower()) or "no ending" for path in paths)
    return ", ".join(f"{ending} {count}" for ending, count in counts.most_common(4))
