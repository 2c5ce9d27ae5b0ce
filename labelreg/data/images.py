"""Load -> split -> store: labelled images from an archive, the hub, a folder or scikit-learn, as uint8 tensors."""

import hashlib
import io
import json
import pickle
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from labelreg import places, whole
from labelreg.data import augment, image_files, image_folder
from labelreg.data.augment import Drawn
from labelreg.data.batching import REST, Split, generator
from labelreg.data.image_files import Pixels, said
from labelreg.data.labels import alike, labelled
from labelreg.data.prepared import Made, PreparedTask, kept
from labelreg.data.splits import check, divide, in_both, rest_may_be, sample, with_rest
from labelreg.data.tasks import TASKS, Task, own_path
from labelreg.errors import UserError
from labelreg.models import registry
from labelreg.output import words_of
from labelreg.settings import Files, Settings, of
from labelreg.whole import digest

FORMAT = 4  # raised when a change of this file alters what is prepared
CIFAR_SIDE = 32

Source = Path | image_folder.Found | None  # None: scikit-learn's


@dataclass(frozen=True, kw_only=True)
class Images(Split):
    """One split of images, kept as they are stored: augmented, normalised and resized batch by batch on the device.

    `pixels` [examples, 3, side, side] uint8; `mean`, `deviation` [3] of the source's whole training set, as fractions
    of 255. `size` is the side at which a model sees the images, `augment` one of settings.AUGMENTATIONS, `drawn` what
    an epoch drew for it.
    """

    pixels: Tensor
    mean: Tensor
    deviation: Tensor
    size: int
    augment: str
    drawn: Drawn | None = None
    unit: ClassVar[str] = "images"
    moved: ClassVar[tuple[str, ...]] = ("pixels", "labels", "mean", "deviation")

    @property
    def lengths(self) -> Tensor:
        """Every image counts one: batches are drawn from all of them."""
        return torch.ones(len(self), dtype=torch.int64)

    def of_epoch(self, seed: int, epoch: int) -> Self:
        """With this epoch's crops, flips and angles."""
        chance = generator(seed, epoch, "augmentation")
        drawn = augment.draw(len(self), self.augment, self.pixels.shape[-1], chance)
        return replace(self, drawn=drawn and drawn.to(self.pixels.device))

    def inputs(self, batch: Tensor, width: int) -> dict[str, Tensor]:
        """Normalised images [batch, 3, size, size], channels last; augmented where the epoch drew how."""
        images = self.pixels[batch]
        images = images.float() if self.drawn is None else augment.apply(images, self.drawn, batch)
        images = (images / 255 - self.mean[:, None, None]) / self.deviation[:, None, None]
        if images.shape[-1] != self.size:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return {"pixel_values": images.contiguous(memory_format=torch.channels_last)}


def prepare(settings: Settings, roots: places.Roots) -> PreparedTask:
    """The images of a run; read from the cache when nothing has changed.

    CIFAR is stored at 32 pixels and resized on the device; everything else is stored at `image_size`.

    Raises:
        UserError: anything wrong with the task, the files, the labels or the model, in one line.
    """
    name, size = settings.task, settings.image_size
    registry.weights_digest(settings.model, settings.init, roots)  # a missing file is said now
    task, source, cached = place(settings, roots)
    meta, tensors = kept(cached, lambda: _made(settings, source, task, name))
    common: dict[str, Any] = {"mean": torch.tensor(meta["mean"]), "deviation": torch.tensor(meta["deviation"])}
    common |= {"size": size, "augment": settings.augment}
    splits = {
        split: Images(**(common | own), fingerprint=meta["fingerprints"][split]) for split, own in tensors.items()
    }
    classes, remarks = tuple(meta["classes"]), tuple(meta["remarks"])
    data = PreparedTask(name, task.metric, classes, splits, meta["digest"], {}, remarks)
    batch = settings.batch_size
    if batch == 1 or len(data.splits["train"]) % batch == 1:
        raise UserError(
            f"batch_size={batch}: the last of {len(data.splits['train'])} images would be a batch "
            "of its own, which batch normalisation cannot be trained on; choose another (a teacher's is its recipe's, "
            "by a rule of role: teacher; for one run train_teacher takes another, then teacher_run_id)"
        )
    return data


