"""One training run, teacher or student: prepare, find the teacher, train, log. Used by every entry point."""

import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from labelreg import (
    checkpoint,
    corpus,
    logged,
    metrics,
    models,
    prepared,
    recipes,
    study,
    teacher,
    tracking,
    training,
    whole,
)  # fmt: skip
from labelreg.errors import UserError
from labelreg.methods import METHODS
from labelreg.parameters import ENTRY_POINTS, NOT_DECIDING, Value
from labelreg.tasks import made_of

OWN_SETTING = "head lr batch_size epochs weight_decay warmup_ratio optimizer momentum lr_milestones lr_decay".split()
DEFAULT_TEACHER_SEED = 42  # one teacher for all seeds of a task, as in tables 1-4 and 7
VERSIONS = ("torch", "torchvision", "transformers", "mlflow")
TEACHERS_SETTING = "task model init seed lr batch_size epochs weight_decay warmup_ratio max_length selection".split()


Watch = Callable[[tracking.Run, Iterator[training.EpochReport]], Iterator[training.EpochReport]]


@dataclass(frozen=True)
class Job:
    """A run to be done: its resolved settings and where it belongs."""

    settings: dict[str, Value]
    given: dict[str, Value]  # what the user gave, for the runs that this one needs first
    kind: str = "student"
    parent: str | None = None
    study: str | None = None
    experiment: str | None = None
    reuse: bool = False  # take a finished run with the same fingerprint instead
    quiet: bool = False
    place: str = ""  # tells the checkpoints of runs with one fingerprint apart
    watch: Watch | None = None  # sees each epoch after it is logged, and may end the run there


@dataclass(frozen=True)
class Done:
    """A finished run, and what a reader wants to see of it."""

    run_id: str
    score: float
    split: str
    reused: bool = False
    one_class: str = ""  # the class that it gives every example: it has not learnt

    def flaw(self) -> str:
        """What stands behind its score in a line of progress."""
        return f", not learnt: every example gets {self.one_class}" if self.one_class else ""


def settings_of(given: Mapping[str, Value], role: str = "student") -> dict[str, Value]:
    """The settings of one run: `given`, the recipe, and what this machine makes of `auto`."""
    settings = recipes.resolve(dict(given), role)
    settings["precision_used"] = training.resolve_precision(str(settings["precision"]))
    settings["threads"] = settings.get("threads") or os.cpu_count()
    settings["device"] = training.device().type
    if METHODS[str(settings["method"])].needs == "teacher" and not settings.get("teacher_model"):
        if settings.get("teacher_run_id"):
            settings["teacher_model"] = None
        else:
            settings["teacher_model"] = models.teacher_of(str(settings["model"]), str(settings["task"]))
    return settings


def ignored(given: Mapping[str, Value]) -> list[str]:
    """One line for each given parameter that the run's method does not read."""
    method = METHODS[str(given["method"])]
    own = set(method.parameters) | ({"teacher_run_id"} if method.needs else set())
    own |= {"teacher_model"} if method.needs == "teacher" else set()
    names = ("alpha", "tau", "a", "tfreg_target", "phase1_epochs", "teacher_model", "teacher_run_id")
    lines = [
        f"{name} is ignored: method {given['method']} has none" for name in names if name in given and name not in own
    ]
    settings = recipes.resolve(dict(given))
    data = made_of(settings)
    others = [name for kind, keys in recipes.OF_DATA.items() if kind != data for name in keys]
    lines += [f"{name} is ignored: the task is made of {data}" for name in others if name in given]
    unread = [name for name in recipes.OF_SGD if name in given and name not in settings]
    return lines + [f"{name} is ignored: optimizer {settings['optimizer']} has none" for name in unread]


