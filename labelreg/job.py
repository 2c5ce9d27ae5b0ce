"""What is to be done in one run: its settings, what it learns from, and what makes it the same run as another."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from labelreg import places, recipes, training
from labelreg.data import own_teacher, prepared
from labelreg.data.tasks import drawn_anew, made_of
from labelreg.errors import UserError
from labelreg.methods import METHODS, degenerate, own_file, own_parameters
from labelreg.models import adapter, registry
from labelreg.parameter import Value
from labelreg.settings import (
    LORA,
    Averaged,
    Averaging,
    Cell,
    Degenerate,
    Fit,
    Head,
    Images,
    Lora,
    Machine,
    OwnTeacher,
    Settings,
    Sgd,
    Teacher,
    TeacherRun,
    Text,
    Tuning,
    given_teacher,
    needs_of,
    of,
    of_a_run,
)
from labelreg.store import logged, tracking

Watch = Callable[[tracking.Run, Iterator[training.EpochReport]], Iterator[training.EpochReport]]


@dataclass(frozen=True)
class Job:
    """A run to be done: its resolved settings and where it belongs."""

    settings: Settings
    given: dict[str, Value]  # what the user gave, for the runs that this one needs first
    kind: str = "student"
    parent: str | None = None
    study: str | None = None
    experiment: str | None = None
    reuse: bool = False  # take a finished run with the same fingerprint instead
    quiet: bool = False
    place: str = ""  # tells the checkpoints of runs with one fingerprint apart
    watch: Watch | None = None  # sees each epoch after it is logged, and may end the run there


def settings_of(given: Mapping[str, Value], role: str = "student") -> Settings:
    """The settings of one run: `given`, completed by its recipe and by the teacher that its model has."""
    settings = recipes.resolve(given, role)
    adapter.check(settings)
    taught = needs_of(settings.method, vars(settings)) == "teacher"
    if taught and not settings.teacher_model and not settings.teacher_run_id:
        return replace(settings, teacher_model=registry.teacher_of(settings.model, settings.task))
    return settings


def ignored(settings: Settings, given: Mapping[str, Value]) -> list[str]:
    """One line for each parameter that was given (it is no default) and that a run with these settings does not read,
    with the reason."""
    reasons = recipes.unread(vars(settings), made_of(settings.task, settings.train_file))
    known = of_a_run()
    said = [name for name, value in given.items() if name in known and value != known[name].default]
    return [f"{name} is ignored: {why}" for why, names in reasons.items() for name in said if name in names]


def say_never_read(runs: Iterable[tuple[Settings, Mapping[str, Value]]]) -> None:
    """A line for each parameter that was given (it is no default) and that none of these runs reads."""
    names = [{line.partition(" ")[0] for line in ignored(settings, own)} for settings, own in runs]
    for name in sorted(set.intersection(*names)) if names else ():
        print(f"{name} is ignored: none of these runs reads it", flush=True)


def check(settings: Settings, data: prepared.PreparedTask) -> None:
    """Refuse a method that can do nothing with the classes of these examples or with this model, or one of the user's
    own that fails, an adapter for layers that the model does not have, and a head of its own that it does not have, or
    that is for other classes.

    Raises:
        UserError: and allow_degenerate is not given.
    """
    method, allowed = METHODS[settings.method], bool(settings.allow_degenerate)
    degenerate.check(settings.method, method, settings.own, len(data.classes), allowed)
    if method.passes(settings.own) > 1 and not allowed and not registry.drops(settings, places.roots(settings)):
        raise UserError(
            f"method={settings.method}: {settings.model} has no dropout, so both passes are the same, which leaves "
            "finetune at twice its cost; allowed are models with dropout, or allow_degenerate=true"
        )
    registry.check_head(settings, data.classes, places.roots(settings))
    own_file.trial(method, settings.own, len(data.classes), machine_of(settings, data).precision == "bf16")
    registry.check_adapter(settings, places.roots(settings))


def machine_of(settings: Settings, data: prepared.PreparedTask) -> Machine:
    """What this machine makes of `auto` in a run on this data."""
    return training.machine_of(settings, len(data.splits["train"]))


def fingerprint(
    job: Job,
    data: prepared.PreparedTask,
    teaching: Sequence[tracking.Found] = (),
    own: own_teacher.OwnTeacher | None = None,
) -> str:
    """The run's fingerprint; that of a source yet to be trained follows from its settings.

    Args:
        teaching: the runs that it learns from.
        own: or the user's own teacher; it is read where the settings name one that is not given.
    """
    settings, roots = job.settings, places.roots(job.settings)
    taught_by = ",".join(run.data.tags[tracking.FINGERPRINT] for run in teaching) or None
    if not taught_by and given_teacher(vars(settings)):
        taught_by = (own or own_teacher.read(settings, data)).digest
    elif not taught_by and METHODS[settings.method].needs:
        taught_by = fingerprint(source_job(job), data)
    weights = registry.weights_digest(settings.model, settings.init, roots)
    return training.fingerprint(settings, machine_of(settings, data), data.digest, weights, taught_by)


def checkpoints(roots: places.Roots, identity: str) -> Path:
    """The folder of a run's checkpoint, by its fingerprint."""
    return roots.cache / "checkpoints" / identity