def place(settings: Settings, roots: places.Roots) -> tuple[Task, Source, Path]:
    """The task, where its images come from (of one's own folder: which files), and the folder that keeps them.

    Raises:
        UserError: as `prepare`, before an image is read.
    """
    name, own = settings.task, settings.train_file
    task = Task("folder", "", split_by="split_seed", image="image") if own else TASKS[name]
    _refuse(settings, name)
    source: Source
    if own:
        source = image_folder.find(own_path(own), name)
    else:
        source = None if task.source == "embedded" else _source(task, name, roots)
    facts = json.dumps({key: getattr(settings, key) for key in ("max_train_examples", "split_seed")})
    side = _stored(task, settings.image_size)
    rest = f"rest={settings.rest}" if rest_may_be(settings, task) else ""
    key = digest(f"images {FORMAT} {name} {task} {side} {facts} {_files_digest(source)}{rest}")
    return task, source, roots.cache / "prepared" / key


def _stored(task: Task, size: int) -> int:
    """The side at which images are kept."""
    return CIFAR_SIDE if task.archive else size


def _refuse(settings: Settings, name: str) -> None:
    for key in of(Files):
        if key != "train_file" and getattr(settings, key):
            raise UserError(
                f"{key}={getattr(settings, key)}: task {name} is made of images; a folder has train/CLASS/*.png and "
                "perhaps dev/CLASS/*.png and test/CLASS/*.png"
            )


def _source(task: Task, name: str, roots: places.Roots) -> Path:
    """Where CIFAR is: torchvision's folder or .tar.gz under data_root, the hub's layout there, else downloaded."""
    archive = str(task.archive)
    packed = f"{archive.replace('-batches-py', '-python')}.tar.gz"
    if roots.data:
        for place in (roots.data / archive, roots.data / packed, roots.data / task.source):
            if place.exists():
                return place
    from torchvision import datasets

    target = roots.cache / "downloads" / name
    if not (target / packed).is_file():
        try:
            if not roots.download:
                raise FileNotFoundError(target / packed)
            with whole.folder(target) as fresh:
                {"cifar100": datasets.CIFAR100, "cifar10": datasets.CIFAR10}[name](str(fresh), download=True)
        except Exception as error:  # urllib's types, OSError, RuntimeError for a wrong digest
            raise UserError(
                f"task {name}: no {task.archive}, {packed} or {task.source} under "
                f"{roots.data or 'data_root (not given)'}, and torchvision's download failed ({type(error).__name__}); "
                "give data_root=FOLDER with one of them"
            ) from None
    return target / packed


def _files_digest(source: Source) -> str:
    """Of exactly the files that are read."""
    if source is None:
        return "embedded"
    if isinstance(source, image_folder.Found):
        return source.digest()
    return whole.file_digest(source) if source.is_file() else image_folder.digest_below(source)


def _load(
    source: Source, task: Task, name: str, size: int
) -> tuple[dict[str, pd.DataFrame], dict[str, Pixels], Task, tuple[str, ...]]:
    """Frames of label and idx by split, the pixels of each, the task with the names of its classes, and remarks."""
    remarks: tuple[str, ...] = ()
    if source is None:
        splits = _digits(size)
    elif isinstance(source, image_folder.Found):
        splits, remarks = _folder(source, name, size)
    else:
        read = _hub if source.as_posix().endswith(task.source) else _archive
        splits, classes = read(source, task, name)
        if len(classes) != task.count:
            raise UserError(f"task {name}: {source} has {len(classes)} classes; it must have {task.count}")
        task = replace(task, classes=classes)
    pixels, _ = splits["train"]
    if (pixels == pixels[0]).all():
        raise UserError(
            f"task {name}: all {len(pixels)} training images are the same at {size} pixels, so nothing can be learnt "
            "from them (what is transparent stands on white)"
        )
    frames = {
        split: pd.DataFrame({"label": labels, "idx": np.arange(len(labels))}) for split, (_, labels) in splits.items()
    }
    return frames, {split: pixels for split, (pixels, _) in splits.items()}, task, remarks


