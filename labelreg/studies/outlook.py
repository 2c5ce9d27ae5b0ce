"""What is known of a study before it runs: what is done already, what is left, and what it will cost."""

import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import pandas as pd

from labelreg import job, one_run, places, recipes, training
from labelreg.data import corpus, own_teacher, prepared
from labelreg.data.batching import REST
from labelreg.data.tasks import drawn_anew, made_of
from labelreg.errors import UserError
from labelreg.methods import METHODS, label
from labelreg.output import duration
from labelreg.settings import Settings, given_teacher, settable
from labelreg.store import logged, tracking
from labelreg.store.tracking import Found
from labelreg.workers.steps import Step

MANY = 20  # data sets that the store is asked for one by one; of more, all runs are read
FORWARD_SHARE = 1 / 3  # of a training step is its forward pass
UNKNOWN, UNTIMED = "unknown until prepared", "unknown until a run has ended"


@dataclass(frozen=True)
class Facts:
    """What a prepared task tells without its examples being read."""

    digest: str
    rest: str | None  # the digest of the rows that are left over, where they are a test set
    examples: int  # of the training set
    unit: str  # tokens or images
    sizes: dict[str, int]  # of each split, in this unit
    tested: int | None  # examples that a run's score is from, where it is known


@dataclass(frozen=True)
class Outlook:
    """What is known of the steps of a study, by their names.

    finished: runs of the store that are these steps. unsure: steps of which a like run is finished; whether it is
    the same is unknown until prepared. begun: steps with a checkpoint, or under way. updates: optimiser steps.
    seconds: estimates, of what is not finished, by the speed of finished runs. prepared: steps whose examples are here.
    seeds: of the finished students on these examples. rest: tasks that are tested on what training leaves over.
    examples: by task, how many its scores are from, where that is known.
    """

    steps: Sequence[Step]
    settings: dict[str, Settings]
    fingerprints: dict[str, str]
    finished: dict[str, Found]
    unsure: frozenset[str]
    begun: frozenset[str]
    updates: dict[str, int]
    seconds: dict[str, float]
    prepared: frozenset[str]
    seeds: frozenset[int]
    rest: frozenset[str]
    examples: dict[str, int]


def look(steps: Sequence[Step]) -> Outlook:
    """What is known of the steps: from the recipe, and from what is on this machine and in the store already.

    Nothing is downloaded or prepared; the user's own file of text is read, where it is not prepared yet.

    Raises:
        UserError: it cannot be used, in the line that preparing it would end with.
    """
    settings = settings_of(steps)
    where = places.roots(settings[steps[0].name])
    here = _Here(replace(where, download=False))
    examples = {step.name: here.facts(step, settings[step.name]) for step in steps}
    found = _finished_on({facts.digest if facts else None for facts in examples.values()})
    fingerprints, finished = _identities(steps, settings, examples, found, here)
    unsure = _alike([step for step in steps if step.name not in fingerprints], settings, found)
    left = [step for step in steps if step.name not in finished]
    updates = {step.name: _updates(settings[step.name], examples[step.name]) for step in steps}
    seconds = _estimates(left, settings, examples, found)
    tested: dict[str, int | None]
    tested = {settings[name].task: facts.tested for name, facts in examples.items() if facts and facts.tested}
    for own in (settings[step.name] for step in steps if step.kind == "student"):
        if own.task not in tested:
            tested[own.task] = _tested(own)
    known = {step.name: fingerprints[step.name] for step in left if step.name in fingerprints}
    begun = {name for name, identity in known.items() if job.checkpoints(where, identity).is_dir()}
    return Outlook(
        steps=steps,
        settings=settings,
        fingerprints=fingerprints,
        finished=finished,
        unsure=unsure,
        begun=frozenset(begun),
        updates={name: count for name, count in updates.items() if count},
        seconds=seconds,
        prepared=frozenset(name for name, facts in examples.items() if facts),
        seeds=_seeds(found, {facts.digest for facts in examples.values() if facts}),
        examples={task: number for task, number in tested.items() if number},
        rest=frozenset(settings[name].task for name, facts in examples.items() if facts and facts.rest),
    )