def run(job: Job) -> Done:
    """Do one run and log it by the contract.

    Raises:
        UserError: data, model or teacher are not what the settings ask for.
        DivergedError: the loss is no longer finite.
    """
    settings, where = job.settings, models.roots(job.settings)
    training.set_threads(int(settings["threads"]))
    data = corpus.prepare(settings, where)
    if not job.quiet and not job.reuse:  # what a student needs first reads the same
        prepared.say(data)
    models.check_head(settings, data.classes, where)
    settings["compile_used"] = _compile(settings, data)
    needs = METHODS[str(settings["method"])].needs
    teaching = find_source(job, data) if needs else None
    identity = fingerprint(job, data, teaching)
    name = " ".join(str(settings[key]) for key in ("task", "model", "init", "method")) + f" seed={settings['seed']}"
    if not job.quiet:
        print(f"{settings['device']}, threads {settings['threads']}, {settings['precision_used']}, ", end="")
        print(f"compile {settings['compile_used']}", flush=True)
    with checkpoint.claim(checkpoints(where, f"{identity}{job.place}"), wait=job.reuse) as claim:
        if job.reuse:  # asked for here, where no other process can be training it
            found = tracking.find(tracking.tagged({tracking.FINGERPRINT: identity, tracking.KIND: job.kind}))
            if found:
                claim.forget()
                return done(found[0], reused=True)
        resume = settings.get("resume") == "auto"
        over = tracking.ended(claim) if resume and not job.reuse else None
        if over:
            claim.forget()
            print(f"the interrupted run {over.info.run_id} had ended", flush=True)
            return done(over)
        before = tracking.unfinished(claim, resume)
        spool = where.cache / "spool"
        with tracking.open_run(job.kind, name, job.parent, job.study, job.experiment, before, spool, claim) as opened:
            if before and not job.quiet:
                print(f"going on with the interrupted run {before}", flush=True)
            teaching = teaching or (_make_source(job, data, opened) if needs else None)
            _log_start(opened, settings, data, identity, teaching)
            logits = _logits(teaching, data, where) if teaching else None
            if teaching and not job.quiet:
                print(_taught_by_one_class(teaching, logits, data), end="", flush=True)
            report = _train(job, opened, data, where, logits, identity, claim)
            if teaching:
                seconds = teaching.data.metrics.get("cost/train_seconds", 0.0)
                opened.metrics({"cost/teacher_seconds": seconds}, report.epoch)
        claim.forget()
    return done(tracking.get(opened.run_id))


def checkpoints(where: models.Roots, identity: str) -> Path:
    """The folder of a run's checkpoint, by its fingerprint."""
    return where.cache / "checkpoints" / identity


