"""One training run, teacher or student: prepare, find the teacher, train, log. Used by every entry point."""

import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from labelreg import memory, metrics, places, serving, training, whole
from labelreg.data import corpus, own_teacher, prepared, teacher_logits
from labelreg.data.batching import REST
from labelreg.data.tasks import drawn_anew
from labelreg.errors import UserError
from labelreg.job import (
    Job,
    check,
    checkpoints,
    fingerprint,
    machine_of,
    settings_of,
    source_job,
    teacher_among,
    weights_here,
)
from labelreg.methods import METHODS, mean_of, own_file
from labelreg.models import adapter, registry
from labelreg.output import duration
from labelreg.parameter import Value, joined
from labelreg.settings import Machine, Settings, given_teacher, needs_of
from labelreg.store import checkpoint, models, records, tracking
from labelreg.workers.steps import Step

MOST_NAMED = 20  # classes that a tag names
TESTED = (REST, "test", "dev")  # of these the first that has labels gives the score that is told of a run
VERSIONS = ("torch", "torchvision", "transformers", "mlflow")


@dataclass(frozen=True)
class Done:
    """A finished run, and what a reader wants to see of it."""

    run_id: str
    score: float
    split: str
    reused: bool = False
    one_class: str = ""  # the class that it gives every example: it has not learnt
    never: str = ""  # classes that it gives no example

    def flaw(self) -> str:
        """What stands behind its score in a line of progress."""
        return f", not learnt: every example gets {self.one_class}" if self.one_class else ""


def carry_out(job: Job) -> Done:
    """Do one run and log it by the contract.

    Raises:
        UserError: data, model or teacher are not what the settings ask for.
        DivergedError: the loss is no longer finite.
    """
    settings, roots = job.settings, places.roots(job.settings)
    torch.set_num_threads(training.threads_of(settings))  # more or fewer change the last bits of a result
    own_teacher.check(settings)
    data = corpus.prepare(settings, roots)
    if not job.quiet and not job.reuse:  # what a student needs first reads the same
        prepared.tell(prepared.lines(data))
    check(settings, data)
    machine, needs = machine_of(settings, data), needs_of(settings.method, vars(settings))
    teaching = find_sources(job, data) if needs else ()
    own = own_teacher.read(settings, data) if given_teacher(vars(settings)) else None
    identity = fingerprint(job, data, teaching, own)
    name = f"{settings.task} {settings.model} {settings.init} {settings.method} seed={settings.seed}"
    if not job.quiet:
        print(
            f"{machine.device}, threads {machine.threads}, {machine.precision}, compile {machine.compile}", flush=True
        )
    with checkpoint.claim(checkpoints(roots, f"{identity}{job.place}"), wait=job.reuse) as claim:
        if job.reuse:  # asked for here, where no other process can be training it
            same = {tracking.FINGERPRINT: identity, tracking.KIND: job.kind}
            found = tracking.find(tracking.tagged(same | ({tracking.REST: data.rest} if data.rest else {})))
            if found:
                claim.forget()
                return done(found[0], reused=True)
        resume = settings.resume == "auto"
        over = tracking.ended(claim) if resume and not job.reuse else None
        if over and data.rest in (None, over.data.tags.get(tracking.REST)):
            claim.forget()
            print(f"the interrupted run {over.info.run_id} had ended", flush=True)
            return done(over)
        before = tracking.unfinished(claim, resume)
        spool = roots.cache / "spool"
        with tracking.open_run(job.kind, name, job.parent, job.study, job.experiment, before, spool, claim) as opened:
            if before and not job.quiet:
                print(f"going on with the interrupted run {before}", flush=True)
            teaching = teaching or ((_make_source(job, data, opened),) if needs else ())
            _log_start(opened, settings, machine, data, identity, teaching, own)
            each = [_logits(source, data, roots) for source in teaching]
            if not job.quiet:
                print("".join(map(partial(_taught_by_one_class, data), teaching, each)), end="", flush=True)
            if own and not job.quiet:
                prepared.tell(own_teacher.lines(own))
            logits = mean_of(each, settings.own) if each else own.logits if own else None
            report = _train(job, machine, opened, data, roots, logits, identity, claim)
            if teaching:
                seconds = sum(source.data.metrics.get("cost/train_seconds", 0.0) for source in teaching)
                opened.metrics({"cost/teacher_seconds": seconds}, report.epoch)
            if own:
                opened.metrics({"teacher/train/accuracy": own.accuracy}, report.epoch)
        claim.forget()
    return done(tracking.get(opened.run_id))