def _digits(size: int) -> dict[str, tuple[Pixels, list]]:
    """scikit-learn's UCI digits, 8 pixels wide with values 0..16, enlarged and the same in all three channels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    large = F.interpolate(grey, (size, size), mode="bilinear", antialias=True).round().clamp(0, 255).byte()
    return {"train": (large.expand(-1, 3, -1, -1).numpy(), digits.target.tolist())}


# CIFAR


class _Plain(pickle.Unpickler):
    """Reads arrays and plain values; whatever else a pickle asks for is refused."""

    def find_class(self, module: str, name: str) -> Any:
        reconstruct = np._core.multiarray._reconstruct  # type: ignore[attr-defined]  # numpy's own, what its pickles name
        allowed = {"_reconstruct": reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}
        if module.split(".")[0] == "numpy" and name in allowed:
            return allowed[name]
        if (module, name) == ("_codecs", "encode"):  # how Python 2's bytes are written
            return lambda text, encoding: text.encode(encoding)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _archive(path: Path, task: Task, name: str) -> tuple[dict[str, tuple[Pixels, list]], tuple[str, ...]]:
    """torchvision's archive, packed or not: pickled batches of [n, 3072] pixels, red, green, blue, row by row."""
    ten = task.count == 10
    files = {
        "train": [f"data_batch_{n}" for n in range(1, 6)] if ten else ["train"],
        "test": ["test_batch" if ten else "test"],
    }
    names, key = ("batches.meta", "label_names") if ten else ("meta", "fine_label_names")
    label = "labels" if ten else "fine_labels"
    with _opened(path, task, name) as read:
        classes = tuple(read(names)[key])
        splits = {}
        for split, parts in files.items():
            batches = [read(part) for part in parts]
            arrays = [np.asarray(batch["data"]) for batch in batches]
            labels = [int(each) for batch in batches for each in batch[label]]
            for part, array in zip(parts, arrays, strict=True):
                if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != 3 * CIFAR_SIDE**2:
                    raise UserError(
                        f"task {name}: {path}: {part} has data {array.dtype} {array.shape}, not uint8 (n, 3072)"
                    )
            pixels = np.concatenate(arrays).reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE)
            if len(pixels) != len(labels):
                raise UserError(f"task {name}: {path}: {split} has {len(pixels)} images and {len(labels)} labels")
            splits[split] = (pixels, labels)
    return splits, classes


@contextmanager
def _opened(path: Path, task: Task, name: str) -> Iterator[Callable[[str], dict]]:
    """Reads one pickled file of the archive after the other; whatever is wrong with it is one line."""
    file = ""

    def read(wanted: str) -> dict:
        nonlocal file
        file = wanted
        member = (path / file).open("rb") if packed is None else packed.extractfile(f"{task.archive}/{file}")
        if member is None:
            raise UserError(f"task {name}: {path}: {file} is no file")
        with member:
            return _Plain(io.BytesIO(member.read()), encoding="latin1").load()

    try:
        with tarfile.open(path) if path.is_file() else nullcontext() as packed:
            yield read
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"task {name}: {path}: {file} has no {error.args[0]!s}") from None
    except Exception as error:  # tarfile's types, zlib's, pickle's, and what a wrong type raises later
        what = words_of(error, 150)
        raise UserError(f"task {name}: {path}: {file or 'the archive'} cannot be read ({what})") from None


def _hub(folder: Path, task: Task, name: str) -> tuple[dict[str, tuple[Pixels, list]], tuple[str, ...]]:
    """The hub's data set: parquet files with PNG bytes."""
    import datasets  # 0.4 s, needed only when nothing is cached

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as fresh:  # the reader's own cache does not notice a changed file
        try:
            dataset = datasets.load_dataset(str(folder), cache_dir=fresh)
        except Exception as error:  # a damaged or partial copy: the reader's own words
            raise UserError(f"task {name}: {folder} cannot be read ({words_of(error)})") from None
        splits = {}
        for split, source in task.splits.items():
            if source not in dataset:
                raise UserError(f"task {name}: {folder} has no split {source!r}; it has {', '.join(dataset)}")
            rows = dataset[source]
            for column in (task.image, task.label):
                if column not in rows.column_names:
                    raise UserError(
                        f"task {name}: {folder} has no column {column!r}; it has {', '.join(rows.column_names)}"
                    )
            origin, labels = f"{folder} ({source})", list(rows[task.label])
            for row, label in enumerate(labels, 1):
                if not (isinstance(label, int) or isinstance(label, float) and label.is_integer()):
                    raise UserError(
                        f"task {name}: {origin}, row {row} has {label!r} in column {task.label!r}, "
                        "not the number of a class"
                    )
            try:
                files = list(rows.cast_column(task.image, datasets.Image(decode=False))[task.image])
            except Exception as error:  # Arrow's types and the library's own for a column of something else
                raise UserError(
                    f"task {name}: {origin}: column {task.image!r} has no images ({type(error).__name__})"
                ) from None
            pixels = [
                image_files.decoded(file and file["bytes"], f"{origin}, row {row}", name, CIFAR_SIDE)[0]
                for row, file in enumerate(files, 1)
            ]
            splits[split] = (np.stack(pixels), [int(label) for label in labels])
        label = dataset[task.splits["train"]].features[task.label]
    known = getattr(label, "names", None) or sorted({each for _, labels in splits.values() for each in labels})
    return splits, tuple(map(str, known))


