"""Speed: an epoch of labelreg against the transformers Trainer, with and without distillation.

MiniLM (6 layers, hidden 384) on the first 512 training sentences of SST-5 (without data_root: 512 of
rotten_tomatoes), batch 32, max length 128. Every variant runs in a process of its own; the rounds alternate
them, and the medians are compared. `python -m bench.engine`; needs neither mlflow, optuna nor datasets.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from labelreg import memory, places, recipes, training
from labelreg.data import corpus
from labelreg.methods import PAPER as METHODS
from labelreg.models import registry
from labelreg.settings import Machine, Settings, with_defaults

SETTINGS = {"model": "minilm", "lr": 2e-5, "batch_size": 32, "max_length": 128, "alpha": 0.5, "tau": 1.0, "a": 0.95}
EXAMPLES, DEV = 512, 64
EPOCHS = 6 * 5 * 3  # methods, seeds, epochs of a small study
HEAVY = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}  # BERT-base
PADDED, DYNAMIC, GROUPED = "Trainer, pad to 128, fp32", "Trainer, dynamic, fp32", "Trainer, dynamic, grouped, auto"
ONLINE, ONLINE_BASE = "Trainer, online KD, same size", "Trainer, online KD, BERT-base"
TEXTBREWER = "textbrewer, KD, same size"
RIVALS = (PADDED, DYNAMIC, GROUPED, ONLINE, ONLINE_BASE, TEXTBREWER)
TARGETS = [  # numerator, denominator, at most
    ("finetune", PADDED, 0.12), ("finetune", GROUPED, 0.55), *((name, "finetune", 1.05) for name in list(METHODS)[1:]),
    ("kd", ONLINE, 0.40), ("kd", ONLINE_BASE, 0.15),
]  # fmt: skip


def prepared(seed: int = 42, **given) -> tuple[corpus.PreparedTask, Settings, Machine]:
    """The bench's examples, and the settings of one run on them here."""
    root = os.environ.get("LABELREG_DATA_ROOT")
    given = SETTINGS | {"seed": seed, "compile": "off", "epochs": 2 if given.get("method") == "akd" else 1} | given
    with tempfile.TemporaryDirectory() as folder:
        source = Path(root or "") / "SetFit" / "sst5" / "train.jsonl"
        if root and source.is_file():
            lines = source.read_text(encoding="utf-8").splitlines()
            for split, part in (("train", lines[:EXAMPLES]), ("dev", lines[EXAMPLES : EXAMPLES + DEV])):
                given[f"{split}_file"] = f"{folder}/{split}.jsonl"
                Path(given[f"{split}_file"]).write_text("\n".join(part), encoding="utf-8")
        else:
            given["max_train_examples"] = EXAMPLES
        settings = recipes.resolve(with_defaults("train_student", given))
        data = corpus.prepare(settings, places.roots(settings))
        return data, settings, training.machine_of(settings, len(data.splits["train"]))


def labelreg(order: int) -> dict:
    """All methods, beginning with another one each round; logits of a teacher are read, not computed."""
    names = list(METHODS)[order % len(METHODS) :] + list(METHODS)[: order % len(METHODS)]
    seconds, peak = {}, 0.0
    for name in names:
        data, settings, machine = prepared(method=name)
        chance = torch.Generator().manual_seed(0)
        teacher = (
            torch.randn(len(data.splits["train"]), len(data.classes), generator=chance) if METHODS[name].needs else None
        )
        memory.forget_peak()
        model = registry.load("minilm", data.classes, "pretrained", 42, places.roots(settings))
        report = next(training.train(model, data, settings, machine, teacher))
        seconds[name] = report.epoch_seconds
        peak = peak or memory.peak_mb()  # of the first: those after it begin with what it left
    began = time.perf_counter()
    training.predict(model, data.splits["train"], machine)
    teacher_pass = time.perf_counter() - began
    return {"seconds": seconds, "padding": report.padding_share, "memory": peak, "teacher_pass": teacher_pass}


