"""The loop: a generator that yields one EpochReport per epoch. It knows neither MLflow nor Optuna.

Whoever iterates logs, reports or prunes; stopping the iteration stops the training, and `conclude`
makes a finished record of it after any epoch.
"""

import json
import math
import random
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from joblib import cpu_count  # of this process: affinity and a container's quota, not the machine's
from torch import Tensor
from tqdm import tqdm

from labelreg import methods, metrics
from labelreg.averaging import COUNT, Average
from labelreg.data import batching
from labelreg.data.batching import REST, Split
from labelreg.data.prepared import PreparedTask
from labelreg.errors import DivergedError, UserError
from labelreg.memory import keep_freed
from labelreg.models import adapter, registry
from labelreg.settings import Machine, Settings
from labelreg.store import checkpoint
from labelreg.whole import digest

EVALUATION_BATCH = 128
MAX_GRAD_NORM = 1.0  # the transformers Trainer's default; the paper is silent
COMPILE_FROM_STEPS = 2000  # compiling takes about a minute
RESULT_VERSION = 1  # raised when a change of the engine alters results; part of every fingerprint

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Point:
    """The state after an epoch: weights, and what they give on dev (metrics; logits [examples, classes])."""

    epoch: int
    dev: dict[str, float]
    dev_logits: Tensor
    weights: Weights


@dataclass(frozen=True)
class EpochReport:
    """What one epoch gave, and the best point so far (highest dev score, the first on ties)."""

    epoch: int
    train_loss: float
    dev: dict[str, float]
    dev_logits: Tensor
    best: Point
    epoch_seconds: float  # training steps alone, this epoch
    train_seconds: float  # and since the start
    tokens: int  # real ones since the start; of images, the images
    padding_share: float  # this epoch
    passes: int = 0  # forward passes over the training set since the start


@dataclass(frozen=True)
class Outcome:
    """A finished training: metrics of the best and the last epoch, logits of the selected one.

    `best` and `last` hold metrics by split; `logits` [examples, classes] float32 by split.
    """

    best_epoch: int
    best: dict[str, dict[str, float]]
    last: dict[str, dict[str, float]]
    logits: dict[str, Tensor]


