"""Images from every source: the same examples, the same splits, and what is refused in one line; and their training."""

import ast
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import CIFAR, TEST, TRAIN, archive, examples, on_the_hub, own_folder, packed
from running import call, in_this_process, measured, refused, run_of, runs, succeed
from sklearn.datasets import load_digits
from torchvision.models import get_model

from labelreg import job, recipes, training
from labelreg.data import augment, batching, corpus
from labelreg.errors import UserError
from labelreg.methods import METHODS
from labelreg.models import registry, vision
from labelreg.places import Roots
from labelreg.settings import Machine, Settings, with_defaults
from labelreg.workers import executors

pytest_plugins = ["running"]
ROOT = Path(__file__).parents[1]
MACHINE = Machine(precision="fp32", compile="off", threads=1, device="cpu")


@pytest.fixture
def prepare(tmp_path):
    def prepared(data_root=None, **given):
        given = {"task": "cifar100", "method": "finetune", "init": "random", "seed": 0, "split_seed": 42} | given
        return corpus.prepare(recipes.resolve(given), Roots(data_root, None, tmp_path / "cache"))

    return prepared


def images_equal(one, two):
    return one.digest == two.digest and all(
        torch.equal(getattr(split, part), getattr(two.splits[name], part))
        for name, split in one.splits.items()
        for part in ("pixels", "labels", "idx", "mean", "deviation")
    )


# sources


@pytest.mark.parametrize("task", CIFAR)
def test_cifar_is_the_same_from_every_source(task, prepare, tmp_path):
    for place, make in {"folder": archive, "tar": archive, "hub": on_the_hub}.items():
        (tmp_path / place).mkdir()
        make(tmp_path / place, task)
    packed(tmp_path / "tar", task)
    found = [prepare(tmp_path / place, task=task) for place in ("folder", "tar", "hub")]
    assert images_equal(found[0], found[1]) and images_equal(found[0], found[2])
    data, (classes, *_, names) = found[0], CIFAR[task]
    assert data.classes == tuple(f"class {n}" for n in range(classes)) and names
    pixels, labels = examples(classes, TEST, 2)  # the official test set, in its order
    assert torch.equal(data.splits["test"].pixels, torch.from_numpy(pixels).view(-1, 3, 32, 32))
    assert data.splits["test"].labels.tolist() == labels
    count = TRAIN if classes == 100 else 2 * TRAIN
    pixels, labels = examples(classes, count, 1)
    train, dev = data.splits["train"], data.splits["dev"]
    assert sorted([*train.idx.tolist(), *dev.idx.tolist()]) == list(range(classes * count))
    assert dev.labels.unique(return_counts=True)[1].tolist() == [1] * classes  # stratified
    for split in (train, dev):
        assert torch.equal(split.pixels, torch.from_numpy(pixels).view(-1, 3, 32, 32)[split.idx])
        assert split.labels.tolist() == [labels[n] for n in split.idx]
    fractions = pixels.reshape(-1, 3, 1024).transpose(1, 0, 2).reshape(3, -1) / 255
    assert train.mean.numpy() == pytest.approx(fractions.mean(1)) and train.deviation.numpy() == pytest.approx(
        fractions.std(1)
    )


def test_the_dev_set_is_a_tenth_that_split_seed_draws(prepare, tmp_path):
    archive(tmp_path, "cifar10", each=10)
    one, two, other = (prepare(tmp_path, task="cifar10", split_seed=n) for n in (42, 42, 43))
    assert [len(one.splits[split]) for split in ("train", "dev", "test")] == [180, 20, 10]
    assert one.splits["dev"].labels.unique(return_counts=True)[1].tolist() == [2] * 10
    assert one.digest == two.digest != other.digest
    assert torch.equal(one.splits["test"].pixels, other.splits["test"].pixels)
    few = prepare(tmp_path, task="cifar10", max_train_examples=40).splits["train"]
    assert few.labels.unique(return_counts=True)[1].tolist() == [4] * 10
    assert torch.equal(few.mean, one.splits["train"].mean)  # of the source, however few are trained on


