"""Small image data in every layout: torchvision's archive, the hub's parquet, a folder of one's own."""

import io
import pickle
import shutil
import tarfile

import numpy as np

TRAIN, TEST = 3, 1  # images of each class
CIFAR = {
    "cifar100": (100, "cifar-100-python", "cifar-100-python.tar.gz", "fine_labels", ["train"], "test", "meta"),
    "cifar10": (10, "cifar-10-batches-py", "cifar-10-python.tar.gz", "labels",
                [f"data_batch_{n}" for n in range(1, 6)], "test_batch", "batches.meta"),
}  # fmt: skip


def examples(classes, each, seed):
    """Pixels [n, 3072] and labels in a mixed order; a class is a colour in noise."""
    chance = np.random.default_rng(seed)
    labels = chance.permutation(np.arange(classes * each) % classes)
    base = np.random.default_rng(0).integers(40, 216, (classes, 3, 1, 1))
    pixels = base[labels] + chance.integers(-40, 40, (len(labels), 3, 32, 32))
    return pixels.reshape(len(labels), -1).astype(np.uint8), labels.tolist()


def archive(root, task, each=TRAIN, **damage):
    """torchvision's files; `damage` replaces parts of the content of train or of the names."""
    classes, folder, _, key, parts, test, names = CIFAR[task]
    (root / folder).mkdir(parents=True)
    pixels, labels = examples(classes, each * (1 if len(parts) == 1 else 2), 1)
    pieces = zip(np.array_split(pixels, len(parts)), np.array_split(labels, len(parts)), strict=True)
    content = {part: {"data": x, key: [int(label) for label in y]} for part, (x, y) in zip(parts, pieces, strict=True)}
    content[test] = dict(zip(("data", key), examples(classes, TEST, 2), strict=True))
    known = [f"class {n}" for n in range(classes)]
    content[names] = {"fine_label_names" if classes == 100 else "label_names": known}
    for file, part in damage.items():
        content[{"names": names, "train": parts[0]}[file]] |= part
    for file, values in content.items():
        (root / folder / file).write_bytes(pickle.dumps(values, protocol=2))
    return root / folder


def packed(root, task):
    """The folder of `archive` as the .tar.gz that torchvision downloads, and nothing else."""
    _, folder, name, *_ = CIFAR[task]
    with tarfile.open(root / name, "w:gz") as file:
        file.add(root / folder, arcname=folder)
    shutil.rmtree(root / folder)
    return root / name


def on_the_hub(root, task, each=TRAIN, names=None, broken=None):
    """The hub's layout: parquet with PNG bytes."""
    import datasets
    from PIL import Image

    classes, _, _, key, parts, *_ = CIFAR[task]
    label = key.removesuffix("s")
    folder = root / "uoft-cs" / task
    folder.mkdir(parents=True)
    for split, count, seed in (("train", each * (1 if len(parts) == 1 else 2), 1), ("test", TEST, 2)):
        pixels, labels = examples(classes, count, seed)
        coded = []
        for image in pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1):
            Image.fromarray(image).save(written := io.BytesIO(), "PNG")
            coded.append({"bytes": written.getvalue(), "path": None})
        if split == broken:
            coded[4]["bytes"] = coded[4]["bytes"][:60]
        features = datasets.Features({"img": datasets.Image(), label: datasets.ClassLabel(names=names or [
            f"class {n}" for n in range(classes)])})  # fmt: skip
        table = datasets.Dataset.from_dict({"img": coded, label: labels}, features=features)
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def own_folder(root, splits=("train",), each=6, classes=("cat", "dog", "owl")):
    from PIL import Image

    chance = np.random.default_rng(3)
    for split in splits:
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for n in range(each):
                pixels = np.full((20, 28, 3), 60 * number + 30) + chance.integers(-20, 20, (20, 28, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{n}.png")
    return root
