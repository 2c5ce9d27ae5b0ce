"""What every data set's examples go through, of text and of images: divided, sampled, checked, compared."""

import difflib
import re
import warnings

import numpy as np
import pandas as pd

from labelreg.data.batching import REST, UNLABELLED
from labelreg.data.prepared import shown
from labelreg.data.tasks import Task
from labelreg.errors import UserError
from labelreg.settings import Settings

HELD_OUT = 0.1  # share of one file that becomes dev, and as much test
# rows that a run is tested on at its end: a score of 70% is then known to 0.46 points; more costs minutes
MOST_REST = 10_000

Frames = dict[str, pd.DataFrame]


def divide(frames: Frames, classes: tuple[str, ...], task: Task, name: str, settings: Settings) -> Frames:
    """What the source does not divide is divided here: dev (and test, when there is neither)."""
    if "dev" in frames and task.split_by != "seed":
        return frames
    frame, make = frames["train"], ("dev",) if "test" in frames else ("dev", "test")
    if "group" in frame:
        return frames | _by_group(frame, make, name, settings.split_seed)
    rng = np.random.default_rng(settings.seed if task.split_by == "seed" else settings.split_seed)
    parts: dict[str, list[np.ndarray]] = {split: [] for split in ("train", *make)}
    for label, rows in sorted(frame.groupby("label").indices.items()):
        rows = rng.permutation(rows)
        sizes = task.per_class or {split: max(1, round(HELD_OUT * len(rows))) for split in make}
        needed = sum(sizes.values()) if task.per_class else len(make) + 1
        if len(rows) < needed:
            of, there = classes[label], f"{len(rows)} example{'s' * (len(rows) != 1)}"
            others = [each for each in classes if each != of and not re.search("[0-9]", of)]  # numbered ones are alike
            near = difflib.get_close_matches(of, others, n=1, cutoff=0.8)
            said = f"; is {shown(near[0])} meant?" if near else ""
            if not task.image and len(frame) < 2 * frame["label"].nunique():  # ids, or numbers that were measured
                values = f"{frame['label'].nunique()} values in {len(frame)} rows"
                said = f"; column {task.label!r} has {values}: is it the label?"
            raise UserError(
                f"task {name}: class {shown(of)} has {there}, too few to split into {', '.join(parts)}: {needed} are "
                f"needed: give it more, or leave it out{said}"
            )
        train = sizes.get("train", len(rows) - sum(sizes[split] for split in make))
        for split, part in zip(
            ("train", *make), np.split(rows, np.cumsum([train, *(sizes[s] for s in make)])), strict=False
        ):
            parts[split].append(part)
    made = {split: frame.iloc[rng.permutation(np.concatenate(rows))] for split, rows in parts.items()}
    return frames | made


def _by_group(frame: pd.DataFrame, make: tuple[str, ...], name: str, seed: int) -> Frames:
    """As `divide` does, but whole groups: of ten parts with like shares of the classes, those nearest to a tenth."""
    from sklearn.model_selection import StratifiedGroupKFold

    parts, groups = round(1 / HELD_OUT), frame["group"].nunique()
    if groups < parts:
        raise UserError(f"task {name}: {groups} groups are too few to split; {parts} are needed, or a dev_file")
    with warnings.catch_warnings(action="ignore"):  # a class of fewer rows than parts is in few of them
        folds = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
        found = [held for _, held in folds.split(frame, frame["label"], frame["group"])]
    held = dict(zip(make, sorted(found, key=lambda rows: abs(len(rows) - HELD_OUT * len(frame))), strict=False))
    taken = np.concatenate(list(held.values()))
    made = {split: frame.iloc[rows] for split, rows in held.items()}
    return {"train": frame.iloc[np.setdiff1d(np.arange(len(frame)), taken)]} | made


def sample(frame: pd.DataFrame, examples: int | None, seed: int) -> pd.DataFrame:
    """A stratified sample of the training set, in its order; the same for every seed and method."""
    if examples is None or examples >= len(frame):
        return frame
    rng = np.random.default_rng(seed)
    if "group" in frame:  # whole ones, so that none is in `rest` too
        sizes, kept, total = frame["group"].value_counts(sort=False), set(), 0
        for nth in rng.permutation(len(sizes)):
            if total + sizes.iloc[nth] <= examples:
                kept.add(sizes.index[nth])
                total += sizes.iloc[nth]
        return frame[frame["group"].isin(kept)]
    order = rng.permutation(len(frame))
    within = pd.Series(frame["label"].to_numpy()[order]).groupby(frame["label"].to_numpy()[order]).cumcount()
    share = within.to_numpy() / frame["label"].value_counts().loc[frame["label"].to_numpy()[order]].to_numpy()
    return frame.iloc[np.sort(order[np.argsort(share, kind="stable")[:examples]])]


