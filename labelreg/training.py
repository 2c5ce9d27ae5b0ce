"""The loop: a generator that yields one EpochReport per epoch. It knows neither MLflow nor Optuna.

Whoever iterates logs, reports or prunes; stopping the iteration stops the training, and `conclude`
makes a finished record of it after any epoch.
"""

import hashlib
import json
import resource
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from labelreg import batching, methods, metrics, models
from labelreg.corpus import PreparedTask, Tokens
from labelreg.errors import DivergedError
from labelreg.parameters import Value

EVALUATION_BATCH = 128
MAX_GRAD_NORM = 1.0  # the transformers Trainer's default, which the paper's experiments ran with
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
    train_seconds: float  # training steps alone, this epoch
    tokens: int  # real ones, this epoch
    padding_share: float


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


def used_tokens(data: PreparedTask) -> Tensor:
    """The ids that occur in any split, the padding's among them, sorted [rows]."""
    padding = torch.tensor([data.splits["train"].pad_id], dtype=torch.int32)
    return torch.cat([padding, *(split.ids for split in data.splits.values())]).unique().long()


def to_device(split: Tokens, where: torch.device) -> Tokens:
    """A split whose tensors live on the training device."""
    return replace(split, **{name: getattr(split, name).to(where) for name in ("ids", "types", "offsets", "labels")})