def device() -> torch.device:
    """Where models live: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(precision: str) -> str:
    """`auto` is bf16 where the machine computes in bf16, else fp32: a fact of the device, not a timing."""
    if precision != "auto":
        return precision
    if device().type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    found = torch.cpu.get_capabilities()
    return "bf16" if found.get("avx512_bf16") or found.get("amx_bf16") else "fp32"


def resolve_compile(wanted: str, steps: int) -> str:
    """`auto` compiles on a GPU, for runs long enough to pay for it; not on a CPU (docs/choices.md)."""
    if wanted == "on" and device().type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise UserError("compile=on needs a C++ compiler on a CPU; there is none on PATH")
    if wanted != "auto":
        return wanted
    return "on" if device().type == "cuda" and steps >= COMPILE_FROM_STEPS else "off"


def train(
    model: torch.nn.Module,
    data: PreparedTask,
    settings: Settings,
    machine: Machine,
    teacher: Tensor | None = None,
    keep: Path | None = None,
    progress: bool = False,
) -> Iterator[EpochReport]:
    """Train `model` in place; the loss is its method's.

    Args:
        data: its splits train and dev are used.
        teacher: logits on the training set, in its order [examples, classes]; None without a teacher.
        keep: folder of the run's checkpoint, read first: the report of its epoch comes again, then the next.
        progress: a bar of the epoch's batches, on a terminal.

    Raises:
        DivergedError: the loss of an epoch is not finite.
    """
    keep_freed()
    where = device()
    model.to(where)
    registry.compact(model, data, decays=bool(settings.weight_decay))
    split, lengths = data.splits["train"].to(where), data.splits["train"].lengths
    method, seed, batch_size = methods.METHODS[settings.method], settings.seed, settings.batch_size
    loss_of, passes = method.loss_of(settings.own), method.passes(settings.own)
    memory = method.memory_of(settings.own, len(data.classes), None if teacher is None else teacher.to(where))
    varied = len(lengths.unique()) > 1  # else every batch but the last has one shape
    forward = torch.compile(model, dynamic=varied) if machine.compile == "on" else model
    optimizer = _optimizer(model, settings)
    phases = method.phases(settings.epochs, settings.own)
    steps, unsaved = -(-len(split) // batch_size), 0.0
    average = _average(settings, phases, steps)
    report = _restore(keep, model, optimizer, memory, average) if keep else None
    if report:
        average.show(model)
        yield report
    places = [(nth, length) for length in phases for nth in range(1, length + 1)]
    for epoch, (nth, of) in enumerate(places, 1):
        if report and epoch <= report.epoch:
            continue
        average.hide(model)
        if nth == 1:  # a phase has an optimiser and a schedule of its own
            optimizer = _optimizer(model, settings)
        usual = [_rate(settings, step, of * steps) for step in range((nth - 1) * steps, nth * steps)]
        rates = [average.rate(step, rate) for step, rate in enumerate(usual, (epoch - 1) * steps)]
        batches, seen = batching.epoch_batches(lengths, batch_size, seed, epoch), split.of_epoch(seed, epoch)
        _seed(batching.generator(seed, epoch, "dropout").initial_seed())
        shown = tqdm(batches, f"epoch {epoch}/{sum(phases)}", leave=False, disable=None if progress else True)
        started, total = time.perf_counter(), torch.zeros((), device=where)
        model.train()
        for step, (batch, rate) in enumerate(zip(shown, rates, strict=True), (epoch - 1) * steps):
            index, width = batch.to(where, non_blocking=True), int(lengths[batch].max())
            inputs, labels = seen.inputs(index, width), split.labels[index]
            with _autocast(where, machine):
                logits, *again = (forward(**inputs).logits for _ in range(passes))
            loss = loss_of(logits, labels, again[0] if again else memory.rows(index, labels), epoch)
            memory.see(index, labels, logits.detach())
            loss.backward()
            if settings.optimizer != "sgd":  # clipped as by the Trainer, and not at all as by Yuan et al.
                torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.add(model, step)
            total += loss.detach() * len(batch)
        train_loss = _finite(total.item() / len(split), epoch, settings)  # the epoch's only synchronisation
        if follows := epoch < sum(phases):
            memory.turn(lambda: predict(model, data.splits["train"], machine))
        seconds = time.perf_counter() - started
        average.show(model)
        dev_logits, dev = _on_dev(model, data, settings, machine, epoch)
        taken, tokens = passes + follows * memory.passes, passes * int(lengths.sum())
        padding = batching.padding_share(lengths, batches)
        report = _report(report, model, epoch, train_loss, dev, dev_logits, seconds, tokens, padding, taken)
        unsaved += time.perf_counter() - started
        if keep and unsaved >= settings.checkpoint_seconds:
            _keep(keep, model, optimizer, report, memory, average)
            unsaved = 0.0
        yield report


def _seed(number: int) -> None:
    """Dropout draws from torch; a loss of the user's own may draw from numpy and random too."""
    torch.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)


def _finite(loss: float, epoch: int, settings: Settings) -> float:
    if not math.isfinite(loss):
        raise DivergedError(f"the loss of epoch {epoch} is {loss}: lower lr ({settings.lr:g})?")
    return loss


def _report(
    before: EpochReport | None,
    model: torch.nn.Module,
    epoch: int,
    train_loss: float,
    dev: dict[str, float],
    dev_logits: Tensor,
    seconds: float,
    tokens: int,
    padding_share: float,
    passes: int,
) -> EpochReport:
    """The report of an epoch after `before`: what it cost is added up, and the best point so far is kept."""
    best = before.best if before else None
    if best is None or dev["score"] > best.dev["score"]:
        best = Point(epoch, dev, dev_logits, snapshot(model))
    so_far = (before.train_seconds, before.tokens, before.passes) if before else (0.0, 0, 0)
    return EpochReport(
        epoch, train_loss, dev, dev_logits, best, seconds, so_far[0] + seconds, so_far[1] + tokens, padding_share,
        so_far[2] + passes,
    )  # fmt: skip


def _on_dev(
    model: torch.nn.Module, data: PreparedTask, settings: Settings, machine: Machine, epoch: int
) -> tuple[Tensor, dict[str, float]]:
    logits = predict(model, data.splits["dev"], machine)
    if not torch.isfinite(logits).all():  # the loss is computed before a step, the weights break after it
        raise DivergedError(f"the model of epoch {epoch} predicts no finite number: lower lr ({settings.lr:g})?")
    return logits, score(logits, data.splits["dev"], data.metric)