def teacher_among(
    runs: Sequence[tracking.Found], settings: Settings, weights: str | None = None
) -> tracking.Found | None:
    """The finished teacher run with these settings that ended first, or None: one that ends later does not change what
    a study has begun, whenever it began itself.

    Args:
        runs: on the same examples.
        weights: registry.weights_digest of its model, where that is here: a folder may hold other weights by now.
    """
    names = [name for name in of(Cell, Fit, Sgd, Head, Tuning, Lora, Text, Images) if name != "method"] + ["selection"]
    wanted = {name: logged.plain(value) for name in names if (value := settings.value(name)) is not None}
    held = {name: each.usual for name, each in of(Fit, Head, Tuning).items() if each.usual}  # of earlier runs
    unnamed = [name for name in of(Lora) if settings.tuning == LORA and settings.value(name) is None]

    def fits(run: tracking.Found) -> bool:
        if tracking.FINGERPRINT not in run.data.tags:  # somebody took it away: nothing can say what it taught
            return False
        params = held | run.data.params
        same = all(logged.same(params.get(name, ""), value) for name, value in wanted.items())
        same &= weights is None or run.data.tags.get(tracking.WEIGHTS, weights) == weights  # earlier runs have no tag
        return same and not any(name in params for name in unnamed)

    return min(filter(fits, runs), key=lambda run: run.info.end_time or 0, default=None)


def weights_here(model: str, init: str, roots: places.Roots) -> str | None:
    """registry.weights_digest of a model that this machine has; None of another: nothing is downloaded."""
    try:
        return registry.weights_digest(model, init, replace(roots, download=False))
    except (UserError, OSError):
        return None


def source_job(job: Job) -> Job:
    """The run that a student needs first: its teacher, or (Self-KD) its own fine-tuned twin."""
    settings = job.settings
    students = {**own_parameters(), **of(Teacher, TeacherRun, OwnTeacher, Averaging, Averaged, Degenerate)}
    given = {name: each for name, each in job.given.items() if name not in students}
    kind = "student" if METHODS[settings.method].needs == "finetune" else "teacher"
    given |= {"method": "finetune"}
    if kind == "teacher":
        recipes_own = of(Fit, Sgd, Head, Tuning, Lora)  # the recipe has others for a teacher
        given = {name: each for name, each in given.items() if name not in recipes_own}
        given |= {
            "model": settings.teacher_model,
            "init": registry.teacher_init(str(settings.teacher_model)),
            "task": settings.task,
            "seed": settings.seed if drawn_anew(settings.task, settings.train_file) else settings.teacher_seed,
        }
    own = settings_of(given, kind)
    return Job(own, given, kind, None, job.study, job.experiment, reuse=True, quiet=job.quiet)