def steps_of(settings: Mapping[str, Value], examples: int) -> int:
    """Optimiser steps of a run on so many training examples."""
    return -(-examples // int(settings["batch_size"])) * int(settings["epochs"])


def _compile(settings: dict[str, Value], data: prepared.PreparedTask) -> str:
    return training.resolve_compile(str(settings["compile"]), steps_of(settings, len(data.splits["train"])))


def fingerprint(job: Job, data: prepared.PreparedTask, teaching=None) -> str:
    """The run's fingerprint; that of a source yet to be trained follows from its settings."""
    settings, where = job.settings, models.roots(job.settings)
    settings["compile_used"] = _compile(settings, data)
    taught_by = teaching and teaching.data.tags[tracking.FINGERPRINT]
    if not taught_by and METHODS[str(settings["method"])].needs:
        taught_by = fingerprint(source_job(job), data)
    weights = models.weights_digest(str(settings["model"]), str(settings["init"]), where)
    return training.fingerprint(settings, data, weights, taught_by)


def _train(job: Job, opened: tracking.Run, data, where: models.Roots, logits, identity: str, claim: checkpoint.Claim):
    """The epochs of one run, logged as they end, and its results."""
    settings = job.settings
    name, init = str(settings["model"]), str(settings["init"])
    model = models.load(
        name, data.classes, init, int(settings["seed"]), where, settings.get("stem"), str(settings.get("head", "new"))
    )
    epochs = training.train(model, data, settings, logits, claim.folder, progress=not job.quiet)
    for report in job.watch(opened, epochs) if job.watch else epochs:
        dev = {f"dev/{name}": value for name, value in report.dev.items()}
        opened.metrics({"train/loss": report.train_loss, **dev}, report.epoch)
        claim.note(f"{report.epoch}/{settings['epochs']}")
        if not job.quiet:
            print(
                f"epoch {report.epoch}/{settings['epochs']}: loss {report.train_loss:.4f}, "
                f"dev score {report.dev['score']:.2f} ({report.epoch_seconds:.1f} s)",
                flush=True,
            )
    cost = {
        "cost/train_seconds": report.train_seconds,
        f"cost/{data.splits['train'].unit}_per_second": report.tokens / report.train_seconds,
        "cost/padding_share": report.padding_share,
        "cost/peak_memory_mb": training.peak_memory_mb(),
    }
    if job.kind == "trial":  # a search looks at no test set, and needs no files
        selected = report.best if settings["selection"] == "best" else report
        _tag_one_class(opened, data, "dev", selected.dev_logits)
        dev = {"best/dev/score": report.best.dev["score"], "last/dev/score": report.dev["score"]}
        opened.metrics({"best/epoch": report.best.epoch} | dev | cost, report.epoch)
        return report
    keeps_logits = job.kind == "teacher" or settings["method"] == "finetune"
    splits = [split for split in data.splits if split != "train" or keeps_logits]
    outcome = training.conclude(model, data, report, settings, splits)
    ends = {"best/epoch": outcome.best_epoch}
    for which, by_split in (("best", outcome.best), ("last", outcome.last)):
        ends |= {f"{which}/{split}/score": values["score"] for split, values in by_split.items()}
    opened.metrics(ends | cost, report.epoch)
    scored = next((split for split in ("test", "dev") if split in outcome.best), "dev")  # as in `done`
    _tag_one_class(opened, data, scored, outcome.logits[scored])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if keeps_logits:
            teacher.save(folder / "logits", outcome.logits, data, identity)
        _write_predictions(folder, outcome.logits, data)
        if job.kind == "teacher" or settings.get("save_model") == "true":
            models.save(model, name, folder / "model", where)
        opened.folder(folder)
    return report


def _tag_one_class(opened: tracking.Run, data: prepared.PreparedTask, split: str, logits: torch.Tensor) -> None:
    """Tag a run whose weights give every example of the split one class."""
    found = training.one_class(logits, data.splits[split])
    if found is not None:
        opened.tags({tracking.ONE_CLASS: data.classes[found]})


def _taught_by_one_class(teaching, logits: torch.Tensor, data: prepared.PreparedTask) -> str:
    """A line where the run that a student learns from has not learnt itself; else nothing."""
    found = training.one_class(logits, data.splits["train"])  # of runs before there was the tag
    name = teaching.data.tags.get(tracking.ONE_CLASS) or (None if found is None else data.classes[found])
    if name is None:
        return ""
    return f"what it learns from has not learnt: run {teaching.info.run_id} gives every example the class {name}\n"


def find_source(job: Job, data: prepared.PreparedTask):
    """The run whose logits the student learns from, or None when it has to be trained first.

    Raises:
        UserError: `teacher_run_id` is no finished run with logits of this task.
    """
    wanted = job.settings.get("teacher_run_id")
    if wanted:
        found = tracking.get(str(wanted))
        if found.info.status != "FINISHED" or tracking.FINGERPRINT not in found.data.tags:
            raise UserError(f"teacher_run_id={wanted}: not a finished training run of labelreg ({found.info.status})")
        _logits(found, data, models.roots(job.settings))
        return found
    needed = source_job(job)
    if needed.kind == "student":
        exact = {tracking.FINGERPRINT: fingerprint(needed, data), tracking.KIND: "student"}
        return next(iter(tracking.find(tracking.tagged(exact))), None)
    runs = tracking.find(tracking.tagged({tracking.DATA: data.digest, tracking.KIND: "teacher"}))
    return teacher_among(runs, needed.settings)


def teacher_among(runs: list, settings: Mapping[str, Value]):
    """The first of the finished teacher runs that was trained with these settings, or None.

    Args:
        runs: on the same examples, oldest first: a later one does not change what a study has begun.
    """
    wanted = {name: settings.get(name) for name in (*TEACHERS_SETTING, *training.ALSO_DECIDES)}
    wanted = {name: logged.plain(value) for name, value in wanted.items() if value is not None}
    held = {name: training.ALSO_DECIDES[name] for name in ("optimizer", "head")}  # of runs before there was another

    def fits(run) -> bool:
        params = held | run.data.params
        return all(logged.same(params.get(name, ""), value) for name, value in wanted.items())

    return next(filter(fits, runs), None)


def source_job(job: Job) -> Job:
    """The run that a student needs first: its teacher, or (Self-KD) its own fine-tuned twin."""
    settings, given = job.settings, dict(job.given)
    for name in ("alpha", "tau", "a", "tfreg_target", "phase1_epochs", "teacher_run_id", "teacher_model"):
        given.pop(name, None)
    if METHODS[str(settings["method"])].needs == "finetune":
        twin = settings_of(given | {"method": "finetune"})
        return Job(twin, given, "student", None, job.study, job.experiment, reuse=True, quiet=job.quiet)
    for name in OWN_SETTING:  # the student's own; the recipe has the teacher's
        given.pop(name, None)
    drawn_anew = str(settings["task"]).startswith("fewrel") and not settings.get("train_file")  # for each seed
    given |= {
        "method": "finetune",
        "model": settings["teacher_model"],
        "init": models.teacher_init(str(settings["teacher_model"])),
        "task": settings["task"],
        "seed": settings["seed"] if drawn_anew else DEFAULT_TEACHER_SEED,
        "threads": settings["threads"],
    }
    own = settings_of(given, "teacher")
    return Job(own, given, "teacher", None, job.study, job.experiment, reuse=True, quiet=job.quiet)


def do(step: study.Step, parent: str, name: str, experiment: str) -> Done:
    """One run of the study `name`, in a worker process: found, waited for, gone on with or trained."""
    job = Job(settings_of(step.given), step.given, "student", parent, name, experiment, reuse=True, quiet=True)
    return source(job) if step.kind == "teacher" else run(job)


def source(job: Job) -> Done:
    """The run that a student learns from, found or trained now (under the job's parent)."""
    data = corpus.prepare(job.settings, models.roots(job.settings))
    found = find_source(job, data)
    return done(found, reused=True) if found else run(replace(source_job(job), parent=job.parent))


def _make_source(job: Job, data: prepared.PreparedTask, student: tracking.Run):
    needed = replace(source_job(job), parent=student.run_id)
    what = "fine-tuned twin" if needed.kind == "student" else "teacher"
    if not job.quiet:
        print(
            f"no {what} for {data.task} yet (model {needed.settings['model']}, seed {needed.settings['seed']}, "
            "the recipe's settings): training it first",
            flush=True,
        )
    made = run(needed)
    if not job.quiet:
        told = f"{made.split} score {made.score:.2f}{made.flaw()}"
        print(f"{what}: {told} (run {made.run_id}); now the student", flush=True)
    return tracking.get(made.run_id)


def _logits(teaching, data: prepared.PreparedTask, where: models.Roots) -> torch.Tensor:
    """The logits of a run on the training set: a verified copy in the cache, else the artifact."""
    run_id = teaching.info.run_id
    whose = f"run {run_id} ({teaching.data.params.get('model')}, {teaching.data.params.get('task')})"
    copy = where.cache / "logits" / run_id / "train.safetensors"
    if copy.is_file():
        try:
            return teacher.load(copy, data, "train", whose)
        except UserError as error:  # the artifact decides
            print(f"{error.args[0].partition(';')[0]}: {copy} is fetched again", flush=True)
            copy.unlink(missing_ok=True)
    copy.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=copy.parent) as folder:  # several workers may want it at once
        try:
            path = tracking.download(run_id, "logits/train.safetensors", Path(folder))
        except UserError as error:
            raise UserError(f"{error} ({whose}): {_way_out(teaching)}") from None
        logits = teacher.load(path, data, "train", whose)
        whole.settle(path)
        os.replace(path, copy)
    return logits


