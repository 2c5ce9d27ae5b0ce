"""Parity: does labelreg's loop train as well as the transformers Trainer, with equal hyper-parameters and data?

On the whole training sets of sst5 and rotten_tomatoes, which minilm-3l learns: five seeds each, finetune. Both
start from the same weights, head included, and use AdamW, a rate that rises and falls linearly and gradients clipped
at 1; batches (plainly shuffled in the Trainer, grouped by length here), order and dropout are each one's own.
`python -m bench.parity`; needs LABELREG_DATA_ROOT or the hub.
"""

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from labelreg import places, recipes, training
from labelreg.data import corpus
from labelreg.data.batching import Tokens
from labelreg.models import registry
from labelreg.settings import Machine, Settings, with_defaults

SETTINGS = {"model": "minilm-3l", "lr": 2e-4, "batch_size": 32, "epochs": 3, "max_length": 64}  # as settings answer


def settings_for(task: str, seed: int) -> Settings:
    given = SETTINGS | {"task": task, "seed": seed, "method": "finetune", "compile": "off"}
    return recipes.resolve(with_defaults("train_student", given))


def labelreg_score(data: corpus.PreparedTask, settings: Settings, machine: Machine) -> float:
    model = registry.load(SETTINGS["model"], data.classes, "pretrained", settings.seed, places.roots(settings))
    return [report.dev["score"] for report in training.train(model, data, settings, machine)][-1]


def trainer_score(data: corpus.PreparedTask, settings: Settings, machine: Machine, folder: Path) -> float:
    start = folder / "start"  # the same weights and head, read back by plain transformers
    registry.load(SETTINGS["model"], data.classes, "pretrained", settings.seed, places.roots(settings)).save_pretrained(
        start
    )
    model = AutoModelForSequenceClassification.from_pretrained(start)
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), seed=settings.seed, learning_rate=settings.lr,
        per_device_train_batch_size=settings.batch_size, num_train_epochs=settings.epochs, max_grad_norm=1.0,
        weight_decay=0.0, lr_scheduler_type="linear", warmup_steps=settings.warmup_ratio, save_strategy="no",
        report_to=[], disable_tqdm=True, logging_strategy="no", per_device_eval_batch_size=128,
        dataloader_pin_memory=False,
        bf16=machine.precision == "bf16", use_cpu=training.device().type == "cpu",  # else no bf16
    )  # fmt: skip
    train, dev = rows(data.splits["train"]), rows(data.splits["dev"])
    trainer = Trainer(model=model, args=arguments, train_dataset=train, data_collator=lambda batch: padded(batch, data))
    trainer.train()
    logits = torch.as_tensor(trainer.predict(dev).predictions)
    return training.score(logits, data.splits["dev"], data.metric)["score"]


def rows(split: Tokens) -> list[dict]:
    """Examples as the Trainer takes them."""
    ends = split.offsets.tolist()
    return [
        {"input_ids": split.ids[a:b].tolist(), "token_type_ids": split.types[a:b].tolist(), "labels": int(label)}
        for a, b, label in zip(ends, ends[1:], split.labels, strict=False)
    ]


def padded(batch: list[dict], data: corpus.PreparedTask, width: int = 0) -> dict[str, torch.Tensor]:
    """Padding to `width`, or dynamically to the longest of the batch."""
    width, pad = max(width, *(len(row["input_ids"]) for row in batch)), data.splits["train"].pad_id
    fill = {"input_ids": pad, "token_type_ids": 0}
    tensors = {
        key: torch.tensor([row[key] + [to] * (width - len(row[key])) for row in batch]) for key, to in fill.items()
    }
    mask = [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in batch]
    return tensors | {"attention_mask": torch.tensor(mask), "labels": torch.tensor([row["labels"] for row in batch])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="sst5,rotten_tomatoes")
    parser.add_argument("--seeds", default="42,549,1237,230,805")
    parser.add_argument("--out", help="write the figures as JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)  # the figures do not depend on the number of cores
    results = []
    print(f"1 thread, torch {torch.__version__}, {SETTINGS}", flush=True)
    for task in given.tasks.split(","):
        scores: dict[str, list[float]] = {"labelreg": [], "Trainer": []}
        seconds = {"labelreg": 0.0, "Trainer": 0.0}
        with tempfile.TemporaryDirectory() as name:
            for seed in map(int, given.seeds.split(",")):
                settings = settings_for(task, seed)
                data = corpus.prepare(settings, places.roots(settings))
                machine = training.machine_of(settings, len(data.splits["train"]))
                for who in scores:
                    began = time.perf_counter()
                    score = labelreg_score if who == "labelreg" else partial(trainer_score, folder=Path(name))
                    scores[who].append(score(data, settings, machine))
                    seconds[who] += time.perf_counter() - began
        means = {who: statistics.mean(values) for who, values in scores.items()}
        deviations = {who: statistics.stdev(values) for who, values in scores.items()}
        gap = abs(means["labelreg"] - means["Trainer"])
        for who, values in scores.items():
            shown = " ".join(f"{value:.2f}" for value in values)
            print(
                f"{task} {who:9} {means[who]:6.2f} sd {deviations[who]:.2f} ({shown}) in {seconds[who]:.0f} s",
                flush=True,
            )
        print(f"{task} means differ by {gap:.2f}, the smaller deviation is {min(deviations.values()):.2f}", flush=True)
        results.append({"task": task, "scores": scores, "gap": gap, "deviations": deviations, "seconds": seconds})
    if given.out:
        Path(given.out).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
