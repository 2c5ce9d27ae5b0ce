"""One run as a user would script it: the transformers Trainer as its text-classification example sets it up.

Texts are padded to the longest of a batch; for kd the teacher runs in the training's loop. Nothing is saved but the
teacher. One process a run: `bench/study.py` calls it in a shell loop. Needs nothing of labelreg.
"""

import argparse
import json
import time
from pathlib import Path

import datasets
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

SPLITS = ("train", "dev", "test", "rest")


class WithTeacher(Trainer):
    """alpha of the loss is the divergence from what the teacher says of the batch."""

    def __init__(self, *given, teacher, alpha, **named):
        super().__init__(*given, **named)
        self.teacher, self.alpha = teacher.to(self.args.device).eval(), alpha

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        if not model.training:
            return (outputs.loss, outputs) if return_outputs else outputs.loss
        with torch.no_grad():
            target = self.teacher(**{name: value for name, value in inputs.items() if name != "labels"}).logits
        given, wanted = (torch.nn.functional.log_softmax(each.float(), 1) for each in (outputs.logits, target))
        divergence = torch.nn.functional.kl_div(given, wanted, reduction="batchmean", log_target=True)
        loss = (1 - self.alpha) * outputs.loss + self.alpha * divergence
        return (loss, outputs) if return_outputs else loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=("teacher", "finetune", "ls", "kd"), required=True)
    for name, kind in {
        "init": str, "seed": int, "model": str, "data": str, "out": str, "lr": float, "batch_size": int, "epochs": int,
        "max_length": int, "warmup_ratio": float, "classes": int,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--teacher")
    parser.add_argument("--alpha", type=float, default=0.0)
    parser.add_argument("--bf16", action="store_true")
    given = parser.parse_args()
    set_seed(given.seed)
    tokenizer, most = AutoTokenizer.from_pretrained(given.model), given.max_length
    files = {split: f"{given.data}/{split}.csv" for split in SPLITS}
    data = datasets.load_dataset("csv", data_files=files, cache_dir=f"{given.data}/cache")
    data = data.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=most), batched=True)
    if given.init == "random":
        config = AutoConfig.from_pretrained(given.model, num_labels=given.classes)
        model = AutoModelForSequenceClassification.from_config(config)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(given.model, num_labels=given.classes)
    arguments = TrainingArguments(
        output_dir=given.out, seed=given.seed, learning_rate=given.lr, num_train_epochs=given.epochs,
        per_device_train_batch_size=given.batch_size, warmup_steps=given.warmup_ratio, bf16=given.bf16,
        use_cpu=not torch.cuda.is_available(), report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
        label_smoothing_factor=given.alpha if given.method == "ls" else 0.0, save_strategy="no",
    )  # fmt: skip
    kind, own = Trainer, {}
    if given.method == "kd":
        teacher = AutoModelForSequenceClassification.from_pretrained(given.teacher)
        kind, own = WithTeacher, {"teacher": teacher, "alpha": given.alpha}
    collator = DataCollatorWithPadding(tokenizer)
    trainer = kind(model=model, args=arguments, train_dataset=data["train"], data_collator=collator, **own)
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    scores = {}
    for split in SPLITS[1:]:
        found = trainer.predict(data[split])
        scores[split] = 100 * float((found.predictions.argmax(1) == found.label_ids).mean())
    if given.method == "teacher":
        trainer.save_model()
    Path(given.out).mkdir(parents=True, exist_ok=True)
    record = vars(given) | {"scores": scores, "train_seconds": seconds}
    Path(given.out, "run.json").write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    main()