def test_digits_are_scikit_learns(prepare):
    data, found = prepare(task="digits"), load_digits()
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 900, "dev": 100, "test": 700}
    assert data.classes == tuple("0123456789")
    used = torch.cat([split.idx for split in data.splits.values()])
    assert len(used.unique()) == 1700
    split = data.splits["test"]
    assert split.labels.tolist() == found.target[split.idx].tolist()
    small = torch.nn.functional.avg_pool2d(split.pixels[:, :1].float(), 4)[:, 0] / 255 * 16
    assert np.corrcoef(small.numpy().ravel(), found.images[split.idx].ravel())[0, 1] > 0.95
    assert prepare(task="digits", image_size=8).splits["test"].pixels.shape == (700, 3, 8, 8)
    eight = prepare(task="digits", image_size=8).splits["test"]
    assert torch.equal(eight.pixels[:, 0].double(), torch.from_numpy(found.images[eight.idx] * 255 / 16).round())


def test_a_folder_of_ones_own(prepare, tmp_path):
    folder = own_folder(tmp_path / "pets", ("train", "val", "test"))
    data = prepare(train_file=folder, image_size=16, task="pets", batch_size=4)
    assert data.classes == ("cat", "dog", "owl")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 18, "dev": 18, "test": 18}
    assert data.splits["train"].pixels.shape == (18, 3, 16, 16)
    assert data.splits["train"].labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    bare = shutil.copytree(folder / "train", tmp_path / "bare")  # CLASS/*.png: split as a single file is
    data = prepare(train_file=bare, image_size=16, task="bare", batch_size=4)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 12, "dev": 3, "test": 3}


def test_ordinary_images_keep_the_digests_of_the_first_release(prepare, tmp_path):
    """Runs are found by them: cached files may change, what is in them may not."""
    archive(tmp_path, "cifar10")
    assert prepare(tmp_path, task="cifar10").digest == "6e7fb9cccaa2d10e6f398724f2bf4470"
    assert prepare(task="digits", image_size=8).digest == "e5cfaf1661be82435c53893b6d126659"
    folder = own_folder(tmp_path / "pets", ("train", "val", "test"))
    small = {"image_size": 16, "batch_size": 4}
    assert prepare(train_file=folder, task="pets", **small).digest == "0286c224e70516b915579c59be3b1f12"
    bare = folder / "train"
    assert prepare(train_file=bare, task="bare", **small).digest == "1794e9f48a2807cabfa39c4caebb8823"


def test_images_are_cached_and_read_again(prepare, tmp_path):
    folder = own_folder(tmp_path / "pets")
    first = prepare(train_file=folder, image_size=16, batch_size=4)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "prepared").rglob("*")}
    assert images_equal(first, prepare(train_file=folder, image_size=16, batch_size=4))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "prepared").rglob("*")} == made
    (folder / "train" / "cat" / "0.png").write_bytes((folder / "train" / "owl" / "0.png").read_bytes())
    assert first.digest != prepare(train_file=folder, image_size=16, batch_size=4).digest


def test_inputs_are_normalised_resized_and_augmented_only_in_training(prepare, tmp_path):
    archive(tmp_path, "cifar10")
    split, batch = prepare(tmp_path, task="cifar10", image_size=16).splits["train"], torch.tensor([3, 1])
    plain = split.inputs(batch, 1)["pixel_values"]
    expected = (split.pixels[batch] / 255 - split.mean[:, None, None]) / split.deviation[:, None, None]
    expected = torch.nn.functional.interpolate(expected, (16, 16), mode="bilinear", antialias=True)
    assert torch.equal(plain, expected) and plain.is_contiguous(memory_format=torch.channels_last)
    cut = split.of_epoch(0, 1).inputs(batch, 1)["pixel_values"]
    assert cut.shape == plain.shape and not torch.equal(cut, plain)
    assert torch.equal(cut, split.of_epoch(0, 1).inputs(batch, 1)["pixel_values"])
    assert not torch.equal(cut, split.of_epoch(0, 2).inputs(batch, 1)["pixel_values"])
    unchanged = prepare(tmp_path, task="cifar10", image_size=16, augment="none").splits["train"].of_epoch(0, 1)
    assert torch.equal(unchanged.inputs(batch, 1)["pixel_values"], plain)


