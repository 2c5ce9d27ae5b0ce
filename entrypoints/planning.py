"""What is known of a study before it runs: what is done already, what is left, and what it will cost."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from entrypoints import job
from labelreg import batching, corpus, logged, models, prepared, recipes, tracking, training
from labelreg.errors import UserError
from labelreg.parameters import Value
from labelreg.study import Step
from labelreg.tasks import made_of

MANY = 20  # data sets that the store is asked for one by one; of more, all runs are read
PROBE_SECONDS, PROBE_BATCHES = 10, 3  # one timed epoch of so many batches after a first one, for at most so long
FORWARD_SHARE = 1 / 3  # of a training step is its forward pass
UNKNOWN = "unknown until prepared"


@dataclass(frozen=True)
class Facts:
    """What a prepared task tells without its examples being read."""

    digest: str
    examples: int  # of the training set
    unit: str  # tokens or images
    sizes: dict[str, int]  # of each split, in this unit


@dataclass(frozen=True)
class Outlook:
    """What is known of the steps of a study, by their names.

    finished: runs of the store that are these steps. unsure: steps of which a like run is finished; whether it is
    the same is unknown until prepared. begun: steps with a checkpoint, or under way. updates: optimiser steps.
    seconds: estimates, of what is not finished, and their source.
    """

    steps: Sequence[Step]
    settings: dict[str, dict[str, Value]]
    fingerprints: dict[str, str]
    finished: dict[str, "tracking.mlflow.entities.Run"]
    unsure: frozenset[str]
    begun: frozenset[str]
    updates: dict[str, int]
    seconds: dict[str, float]
    source: str


def look(steps: Sequence[Step], probe: bool = False) -> Outlook:
    """What is known of the steps: from the recipe, and from what is on this machine and in the store already.

    Nothing is downloaded or prepared; with `probe` a few batches are timed where no finished run tells the speed.
    """
    settings = settings_of(steps)
    where = models.roots(settings[steps[0].name])
    here = _Here(replace(where, download=False))
    examples = {step.name: here.facts(step, settings[step.name]) for step in steps}
    found = _finished_on({facts.digest if facts else None for facts in examples.values()})
    fingerprints, finished = _identities(steps, settings, examples, found, here)
    unsure = _alike([step for step in steps if step.name not in fingerprints], settings, found)
    left = [step for step in steps if step.name not in finished]
    updates = {step.name: _updates(settings[step.name], examples[step.name]) for step in steps}
    seconds, source = _estimates(left, settings, examples, found, here if probe else None)
    begun = {step.name for step in left if _begun(where, fingerprints.get(step.name))}
    return Outlook(
        steps=steps,
        settings=settings,
        fingerprints=fingerprints,
        finished=finished,
        unsure=unsure,
        begun=frozenset(begun),
        updates={name: count for name, count in updates.items() if count},
        seconds=seconds,
        source=source,
    )


class _Here:
    """What this machine knows of examples and weights; each is looked up once."""

    def __init__(self, where: models.Roots):
        self.where, self._facts, self._weights = where, {}, {}

    def facts(self, step: Step, settings: dict[str, Value]) -> Facts | None:
        """Of a teacher, the student's: the examples are the same, and its own tokenizer may not be here."""
        own = job.settings_of(step.given) if step.kind == "teacher" else settings
        task = corpus.task_of(own)
        key = (*(own.get(name) for name in _EXAMPLES), own["seed"] if task.split_by == "seed" else None)
        if key not in self._facts:
            self._facts[key] = _facts(own, self.where)
        return self._facts[key]

    def weights(self, model: str, init: str) -> str | None:
        if (model, init) not in self._weights:
            try:
                self._weights[model, init] = models.weights_digest(model, init, self.where)
            except (UserError, OSError):
                self._weights[model, init] = None
        return self._weights[model, init]


_EXAMPLES = "task model max_length image_size max_train_examples split_seed".split()  # the files are the study's


def _facts(settings: dict[str, Value], where: models.Roots) -> Facts | None:
    try:
        found = prepared.known(corpus.cached(settings, where))
    except (UserError, OSError):
        return None
    if found is None:
        return None
    units = {split: units for split, (_, units) in found["sizes"].items()}
    unit = "images" if made_of(settings) == "images" else "tokens"
    return Facts(found["digest"], found["sizes"]["train"][0], unit, units)


def settings_of(steps: Sequence[Step]) -> dict[str, dict[str, Value]]:
    """The settings of each step's own run, by name; the runs of a cell differ in their seed alone."""
    cells: dict[tuple, dict[str, Value]] = {}
    found = {}
    for step in steps:
        if step.kind == "teacher":  # few, and their seed is not the student's
            student = job.Job(job.settings_of(step.given), step.given)
            found[step.name] = job.source_job(student).settings
            continue
        if step.cell not in cells:
            cells[step.cell] = job.settings_of(step.given)
        found[step.name] = cells[step.cell] | {"seed": step.given["seed"]}
    return found