def _train(
    job: Job,
    machine: Machine,
    opened: tracking.Run,
    data: prepared.PreparedTask,
    roots: places.Roots,
    logits: torch.Tensor | None,
    identity: str,
    claim: checkpoint.Claim,
) -> training.EpochReport:
    """The epochs of one run, logged as they end, and its results."""
    settings = job.settings
    name, init = settings.model, settings.init
    stem, head = settings.stem, settings.head  # the one of images, the other of text
    memory.forget_peak()
    model = registry.load(name, data.classes, init, settings.seed, roots, stem, head, adapter.of(settings))
    size = {"cost/trainable_parameters": adapter.parameters(model), "cost/model_mb": adapter.megabytes(model)}
    epochs = training.train(model, data, settings, machine, logits, claim.folder, progress=not job.quiet)
    began = time.monotonic()
    for count, report in enumerate(job.watch(opened, epochs) if job.watch else epochs, 1):
        dev = {f"dev/{name}": value for name, value in report.dev.items()}
        opened.metrics({"train/loss": report.train_loss, **dev}, report.epoch)
        claim.note(f"{report.epoch}/{settings.epochs}")
        if not job.quiet:
            left = settings.epochs - report.epoch
            rest = f"; about {duration(left * (time.monotonic() - began) / count)} to go" if left else ""
            print(
                f"epoch {report.epoch}/{settings.epochs}: loss {report.train_loss:.4f}, "
                f"dev score {report.dev['score']:.2f} ({report.epoch_seconds:.1f} s){rest}",
                flush=True,
            )
    cost = {
        "cost/train_seconds": report.train_seconds,
        f"cost/{data.splits['train'].unit}_per_second": report.tokens / report.train_seconds,
        "cost/padding_share": report.padding_share,
        "cost/passes": report.passes,
        "cost/peak_memory_mb": memory.peak_mb(),
    } | size
    if job.kind == "trial":  # a search looks at no test set, and needs no files
        selected = report.best if settings.selection == "best" else report
        _tag_classes(opened, data, "dev", selected.dev_logits)
        dev = {"best/dev/score": report.best.dev["score"], "last/dev/score": report.dev["score"]}
        opened.metrics({"best/epoch": report.best.epoch} | dev | cost, report.epoch)
        return report
    keeps_logits = job.kind == "teacher" or settings.method == "finetune"
    splits = [split for split in data.splits if split != "train" or keeps_logits]
    outcome = training.conclude(model, data, report, settings, machine, splits)
    ends: dict[str, float] = {"best/epoch": outcome.best_epoch}
    for which, by_split in (("best", outcome.best), ("last", outcome.last)):
        ends |= {f"{which}/{split}/score": values["score"] for split, values in by_split.items()}
    opened.metrics(ends | cost, report.epoch)
    if data.rest:  # with its score, not before: a run may be gone on with without `rest`
        opened.tags({tracking.REST: data.rest})
    kept = outcome.last if settings.selection == "last" else outcome.best
    scored = next(split for split in TESTED if split in kept)
    _tag_classes(opened, data, scored, outcome.logits[scored])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if keeps_logits:
            learnt_from = {split: values for split, values in outcome.logits.items() if split != REST}
            teacher_logits.save(folder / "logits", learnt_from, data, identity)
        _write_predictions(folder, outcome.logits, data)
        opened.folder(folder)
        if job.kind == "teacher" or settings.save_model == "true":
            known = serving.facts(data, settings, roots)
            write = partial(serving.write, known=known, model=model, name=name, roots=roots)
            models.store(opened, folder / "model", serving.kind(known), write, (data.task, data.digest))
    return report


def _tag_classes(opened: tracking.Run, data: prepared.PreparedTask, split: str, logits: torch.Tensor) -> None:
    """Tag a run whose weights give every example of the split one class, or some class to none of them."""
    found, never = training.one_class(logits, data.splits[split]), training.never_predicted(logits, data.splits[split])
    if found is not None:
        opened.tags({tracking.ONE_CLASS: data.classes[found]})
    elif never:
        opened.tags({tracking.NEVER: joined(data.classes[index] for index in never[:MOST_NAMED])})


def _taught_by_one_class(data: prepared.PreparedTask, teaching: tracking.Found, logits: torch.Tensor) -> str:
    """A line where the run that a student learns from has not learnt itself; else nothing."""
    found = training.one_class(logits, data.splits["train"])  # of runs before there was the tag
    name = teaching.data.tags.get(tracking.ONE_CLASS) or (None if found is None else data.classes[found])
    if name is None:
        return ""
    return f"what it learns from has not learnt: run {teaching.info.run_id} gives every example the class {name}\n"