# mistakes, as a user sees them


class Hostile:
    def __reduce__(self):
        return print, ("run by a pickle",)


def bad_archive(root):
    (root / "cifar-100-python.tar.gz").write_bytes(b"not an archive")
    return ["cifar-100-python.tar.gz", "cannot be read"]


def truncated_archive(root):
    archive(root, "cifar100")
    path = packed(root, "cifar100")
    path.write_bytes(path.read_bytes()[:-200_000])
    return ["cifar-100-python.tar.gz", "cannot be read"]


def truncated_file(root):
    path = archive(root, "cifar100") / "train"
    path.write_bytes(path.read_bytes()[:5000])
    return ["train cannot be read"]


def missing_file(root):
    (archive(root, "cifar100") / "test").unlink()
    return ["test cannot be read", "No such file"]


def hostile_pickle(root):
    archive(root, "cifar100", train={"batch_label": Hostile()})
    return ["train cannot be read", "print"]


def no_labels(root):
    path = archive(root, "cifar100") / "train"
    path.write_bytes(pickle.dumps({"data": examples(100, TRAIN, 1)[0]}, protocol=2))
    return ["train has no fine_labels"]


def wrong_class_count(root):
    archive(root, "cifar100", names={"fine_label_names": ["one", "two"]})
    return ["has 2 classes; it must have 100"]


def label_out_of_range(root):
    archive(root, "cifar100", train={"fine_labels": [100] * 300})
    return ["a label of train is outside 0..99"]


def wrong_shape(root):
    archive(root, "cifar100", train={"data": np.zeros((300, 1000), np.uint8)})
    return ["train has data uint8 (300, 1000), not uint8 (n, 3072)"]


def too_few_labels(root):
    archive(root, "cifar100", train={"fine_labels": [1, 2]})
    return ["train has 300 images and 2 labels"]


def undecodable_on_the_hub(root):
    on_the_hub(root, "cifar100", broken="train")
    return ["(train), row 5 is no image"]


def truncated_parquet(root):
    path = next(on_the_hub(root, "cifar100").glob("train*"))
    path.write_bytes(path.read_bytes()[:3000])
    return ["uoft-cs/cifar100 cannot be read"]


def wrong_class_count_on_the_hub(root):
    on_the_hub(root, "cifar100", names=[f"class {n}" for n in range(101)])
    return ["has 101 classes; it must have 100"]


def changed_on_the_hub(root, **columns):
    """Other values in some columns of both splits: what a function makes of those that are there."""
    import pandas as pd

    for path in on_the_hub(root, "cifar100").glob("*.parquet"):
        frame = pd.read_parquet(path)
        values = {name: columns.get(name, list)(list(frame[name])) for name in frame}
        pd.DataFrame(values).to_parquet(path)


def null_image_on_the_hub(root):
    changed_on_the_hub(root, img=lambda images: [*images[:2], None, *images[3:]])
    return ["(train), row 3 is no image"]


def labels_in_words_on_the_hub(root):
    changed_on_the_hub(root, fine_label=lambda labels: [f"class {label}" for label in labels])
    return ["(train), row 1 has 'class ", "in column 'fine_label', not the number of a class"]


def null_label_on_the_hub(root):
    changed_on_the_hub(root, fine_label=lambda labels: [*labels[:4], None, *labels[5:]])
    return ["(train), row 5 has ", "in column 'fine_label', not the number of a class"]


def numbers_for_images_on_the_hub(root):
    changed_on_the_hub(root, img=lambda images: list(range(len(images))))
    return ["(train): column 'img' has no images"]


def nothing_there(root):
    return ["no cifar-100-python, cifar-100-python.tar.gz or uoft-cs/cifar100 under", "give data_root=FOLDER"]