def _finished_on(digests: set[str | None]) -> list:
    """The finished runs on these examples, oldest first; all that there are, where some are not known yet."""
    if None not in digests and len(digests) <= MANY:
        filters = [{tracking.DATA: digest} for digest in sorted(digests)]
    else:
        filters = [{tracking.KIND: kind} for kind in ("teacher", "student")]
    return [run for each in filters for run in tracking.find(tracking.tagged(each))]


def _identities(steps, settings, examples, found, here) -> tuple[dict[str, str], dict]:
    """The fingerprint of each step where it can be known, and the finished runs that are these steps."""
    known = {}
    teachers = defaultdict(list)
    for run in found:
        kind = run.data.tags.get(tracking.KIND)
        known.setdefault((kind, run.data.tags.get(tracking.FINGERPRINT)), run)  # the oldest
        if kind == "teacher":
            teachers[run.data.tags.get(tracking.DATA)].append(run)
    fingerprints, finished = {}, {}
    for step in steps:
        own, facts = settings[step.name], examples[step.name]
        taught_by = [fingerprints.get(first) for first in step.needs]
        if facts is None or None in taught_by:
            continue
        same = job.teacher_among(teachers[facts.digest], own) if step.kind == "teacher" else None
        weights = None if same else here.weights(str(own["model"]), str(own["init"]))
        if not same and not weights:
            continue
        if same:  # it may have been trained with another number of threads
            fingerprints[step.name], finished[step.name] = same.data.tags[tracking.FINGERPRINT], same
            continue
        own["compile_used"] = training.resolve_compile(str(own["compile"]), job.steps_of(own, facts.examples))
        fingerprints[step.name] = training.fingerprint(own, facts, weights, next(iter(taught_by), None))
        if (step.kind, fingerprints[step.name]) in known:
            finished[step.name] = known[step.kind, fingerprints[step.name]]
    return fingerprints, finished


def _alike(steps: Sequence[Step], settings, found) -> frozenset[str]:
    """Those whose task, model, init, method and seed a finished run has."""
    names = ("task", "model", "init", "method", "seed")
    if not steps:
        return frozenset()
    there = {(run.data.tags.get(tracking.KIND), *(_param(run, name) for name in names)) for run in found}
    return frozenset(
        step.name for step in steps if (step.kind, *(str(settings[step.name][name]) for name in names)) in there
    )


def _param(run, name: str) -> str:
    return logged.unquoted(run.data.params.get(name, ""))


def _begun(where: models.Roots, fingerprint: str | None) -> bool:
    return fingerprint is not None and job.checkpoints(where, fingerprint).is_dir()


def _updates(settings: Mapping[str, Value], facts: Facts | None) -> int | None:
    """Optimiser steps; where nothing is prepared, of as many examples as the recipe allows."""
    examples = facts.examples if facts else settings.get("max_train_examples")
    return job.steps_of(settings, int(examples)) if examples else None


def _estimates(left: Sequence[Step], settings, examples, found, here: _Here | None) -> tuple[dict[str, float], str]:
    """Seconds of each step whose examples are known, by the speed of finished runs of its model, or by a probe."""
    speeds = defaultdict(list)
    for run in found if left else ():
        for unit in ("tokens", "images"):
            speed = run.data.metrics.get(f"cost/{unit}_per_second")
            if speed:
                network = (unit, *(_param(run, name) for name in _NETWORK))
                speeds[network, _param(run, "batch_size")].append(speed)
                speeds[network, None].append(speed)
    seconds, sources, probed = {}, set(), {}
    for step in left:
        own, facts = settings[step.name], examples[step.name]
        if facts is None:
            continue
        network = (facts.unit, *(str(own.get(name, "")) for name in _NETWORK))
        known = speeds.get((network, str(own["batch_size"])), speeds.get((network, None)))
        sources |= {"finished runs"} if known else set()
        if not known and here:
            if network not in probed:
                probed[network] = _probe(own, here)
            known = probed[network]
            sources |= {"a timed probe"} if known else set()
        if known:
            seconds[step.name] = _work(own, facts) / statistics.median(known)
    return seconds, " and ".join(sorted(sources))


_NETWORK = ("model", "image_size", "stem")  # what the speed depends on; of text, the model alone has a value


def _work(settings: Mapping[str, Value], facts: Facts) -> float:
    """What a run computes, in tokens or images of training: every epoch, and its evaluations."""
    train, dev = facts.sizes["train"], facts.sizes["dev"]
    others = sum(facts.sizes.values()) - train - dev
    return int(settings["epochs"]) * (train + FORWARD_SHARE * dev) + FORWARD_SHARE * others


def _probe(settings: Mapping[str, Value], here: _Here) -> list[float]:
    try:
        init = str(settings["init"]) if made_of(settings) == "images" else "pretrained"
        return [measured(settings)] if here.weights(str(settings["model"]), init) else []
    except (UserError, RuntimeError):  # no data yet; a loss that diverges, a GPU that is full: it cannot tell
        return []


