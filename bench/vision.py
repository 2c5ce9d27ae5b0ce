"""Speed on images: an epoch of ResNet18 by labelreg against the usual way with torchvision.

2,000 generated images of CIFAR's size, 100 classes, batch 128, SGD, the augmentation of table 13. The usual way is a
torchvision dataset, transforms on PIL images one by one, a DataLoader with 2 workers, and fp32. Each variant runs in a
process of its own, the rounds alternate them, and the medians are compared. `python -m bench.vision`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from labelreg import places, recipes, training
from labelreg.data import corpus, images
from labelreg.models import registry
from labelreg.settings import Folders, Settings, with_defaults

CLASSES, BATCH = tuple(map(str, range(100))), 128
MEAN, DEVIATION = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)  # CIFAR-100's
GOALS = {"cpu": 0.6, "cuda": 0.25}  # labelreg / the usual way
FULL_EPOCH, EPOCHS = 45_000, 200  # table 13: 90% of CIFAR-100's training set


def pixels(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Generated images [count, 3, 32, 32] and their labels."""
    chance = torch.Generator().manual_seed(0)
    return (
        torch.randint(256, (count, 3, 32, 32), generator=chance, dtype=torch.uint8),
        torch.randint(len(CLASSES), (count,), generator=chance),
    )


def settings() -> Settings:
    """Of one epoch; on a GPU, where the first one compiles, of two."""
    given = {"recipe": "table13", "method": "finetune", "init": "random", "seed": 42, "batch_size": BATCH}
    given |= {"compile": "on", "epochs": 2} if training.device().type == "cuda" else {"compile": "off", "epochs": 1}
    return recipes.resolve(with_defaults("train_student", given))


def classifier() -> torch.nn.Module:
    return registry.load("resnet18", CLASSES, "random", 42, places.roots(Folders()), "cifar")


def labelreg(count: int) -> float:
    """Seconds of the last epoch."""
    inputs, labels = pixels(count)
    common = {"mean": torch.tensor(MEAN), "deviation": torch.tensor(DEVIATION), "fingerprint": "", "size": 32}
    every = {"pixels": inputs, "labels": labels, "idx": torch.arange(count)}
    split = images.Images(**every, **common, augment="crop+flip+rotation")
    few = images.Images(**{name: each[:BATCH] for name, each in every.items()}, **common, augment="none")
    data = corpus.PreparedTask("generated", "accuracy", CLASSES, {"train": split, "dev": few}, "", {})
    given = settings()
    machine = training.machine_of(given, count)
    return [report.epoch_seconds for report in training.train(classifier(), data, given, machine)][-1]


def usual(count: int) -> float:
    """Seconds of one epoch, the start of the workers included, as at every epoch of that way."""
    from PIL import Image
    from torchvision import transforms
    from torchvision.datasets import VisionDataset

    class Rows(VisionDataset):
        """Arrays in memory, an image made of one at each access: what torchvision's CIFAR100 does."""

        def __init__(self, transform):
            super().__init__(None, transform=transform)
            inputs, self.labels = pixels(count)
            self.rows = inputs.permute(0, 2, 3, 1).contiguous().numpy()

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int):
            return self.transform(Image.fromarray(self.rows[index])), int(self.labels[index])

    steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.RandomRotation(15)]
    transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)])
    where = training.device()
    loader = torch.utils.data.DataLoader(
        Rows(transform), BATCH, shuffle=True, num_workers=2, pin_memory=where.type == "cuda"
    )
    model = classifier().to(where, memory_format=torch.contiguous_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    began = time.perf_counter()
    for inputs, labels in loader:
        loss = torch.nn.functional.cross_entropy(model(inputs.to(where)).logits, labels.to(where))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loss.item()
    return time.perf_counter() - began


VARIANTS = {"labelreg": labelreg, "usual": usual}


def flop_per_image() -> float:
    """Forward and backward of one image, as torch counts them."""
    model = classifier()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, 3, 32, 32)).logits.sum().backward()
    return counter.get_total_flops() / 2


def gemm_rate(precision: str) -> float:
    """FLOP/s of a matrix product with the shape of one of the middle layers' convolutions."""
    where, kind = training.device(), torch.bfloat16 if precision == "bf16" else torch.float32
    rows, inner, columns, best = BATCH * 16 * 16, 9 * 128, 128, 0.0
    a, b = (torch.randn(shape, device=where, dtype=kind) for shape in ((rows, inner), (inner, columns)))
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(5):
            result = a @ b
        result.sum().item()
        best = max(best, 5 * 2 * rows * inner * columns / (time.perf_counter() - began))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--out", help="write the figures as JSON")
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(VARIANTS[given.one](given.images)))
        return
    kind, precision = training.device().type, training.resolve_precision("auto")
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(given.rounds):
        for name in VARIANTS:
            command = [sys.executable, "-m", "bench.vision", "--one", name, "--images", str(given.images)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            seconds[name].append(json.loads(answer.splitlines()[-1]))
            print(f"round {number + 1}: {name} {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    limit = gemm_rate(precision) / flop_per_image()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision"))
    print(f"{kind}, {os.cpu_count()} cores, {platform.machine()}, {versions}, labelreg in {precision}")
    print(f"the model's GEMM limit: {limit:.0f} images/s\n\n| variant | s/epoch | images/s | share of GEMM limit |")
    print("|---|---:|---:|---:|")
    for name, value in medians.items():
        print(f"| {name} | {value:.2f} | {given.images / value:.0f} | {given.images / value / limit:.2f} |")
    print(f"\nlabelreg / usual: {medians['labelreg'] / medians['usual']:.3f} (goal: at most {GOALS[kind]})")
    hours = FULL_EPOCH * EPOCHS * medians["labelreg"] / given.images / 3600
    print(f"a run of table 13 (45,000 images, 200 epochs) at this speed: {hours:.1f} hours")
    if given.out:
        Path(given.out).write_text(json.dumps({"seconds": seconds, "limit": limit}), encoding="utf-8")


if __name__ == "__main__":
    main()