# a folder of one's own


def _folder(found: image_folder.Found, name: str, size: int) -> tuple[dict[str, tuple[Pixels, list]], tuple[str, ...]]:
    """The images of a folder as `image_folder.find` lists them, and what is to be said about them."""
    result, notes = {}, []
    for split, files in found.splits.items():
        pixels = np.empty((len(files), 3, size, size), np.uint8)
        for row, (path, _) in enumerate(files):
            try:
                content = path.read_bytes()
            except OSError as error:
                raise UserError(f"task {name}: {said(path)} cannot be read ({error.strerror})") from None
            pixels[row], done = image_files.decoded(content, said(path), name, size)
            notes += [(said(path.relative_to(found.root)), note) for note in done]
        result[split] = (pixels, [label for _, label in files])
    return result, (*found.remarks, *image_files.counted(notes))


# the cache


def _made(settings: Settings, source: Source, task: Task, name: str) -> Made:
    """The facts of a task whose images are read, divided and checked now, and its splits one by one."""
    frames, arrays, task, remarks = _load(source, task, name, _stored(task, settings.image_size))
    frames, classes = labelled(frames, task, name)
    frames = divide(frames, classes, task, name, settings)
    images = {split: arrays.get(split, arrays["train"]) for split in (*frames, REST)}
    frames = {
        split: frame.assign(text=[hashlib.sha256(images[split][row].tobytes()).digest() for row in frame["idx"]])
        for split, frame in frames.items()
    }
    whole = frames["train"]
    frames["train"] = sample(whole, settings.max_train_examples, settings.split_seed)
    check(frames, classes, name)
    frames, told = with_rest(frames, whole, settings, rest_may_be(settings, task), "images")
    remarks = (*remarks, *told, *alike(classes, name), *in_both(frames, "images"))
    return _stored_form(frames, images, classes, remarks)


def _stored_form(
    frames: dict[str, pd.DataFrame], arrays: dict[str, Pixels], classes: tuple[str, ...], remarks: Iterable[str]
) -> Made:
    """Pixels and labels of every split, and the moments of the source's training set."""
    counts = np.stack([np.bincount(arrays["train"][:, each].ravel(), minlength=256) for each in range(3)])
    mean = counts @ np.arange(256) / counts.sum(1) / 255
    deviation = np.sqrt(counts @ (np.arange(256) / 255) ** 2 / counts.sum(1) - mean**2)
    facts = {
        "classes": classes,
        "mean": mean.tolist(),
        "deviation": np.maximum(deviation, 1 / 255).tolist(),  # images of one colour are images too
        "remarks": list(remarks),
    }

    def splits() -> Iterator[tuple[str, str, dict[str, Tensor]]]:
        for split, frame in frames.items():
            idx, labels = (frame[column].to_numpy(np.int64, copy=True) for column in ("idx", "label"))
            pixels = np.ascontiguousarray(arrays[split][idx])
            content = json.dumps([classes, pixels.shape]).encode() + labels.tobytes() + pixels.tobytes()
            tensors = {"pixels": pixels, "labels": labels, "idx": idx}
            yield (
                split,
                hashlib.sha256(content).hexdigest()[:32],
                {key: torch.from_numpy(value) for key, value in tensors.items()},
            )

    return facts, splits()