BAD_SOURCES = [bad_archive, truncated_archive, truncated_file, missing_file, hostile_pickle, no_labels,
               wrong_class_count, label_out_of_range, wrong_shape, too_few_labels, undecodable_on_the_hub,
               truncated_parquet, wrong_class_count_on_the_hub, null_image_on_the_hub, labels_in_words_on_the_hub,
               null_label_on_the_hub, numbers_for_images_on_the_hub, nothing_there]  # fmt: skip


@pytest.mark.parametrize("damage", BAD_SOURCES, ids=lambda damage: damage.__name__)
def test_a_damaged_source_is_one_line_and_leaves_nothing(damage, store, tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy"):  # no test asks the network
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / "data").mkdir()
    words = damage(tmp_path / "data")
    ended = call("train_student", task="cifar100", data_root=tmp_path / "data", init="random", threads=1)
    refused(ended, "task cifar100", *words)
    assert "run by a pickle" not in ended.out
    assert not list(tmp_path.glob("cache/prepared/*")) and not list(tmp_path.glob("cache/downloads/*/*"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"task": "digits", "model": "minilm-3l"}, ["model minilm-3l reads text", "resnet18"]),
        ({"task": "digits", "model": "resnet81"}, ["unknown model 'resnet81'", "did you mean 'resnet18'"]),
        ({"task": "rotten_tomatoes", "model": "resnet18"}, ["model resnet18 reads images"]),
        ({"task": "digits", "dev_file": "x.csv"}, ["dev_file=x.csv", "is made of images"]),
        ({"task": "digits", "image_size": 4}, ["image_size=4", "in [8, 4096]"]),
        ({"task": "digits", "stem": "cifra"}, ["did you mean 'cifar'"]),
        ({"task": "digits", "augment": "flip"}, ["crop+flip+rotation"]),
        ({"task": "digits", "lr_milestones": "0.5,1.5"}, ["lr_milestones=1.5", "(0, 1)"]),
        ({"task": "digits", "batch_size": 29}, ["batch_size=29", "the last of 900 images"]),
        ({"task": "digits", "batch_size": 1}, ["batch_size=1", "the last of 900 images", "batch normalisation"]),
        ({"task": "digit"}, ["unknown task 'digit'", "did you mean 'digits'"]),
    ],
)
def test_a_mistake_is_one_line(given, words, store):
    refused(call("train_student", init="random", threads=1, **given), *words)


def test_an_image_that_does_not_decode_is_named(store, tmp_path):
    folder = own_folder(tmp_path / "pets")
    path = folder / "train" / "dog" / "2.png"
    path.write_bytes(path.read_bytes()[:90])
    refused(call("train_student", train_file=folder, init="random", threads=1), "task pets", str(path), "is no image")
    path.unlink()
    shutil.rmtree(folder / "train")
    refused(call("train_student", train_file=folder, init="random", threads=1), "no images in folders of their class")


# training


@pytest.fixture
def digits(tiny_roots):
    """Few and small digits, with the settings of their training."""

    def made(**given):
        small = {"image_size": 8, "max_train_examples": 16, "batch_size": 8, "epochs": 2, "lr": 0.05, "seed": 3}
        given = {"task": "digits", "model": "shufflenet_v2", "method": "finetune", "init": "random"} | small | given
        settings = replace(recipes.resolve(with_defaults("train_student", given)), checkpoint_seconds=0)
        return corpus.prepare(settings, tiny_roots), settings

    return made


def new(settings, data):
    where = Roots(None, None, Path("/nowhere"))
    return registry.load(settings.model, data.classes, settings.init, settings.seed, where, settings.stem)