def rival(name: str, checkpoint: str = "minilm") -> dict:
    """One epoch of the transformers Trainer, as its text-classification example sets it up, or better."""
    from transformers import AutoModelForSequenceClassification, BertConfig, Trainer, TrainingArguments

    from bench.parity import padded, rows

    data, settings, machine = prepared(method="finetune")
    path = registry.checkpoint(checkpoint, places.roots(settings))
    memory.forget_peak()
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(data.classes))
    teacher = None
    if name == ONLINE:
        teacher = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(data.classes))
    elif name == ONLINE_BASE:
        config = BertConfig(vocab_size=model.config.vocab_size, num_labels=len(data.classes), **HEAVY)
        teacher = AutoModelForSequenceClassification.from_config(config)

    class WithTeacher(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **_):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            with torch.no_grad():
                target = teacher(**{key: value for key, value in inputs.items() if key != "labels"}).logits
            logs = (
                torch.nn.functional.log_softmax(outputs.logits.float(), 1),
                torch.nn.functional.log_softmax(target.float(), 1),
            )
            loss = 0.5 * loss + 0.5 * torch.nn.functional.kl_div(*logs, reduction="batchmean", log_target=True)
            return (loss, outputs) if return_outputs else loss

    grouped, width = name not in (PADDED, DYNAMIC), 128 if name == PADDED else 0
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, num_train_epochs=1, per_device_train_batch_size=32, learning_rate=2e-5, report_to=[],
            train_sampling_strategy="group_by_length" if grouped else "random", save_strategy="no",
            bf16=grouped and machine.precision == "bf16", disable_tqdm=True, seed=42,
            dataloader_pin_memory=False, logging_strategy="no", use_cpu=training.device().type == "cpu",  # else no bf16
        )  # fmt: skip
        kind = WithTeacher if teacher else Trainer
        if teacher:
            teacher.to(arguments.device).eval()
        trainer = kind(
            model=model, args=arguments, train_dataset=rows(data.splits["train"]),
            data_collator=lambda batch: padded(batch, data, width),
        )  # fmt: skip
        began = time.perf_counter()
        trainer.train()
        return {"seconds": {name: time.perf_counter() - began}, "memory": memory.peak_mb()}


def textbrewer_epoch() -> dict:
    """One epoch of textbrewer's own distillation loop (fp32: its mixed precision needs apex), dynamic padding."""
    import textbrewer
    from torch.utils.data import DataLoader
    from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup

    from bench.parity import padded, rows

    data, settings, _ = prepared(method="finetune")
    path, where = registry.checkpoint("minilm", places.roots(settings)), training.device()
    memory.forget_peak()
    teacher, student = (
        AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(data.classes)).to(where)
        for _ in range(2)
    )
    loader = DataLoader(
        rows(data.splits["train"]), batch_size=32, shuffle=True, collate_fn=lambda batch: padded(batch, data)
    )

    def adaptor(batch, outputs):
        return {"logits": outputs.logits, "losses": outputs.loss}

    with tempfile.TemporaryDirectory() as folder:
        distiller = textbrewer.GeneralDistiller(
            textbrewer.TrainingConfig(output_dir=folder, device=where),
            textbrewer.DistillationConfig(temperature=1, hard_label_weight=0.5, kd_loss_weight=0.5),
            teacher, student, adaptor, adaptor,
        )  # fmt: skip
        schedule = {"num_warmup_steps": 0, "num_training_steps": len(loader)}
        optimizer = torch.optim.AdamW(student.parameters(), lr=2e-5)
        began = time.perf_counter()
        with distiller:
            distiller.train(
                optimizer, loader, num_epochs=1, scheduler_class=get_linear_schedule_with_warmup,
                scheduler_args=schedule, max_grad_norm=1.0,
            )  # fmt: skip
        return {"seconds": {TEXTBREWER: time.perf_counter() - began}, "memory": memory.peak_mb()}