def find_sources(job: Job, data: prepared.PreparedTask) -> tuple[tracking.Found, ...]:
    """The runs whose logits the student learns from; none when one has to be trained first.

    Raises:
        UserError: `teacher_run_id` names no finished runs with logits of this task, one twice, or several for a
            method that learns from one.
    """
    wanted = job.settings.teacher_run_id
    if not wanted:
        found = _find_source(job, data)
        return (found,) if found else ()
    names = [name for each in str(wanted).split(",") if (name := each.strip())]
    if len(set(names)) < len(names) or not names:
        raise UserError(f"teacher_run_id={wanted}: allowed are different run ids, comma-separated")
    if len(names) > 1 and "teachers_mean" not in METHODS[job.settings.method].parameters:
        several = ", ".join(name for name, each in METHODS.items() if "teachers_mean" in each.parameters)
        raise UserError(f"teacher_run_id={wanted}: {job.settings.method} learns from one run; from several: {several}")
    given = [_given_source(name, job, data) for name in names]
    return tuple(sorted(given, key=lambda run: run.data.tags[tracking.FINGERPRINT]))  # a mean has no order


def _given_source(name: str, job: Job, data: prepared.PreparedTask) -> tracking.Found:
    found = tracking.get(name)
    if found.info.status != "FINISHED" or tracking.FINGERPRINT not in found.data.tags:
        raise UserError(f"teacher_run_id={name}: not a finished training run of labelreg ({found.info.status})")
    _logits(found, data, places.roots(job.settings))
    return found


def _find_source(job: Job, data: prepared.PreparedTask) -> tracking.Found | None:
    needed = source_job(job)
    if needed.kind == "student":
        exact = {tracking.FINGERPRINT: fingerprint(needed, data), tracking.KIND: "student"}
        return next(iter(tracking.find(tracking.tagged(exact))), None)
    runs = tracking.find(tracking.tagged({tracking.DATA: data.digest, tracking.KIND: "teacher"}))
    here = weights_here(needed.settings.model, needed.settings.init, places.roots(job.settings))
    return teacher_among(runs, needed.settings, here)


def do(step: Step, parent: str, name: str, experiment: str, drawn: Mapping[str, Value] = {}) -> Done:
    """One run of the study or the search `name`, in a worker process: found, waited for, gone on with or trained.
    `drawn`: what a search gives beside, and not to what is learnt from."""
    settings = settings_of({**step.given, **drawn})
    job = Job(settings, step.given, "student", parent, name, experiment, reuse=True, quiet=True)
    return source(job) if step.kind == "teacher" else carry_out(job)


def source(job: Job) -> Done:
    """The run that a student learns from, found or trained now (under the job's parent)."""
    data = corpus.prepare(job.settings, places.roots(job.settings))
    found = find_sources(job, data)
    return done(found[0], reused=True) if found else carry_out(replace(source_job(job), parent=job.parent))


def _make_source(job: Job, data: prepared.PreparedTask, student: tracking.Run) -> tracking.Found:
    needed = replace(source_job(job), parent=student.run_id)
    what = "fine-tuned twin" if needed.kind == "student" else "teacher"
    if not job.quiet:
        print(
            f"no {what} for {data.task} yet (model {needed.settings.model}, seed {needed.settings.seed}, "
            "the recipe's settings): training it first",
            flush=True,
        )
    made = carry_out(needed)
    if not job.quiet:
        told = f"{made.split} score {made.score:.2f}{made.flaw()}"
        print(f"{what}: {told} (run {made.run_id}); now the student", flush=True)
    return tracking.get(made.run_id)


def _logits(teaching: tracking.Found, data: prepared.PreparedTask, roots: places.Roots) -> torch.Tensor:
    """The logits of a run on the training set: a verified copy in the cache, else the artifact."""
    run_id = teaching.info.run_id
    whose = f"run {run_id} ({teaching.data.params.get('model')}, {teaching.data.params.get('task')})"
    copy = roots.cache / "logits" / run_id / "train.safetensors"
    if copy.is_file():
        try:
            return teacher_logits.load(copy, data, "train", whose)
        except UserError as error:  # the artifact decides
            print(f"{error.args[0].partition(';')[0]}: {copy} is fetched again", flush=True)
            copy.unlink(missing_ok=True)
    copy.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=copy.parent) as folder:  # several workers may want it at once
        try:
            path = records.download(run_id, "logits/train.safetensors", Path(folder))
        except UserError as error:
            raise UserError(f"{error} ({whose}): {_way_out(teaching)}") from None
        logits = teacher_logits.load(path, data, "train", whose)
        whole.settle(path)
        os.replace(path, copy)
    return logits