class _Here:
    """What this machine knows of examples and weights; each is looked up once."""

    def __init__(self, where: places.Roots):
        self.where = where
        self.weights = cache(partial(job.weights_here, roots=where))
        self._facts: dict[tuple, Facts | None] = {}
        self._teachers: dict[tuple, str] = {}

    def _key(self, settings: Settings) -> tuple:
        by_seed = drawn_anew(settings.task, settings.train_file)
        return (*(settings.value(name) for name in _EXAMPLES), settings.seed if by_seed else None)

    def facts(self, step: Step, settings: Settings) -> Facts | None:
        """Of a teacher, the student's: the examples are the same, and its own tokenizer may not be here."""
        own = job.settings_of(step.given) if step.kind == "teacher" else settings
        key = self._key(own)
        if key not in self._facts:
            self._facts[key] = _facts(own, self.where)
        return self._facts[key]

    def teacher(self, settings: Settings) -> str | None:
        """The digest of the user's own teacher on examples that are prepared, where it teaches this run."""
        if not given_teacher(vars(settings)):
            return None
        key = self._key(settings)
        if key not in self._teachers:
            self._teachers[key] = own_teacher.read(settings, corpus.prepare(settings, self.where)).digest
        return self._teachers[key]


_EXAMPLES = "task model max_length image_size max_train_examples split_seed rest".split()  # the files are the study's


def _facts(settings: Settings, where: places.Roots) -> Facts | None:
    try:
        found = prepared.known(corpus.cached(settings, where))
    except (UserError, OSError):
        return None
    if found is None:
        return None
    units = {split: units for split, (_, units) in found["sizes"].items()}
    unit = "images" if made_of(settings.task, settings.train_file) == "images" else "tokens"
    scored = next((split for split in one_run.TESTED if split in found.get("labelled", ())), None)
    tested = found["sizes"][scored][0] if scored else None
    return Facts(found["digest"], found["fingerprints"].get(REST), found["sizes"]["train"][0], unit, units, tested)


def _tested(settings: Settings) -> int | None:
    """How many examples a score will be from, of the user's own file of text, which is here and read in no time."""
    rows = corpus.labelled_rows(settings)
    return next((rows[split] for split in one_run.TESTED if split in rows), None)


def settings_of(steps: Sequence[Step]) -> dict[str, Settings]:
    """The settings of each step's own run, by name; the runs of a cell differ in their seed alone."""
    cells: dict[tuple, Settings] = {}
    found = {}
    for step in steps:
        if step.kind == "teacher":  # few, and their seed is not the student's
            student = job.Job(job.settings_of(step.given), step.given)
            found[step.name] = job.source_job(student).settings
            continue
        if step.cell not in cells:
            cells[step.cell] = job.settings_of(step.given)
        own = {name: step.given[name] for name in ("seed", "teacher_seed") if name in step.given}
        found[step.name] = replace(cells[step.cell], **own)
    return found


def _finished_on(digests: set[str | None]) -> list[Found]:
    """The finished runs on these examples, oldest first; all that there are, where some are not known yet."""
    if None not in digests and len(digests) <= MANY:
        filters = [{tracking.DATA: digest} for digest in sorted(filter(None, digests))]
    else:
        filters = [{tracking.KIND: kind} for kind in ("teacher", "student")]
    return [run for each in filters for run in tracking.find(tracking.tagged(each))]


def _identities(
    steps: Sequence[Step],
    settings: Mapping[str, Settings],
    examples: Mapping[str, Facts | None],
    found: Sequence[Found],
    here: _Here,
) -> tuple[dict[str, str], dict[str, Found]]:
    """The fingerprint of each step where it can be known, and the finished runs that are these steps."""
    known: dict[tuple[str | None, ...], Found] = {}
    teachers: defaultdict[str | None, list[Found]] = defaultdict(list)
    for run in found:
        kind = run.data.tags.get(tracking.KIND)
        for rest in (None, run.data.tags.get(tracking.REST)):  # a run that is tested on more is the same run
            known.setdefault((kind, run.data.tags.get(tracking.FINGERPRINT), rest), run)  # the oldest
        if kind == "teacher":
            teachers[run.data.tags.get(tracking.DATA)].append(run)
    fingerprints: dict[str, str] = {}
    finished: dict[str, Found] = {}
    for step in steps:
        own, facts = settings[step.name], examples[step.name]
        taught_by = [fingerprints.get(first) for first in step.needs]
        if facts is None or None in taught_by:
            continue
        weights = here.weights(own.model, own.init)
        same = job.teacher_among(teachers[facts.digest], own, weights) if step.kind == "teacher" else None
        if same:  # it may have been trained with another number of threads
            fingerprints[step.name], finished[step.name] = same.data.tags[tracking.FINGERPRINT], same
            continue
        if not weights:
            continue
        machine, taught = training.machine_of(own, facts.examples), next(iter(taught_by), None) or here.teacher(own)
        fingerprints[step.name] = training.fingerprint(own, machine, facts.digest, weights, taught)
        same = known.get((step.kind, fingerprints[step.name], facts.rest if own.rest else None))
        if same:
            finished[step.name] = same
    return fingerprints, finished