def train(
    model: torch.nn.Module,
    data: PreparedTask,
    settings: Mapping[str, Value],
    teacher: Tensor | None = None,
    progress: bool = False,
) -> Iterator[EpochReport]:
    """Train `model` in place; the loss is methods.loss_of(method).

    Args:
        data: its splits train and dev are used.
        settings: method, seed, lr, batch_size, epochs, weight_decay, warmup_ratio, precision, and the
            method's own parameters.
        teacher: logits on the training set, in its order [examples, classes]; None without a teacher.
        progress: a bar of the epoch's batches, on a terminal.

    Raises:
        DivergedError: the loss of an epoch is not finite.
    """
    where = device()
    model.to(where)
    models.compact(model, used_tokens(data).to(where))
    split = to_device(data.splits["train"], where)
    lengths = data.splits["train"].lengths
    teacher = teacher.to(where) if teacher is not None else None
    method, seed, batch_size = str(settings["method"]), int(settings["seed"]), int(settings["batch_size"])
    own = {name: settings[name] for name in methods.METHODS[method].parameters}
    epoch, best = 0, None
    for epochs in methods.phases(method, int(settings["epochs"]), settings.get("phase1_epochs")):
        steps = epochs * -(-len(split) // batch_size)
        optimizer, schedule = _optimizer(model, settings, steps)
        for _ in range(epochs):
            epoch += 1
            batches = batching.epoch_batches(lengths, batch_size, seed, epoch)
            torch.manual_seed(batching.generator(seed, epoch, "dropout").initial_seed())
            loss_of = methods.loss_of(method, epoch, **own)
            started = time.perf_counter()
            total = torch.zeros((), device=where)
            model.train()
            for batch in tqdm(
                batches, desc=f"epoch {epoch}/{settings['epochs']}", leave=False, disable=None if progress else True
            ):
                batch, width = batch.to(where, non_blocking=True), int(lengths[batch].max())
                with _autocast(where, settings):
                    logits = model(**batching.inputs(split, batch, width)).logits
                loss = loss_of(logits, split.labels[batch], teacher[batch] if teacher is not None else None)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                total += loss.detach() * len(batch)
            train_loss = total.item() / len(split)  # the epoch's only synchronisation
            seconds = time.perf_counter() - started
            if train_loss != train_loss or abs(train_loss) == float("inf"):
                raise DivergedError(f"the loss of epoch {epoch} is {train_loss}: lower lr ({settings['lr']:g})?")
            dev_logits = predict(model, data.splits["dev"], settings)
            dev = score(dev_logits, data.splits["dev"], data.metric)
            if best is None or dev["score"] > best.dev["score"]:
                best = Point(epoch, dev, dev_logits, snapshot(model))
            padding = batching.padding_share(lengths, batches)
            yield EpochReport(epoch, train_loss, dev, dev_logits, best, seconds, int(lengths.sum()), padding)


def conclude(
    model: torch.nn.Module,
    data: PreparedTask,
    report: EpochReport,
    settings: Mapping[str, Value],
    splits: Iterable[str],
) -> Outcome:
    """Finish after any epoch: evaluate best and last, leave the model with the selected weights.

    Args:
        report: of the last epoch that was trained.
        splits: those whose logits are wanted, by the weights that `selection` names.
    """
    tests = [split for split in data.splits if split.startswith("test") and data.splits[split].labelled]
    last = Point(report.epoch, report.dev, report.dev_logits, snapshot(model))
    points, loaded, logits, scores = {"best": report.best, "last": last}, last, {"dev": last.dev_logits}, {}
    for which in sorted(points, key=str(settings["selection"]).__eq__):  # the selected one last: its weights stay
        point = points[which]
        if point.epoch != loaded.epoch:
            model.load_state_dict(point.weights)
            loaded, logits = point, {"dev": point.dev_logits}
        wanted = [*tests, *(splits if which == settings["selection"] else ())]
        logits |= {split: predict(model, data.splits[split], settings) for split in wanted if split not in logits}
        scores[which] = {"dev": point.dev} | {
            split: score(logits[split], data.splits[split], data.metric) for split in tests
        }
    models.expand(model)
    return Outcome(report.best.epoch, scores["best"], scores["last"], {split: logits[split] for split in splits})


def snapshot(model: torch.nn.Module) -> Weights:
    """A copy of the weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@torch.inference_mode()
def predict(model: torch.nn.Module, split: Tokens, settings: Mapping[str, Value]) -> Tensor:
    """Logits of every example, in the split's order [examples, classes], float32 on the CPU."""
    where = device()
    model.to(where).eval()
    lengths, split = split.lengths, to_device(split, where)
    result: Tensor | None = None
    for batch in batching.sorted_batches(lengths, EVALUATION_BATCH):
        with _autocast(where, settings):
            logits = model(**batching.inputs(split, batch.to(where), int(lengths[batch].max()))).logits
        result = logits.new_empty(len(split), logits.shape[1], dtype=torch.float32) if result is None else result
        result[batch.to(where)] = logits.float()
    return result.cpu()


def score(logits: Tensor, split: Tokens, metric: str) -> dict[str, float]:
    """The metrics of a labelled split."""
    return metrics.evaluate(logits.numpy(), split.labels.cpu().numpy(), metric)


def peak_memory_mb() -> float:
    """The most memory that the process (or its GPU) has held, in MB."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def set_threads(threads: int) -> None:
    """Compute threads of this process; more or fewer change the last bits of a result."""
    torch.set_num_threads(threads)


def _autocast(where: torch.device, settings: Mapping[str, Value]):
    return torch.autocast(where.type, torch.bfloat16, enabled=settings["precision_used"] == "bf16")


def _optimizer(model: torch.nn.Module, settings: Mapping[str, Value], steps: int):
    """AdamW without decay on vectors (biases, norms), and a rate that rises, then falls linearly to 0."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings["lr"], fused=True)
    warmup = round(settings["warmup_ratio"] * steps)

    def factor(step: int) -> float:
        return (step + 1) / (warmup + 1) if step < warmup else (steps - step) / max(1, steps - warmup)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


DECIDES = (  # every parameter that decides a result; paths, executors and names of runs do not
    "task model init method seed split_seed lr batch_size epochs phase1_epochs alpha tau a max_length "
    "max_train_examples weight_decay warmup_ratio precision_used threads selection device"
).split()


def fingerprint(settings: Mapping[str, Value], data: PreparedTask, weights: str, teacher: str | None) -> str:
    """What makes two runs the same run, 32 hex digits.

    Args:
        weights: models.weights_digest of the student.
        teacher: fingerprint of the run whose logits it learns from.
    """
    facts = {name: settings.get(name) for name in DECIDES}
    facts |= {"data": data.digest, "weights": weights, "teacher": teacher, "version": RESULT_VERSION}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