def _way_out(teaching: tracking.Found) -> str:
    """What helps where a run's logits are not in the store."""
    run_id, params, kind = teaching.info.run_id, teaching.data.params, teaching.data.tags.get(tracking.KIND)
    if kind != "teacher" and params.get("method") != "finetune":
        return "only runs of finetune keep them; give another teacher_run_id"
    return f"bring them back, or `mlflow runs delete --run-id {run_id}`: without teacher_run_id it is trained anew"


def _log_start(
    run: tracking.Run,
    settings: Settings,
    machine: Machine,
    data: prepared.PreparedTask,
    fingerprint: str,
    teaching: Sequence[tracking.Found],
    own: own_teacher.OwnTeacher | None = None,
) -> None:
    values = settings.told() | machine.facts()
    values["rest"] = "on" if data.rest else None if settings.rest == "auto" else settings.rest
    if own_file.FILE in settings.own:  # who reads the store does not have the file, which says what its parameters are
        values[own_file.SETTINGS] = own_file.told(settings.own)
    if teaching:
        values["teacher_run_id"] = ",".join(source.info.run_id for source in teaching)
        values["teacher_model"] = _each("model", teaching)
        twin = METHODS[settings.method].needs == "finetune"  # its seed is the run's
        values["teacher_seed"] = None if twin else _each("seed", teaching)
    if own:
        values |= {"teacher_values": own.kind, "teacher_digest": own.file_digest}
        values |= {} if drawn_anew(settings.task, settings.train_file) else {"teacher_logits": own.digest}
    tags = {tracking.DATA: data.digest, tracking.FINGERPRINT: fingerprint, "labelreg.python": platform.python_version()}
    tags[tracking.WEIGHTS] = registry.weights_digest(settings.model, settings.init, places.roots(settings))
    if own_file.FILE in settings.own:
        tags[tracking.METHOD_FILE] = joined([own_file.place_of(settings.method)])
    if settings.teacher_run_id:  # not found by the settings: who runs it again must name it too
        tags["labelreg.teacher_given"] = "true"
    names = (*VERSIONS, "peft") if adapter.of(settings) else VERSIONS
    run.params(values, tags | {f"labelreg.version.{name}": version(name) for name in names})
    run.data(settings.task, data.digest, str(settings.train_file or settings.task))


def _each(name: str, runs: Sequence[tracking.Found]) -> str | None:
    """A parameter of some runs, each value once."""
    return ",".join(dict.fromkeys(run.data.params[name] for run in runs if name in run.data.params)) or None


def _write_predictions(folder: Path, logits: Mapping[str, torch.Tensor], data: prepared.PreparedTask) -> None:
    """`predictions/<split>.parquet`, and the GLUE server's files for its test sets."""
    (folder / "predictions").mkdir()
    for split, values in logits.items():
        if split == "train":
            continue
        tokens, probabilities = data.splits[split], metrics.softmax(values.numpy())
        columns = {"idx": tokens.idx.numpy(), "label": tokens.labels.numpy()}
        columns |= {f"p_{name}": probabilities[:, index] for index, name in enumerate(data.classes)}
        table = pd.DataFrame(columns)  # at once: of a thousand classes, one by one, pandas warns
        if tokens.group is not None:
            table["group"] = [data.groups[index] for index in tokens.group.tolist()]
        table.to_parquet(folder / "predictions" / f"{split}.parquet", index=False)
        if split in data.glue:
            (folder / "submission").mkdir(exist_ok=True)
            predicted = [data.classes[index] for index in probabilities.argmax(axis=1)]
            server = pd.DataFrame({"index": tokens.idx.numpy(), "prediction": predicted})
            server.to_csv(folder / "submission" / f"{data.glue[split]}.tsv", sep="\t", index=False)


def done(found: tracking.Found, reused: bool = False) -> Done:
    """What a reader wants to see of a finished run."""
    scores = found.data.metrics
    which = found.data.params.get("selection", "best")
    split = next(split for split in TESTED if f"{which}/{split}/score" in scores or split == "dev")
    one_class, never = (found.data.tags.get(name, "") for name in (tracking.ONE_CLASS, tracking.NEVER))
    return Done(found.info.run_id, scores[f"{which}/{split}/score"], split, reused, one_class, never)


def classes_line(done: Done, settings: Settings) -> str:
    """The last line of a run that gives some class to no example, or every example one class, with what to try."""
    if done.never:
        return f"no example of {done.split} is given the class {done.never}, which some of them have"
    if not done.one_class:
        return ""
    return (
        f"not learnt: every example of {done.split} gets the class {done.one_class}, so this score says nothing of the "
        f"method; try a lower lr (here {settings.lr:g}), a warm-up (warmup_ratio, here {settings.warmup_ratio:g}), or "
        f"more steps (epochs, here {settings.epochs}; a smaller batch_size, here {settings.batch_size})"
    )