def _alike(steps: Sequence[Step], settings: Mapping[str, Settings], found: Sequence[Found]) -> frozenset[str]:
    """Those whose task, model, init, method and seed a finished run has."""
    names = ("task", "model", "init", "method", "seed")
    if not steps:
        return frozenset()
    there = {(run.data.tags.get(tracking.KIND), *(_param(run, name) for name in names)) for run in found}
    return frozenset(
        step.name for step in steps if (step.kind, *(str(settings[step.name].value(name)) for name in names)) in there
    )


def _seeds(found: Sequence[Found], digests: Collection[str]) -> frozenset[int]:
    """The seeds of the finished students on these examples."""
    students = [run for run in found if run.data.tags.get(tracking.KIND) == "student"]
    seeds = [_param(run, "seed") for run in students if run.data.tags.get(tracking.DATA) in digests]
    return frozenset(int(seed) for seed in seeds if seed.isdecimal())


def _param(run: Found, name: str) -> str:
    return logged.unquoted(run.data.params.get(name, ""))


def _updates(settings: Settings, facts: Facts | None) -> int | None:
    """Optimiser steps; where nothing is prepared, of as many examples as the recipe allows."""
    examples = facts.examples if facts else settings.max_train_examples
    return training.steps_of(settings, examples) if examples else None


def _estimates(
    left: Sequence[Step],
    settings: Mapping[str, Settings],
    examples: Mapping[str, Facts | None],
    found: Sequence[Found],
) -> dict[str, float]:
    """Seconds of each step whose examples are known, by the speed of finished runs of its model."""
    speeds: defaultdict[tuple[tuple[str, ...], str | None], list[float]] = defaultdict(list)
    for run in found if left else ():
        for unit in ("tokens", "images"):
            speed = run.data.metrics.get(f"cost/{unit}_per_second")
            if speed:
                network = (unit, *(_param(run, name) for name in _NETWORK))
                speeds[network, _param(run, "batch_size")].append(speed)
                speeds[network, None].append(speed)
    seconds = {}
    for step in left:
        own, facts = settings[step.name], examples[step.name]
        if facts is None:
            continue
        network = (facts.unit, *(str(own.value(name) or "") for name in _NETWORK))
        known = speeds.get((network, str(own.batch_size)), speeds.get((network, None)))
        if known:
            seconds[step.name] = _work(own, facts) / statistics.median(known)
    return seconds


_NETWORK = ("model", "image_size", "stem")  # what the speed depends on; of text, the model alone has a value


def _work(settings: Settings, facts: Facts) -> float:
    """What a run computes, in tokens or images of training: every epoch, and its evaluations."""
    train, dev = facts.sizes["train"], facts.sizes["dev"]
    rest = facts.sizes.get(REST, 0)
    others = sum(facts.sizes.values()) - train - dev - rest
    ends = min(2, settings.epochs) if settings.rest else 0  # the best epoch's weights and the last one's, no teacher's
    train = train * METHODS[settings.method].passes(settings.own)
    return settings.epochs * (train + FORWARD_SHARE * dev) + FORWARD_SHARE * (others + ends * rest)


# For people