def _way_out(teaching) -> str:
    """What helps where a run's logits are not in the store."""
    run_id, params, kind = teaching.info.run_id, teaching.data.params, teaching.data.tags.get(tracking.KIND)
    if kind != "teacher" and params.get("method") != "finetune":
        return "only runs of finetune keep them; give another teacher_run_id"
    return f"bring them back, or `mlflow runs delete --run-id {run_id}`: without teacher_run_id it is trained anew"


def _log_start(run: tracking.Run, settings: dict[str, Value], data, fingerprint: str, teaching) -> None:
    names = [name for name in ENTRY_POINTS["train_student"] if name not in NOT_DECIDING]
    names += ["precision_used", "compile_used", "device"]
    values = {name: settings.get(name) for name in names}
    if teaching:
        values |= {"teacher_run_id": teaching.info.run_id, "teacher_model": teaching.data.params.get("model")}
    tags = {tracking.DATA: data.digest, tracking.FINGERPRINT: fingerprint, "labelreg.python": platform.python_version()}
    if settings.get("teacher_run_id"):  # not found by the settings: who runs it again must name it too
        tags["labelreg.teacher_given"] = "true"
    run.params(values, tags | {f"labelreg.version.{name}": version(name) for name in VERSIONS})
    run.data(str(settings["task"]), data.digest, str(settings.get("train_file") or settings["task"]))


