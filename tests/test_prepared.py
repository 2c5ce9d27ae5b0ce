"""Prepared data that is damaged: known by its checksums, made anew, and said; processes that do so do no harm."""

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from labelreg.data import prepared
from labelreg.errors import UserError

META = "meta.json"


def change(folder, **changes):
    """Change what stands in meta.json."""
    path = folder / META
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip(path, at=-1):
    """Turn one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def rotate_labels(folder):
    tensors = load_file(folder / "train.safetensors")
    save_file(tensors | {"labels": tensors["labels"].roll(1)}, folder / "train.safetensors")


def put_folder(path):
    path.unlink()
    path.mkdir()
    (path / "file").write_text("x")


DAMAGES = {
    "emptied folder": lambda folder: [path.unlink() for path in folder.iterdir()],
    "empty meta": lambda folder: (folder / META).write_text(""),
    "half of meta": lambda folder: (folder / META).write_text((folder / META).read_text()[:50]),
    "another JSON": lambda folder: (folder / META).write_text("[1]"),
    "another digest": lambda folder: change(folder, digest="0" * 32),
    "classes in another order": lambda folder: change(folder, classes=["so so", "bad", "good"]),
    "no meta": lambda folder: (folder / META).unlink(),
    "a bit of meta": lambda folder: flip(folder / META, 30),
    "truncated tensors": lambda folder: (folder / "train.safetensors").write_bytes(b"12345678"),
    "empty tensors": lambda folder: (folder / "dev.safetensors").write_bytes(b""),
    "no tensors": lambda folder: (folder / "test.safetensors").unlink(),
    "a bit of the tensors": lambda folder: flip(folder / "test.safetensors"),
    "rotated labels": rotate_labels,
    "brackets without end": lambda folder: (folder / META).write_text("[" * 100_000),
    "a folder in the place of meta": lambda folder: put_folder(folder / META),
    "a folder in the place of tensors": lambda folder: put_folder(folder / "train.safetensors"),
    "a file in its place": lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_data_is_made_anew_and_said(damage, prepare, tiny_file, tiny_roots, capsys):
    first = prepare(train_file=tiny_file)
    (folder,) = (tiny_roots.cache / "prepared").iterdir()
    DAMAGES[damage](folder)
    capsys.readouterr()
    second = prepare(train_file=tiny_file)
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and told.startswith("prepared data is damaged (") and str(folder) in told
    assert (first.digest, first.classes, first.remarks) == (second.digest, second.classes, second.remarks)
    for split in first.splits:
        for field in ("ids", "types", "offsets", "labels", "idx"):
            assert torch.equal(getattr(first.splits[split], field), getattr(second.splits[split], field))
    third = prepare(train_file=tiny_file)
    assert capsys.readouterr().out == "", "it is whole now"
    assert third.digest == first.digest
    assert list((tiny_roots.cache / "prepared").iterdir()) == [folder]


def test_damaged_images_are_made_anew(tmp_path, capsys):
    from labelreg import recipes
    from labelreg.data import corpus
    from labelreg.places import Roots

    given = {"task": "digits", "model": "resnet18", "init": "random", "method": "finetune", "seed": 0}
    settings = recipes.resolve(given | {"split_seed": 42, "image_size": 8, "recipe": "digits"})
    first = corpus.prepare(settings, Roots(None, None, tmp_path))
    (folder,) = (tmp_path / "prepared").iterdir()
    rotate_labels(folder)
    second = corpus.prepare(settings, Roots(None, None, tmp_path))
    assert "train.safetensors: the checksum differs" in capsys.readouterr().out
    assert torch.equal(first.splits["train"].labels, second.splits["train"].labels)
    assert torch.equal(first.splits["train"].pixels, second.splits["train"].pixels)


def test_what_is_known_without_the_tensors(prepare, tiny_file, tiny_roots):
    data = prepare(train_file=tiny_file)
    (folder,) = (tiny_roots.cache / "prepared").iterdir()
    known = prepared.known(folder)
    assert known["digest"] == data.digest
    assert known["sizes"] == {name: [len(split), len(split.ids)] for name, split in data.splits.items()}
    assert prepared.known(folder.parent / "none") is None
    change(folder, digest="0" * 32)
    assert prepared.known(folder) is None


# processes that find the same damage


def made(number=7):
    tensors = {"labels": torch.arange(500) % number, "ids": torch.arange(5000)}
    return {"classes": ["a"]}, iter([(split, f"of {split}", tensors) for split in ("train", "dev", "test")])


def reading(folder, times, mistakes):
    for _ in range(times):
        try:
            facts, splits = prepared.kept(folder, made)
            right = all(torch.equal(splits[split]["labels"], torch.arange(500) % 7) for split in facts["files"])
            wrong = "" if right and len(splits) == 3 else "other labels"
        except Exception as error:
            wrong = repr(error)
        if wrong:
            mistakes.put(wrong)


def test_processes_that_make_it_anew_at_once(tmp_path):
    """Three read while a fourth damages: none of them sees anything but whole data, and whole data is left."""
    folder, context = tmp_path / "prepared" / "key", multiprocessing.get_context("fork")
    mistakes = context.Queue()
    readers = [context.Process(target=reading, args=(folder, 40, mistakes)) for _ in range(3)]
    for reader in readers:
        reader.start()
    damages = 0
    while any(reader.is_alive() for reader in readers):
        path = folder / ("train.safetensors" if damages % 2 else META)
        temporary = tmp_path / "damaged"  # renamed, as a file system that lost the content would show it
        temporary.write_bytes(b"damaged")
        if folder.is_dir():
            temporary.replace(path)
            damages += 1
        readers[0].join(0.02)
    for reader in readers:
        reader.join()
    found = [mistakes.get() for _ in range(mistakes.qsize())]
    assert damages > 3
    assert not [each for each in found if "what was just written is damaged" not in each], found
    facts, splits = prepared.kept(folder, made)
    assert list(splits) == ["train", "dev", "test"]
    assert [path.name for path in folder.parent.iterdir()] == ["key"]


def test_what_may_not_be_read_is_not_made_anew(tmp_path, monkeypatch):
    from test_files import rights_of_another

    tmp_path.chmod(0o755)  # pytest's own folders above it are closed to others
    folder = Path("prepared/key")
    prepared.kept(folder, made)
    (folder / META).chmod(0)
    with rights_of_another(), pytest.raises(UserError, match="Permission denied; it may be another user's"):
        prepared.kept(folder, made)
