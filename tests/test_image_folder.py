"""Folders of images as users keep them: which files are read as what, what is left out and said, what is refused."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from pictures import own_folder
from PIL import Image
from running import call, refused

from labelreg import job, recipes
from labelreg.data import corpus, images
from labelreg.data.image_folder import find
from labelreg.data.tasks import made_of
from labelreg.errors import UserError
from labelreg.places import Roots
from labelreg.settings import with_defaults

pytest_plugins = ["running"]


def fill(root, **folders):
    """`cat=2` is two images in root/cat, `train__cat=2` in root/train/cat; each of another colour."""
    for count, (folder, number) in enumerate(folders.items()):
        place = root.joinpath(*folder.split("__"))
        place.mkdir(parents=True, exist_ok=True)
        for n in range(number):
            Image.new("RGB", (8, 8), (20 * count + 10, 7 * n, 5)).save(place / f"{n}.png")
    return root


def classes(found, split="train"):
    return [label for _, label in found.splits[split]]


@pytest.fixture
def prepare(tmp_path):
    def prepared(folder, **given):
        given = {"task": "pets", "method": "finetune", "init": "random", "seed": 0, "image_size": 8} | given
        settings = recipes.resolve(given | {"train_file": str(folder), "split_seed": 42, "batch_size": 4})
        return corpus.prepare(settings, Roots(None, None, tmp_path / "cache"))

    return prepared


# what is read


def test_both_layouts_are_read_without_a_remark(tmp_path):
    bare = find(fill(tmp_path / "bare", cat=2, dog=1), "pets")
    assert classes(bare) == ["cat", "cat", "dog"] and set(bare.splits) == {"train"} and bare.remarks == ()
    root = fill(tmp_path / "split", train__cat=2, train__dog=1, val__cat=1, val__dog=1, test__cat=1, test__dog=2)
    split = find(root, "pets")
    assert {name: classes(split, name) for name in split.splits} == {
        "train": ["cat", "cat", "dog"], "dev": ["cat", "dog"], "test": ["cat", "dog", "dog"]}  # fmt: skip
    assert split.remarks == ()


@pytest.mark.parametrize("names", [("Train", "Test"), ("TRAIN", "TEST"), ("Training", "Testing")])
def test_splits_by_other_spellings(names, tmp_path):
    root = fill(tmp_path, **{f"{name}__{label}": 2 for name in names for label in ("cat", "dog")})
    found = find(root, "pets")
    assert set(found.splits) == {"train", "test"} and classes(found, "test") == ["cat", "cat", "dog", "dog"]


def test_every_ending_that_pillow_decodes_is_an_image(tmp_path):
    root = fill(tmp_path, cat=1)
    (root / "owl").mkdir()
    for ending in ("jpe", "JPE", "JFIF", "Tga", "PGM", "AVIF"):
        kind = {"jpe": "JPEG", "jfif": "JPEG", "pgm": "PPM"}.get(ending.lower(), ending.upper())
        Image.new("L", (8, 8), 9).save(root / "owl" / f"{ending}.{ending}", kind)
    found = find(root, "pets")
    assert classes(found).count("owl") == 6 and found.remarks == ()


def test_a_png_named_jpg_is_read_as_what_it_is(tmp_path):
    root = fill(tmp_path, cat=1, dog=1)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(root / "cat" / "0.jpg", "PNG")
    splits, _ = images._folder(find(root, "pets"), "pets", 8)
    assert splits["train"][0][0, :, 0, 0].tolist() == [1, 2, 3]


def test_folders_below_a_class_belong_to_it_and_are_said(tmp_path):
    found = find(fill(tmp_path, cat=1, cat__2019=2, cat__2019__may=1, dog=1), "pets")
    assert classes(found) == ["cat"] * 4 + ["dog"]
    assert found.remarks == (
        "3 images in a folder below that of the class: read, as of that class "
        "(cat/2019/0.png, cat/2019/1.png, cat/2019/may/0.png)",
    )


def test_a_class_named_train_is_a_class_where_images_stand_in_it(tmp_path):
    found = find(fill(tmp_path, train=2, dog=1), "pets")
    assert classes(found) == ["dog", "train", "train"]
    assert found.remarks == (f"{tmp_path}/train: taken for a class, as images stand in it",)


def test_classes_of_one_folder_may_be_links(tmp_path, prepare):
    """What is behind a link is read, so a change there is noticed."""
    fill(tmp_path / "elsewhere", cat=8, dog=8)
    (tmp_path / "pets").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).symlink_to(tmp_path / "elsewhere" / name)
    first = prepare(tmp_path / "pets")
    assert first.classes == ("cat", "dog") and first.digest == prepare(tmp_path / "elsewhere").digest
    Image.new("RGB", (8, 8), (99, 99, 99)).save(tmp_path / "elsewhere" / "cat" / "0.png")
    again = prepare(tmp_path / "pets")
    colours = {tuple(each[:, 0, 0].tolist()) for split in again.splits.values() for each in split.pixels}
    assert (99, 99, 99) in colours and again.digest != first.digest


def test_the_digest_is_of_what_is_read_and_said(tmp_path):
    root = fill(tmp_path / "pets", cat=2, dog=2)
    first = find(root, "pets").digest()
    assert find(shutil.copytree(root, tmp_path / "copy"), "pets").digest() == first
    fill(root / "dog", **{".ipynb_checkpoints": 1})
    assert find(root, "pets").digest() != first  # the remark is kept with what is prepared
    shutil.rmtree(root / "dog" / ".ipynb_checkpoints")
    assert find(root, "pets").digest() == first
    (root / "cat" / "0.png").rename(root / "dog" / "0b.png")
    assert find(root, "pets").digest() != first


def test_nothing_that_nobody_gave_is_ignored(tmp_path):
    """The defaults of parameters that only a run on texts reads were told as given."""
    given = {"train_file": str(fill(tmp_path / "pets", cat=2, dog=2)), "init": "random", "method": "ls"}
    for more, told in ({}, []), ({"head": "checkpoint"}, ["head is ignored: the task is made of images"]):
        every = with_defaults("train_student", given | more)
        assert job.ignored(job.settings_of(every), every) == told


# what is left out, and said


def test_hidden_and_other_files_are_counted_and_named(tmp_path):
    root = fill(tmp_path, cat=2, dog=2, **{".ipynb_checkpoints": 2, "empty": 0, "heic": 0})
    fill(root / "__MACOSX", cat=1)
    (root / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "cat" / "._0.png").write_bytes(b"x")
    (root / "dog" / "Thumbs.db").write_bytes(b"x")
    (root / "heic" / "a.heic").write_bytes(b"x")
    (root / "labels.csv").write_text("x")
    Image.new("RGB", (8, 8)).save(root / "stray.png")
    found = find(root, "pets")
    assert classes(found) == ["cat", "cat", "dog", "dog"]
    assert found.remarks == (
        "1 image in no folder of a class: ignored (stray.png)",
        "4 names hidden or made by the system: ignored (.ipynb_checkpoints, __MACOSX, cat/.DS_Store, ...)",
        "3 files not read as an image (.db 1, .heic 1, .csv 1): ignored (dog/Thumbs.db, heic/a.heic, labels.csv)",
        f"2 folders of {root} without an image that is read: no class (empty, heic)",
    )


def test_what_is_beside_the_splits_and_what_a_split_lacks(tmp_path):
    root = fill(tmp_path, train__cat=1, train__dog=1, test__cat=1, extra__cat=2)
    found = find(root, "pets")
    assert set(found.splits) == {"train", "test"} and len(found.splits["train"]) == 2
    assert found.remarks == (
        "2 images in no folder of a class: ignored (extra/cat/0.png, extra/cat/1.png)",
        f"1 class of train without an image in {root}/test (dog)",
    )


def test_what_was_done_to_images_is_counted(tmp_path):
    root = fill(tmp_path, cat=1, dog=1)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(root / "cat" / "clear.png")
    frames = [Image.effect_noise((8, 8), sigma).convert("L") for sigma in (20, 40)]
    frames[0].save(root / "dog" / "film.gif", save_all=True, append_images=frames[1:])
    _, remarks = images._folder(find(root, "pets"), "pets", 8)
    assert "1 image with transparent parts, which stand on white (such as cat/clear.png)" in remarks
    assert "1 image with more than one frame: the first is read (such as dog/film.gif)" in remarks


def test_images_in_train_and_test_and_classes_alike_are_said(tmp_path, prepare):
    root = fill(tmp_path / "pets", train__cat=6, train__Cat=6, dev__cat=2, dev__Cat=2, test__cat=3, test__Cat=3)
    shutil.copy(root / "train" / "cat" / "0.png", root / "test" / "cat" / "same.png")
    shutil.copy(root / "train" / "cat" / "1.png", root / "test" / "Cat" / "same.png")
    data = prepare(root)
    assert "2 of 8 images of test stand in train too, 1 of them with another label" in data.remarks
    assert "'Cat' and 'cat' are two classes" in data.remarks
    assert prepare(root).remarks == data.remarks  # from the cache, too


# what is refused


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ({"train__steam": 1, "train__diesel": 1, "dog": 1}, "train stands beside dog; it may be a split, or a class"),
        ({"train": 1, "train__old": 1, "dog": 1}, "train stands beside dog; it may be a split, or a class"),
        ({"cat": 1, "dog": 1, "test": 1}, "test stands beside cat, dog; it may be a split, or a class"),
        ({"cat": 1, "dog": 1, "val__cat": 1, "val__dog": 1}, "val stands beside cat, dog; it may be a split"),
        ({"train": 1, "test": 1, "dog": 1}, "test stands beside dog; it may be a split, or a class"),
        ({"fold1__cat": 1, "fold1__dog": 1, "fold2__cat": 1, "fold2__dog": 1}, "fold1 stands beside fold2; each may"),
        ({"train__cat": 1, "train__dog": 1, "val__cat": 1, "dev__cat": 1}, "has dev and val: two folders for dev"),
        ({"train": 2, "test": 2}, "train has no images in folders of their class"),
        ({"test__cat": 2, "test__dog": 2}, "train has no images in folders of their class"),
        ({"train__cat": 1, "train__dog": 1, "val": 0}, "val has no images in folders of their class"),
        ({"train__cat": 1, "train__dog": 1, "test": 3}, "test has no images in folders of their class"),
        ({"cat": 0}, "has no images in folders of their class"),
        ({"cat ": 1, "cat": 1}, "has a class folder 'cat '"),
        ({"c\nat": 1, "dog": 1}, r"has a class folder 'c\nat'"),
        ({"\udcff": 1, "dog": 1}, r"has a class folder '\udcff'"),
    ],
    ids=lambda value: "+".join(value).encode("ascii", "backslashreplace").decode() if isinstance(value, dict) else "",
)
def test_a_layout_of_two_readings_is_refused_with_the_way_out(folders, words, tmp_path):
    with pytest.raises(UserError) as caught:
        find(fill(tmp_path, **folders), "pets")
    said = str(caught.value)
    assert words in said and said.isprintable() and ("lay it out as" in said or "leave one" in said or "rename" in said)


def test_what_is_refused_says_which_endings_there_are(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.HEIC").write_bytes(b"x")
    with pytest.raises(UserError, match=r"none that Pillow reads as images \(.heic 2\)"):
        find(tmp_path, "pets")


def test_a_folder_of_tables_is_told_before_a_model_of_images_is_looked_for(prepare, tmp_path):
    root = tmp_path / "reviews"
    root.mkdir()
    for name in ("test.csv", "train.csv", "val.csv"):
        (root / name).write_text("text,label\n")
    expected = f"train_file={root}/train.csv dev_file={root}/val.csv test_file={root}/test.csv"
    for given in ({"init": "pretrained"}, {"model": "minilm-2l"}):
        with pytest.raises(UserError, match=f"a folder without an image, .* give {expected}$"):
            prepare(root, **given)
    (root / "train.csv").rename(root / "film.tsv")
    with pytest.raises(UserError, match=rf"\(film.tsv, test.csv, val.csv\): give train_file={root}/FILE$"):
        prepare(root)


def upwards(folder):
    (folder / "up").symlink_to("..")
    return "up: this link leads back to a folder that it is in"


def to_itself(folder):
    (folder / "x.png").symlink_to("x.png")
    return "x.png: cannot be read (Too many levels of symbolic links)"


def to_nothing(folder):
    (folder / "x.png").symlink_to("gone.png")
    return "x.png: cannot be read (a link to nothing)"


def pipe(folder):
    os.mkfifo(folder / "x.png")
    return "x.png: cannot be read (it is no file but a pipe or a device)"


def unreadable(folder):
    if os.geteuid():
        (folder / "0.png").chmod(0)
        return "0.png: cannot be read (Permission denied)"
    (folder / "x.png").symlink_to("/proc/self/mem")  # root may read every file; this one it cannot
    return "x.png: cannot be read (Input/output error)"


def empty(folder):
    (folder / "x.png").write_bytes(b"")
    return "x.png is no image (it is empty)"


def truncated(folder):
    path = folder / "0.png"
    path.write_bytes(path.read_bytes()[:45])
    return "0.png is no image that can be read"


def odd_name(folder):
    (folder / "a\x1b[31m\nb.png").write_bytes(b"x")
    return r"a\x1b[31m\nb.png is no image that can be read"


def black(folder):
    for path in folder.parent.rglob("*.png"):
        Image.new("RGB", (8, 8)).save(path)
    return "all 16 training images are the same at 32 pixels"


@pytest.mark.parametrize(
    "damage",
    [upwards, to_itself, to_nothing, pipe, unreadable, empty, truncated, odd_name, black],
    ids=lambda damage: damage.__name__,
)
def test_what_cannot_be_read_is_one_line_with_the_path_and_leaves_nothing(damage, tmp_path, store):
    folder = fill(tmp_path / "pets", cat=8, dog=8) / "cat"
    words = damage(folder)
    refused(call("train_student", train_file=folder.parent, init="random", threads=1), str(folder.parent.name), words)
    assert not list(tmp_path.glob("cache/prepared/*"))


def test_a_name_that_is_no_text_is_read(tmp_path):
    root = fill(tmp_path, cat=1, dog=1)
    shutil.copy(root / "cat" / "0.png", os.fsencode(root / "cat") + b"/\xff\n.png")
    found = find(root, "pets")
    assert len(found.splits["train"]) == 3 and len(found.digest()) == 32


def test_a_folder_that_is_not_there_is_said_as_such(tmp_path, store, monkeypatch):
    for given in ({"model": "resnet18"}, {}):
        refused(call("train_student", train_file="photoz", **given), "train_file=photoz: no such file or folder in")
    own_folder(tmp_path / "home" / "pets")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert made_of(None, "~/pets") == "images"
    refused(call("prepare", train_file="~/petz", model="resnet18"), "petz: no such file or folder")


def test_a_folder_in_the_home_is_read(tmp_path, monkeypatch, prepare):
    own_folder(tmp_path / "home" / "pets")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    data = prepare("~/pets")
    assert data.classes == ("cat", "dog", "owl") and data.digest == prepare(tmp_path / "home" / "pets").digest


def test_pixels_of_ordinary_images_are_what_they_were(tmp_path):
    """8 bits, opaque and upright: what Pillow's own conversion, cut and resize give."""
    from PIL import ImageOps

    chance = np.random.default_rng(0)
    noise = Image.fromarray(chance.integers(0, 256, (41, 50, 3)).astype(np.uint8))
    (tmp_path / "cat").mkdir()
    for mode, kind in (("RGB", "png"), ("L", "png"), ("P", "gif"), ("CMYK", "jpg"), ("1", "png"), ("L", "jpg")):
        path: Path = tmp_path / "cat" / f"{mode}.{kind}"
        noise.convert(mode).save(path)
        expected = ImageOps.fit(Image.open(path).convert("RGB"), (16, 16), Image.Resampling.BILINEAR)
        (pixels, _), *_ = images._folder(find(tmp_path, "pets"), "pets", 16)[0].values()
        assert np.array_equal(pixels[0].transpose(1, 2, 0), np.asarray(expected)), path
        path.unlink()