def test_the_engine_equals_a_plain_loop(digits):
    """torch's SGD and MultiStepLR on augmented batches; no clipping, decay on all parameters."""
    data, settings = digits(model="resnet18", epochs=3, lr_milestones=[0.34, 0.67], warmup_ratio=0.0)
    model, plain, split = new(settings, data), new(settings, data), data.splits["train"]
    reports = list(training.train(model, data, settings, MACHINE))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2], 0.2)
    for epoch in range(1, 4):
        seen, losses = split.of_epoch(3, epoch), []
        for batch in batching.epoch_batches(split.lengths, 8, 3, epoch):
            images = augment.apply(split.pixels[batch], seen.drawn, batch) / 255
            images = (images - split.mean[:, None, None]) / split.deviation[:, None, None]
            loss = torch.nn.functional.cross_entropy(plain(images).logits, split.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        assert reports[epoch - 1].train_loss == pytest.approx(np.mean(losses), rel=1e-3)


@pytest.mark.parametrize("stopped", [1, 3])
def test_a_killed_training_goes_on_bit_for_bit(stopped, digits, tmp_path):
    """The buffers of batch normalisation and SGD's momentum with it."""
    data, settings = digits(epochs=4)
    whole, killed, again = (new(replace(settings, seed=seed), data) for seed in (3, 3, 99))
    expected = list(training.train(whole, data, settings, MACHINE))
    running = training.train(killed, data, settings, MACHINE, keep=tmp_path)
    for _ in range(stopped):
        next(running)
    running.close()
    reports = list(training.train(again, data, settings, MACHINE, keep=tmp_path))
    assert [report.epoch for report in reports] == list(range(stopped, 5))
    assert reports[-1].train_loss == expected[-1].train_loss and reports[-1].dev == expected[-1].dev
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    for name, value in expected[-1].best.weights.items():
        assert torch.equal(value, reports[-1].best.weights[name]), name


def test_methods_of_a_seed_see_the_same_images(digits):
    plain, settings = digits()
    other, smoothed = digits(method="ls", alpha=0.0)
    one, two = (new(settings, plain) for _ in range(2))
    losses = [[r.train_loss for r in training.train(m, d, s, MACHINE)]
              for m, d, s in ((one, plain, settings), (two, other, smoothed))]  # fmt: skip
    assert losses[0] == losses[1]


def test_a_teachers_logits_are_of_the_images_as_they_are(digits):
    data, settings = digits()
    model = new(settings, data)
    (*_, report) = training.train(model, data, settings, MACHINE)
    logits = training.conclude(model, data, report, settings, MACHINE, ["train"]).logits["train"]
    model.eval()
    with torch.inference_mode():
        own = model(data.splits["train"].inputs(torch.arange(16), 1)["pixel_values"]).logits
    torch.testing.assert_close(logits, own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_images(method, digits):
    data, settings = digits(method=method)
    teacher = torch.randn(16, 10, generator=torch.Generator().manual_seed(0)) if METHODS[method].needs else None
    reports = list(training.train(new(settings, data), data, settings, MACHINE, teacher))
    assert [report.epoch for report in reports] == [1, 2]
    passes = METHODS[method].passes(settings.own)
    assert reports[-1].tokens == 32 * passes and reports[-1].padding_share == 0


def test_two_passes_of_a_network_without_dropout_are_refused(digits):
    data, settings = digits(method="rdrop")
    with pytest.raises(UserError, match="method=rdrop: .* has no dropout, so both passes are the same"):
        job.check(settings, data)
    job.check(replace(settings, allow_degenerate=True), data)
    job.check(replace(settings, model="mobilenet_v2"), data)  # which has


@pytest.mark.parametrize("layout", [archive, on_the_hub])
def test_a_student_of_cifar100_in_each_layout(layout, store, tmp_path):
    layout(tmp_path / "data", "cifar100")
    given = {"task": "cifar100", "data_root": tmp_path / "data", "init": "random", "model": "shufflenet_v2"}
    given |= {"image_size": 16, "max_train_examples": 100, "epochs": 1, "threads": 1}
    run = run_of(succeed("train_student", **given))
    params = {"optimizer": "sgd", "momentum": "0.9", "lr_milestones": "0.6,0.8", "stem": "cifar", "image_size": "16"}
    assert {name: run.data.params[name] for name in params} == params
    assert "max_length" not in run.data.params
    assert run.data.metrics["cost/images_per_second"] > 0 and 0 <= run.data.metrics["best/test/score"] <= 100
    assert measured(run)["best/test/score"] == run.data.metrics["best/test/score"]
    twin = store / "twin"
    (archive if layout is on_the_hub else on_the_hub)(twin, "cifar100")
    where = Roots(twin, None, tmp_path / "cache")
    settings = recipes.resolve(with_defaults("train_student", given | {"method": "finetune"}))
    assert corpus.prepare(settings, where).digest == run.data.tags["labelreg.data"]


def test_kd_finds_its_teacher_and_trains_it_from_scratch(store, settings_file):
    rules = settings_file({"epochs": 1}, image_size=8, max_train_examples=16, batch_size=8, epochs=1)
    given = {"task": "digits", "init": "random", "recipe": rules, "threads": 1, "model": "mobilenet_v2"}
    first = succeed("train_student", **given, method="kd")
    assert "training it first" in first.out
    second = succeed("train_student", **given, method="kd", seed=43)
    assert "training it first" not in second.out
    assert run_of(first).data.params["teacher_run_id"] == run_of(second).data.params["teacher_run_id"]
    assert run_of(first).data.params["teacher_model"] == "resnet18"


def test_a_teacher_that_is_a_folder_starts_from_its_weights(store, settings_file, tmp_path):
    rules = settings_file({"epochs": 1}, image_size=8, max_train_examples=16, batch_size=8, epochs=1)
    given = {"task": "digits", "init": "random", "recipe": rules, "threads": 1}
    (tmp_path / "trained").mkdir()
    vision.load("resnet18", ("0", "1"), "random", 5, Roots(None, None, tmp_path), "cifar").save_pretrained(
        tmp_path / "trained"
    )
    taught = succeed("train_student", **given, method="kd", teacher_model=tmp_path / "trained")
    (teacher,) = runs("teacher")
    assert teacher.data.params["init"] == "pretrained", "its weights would be left unread without a word"
    other = succeed("train_student", **given, method="kd", teacher_model="resnet18")
    assert "training it first" in other.out
    assert run_of(taught).data.params["teacher_run_id"] != run_of(other).data.params["teacher_run_id"]
    assert [run.data.params["init"] for run in runs("teacher")] == ["pretrained", "random"]


def test_a_teachers_mistake_is_told_before_a_run_of_the_study_begins(store, settings_file):
    rules = settings_file({"batch_size": 15}, image_size=8, max_train_examples=16, batch_size=8, epochs=1)
    given = {"recipe": "digits", "settings": rules, "methods": "finetune,kd", "seeds": 7, "jobs": 1}
    told = "a teacher's is its recipe's, by a rule of role: teacher"
    refused(call("study", **given), "batch_size=15: the last of 16 images", told)
    assert not runs("student") and not runs("study")


def test_a_folder_is_studied_with_the_model_of_images(store, tmp_path):
    folder = own_folder(tmp_path / "pets")
    said = succeed("main", train_file=folder, inits="random", methods="finetune,ls", plan_only="true").out
    assert "pets resnet18 random" in said


def test_table_6_cut_small(store, tmp_path, monkeypatch):
    """Both initialisations, the pre-trained one from a file such as torchvision publishes, up to the printed table."""
    monkeypatch.setattr(executors, "execute", in_this_process)
    archive(tmp_path / "data", "cifar100")
    (tmp_path / "weights").mkdir()
    torch.save(get_model("resnet18", weights=None).state_dict(), tmp_path / "weights" / "resnet18-f37072fd.pth")
    given = {"data_root": tmp_path / "data", "model_root": tmp_path / "weights", "threads": 1}
    short = {"methods": "finetune,ls", "seeds": "1,2", "image_size": 8, "max_train_examples": 100, "epochs": 1}
    ended = succeed("main", recipe="table6", **given, **short)
    assert "cifar100 · resnet18 · pretrained: " in ended.out and "cifar100 · resnet18 · random: " in ended.out
    assert {run.data.params["init"] for run in runs("student")} == {"pretrained", "random"} and len(
        runs("student")
    ) == 8
    said = succeed("tables").out
    assert "Table 6: ResNet18 on CIFAR100 (n = 2)" in said and "77.04" in said and "78.17" in said


def test_the_study_of_digits_cut_small(store, monkeypatch):
    monkeypatch.setattr(executors, "execute", in_this_process)
    short = {"image_size": 8, "max_train_examples": 16, "batch_size": 8, "epochs": 1, "models": "shufflenet_v2"}
    ended = succeed("main", recipe="digits", methods="finetune,selfkd", seeds=7, threads=1, **short)
    assert [run.data.params["method"] for run in runs("student")] == ["finetune", "selfkd"]
    assert "digits shufflenet_v2 random" in ended.out and "digits · shufflenet_v2 · random: " in ended.out


# one engine


@pytest.mark.parametrize(
    "name", ["training.py", *(f"methods/{each}.py" for each in ("paper", "logits", "epochs", "teachers"))]
)
def test_engine_and_mathematics_ask_nowhere_what_the_examples_are(name):
    """No condition of these files names text or images, their classes, or a type."""
    tree = ast.parse((ROOT / "labelreg" / name).read_text(encoding="utf-8"))
    conditions = [
        test
        for node in ast.walk(tree)
        for test in [*([node.test] if hasattr(node, "test") else []), *getattr(node, "ifs", []),
                     *([node.subject] if isinstance(node, ast.Match) else [])]
    ]  # fmt: skip
    assert conditions
    words = ("text", "image", "token", "pixel", "vision", "isinstance", "hasattr", "made_of", "unit", "stem", "augment")
    for condition in conditions:
        said = ast.unparse(condition).lower()
        assert not any(word in said for word in words), said


def test_a_run_of_text_keeps_its_fingerprint(digits):
    """What came with images is in a fingerprint only where it says something."""
    data, settings = digits()
    own = data.digest
    bare = Settings(task="sst5", method="tfreg")
    text = replace(bare, optimizer="adamw", own={"tfreg_target": "paper"})
    assert training.fingerprint(text, MACHINE, own, "w", None) == training.fingerprint(bare, MACHINE, own, "w", None)
    prints = {training.fingerprint(replace(settings, **change), MACHINE, own, "w", None) for change in (
        {}, {"optimizer": "adamw"}, {"momentum": 0.8}, {"lr_milestones": [0.5]}, {"lr_decay": 0.1},
        {"stem": "imagenet"}, {"image_size": 9}, {"augment": "none"}, {"own": {"tfreg_target": "code"}})}  # fmt: skip
    assert len(prints) == 9


def test_tables_6_and_13_are_the_papers():
    for init in ("random", "pretrained"):
        given = {"recipe": "table13", "init": init}
        found = {method: recipes.resolve(given | {"method": method}) for method in ("finetune", "ls", "tfreg")}
        common = {"lr": 0.1, "batch_size": 128, "epochs": 200, "momentum": 0.9, "weight_decay": 5e-4, "lr_decay": 0.2}
        for settings in found.values():
            assert {key: settings.value(key) for key in common} == common
            assert [round(share * 200) for share in settings.lr_milestones] == [60, 120, 160]
            assert (settings.task, settings.model) == ("cifar100", "resnet18")
        assert found["ls"].own["alpha"] == 0.1
        named = {key: found["tfreg"].own[key] for key in ("alpha", "tau", "a", "tfreg_target")}
        assert named == {"alpha": 0.1, "tau": 20, "a": 0.99, "tfreg_target": "code"}
    assert recipes.read("table6", "study")["seeds"] == [11, 125, 1350, 23, 230, 4653, 5589, 56, 6, 992]
    with pytest.raises(UserError, match="recipe table13 has no max_length"):
        recipes.resolve({"recipe": "table13", "method": "ls", "init": "random", "task": "sst5"})
