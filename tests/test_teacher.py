"""Stored logits come back as they were, and only to the examples and classes that they belong to."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from labelreg import training
from labelreg.data import teacher_logits
from labelreg.errors import UserError
from labelreg.models import registry
from labelreg.settings import Machine
from labelreg.whole import checksum

WHOSE = "run 0123 (gpt2, reviews)"


@pytest.fixture
def data(prepare, tiny_file):
    return prepare(train_file=tiny_file)


def draw(data, seed=0):
    chance = torch.Generator().manual_seed(seed)
    return {name: torch.randn(len(split), 3, generator=chance) for name, split in data.splits.items()}


@pytest.fixture
def stored(data, tmp_path):
    """A folder with logits of all splits of `data`."""
    teacher_logits.save(tmp_path / "logits", draw(data), data, "its fingerprint")
    return tmp_path / "logits"


def refused(expected, path, data, split="train"):
    with pytest.raises(UserError, match=expected) as error:
        teacher_logits.load(path, data, split, WHOSE)
    assert str(error.value).startswith(f"logits of {WHOSE}")
    assert "\n" not in str(error.value)


def test_what_is_saved_is_loaded(stored, data):
    assert sorted(path.name for path in stored.iterdir()) == [
        "dev.safetensors",
        "test.safetensors",
        "train.safetensors",
    ]
    for name, logits in draw(data).items():
        loaded = teacher_logits.load(stored / f"{name}.safetensors", data, name, WHOSE)
        assert torch.equal(loaded, logits)
        assert loaded.dtype == torch.float32


def test_a_second_save_replaces_the_first(stored, data):
    later = draw(data, seed=1)
    teacher_logits.save(stored, later, data, "another")
    assert torch.equal(teacher_logits.load(stored / "dev.safetensors", data, "dev", WHOSE), later["dev"])
    assert not list(stored.glob("*.tmp"))


def test_slices_and_half_precision_are_stored_whole(data, tmp_path):
    wide = torch.randn(len(data.splits["dev"]), 6)
    teacher_logits.save(tmp_path / "other", {"dev": wide[:, ::2].bfloat16()}, data, "x")
    loaded = teacher_logits.load(tmp_path / "other/dev.safetensors", data, "dev", WHOSE)
    assert torch.equal(loaded, wide[:, ::2].bfloat16().float())


def test_a_student_with_another_tokenizer_reads_them(stored, prepare, tiny_file, data):
    other = prepare(train_file=tiny_file, model="distilgpt2")
    assert not torch.equal(other.splits["train"].lengths, data.splits["train"].lengths)
    assert torch.equal(teacher_logits.load(stored / "train.safetensors", other, "train", WHOSE), draw(data)["train"])


@pytest.mark.parametrize("length", [0, 4, 100, -20])
def test_a_truncated_file(length, stored, data):
    path = stored / "train.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    refused(r"\(train\): the file is damaged", path, data)


def test_a_missing_file(tmp_path, data):
    refused("damaged .*[Nn]o such file", tmp_path / "none.safetensors", data)


def test_a_file_of_something_else(tmp_path, data):
    save_file({"weight": torch.zeros(3)}, tmp_path / "x.safetensors")
    refused("damaged .*logits", tmp_path / "x.safetensors", data)


@pytest.mark.parametrize(
    ("about", "expected"), [(None, "its classes are ; here they are bad, "), ({"classes": "[bad"}, "damaged")]
)
def test_a_file_that_does_not_say_what_it_is(about, expected, tmp_path, data):
    save_file({"logits": draw(data)["train"]}, tmp_path / "x.safetensors", metadata=about)
    refused(expected, tmp_path / "x.safetensors", data)


def test_other_classes(stored, data):
    expected = "its classes are bad, good, so so; here they are bad, good, great"
    refused(expected, stored / "train.safetensors", replace(data, classes=("bad", "good", "great")))


def test_classes_in_another_order(stored, data):
    refused(
        "its classes are bad, good, so so; here", stored / "dev.safetensors", replace(data, classes=data.classes[::-1])
    )


def test_another_number_of_examples(stored, data, prepare, tiny_file):
    fewer = prepare(train_file=tiny_file, max_train_examples=12)
    refused(
        r"\(train\): shape \(48, 3\); here it must be \(12, 3\) \(max_train_examples",
        stored / "train.safetensors",
        fewer,
    )
    assert teacher_logits.load(stored / "dev.safetensors", fewer, "dev", WHOSE).shape == (6, 3)  # these are the same


def test_other_examples(stored, data, prepare, tiny_file):
    other = prepare(train_file=tiny_file, split_seed=1)
    theirs, here = data.splits["train"].fingerprint, other.splits["train"].fingerprint
    expected = rf"\(train\): they belong to other examples \(fingerprint {theirs}, here {here}\)"
    refused(expected, stored / "train.safetensors", other)


def test_another_split(stored, data):
    """dev and test have as many examples here."""
    refused("they belong to other examples", stored / "dev.safetensors", data, split="test")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite(value, data, tmp_path):
    logits = draw(data)["train"]
    logits[3, 1] = value
    teacher_logits.save(tmp_path / "bad", {"train": logits}, data, "x")
    refused(r"\(train\): not all are finite", tmp_path / "bad/train.safetensors", data)


def test_the_file_says_whose_and_of_what_the_logits_are(stored, data):
    from safetensors import safe_open

    with safe_open(stored / "dev.safetensors", "pt") as file:
        assert file.metadata() == {
            "examples": data.splits["dev"].fingerprint,
            "classes": json.dumps(["bad", "good", "so so"]),
            "teacher": "its fingerprint",
            "checksum": checksum({"logits": draw(data)["dev"]}),
        }


def test_stored_logits_are_those_of_the_live_teacher(data, tiny_roots, tmp_path):
    """The plain version beside the fast one: what a student reads is what its teacher would say now."""
    model = registry.load("bert-large", data.classes, "pretrained", 0, tiny_roots)
    machine = Machine("fp32", "off", threads=1, device="cpu")
    logits = {name: training.predict(model, split, machine) for name, split in data.splits.items()}
    teacher_logits.save(tmp_path / "live", logits, data, "x")
    for name, split in data.splits.items():
        loaded = teacher_logits.load(tmp_path / "live" / f"{name}.safetensors", data, name, WHOSE)
        assert torch.equal(loaded, training.predict(model, split, machine))


@pytest.mark.parametrize("change", ["a bit", "the order"])
def test_other_logits_under_the_same_description_are_refused(stored, data, change):
    from safetensors import safe_open

    path = stored / "train.safetensors"
    if change == "a bit":
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    else:
        with safe_open(path, "pt") as file:
            about, logits = file.metadata(), file.get_tensor("logits")
        save_file({"logits": logits.flip(0)}, path, about)
    refused(r"\(train\): the file is damaged.*checksum.*delete that run", path, data)


def test_logits_of_before_there_were_checksums_are_read(stored, data):
    from safetensors import safe_open

    path = stored / "dev.safetensors"
    with safe_open(path, "pt") as file:
        about, logits = file.metadata(), file.get_tensor("logits")
    del about["checksum"]
    save_file({"logits": logits}, path, about)
    assert torch.equal(teacher_logits.load(path, data, "dev", WHOSE), draw(data)["dev"])