def _write_predictions(folder: Path, logits: Mapping[str, torch.Tensor], data: prepared.PreparedTask) -> None:
    """`predictions/<split>.parquet`, and the GLUE server's files for its test sets."""
    (folder / "predictions").mkdir()
    for split, values in logits.items():
        if split == "train":
            continue
        tokens, probabilities = data.splits[split], metrics.softmax(values.numpy())
        table = pd.DataFrame({"idx": tokens.idx.numpy(), "label": tokens.labels.numpy()})
        for index, name in enumerate(data.classes):
            table[f"p_{name}"] = probabilities[:, index]
        table.to_parquet(folder / "predictions" / f"{split}.parquet", index=False)
        if split in data.glue:
            (folder / "submission").mkdir(exist_ok=True)
            predicted = [data.classes[index] for index in probabilities.argmax(axis=1)]
            server = pd.DataFrame({"index": tokens.idx.numpy(), "prediction": predicted})
            server.to_csv(folder / "submission" / f"{data.glue[split]}.tsv", sep="\t", index=False)


def done(found, reused: bool = False) -> Done:
    """What a reader wants to see of a finished run."""
    scores = found.data.metrics
    which = found.data.params.get("selection", "best")
    split = "test" if f"{which}/test/score" in scores else "dev"
    one_class = found.data.tags.get(tracking.ONE_CLASS, "")
    return Done(found.info.run_id, scores[f"{which}/{split}/score"], split, reused, one_class)


def not_learnt(done: Done, settings: Mapping[str, Value]) -> str:
    """The last line of a run that gives every example one class, with what to try."""
    lr, warmup, epochs, batch = (settings[name] for name in ("lr", "warmup_ratio", "epochs", "batch_size"))
    return (
        f"not learnt: every example of {done.split} gets the class {done.one_class}, so this score says nothing of the "
        f"method; try a lower lr (here {lr:g}), a warm-up (warmup_ratio, here {warmup:g}), or more steps (epochs, here "
        f"{epochs}; a smaller batch_size, here {batch})"
    )