def _average(settings: Settings, phases: tuple[int, ...], steps: int) -> Average:
    """The average of a run's weights: of its last phase alone, so that one begins with that phase at the earliest.

    SWA begins after that phase's warm-up at the earliest: the rate that it keeps is none of those that rise.
    """
    first, last = (sum(phases) - phases[-1]) * steps, sum(phases) * steps
    risen = _warmup(settings, last - first) if settings.average == "swa" else 0
    start = min(max(first + risen, round(float(settings.average_start or 0) * last)), last - 1)
    return Average(settings, start, settings.swa_lr or _rate(settings, start - first, last - first))


def _keep(
    folder: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    report: EpochReport,
    memory: methods.Memory,
    average: Average,
) -> None:
    tensors = {f"model.{name}": value for name, value in (average.trained or adapter.trained(model)).items()}
    tensors |= {f"memory.{name}": value for name, value in memory.state.items()}
    tensors |= {f"average.{name}": value for name, value in average.state.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    if report.best.epoch != report.epoch or average.state:  # else they are the model's
        tensors |= {f"best.{name}": value for name, value in report.best.weights.items()}
    tensors |= {"dev_logits": report.dev_logits, "best_dev_logits": report.best.dev_logits.clone()}
    names = ("epoch", "train_loss", "dev", "epoch_seconds", "train_seconds", "tokens", "padding_share", "passes")
    record = {name: getattr(report, name) for name in names}
    checkpoint.save(folder, tensors, record | {"best_epoch": report.best.epoch, "best_dev": report.best.dev})


def _restore(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, memory: methods.Memory, average: Average
) -> EpochReport | None:
    found = checkpoint.load(folder)
    if found is None:
        return None
    tensors, record = found

    def part(prefix: str) -> Weights:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    where, held = device(), part("model.")
    own = {name: value.shape for name, value in adapter.trained(model).items()}
    if own != {name: value.shape for name, value in held.items()}:
        why = "an earlier version, or of this run with another `rest`"  # both may train other rows of the embedding
        print(f"{folder}: a checkpoint of {why}: the run begins again at its first epoch", flush=True)
        return None
    adapter.put(model, held)
    memory.state = memory.state | part("memory.")  # a method moves it where its batches are
    average.state = {name: value if name == COUNT else value.to(where) for name, value in part("average.").items()}
    state: dict[int, Weights] = {}
    for name, value in part("optimizer.").items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    weights = {name: value.to(where) for name, value in part("best.").items()} or snapshot(model)
    best = Point(record.pop("best_epoch"), record.pop("best_dev"), tensors["best_dev_logits"], weights)
    return EpochReport(**record, dev_logits=tensors["dev_logits"], best=best)


def conclude(
    model: torch.nn.Module,
    data: PreparedTask,
    report: EpochReport,
    settings: Settings,
    machine: Machine,
    splits: Iterable[str],
) -> Outcome:
    """Finish after any epoch: evaluate best and last, leave the model with the selected weights.

    `rest` is larger than all else that a run computes: the selected weights alone are evaluated on it.

    Args:
        report: of the last epoch that was trained.
        splits: those whose logits are wanted, by the weights that `selection` names.
    """
    tests = [split for split, each in data.splits.items() if split.startswith(("test", REST)) and each.labelled]
    last = Point(report.epoch, report.dev, report.dev_logits, snapshot(model))
    points, loaded, logits, scores = {"best": report.best, "last": last}, last, {"dev": last.dev_logits}, {}
    for which in sorted(points, key=settings.selection.__eq__):  # the selected one last: its weights stay
        point = points[which]
        if point.epoch != loaded.epoch:
            adapter.put(model, point.weights)
            loaded, logits = point, {"dev": point.dev_logits}
        kept = which == settings.selection
        scored = [split for split in tests if kept or split != REST]
        wanted = dict.fromkeys([*scored, *(splits if kept else ())])  # each once
        logits |= {split: predict(model, data.splits[split], machine) for split in wanted if split not in logits}
        scores[which] = {"dev": point.dev} | {
            split: score(logits[split], data.splits[split], data.metric) for split in scored
        }
    registry.expand(model)
    return Outcome(report.best.epoch, scores["best"], scores["last"], {split: logits[split] for split in splits})


def snapshot(model: torch.nn.Module) -> Weights:
    """A copy of the weights that are trained."""
    return {name: value.detach().clone() for name, value in adapter.trained(model).items()}


def predict(model: torch.nn.Module, split: Split, machine: Machine) -> Tensor:
    """Logits of every example, in the split's order [examples, classes], float32 on the CPU."""
    where = device()
    lengths, split = split.lengths, split.to(where)
    result: Tensor | None = None
    # one autocast for all batches: it keeps the casts of the weights, which are the same for each
    with registry.expanded(model.to(where)), torch.inference_mode(), _autocast(where, machine):
        model.eval()
        for batch in batching.sorted_batches(lengths, EVALUATION_BATCH):
            logits = model(**split.inputs(batch.to(where), int(lengths[batch].max()))).logits
            result = logits.new_empty(len(split), logits.shape[1], dtype=torch.float32) if result is None else result
            result[batch.to(where)] = logits.float()
    assert result is not None  # a split has examples
    return result.cpu()


def score(logits: Tensor, split: Split, metric: str) -> dict[str, float]:
    """The metrics of a labelled split."""
    return metrics.evaluate(logits.numpy(), split.labels.cpu().numpy(), metric)


def one_class(logits: Tensor, split: Split) -> int | None:
    """The class that every example of a split is given, where its labels are not all the same; else None.

    logits: [examples, classes].
    """
    predicted = logits.argmax(1).unique()
    return int(predicted) if len(predicted) == 1 and len(split.labels.unique()) > 1 else None


def never_predicted(logits: Tensor, split: Split) -> list[int]:
    """The classes of a split's labels that none of its examples is given. logits: [examples, classes]."""
    return sorted(set(split.labels.unique().tolist()) - set(logits.argmax(1).unique().tolist()))


def _autocast(where: torch.device, machine: Machine) -> torch.autocast:
    return torch.autocast(where.type, torch.bfloat16, enabled=machine.precision == "bf16")


def _optimizer(model: torch.nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """AdamW without decay on vectors (biases, norms), or SGD with momentum and decay on all (Yuan et al. 2020)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if settings.optimizer == "sgd":
        momentum, decay = settings.momentum, settings.weight_decay
        return torch.optim.SGD(trained, settings.lr, momentum=momentum, weight_decay=decay)
    matrices, vectors = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, fused=True)


def _warmup(settings: Settings, steps: int) -> int:
    """Steps in which the learning rate rises."""
    return round(settings.warmup_ratio * steps)


def _rate(settings: Settings, step: int, steps: int) -> float:
    """The learning rate of a step (from 0): it rises linearly; then it falls linearly to 0, or, for SGD, is
    multiplied by lr_decay at each of lr_milestones (shares of the steps)."""
    warmup = _warmup(settings, steps)
    if step < warmup:
        share = (step + 1) / (warmup + 1)
    elif settings.optimizer == "sgd":
        passed = sum(step >= round(milestone * steps) for milestone in settings.lr_milestones)
        share = settings.lr_decay**passed
    else:
        share = (steps - step) / max(1, steps - warmup)
    return settings.lr * share


def fingerprint(settings: Settings, machine: Machine, examples: str, weights: str, teacher: str | None) -> str:
    """What makes two runs the same run, 32 hex digits.

    Args:
        examples: the digest of the task's, as prepared.
        weights: registry.weights_digest of the student.
        teacher: fingerprint of the run whose logits it learns from.

    Raises:
        UserError: a parameter of a method of the user's own has the name of something else in it.
    """
    facts, others = settings.decisive(), machine.facts()
    others |= {"data": examples, "weights": weights, "teacher": teacher, "version": RESULT_VERSION}
    if both := sorted(facts.keys() & others.keys()):  # one would hide the other
        told = "every run has a fact of this name; take another"
        raise UserError(f"method={settings.method}: {', '.join(both)}: {told}")
    return digest(json.dumps(facts | others, sort_keys=True))


def machine_of(settings: Settings, examples: int) -> Machine:
    """What this machine makes of `auto` in a run on so many training examples."""
    return Machine(
        resolve_precision(settings.precision),
        resolve_compile(settings.compile, steps_of(settings, examples)),
        threads_of(settings),
        device().type,
    )


def threads_of(settings: Settings) -> int:
    return settings.threads or cpu_count()


def steps_of(settings: Settings, examples: int) -> int:
    """Optimiser steps of a run on so many training examples."""
    return -(-examples // settings.batch_size) * settings.epochs