def rest_may_be(settings: Settings, task: Task) -> bool:
    """Whether the examples of a run may have a split `rest`, as far as it is known before they are read."""
    if settings.rest == "auto":  # a data set that is drawn anew for each seed has a test set as it needs it
        return settings.max_train_examples is not None and not task.image and task.split_by != "seed"
    return settings.rest == "on"


def with_rest(
    frames: Frames, whole: pd.DataFrame, settings: Settings, wanted: bool, unit: str
) -> tuple[Frames, list[str]]:
    """`frames` and, where it is wanted, `rest`: the labelled rows of the training set that no run trains on; a remark.

    Rows whose text stands in train or dev are not in it. Of more than MOST_REST it is a stratified sample.

    Args:
        frames: with the columns `text` and perhaps `text_pair`, train cut already.
        whole: the training set before it was cut.
        wanted: whether it is; with rest=auto it is not where the labelled test set is as large.
    """
    if not wanted:
        return frames, []
    left = whole[~whole.index.isin(frames["train"].index) & (whole["label"] != UNLABELLED)]
    columns = [name for name in ("text", "text_pair") if name in whole]
    used = pd.concat([frames[split][columns] for split in ("train", "dev")])
    new = ~pd.MultiIndex.from_frame(left[columns]).isin(pd.MultiIndex.from_frame(used))
    if "group" in left:
        new &= ~left["group"].isin(pd.concat([frames[split]["group"] for split in ("train", "dev")])).to_numpy()
    rest = sample(left[new], MOST_REST, settings.split_seed)
    tested = frames.get("test", rest[:0])
    if rest.empty or settings.rest == "auto" and (tested["label"] != UNLABELLED).sum() >= len(rest):
        return frames, ["rest=on: no rows of train are left over to test on"] if settings.rest == "on" else []
    of = f" of {new.sum()}" if new.sum() > len(rest) else ""
    who = "that stand, or whose groups stand," if "group" in left else "that stand"
    twice = f"; {len(left) - new.sum()} more {who} in train or dev too are left out" if not new.all() else ""
    told = f"rest is {len(rest)}{of} {unit} of train that no run trains on: a test set of its own{twice}"
    return frames | {REST: rest}, [told]


def check(frames: Frames, classes: tuple[str, ...], name: str) -> None:
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


def groups_in_both(frames: Frames) -> list[str]:
    """A remark on each split whose groups, where there are groups, stand in train too, and on each test set whose
    groups stand in dev too."""
    if "group" not in frames["train"]:
        return []
    held = {split: set(frame["group"]) for split, frame in frames.items()}
    both = [("train", split) for split in held if split != "train"]
    both += [("dev", split) for split in held if split not in ("train", "dev", REST)]  # `rest` has none of dev's
    return [
        f"{len(held[split] & held[first])} of {len(held[split])} groups of {split} are in {first} too"
        for first, split in both
        if held[split] & held[first]
    ]


def in_both(frames: Frames, unit: str = "rows") -> list[str]:
    """A remark on each split whose examples (columns `text`, perhaps `text_pair`) stand in train too, and on each test
    set whose examples stand in dev too."""
    others = [split for split in frames if split != "train"]
    tested = [split for split in others if split not in ("dev", REST)]  # `rest` has none of either
    told = [f"{each}: the best dev epoch is chosen on them" for each in _standing(frames, tested, "dev", unit)]
    return _standing(frames, others, "train", unit) + told


def _standing(frames: Frames, splits: list[str], first: str, unit: str) -> list[str]:
    """How many examples of each of these splits stand in the split `first` too, where some do."""
    columns = [name for name in ("text", "text_pair") if name in frames["train"]]
    held = {texts for split in splits for texts in frames[split][columns].itertuples(index=False, name=None)}
    there: dict[tuple, set[int]] = {}  # of these texts alone: a training set may have millions
    for *texts, label in frames[first][[*columns, "label"]].itertuples(index=False, name=None) if splits else ():
        if tuple(texts) in held:
            there.setdefault(tuple(texts), set()).add(label)
    found = []
    for split in splits:
        rows = frames[split][[*columns, "label"]].itertuples(index=False, name=None)
        both = [(label, there[tuple(texts)]) for *texts, label in rows if tuple(texts) in there]
        other = sum(label not in labels and label != UNLABELLED for label, labels in both)
        other = f", {other} of them with another label" if other else ""
        found += [f"{len(both)} of {len(frames[split])} {unit} of {split} stand in {first} too{other}"] if both else []
    return found