def gemm_rate(precision: str) -> float:
    """FLOP/s of the best of the matrix products that the model spends most of its time in."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for rows, inner, columns in ((832, 384, 384), (832, 384, 1536), (832, 1536, 384)):
        a, b = (torch.randn(shape, device=training.device(), dtype=kind) for shape in ((rows, inner), (inner, columns)))
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(50):
                result = a @ b
            result.sum().item()
            best = max(best, 50 * 2 * rows * inner * columns / (time.perf_counter() - began))
    return best


def model_flop(data: corpus.PreparedTask) -> float:
    """Matrix products of one epoch of the plain model, forward and backward, real tokens only."""
    lengths = data.splits["train"].lengths.double()
    layer = lengths * 2 * (4 * 384**2 + 2 * 384 * 1536) + 4 * lengths**2 * 384
    return float(3 * 6 * layer.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="write the figures as JSON")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--order", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one = {"labelreg": partial(labelreg, given.order), TEXTBREWER: textbrewer_epoch}
        print("\n" + json.dumps(one.get(given.one, partial(rival, given.one))()))
        return
    data, _, machine = prepared(method="finetune")
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    rates, padding, teacher_pass = [], 0.0, 0.0
    for order in range(given.rounds):
        rates.append(gemm_rate(machine.precision))
        for name in ("labelreg", *RIVALS):
            command = [sys.executable, "-m", "bench.engine", "--one", name, "--order", str(order)]
            found = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            for variant, value in found["seconds"].items():
                seconds.setdefault(variant, []).append(value)
            peaks[name] = max(peaks.get(name, 0.0), found["memory"])
            padding, teacher_pass = found.get("padding", padding), found.get("teacher_pass", teacher_pass)
            print(f"round {order + 1}: {name} {found['seconds']}", file=sys.stderr, flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    report(medians, peaks, padding, teacher_pass, max(rates), data)
    if given.out:
        Path(given.out).write_text(
            json.dumps({"seconds": seconds, "memory_mb": peaks, "gemm": rates}), encoding="utf-8"
        )


def report(
    medians: dict, peaks: dict, padding: float, teacher_pass: float, rate: float, data: corpus.PreparedTask
) -> None:
    """The table, and the ratios against their targets."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    kind, precision = training.device().type, training.resolve_precision("auto")
    print(f"{kind}, {os.cpu_count()} cores, {platform.machine()}, {versions}, {precision}")
    tokens, flop = len(data.splits["train"].ids), model_flop(data)
    print(f"{tokens} real tokens, {flop / 1e9:.0f} GFLOP, GEMM {rate / 1e9:.0f} GFLOP/s: floor {flop / rate:.1f} s\n")
    print("| variant | s/epoch | ratio to Trainer | tokens/s | padding | peak MB | share of GEMM limit |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, value in medians.items():
        ours = name in METHODS
        share, mb = (f"{padding:.1%}" if ours else "-"), peaks["labelreg" if ours else name]
        print(
            f"| {name} | {value:.2f} | {value / medians[PADDED]:.3f} | {tokens / value:.0f} | {share} | {mb:.0f} "
            f"| {flop / rate / value:.2f} |"
        )
    print("\n| ratio | is | at most |\n|---|---:|---:|")
    for numerator, denominator, most in TARGETS:
        print(f"| {numerator} / {denominator} | {medians[numerator] / medians[denominator]:.3f} | {most} |")
    print(f"| kd / {TEXTBREWER} | {medians['kd'] / medians[TEXTBREWER]:.3f} | reported |")
    print(f"| peak memory, labelreg / {GROUPED} | {peaks['labelreg'] / peaks[GROUPED]:.3f} | 1.0 |")
    grid = (EPOCHS * medians["kd"] + teacher_pass) / (EPOCHS * medians[ONLINE])
    print(f"| {EPOCHS} kd epochs and the one teacher pass / the same by {ONLINE} | {grid:.3f} | reported |")


if __name__ == "__main__":
    main()