def measured(settings: Mapping[str, Value]) -> float:
    """Tokens or images per second that this machine trains: a few batches, timed after a first epoch."""
    own = dict(settings) | {"method": "finetune", "epochs": 20, "compile_used": "off", "checkpoint_seconds": 0}
    where = replace(models.roots(own), download=False)
    training.set_threads(int(own["threads"]))
    data = corpus.prepare(own, where)
    train, size = data.splits["train"], int(own["batch_size"])
    batches = batching.epoch_batches(train.lengths, size, 0, 1)
    few = sorted({int(i) for batch in batches[:: max(1, len(batches) // PROBE_BATCHES)][:PROBE_BATCHES] for i in batch})
    splits = {"train": _some(train, few), "dev": _some(data.splits["dev"], range(2))}
    model = models.load(str(own["model"]), data.classes, str(own["init"]), 0, where, own.get("stem"))
    work = int(splits["train"].lengths.sum())
    for report in training.train(model, replace(data, splits=splits), own):
        if report.epoch > 1 or report.train_seconds > PROBE_SECONDS:
            break
    return work / report.epoch_seconds


def _some(tokens: batching.Split, examples: Sequence[int]) -> batching.Split:
    import torch

    index = torch.tensor(list(examples))
    if tokens.unit == "images":
        return replace(tokens, **{name: getattr(tokens, name)[index] for name in ("pixels", "labels", "idx")})
    parts = [slice(int(tokens.offsets[i]), int(tokens.offsets[i + 1])) for i in index]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), tokens.lengths[index].cumsum(0)])
    flat = {name: torch.cat([getattr(tokens, name)[part] for part in parts]) for name in ("ids", "types")}
    return replace(tokens, **flat, offsets=offsets, labels=tokens.labels[index], idx=tokens.idx[index])


# For people


def table(outlook: Outlook) -> pd.DataFrame:
    """One row per role, task, model, init and method: runs, done, left, optimiser steps and seconds of what is left."""
    rows = []
    for step in outlook.steps:
        own, done = outlook.settings[step.name], step.name in outlook.finished
        rows.append(
            {"role": step.kind}
            | {axis: own[axis] for axis in recipes.AXES}
            | {"runs": 1, "done": int(done), "left": int(not done)}
            | {"steps": 0 if done else outlook.updates.get(step.name, float("nan"))}
            | {"seconds": 0 if done else outlook.seconds.get(step.name, float("nan"))}
        )
    keys = ["role", *recipes.AXES]
    grouped = pd.DataFrame(rows).groupby(keys, sort=False)
    counted = grouped[["runs", "done", "left"]].sum()
    costs = grouped[["steps", "seconds"]].agg(lambda column: column.sum(skipna=False))
    return counted.join(costs.round()).reset_index()


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The table for people: numbers as text, and what cannot be known yet in words."""
    frame = frame.copy()
    for name in ("steps", "seconds"):
        frame[name] = [UNKNOWN if value != value else f"{value:,.0f}" for value in frame[name]]
    return frame


def lines(outlook: Outlook, name: str, jobs: int) -> list[str]:
    """The summary: how many runs, how many are there already, and what the others cost."""
    count = {kind: sum(step.kind == kind for step in outlook.steps) for kind in ("student", "teacher")}
    done, unsure = len(outlook.finished), len(outlook.unsure)
    reused = f"{done} reused" + (f" (of {unsure} more: {UNKNOWN})" if unsure else "")
    people = ", ".join(f"{number} {kind}{'' if number == 1 else 's'}" for kind, number in count.items())
    left = [step.name for step in outlook.steps if step.name not in outlook.finished]
    begun = f" ({len(outlook.begun)} of them begun)" if outlook.begun else ""
    return [
        f"study {name}: {people}, {reused}",
        f"runs to do: {len(left)}{begun}; runs done: {done}; steps: {_total(outlook.updates, left)}; "
        f"time: {_time(outlook, left, jobs)}",
    ]


def _total(known: Mapping[str, float], names: Sequence[str]) -> str:
    total, missing = sum(known.get(name, 0) for name in names), sum(name not in known for name in names)
    if missing and missing == len(names):
        return UNKNOWN
    return f"{total:,}" + (f" (of {missing} runs: {UNKNOWN})" if missing else "")


def _time(outlook: Outlook, left: Sequence[str], jobs: int) -> str:
    known = [outlook.seconds[name] for name in left if name in outlook.seconds]
    if left and not known:
        return UNKNOWN
    missing = len(left) - len(known)
    more = f" (of {missing} runs: {UNKNOWN})" if missing else ""
    by = f" (from {outlook.source})" if outlook.source else ""
    return f"about {duration(sum(known) / max(1, min(jobs, len(left))))} with jobs={jobs}{by}{more}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