def table(outlook: Outlook) -> pd.DataFrame:
    """One row per role, task, model, init and method: runs, done, left, optimiser steps and seconds of what is left;
    missing where they cannot be known yet (`lines` says why)."""
    rows = []
    for step in outlook.steps:
        own, done = outlook.settings[step.name], step.name in outlook.finished
        rows.append(
            dict(zip(_PLACE, _place(step.kind, own), strict=True))
            | {"runs": 1, "done": int(done), "left": int(not done)}
            | {"steps": 0 if done else outlook.updates.get(step.name, float("nan"))}
            | {"seconds": 0 if done else outlook.seconds.get(step.name, float("nan"))}
        )
    grouped = pd.DataFrame(rows).groupby(_PLACE, sort=False)
    counted = grouped[["runs", "done", "left"]].sum()
    costs = grouped[["steps", "seconds"]].agg(lambda column: column.sum(skipna=False))
    return counted.join(costs.round().astype("Int64")).reset_index()


_PLACE = ["role", *recipes.AXES]


def _place(role: str, own: Settings) -> tuple:
    """Where it stands in the table."""
    *place, method = (own.value(axis) for axis in recipes.AXES)
    return (role, *place, label(method, own.average))


def settings_lines(outlook: Outlook) -> list[str]:
    """The hyper-parameters of the runs: what all of a role have in common, then what each method has beside it."""
    lines = []
    for role in ("teacher", "student"):
        own = {step.cell: outlook.settings[step.name] for step in outlook.steps if step.kind == role}
        if not own:
            continue
        told = {_place(role, each): _decided(each) for each in own.values()}
        common = [each for each in next(iter(told.values())) if all(each in others for others in told.values())]
        lines.append(f"every {role}: {', '.join(common)}")
        beside: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for (_, *place, method), values in told.items():
            beside[method, ", ".join(each for each in values if each not in common)].append(", ".join(place))
        places = dict.fromkeys(place for here in beside.values() for place in here)
        for (method, apart), here in beside.items():
            where = "" if len(here) == len(places) else f" ({'; '.join(here)})"
            lines += [f"{method}{where}: {apart}"] if apart else []
    return lines


def _decided(settings: Settings) -> list[str]:
    """What a settings recipe may decide of a run, and has: `lr 2e-05`."""
    usual = {name: each.default for name, each in settable().items() if name not in recipes.AXES}
    values = {name: settings.value(name) for name in usual}
    return [f"{name} {logged.plain(value)}" for name, value in values.items() if value not in (None, usual[name])]


def lines(outlook: Outlook, name: str, jobs: int, side_by_side: int) -> list[str]:
    """The summary: how many runs, how many are there already, and what the others cost, so many `side_by_side`."""
    count = {kind: sum(step.kind == kind for step in outlook.steps) for kind in ("student", "teacher")}
    done, unsure = len(outlook.finished), len(outlook.unsure)
    reused = f"{done} reused" + (f" (of {unsure} more: {UNKNOWN})" if unsure else "")
    people = ", ".join(f"{number} {kind}{'' if number == 1 else 's'}" for kind, number in count.items())
    left = [step.name for step in outlook.steps if step.name not in outlook.finished]
    begun = f" ({len(outlook.begun)} of them begun)" if outlook.begun else ""
    return [
        f"study {name}: {people}, {reused}",
        f"runs to do: {len(left)}{begun}; runs done: {done}; steps: {_total(outlook.updates, left)}; "
        f"time: {_time(outlook, left, jobs, side_by_side)}",
    ]


def _total(known: Mapping[str, float], names: Sequence[str]) -> str:
    total, missing = sum(known.get(name, 0) for name in names), sum(name not in known for name in names)
    if missing and missing == len(names):
        return UNKNOWN
    return f"{total:,}" + (f" (of {missing} runs: {UNKNOWN})" if missing else "")


def _time(outlook: Outlook, left: Sequence[str], jobs: int, side_by_side: int) -> str:
    known = [outlook.seconds[name] for name in left if name in outlook.seconds]
    missing = [name for name in left if name not in outlook.seconds]
    why = UNTIMED if outlook.prepared.issuperset(missing) else UNKNOWN
    if left and not known:
        return why
    more = f" (of {len(missing)} runs: {why})" if missing else ""
    shown = f"jobs={jobs}" + (f" on {side_by_side} processor{'s' * (side_by_side > 1)}" if side_by_side < jobs else "")
    # no sooner than the longest of them ends, however many there may be at a time
    seconds = max(sum(known) / max(1, min(side_by_side, len(left))), max(known, default=0))
    return f"about {duration(seconds)} with {shown} (from finished runs){more}"
