"""Labelled text from anywhere: what is read, how it is divided, what is cached, and what is refused."""

import json
from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
import torch

from labelreg.data import prepared
from labelreg.data.batching import UNLABELLED
from labelreg.errors import UserError
from labelreg.models import registry

STRANGE = [  # what people have in their files
    'She said "fine", then left',
    "two\nlines and a, comma",
    "größe 映画 здорово",
    "  the film  ",
    "NA",
    "null",
    "'single' and \\backslash\\",
    "tab\there",
]
LABELS = ["very good", "not so, good"]


def frame(rows=STRANGE * 4, labels=LABELS):
    return pd.DataFrame({"text": rows, "label": [labels[row % len(labels)] for row in range(len(rows))]})


def write(path, content):
    """A frame in the format that the ending names."""
    match path.suffix:
        case ".parquet":
            content.to_parquet(path)
        case ".jsonl":
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content.to_dict("records")))
        case ending:
            content.to_csv(path, index=False, sep={".csv": ",", ".tsv": "\t"}[ending])
    return path


def example(split, number):
    """The ids of one example."""
    return split.ids[split.offsets[number] : split.offsets[number + 1]].tolist()


def by_idx(data):
    """Every example as (split, ids, label), by its row in the source."""
    return {
        int(idx): (name, example(split, number), int(split.labels[number]))
        for name, split in data.splits.items()
        for number, idx in enumerate(split.idx)
    }


def same_tensors(one, two):
    assert one.splits.keys() == two.splits.keys()
    for name, split in one.splits.items():
        for field in ("ids", "types", "offsets", "labels", "idx"):
            assert torch.equal(getattr(split, field), getattr(two.splits[name], field))


# files


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_what_is_written_is_what_is_read(ending, prepare, tiny_roots, tmp_path):
    content = frame()
    data = prepare(train_file=write(tmp_path / f"my own film.{ending}", content), model="distilroberta")
    tokenizer = registry.tokenizer(registry.checkpoint("distilroberta", tiny_roots))
    assert (data.task, data.metric, data.classes) == ("my own film", "accuracy", ("not so, good", "very good"))
    found = by_idx(data)
    assert sorted(found) == list(range(len(content)))
    for row, (_, ids, label) in found.items():
        assert ids == tokenizer(content["text"][row], truncation=True, max_length=32)["input_ids"]
        assert data.classes[label] == content["label"][row]


def test_all_formats_give_one_digest(prepare, tmp_path):
    data = [prepare(train_file=write(tmp_path / f"film.{end}", frame())) for end in ("csv", "tsv", "jsonl", "parquet")]
    assert len({each.digest for each in data}) == 1
    for each in data[1:]:
        same_tensors(data[0], each)


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(prepare, tmp_path):
    rows = ["text,label", *(f"{text},{label}" for text in ("a fine film", "a dull film") for label in "ab")] * 1
    rows += [f"the cast number {number},{'ab'[number % 2]}" for number in range(8)]
    plain, marked = tmp_path / "plain.csv", tmp_path / "marked.csv"
    plain.write_bytes("\n".join(rows).encode())
    marked.write_bytes("\r\n".join(rows).encode("utf-8-sig"))
    assert prepare(train_file=plain).digest == prepare(train_file=marked).digest
    lines = [json.dumps({"text": f"film {number}", "label": number % 2}) for number in range(12)]
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_bytes("\n".join(lines).encode())
    two.write_bytes("\r\n\r\n".join(lines).encode("utf-8-sig"))
    assert prepare(train_file=one).digest == prepare(train_file=two).digest


def test_unicode_line_separators_inside_a_json_text_end_no_line(prepare, tmp_path):
    content = frame(["one\u2028two", "three\x85four", "five\x0bsix"] * 4)
    assert len(by_idx(prepare(train_file=write(tmp_path / "film.jsonl", content)))) == 12


def test_columns_may_be_named_and_pairs_given(prepare, tmp_path):
    content = pd.DataFrame({"the text": ["a film"] * 12, "second": ["the cast"] * 12, "verdict": ["x", "y"] * 6})
    path = write(tmp_path / "film.csv", content)
    named = {"text_column": "the text", "label_column": "verdict"}
    single = prepare(train_file=path, **named)
    pairs = prepare(train_file=path, text_pair_column="second", **named)
    assert single.classes == pairs.classes == ("x", "y")
    assert not single.splits["train"].paired
    assert pairs.splits["train"].paired
    assert pairs.splits["train"].lengths[0] > single.splits["train"].lengths[0]
    assert single.digest != pairs.digest


@pytest.mark.parametrize(("model", "paired"), [("bert-small", True), ("distilroberta", False), ("distilgpt2", False)])
def test_only_bert_marks_the_second_text(model, paired, prepare, tmp_path):
    content = frame().assign(other="the cast")
    data = prepare(train_file=write(tmp_path / "film.csv", content), text_pair_column="other", model=model)
    assert data.splits["train"].paired == paired


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "9", "-1x"], ("-1x", "10", "9")),
        (["10", "9", "2"], ("2", "9", "10")),
        (["1", "0", "-2"], ("-2", "0", "1")),
        (["²", "³"], ("²", "³")),
        (["Ja", "nein", "映画"], ("Ja", "nein", "映画")),
    ],
)
def test_integer_labels_are_in_order_of_number_and_names_of_letter(labels, classes, prepare, tmp_path):
    content = frame(["a film", "the film", "one film"] * 8, labels)
    assert prepare(train_file=write(tmp_path / "film.csv", content)).classes == classes


@pytest.mark.parametrize("labels", [[0, 1], [3, 20], [True, False]])
def test_labels_that_are_no_text(labels, prepare, tmp_path):
    content = frame(labels=labels)
    classes = tuple(map(str, sorted(labels)))
    assert prepare(train_file=write(tmp_path / "film.parquet", content)).classes == classes
    assert prepare(train_file=write(tmp_path / "film.jsonl", content)).classes == classes


# splits


def counts(split):
    return Counter(split.labels.tolist())


def test_one_file_is_divided_stratified(prepare, tiny_file):
    data = prepare(train_file=tiny_file)
    assert {name: counts(split) for name, split in data.splits.items()} == {
        "train": {0: 16, 1: 16, 2: 16},
        "dev": {0: 2, 1: 2, 2: 2},
        "test": {0: 2, 1: 2, 2: 2},
    }
    rows = torch.cat([split.idx for split in data.splits.values()])
    assert rows.sort().values.tolist() == list(range(60))
    assert all(split.labelled for split in data.splits.values())


def test_only_split_seed_decides_who_goes_where(prepare, tiny_file, tiny_roots, tmp_path):
    data = prepare(train_file=tiny_file)
    same_tensors(data, prepare(train_file=tiny_file, seed=5))
    same_tensors(data, prepare(replace(tiny_roots, cache=tmp_path / "other"), train_file=tiny_file))
    other = prepare(train_file=tiny_file, split_seed=43)
    assert set(other.splits["test"].idx.tolist()) != set(data.splits["test"].idx.tolist())
    assert counts(other.splits["test"]) == counts(data.splits["test"])
    assert other.digest != data.digest


def test_given_files_are_taken_as_they_are(prepare, tmp_path):
    files = {
        f"{split}_file": write(tmp_path / f"{split}.csv", frame([f"{split} film {n}" for n in range(rows)]))
        for split, rows in (("train", 12), ("dev", 4), ("test", 6))
    }
    data = prepare(**files)
    assert {name: split.idx.tolist() for name, split in data.splits.items()} == {
        "train": list(range(12)),
        "dev": list(range(4)),
        "test": list(range(6)),
    }
    without_test = prepare(train_file=files["train_file"], dev_file=files["dev_file"])
    assert list(without_test.splits) == ["train", "dev"]
    without_dev = prepare(train_file=files["train_file"], test_file=files["test_file"])
    assert {name: len(split) for name, split in without_dev.splits.items()} == {"train": 10, "test": 6, "dev": 2}
    train, dev = (set(without_dev.splits[name].idx.tolist()) for name in ("train", "dev"))
    assert train | dev == set(range(12))


def test_a_dev_file_is_not_a_test_file(prepare, tmp_path):
    """The same two files in other roles are other data, in the cache too."""
    train, other = write(tmp_path / "train.csv", frame()), write(tmp_path / "other.csv", frame(["a film"] * 8))
    as_dev, as_test = prepare(train_file=train, dev_file=other), prepare(train_file=train, test_file=other)
    assert set(as_dev.splits) == {"train", "dev"}
    assert set(as_test.splits) == {"train", "dev", "test"}


def test_an_unlabelled_test_file(prepare, tmp_path):
    train, test = write(tmp_path / "train.csv", frame()), write(tmp_path / "test.csv", frame().assign(label="-1"))
    data = prepare(train_file=train, test_file=test)
    assert data.splits["test"].labels.unique().tolist() == [UNLABELLED]
    assert not data.splits["test"].labelled
    assert data.splits["dev"].labelled


@pytest.mark.parametrize(("examples", "smallest", "largest"), [(12, 4, 4), (10, 3, 4), (3, 1, 1), (47, 15, 16)])
def test_a_sample_is_stratified(examples, smallest, largest, prepare, tiny_file):
    data, whole = prepare(train_file=tiny_file, max_train_examples=examples), prepare(train_file=tiny_file)
    sampled = counts(data.splits["train"]).values()
    assert (sum(sampled), min(sampled), max(sampled)) == (examples, smallest, largest)
    assert set(data.splits["train"].idx.tolist()) < set(whole.splits["train"].idx.tolist())
    assert data.splits["dev"].fingerprint == whole.splits["dev"].fingerprint
    assert data.splits["train"].fingerprint != whole.splits["train"].fingerprint


def test_a_sample_keeps_the_shares_of_uneven_classes(prepare, tmp_path):
    content = frame([f"film {n}" for n in range(100)], ["a"] * 9 + ["b"])
    files = {
        "train_file": write(tmp_path / "train.csv", content),
        "dev_file": write(tmp_path / "dev.csv", frame(STRANGE, ["a", "b"])),
    }
    assert counts(prepare(**files, max_train_examples=20).splits["train"]) == {0: 18, 1: 2}
    assert counts(prepare(**files, max_train_examples=2).splits["train"]) == {0: 1, 1: 1}  # none is left out


def test_a_sample_is_the_same_for_every_seed_and_no_larger_than_the_set(prepare, tiny_file):
    one, two = (prepare(train_file=tiny_file, max_train_examples=12, seed=seed) for seed in (1, 2))
    same_tensors(one, two)
    same_tensors(prepare(train_file=tiny_file, max_train_examples=1000), prepare(train_file=tiny_file))


# the cache


def test_what_is_cached_is_read_again_without_a_tokenizer(prepare, tiny_file, tiny_roots, monkeypatch):
    first = prepare(train_file=tiny_file)
    monkeypatch.setattr(registry, "tokenizer", lambda path: pytest.fail("tokenised again"))
    second = prepare(train_file=tiny_file)
    same_tensors(first, second)
    assert second == replace(first, splits=second.splits)
    assert len(list((tiny_roots.cache / "prepared").iterdir())) == 1


def test_a_changed_file_is_prepared_again(prepare, tiny_file):
    first = prepare(train_file=tiny_file)
    tiny_file.write_text(tiny_file.read_text().replace("the", "a", 1))
    assert prepare(train_file=tiny_file).digest != first.digest


def test_another_max_length_gives_other_tensors_of_the_same_examples(prepare, tiny_file):
    long, short = prepare(train_file=tiny_file), prepare(train_file=tiny_file, max_length=5)
    assert int(short.splits["train"].lengths.max()) == 5 < int(long.splits["train"].lengths.max())
    assert short.digest == long.digest


def test_the_digest_is_of_the_examples_whatever_the_tokenizer(prepare, tiny_file):
    families = [prepare(train_file=tiny_file, model=name) for name in ("bert-small", "distilroberta", "distilgpt2")]
    assert len({data.digest for data in families}) == 1
    assert len({data.splits["train"].fingerprint for data in families}) == 1
    assert len({tuple(data.splits["train"].ids[:9].tolist()) for data in families}) == 3
    assert len(families[0].digest) == 32
    assert int(families[0].digest, 16)


def test_a_preparation_that_fails_leaves_nothing(prepare, tiny_file, tiny_roots, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(prepared, "save_file", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            prepare(train_file=tiny_file)
    assert list((tiny_roots.cache / "prepared").iterdir()) == []
    assert len(prepare(train_file=tiny_file).splits["train"]) == 48


# files that are refused

GOOD = "text,label\n" + "".join(f"film {n},{'ab'[n % 2]}\n" for n in range(30))
JSON_LINES = "".join(json.dumps({"text": f"film {n}", "label": n % 2}) + "\n" for n in range(30))
BAD = {  # name, content, what the line says
    "empty": ("film.csv", "", "film.csv: the file is empty"),
    "empty jsonl": ("film.jsonl", "\n\n", "film.jsonl: the file has no examples"),
    "header alone": ("film.csv", "text,label\n", "film.csv: the file has no examples"),
    "no text": (
        "film.csv",
        GOOD.replace("text", "review"),
        "no column 'text'; it has 'review', 'label'; give -P text_column=NAME$",
    ),
    "neither": (
        "film.csv",
        GOOD.replace("text,label", "review,stars"),
        "film.csv: no column 'text' and no column 'label'; it has 'review', 'stars'; "
        "give -P text_column=NAME -P label_column=NAME$",
    ),
    "no label": ("film.tsv", "text\tstars\na\tb\n", "film.tsv: no column 'label'; it has 'text', 'stars'"),
    "another case": (
        "film.csv",
        GOOD.replace("text,label", "Text,label "),
        "did you mean 'Text' and 'label '.; give -P text_column=Text -P 'label_column=label '$",
    ),
    "gzip": ("film.csv.gz", GOOD, "one of .csv, .tsv, .jsonl, .parquet; unpack it first$"),
    "text file": ("film.txt", GOOD, "; save it as CSV .text and label in columns"),
    "json": ("film.json", JSON_LINES, "; save it as JSONL, one object a line$"),
    "empty text": ("film.csv", GOOD.replace("film 17", ""), "film.csv: row 18 has an empty text in column 'text'"),
    "two empty": (
        "film.csv",
        GOOD.replace("film 17", "").replace("film 3,", ","),
        "row 4 .* 'text', 1 more after it too",
    ),
    "blank text": ("film.csv", GOOD.replace("film 2,", " \t ,"), "film.csv: row 3 has an empty text"),
    "no value": ("film.jsonl", JSON_LINES.replace('"film 4"', "null"), "film.jsonl: row 5 has an empty text"),
    "no label there": (
        "film.csv",
        GOOD.replace("film 17,b", "film 17,").replace("film 20,a", "film 20, "),
        "film.csv: row 18 has an empty label in column 'label', 1 more after it too: delete what has no label "
        ".rows are counted from 1, a header is none.$",
    ),
    "no label in a parquet": (
        "film.parquet",
        pd.DataFrame({"text": "a film", "label": [*range(20), None]}).to_parquet(),
        "film.parquet: row 21 has an empty label in column 'label': delete",
    ),
    "short row": (
        "film.csv",
        GOOD.replace("film 17,b", "film 17"),
        "film.csv: .*line 19 has 1 field, the header has 2",
    ),
    "long row": ("film.csv", GOOD.replace("film 17,b", "film 17,b,c"), "film.csv: cannot be read as csv .*line 19"),
    "all rows long": ("film.csv", GOOD.replace("film", "a, film"), "film.csv: .*line 2 has 3 fields, the header has 2"),
    "open quote": ("film.csv", GOOD.replace("film 17", '"film 17'), "film.csv: cannot be read as csv"),
    "one class": ("film.csv", GOOD.replace(",b", ",a"), "film: the training set has one class .a.; at least two"),
    "misspelt class": (
        "film.csv",
        "text,label\n" + "".join(f"film {i},{'good' if i % 2 else 'awful'}\n" for i in range(40)) + "film,awfull\n",
        "class awfull has 1 example, too few to split into train, dev, test: 3 are needed: .*; is awful meant.$",
    ),
    "numbered class": (
        "film.csv",
        GOOD.replace(",a", ",class 1").replace(",b", ",class 2") + "film,class 3\n",
        "class class 3 has 1 example, too few to split into .*: 3 are needed: give it more, or leave it out$",
    ),
    "rare class": (
        "film.csv",
        GOOD + "film,c\nfilm,c\n",
        "class c has 2 examples, too few to split into .*: 3 are needed: give it more, or leave it out$",
    ),
    "ids as labels": (
        "film.csv",
        "text,label\n" + "".join(f"a film,{n // 2 if n < 8 else n}\n" for n in range(42)),
        "class 0 has 2 examples, .*: 3 are needed: .*; column 'label' has 38 values in 42 rows: is it the label.$",
    ),
    "measured numbers as labels": (
        "film.csv",
        "text,label\n" + "".join(f"a film,{n // 5 / 7 if n < 15 else n / 7:.3f}\n" for n in range(60)),
        "column 'label' has 48 values in 60 rows: is it the label.$",
    ),
    "latin-1": ("film.csv", GOOD.replace("film 17", "süß").encode("latin-1"), "film.csv: line 19 is not UTF-8 text"),
    "half of utf-16": ("film.tsv", GOOD.encode("utf-16")[:-1], "film.tsv: line .* is not UTF-16"),
    "utf-16 without a mark": ("film.tsv", GOOD.encode("utf-16-le"), "film.tsv: .*line 1 has a NUL byte"),
    "broken json": ("film.jsonl", JSON_LINES.replace('"film 4"', "film"), "film.jsonl: .* as jsonl .line 5: "),
    "no object": ("film.jsonl", JSON_LINES + "[1]\n", "film.jsonl: .* as jsonl .line 31: no JSON object"),
    "half a text": (
        "film.jsonl",
        JSON_LINES.replace("film 4", "\\ud83d"),
        "film.jsonl: .* as jsonl .*surrogates not allowed",
    ),
    "semicolons": (
        "film.csv",
        GOOD.replace(",", ";"),
        "cannot be read as csv .*separated by ';', not by ',': save it with commas",
    ),
    "tabs": ("film.csv", GOOD.replace(",", "\t"), "film.csv: cannot be read as csv .*separated by "),
    "no parquet": ("film.parquet", GOOD, "film.parquet: cannot be read as parquet"),
    "no ending": ("film.txt", GOOD, "film.txt: the ending must be one of .csv, .tsv, .jsonl, .parquet"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_in_one_line(case, refused, tmp_path):
    name, content, expected = BAD[case]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(expected, train_file=path)


def test_a_missing_file(refused, tmp_path, tiny_file, monkeypatch):
    refused(f"none.csv: no such file or folder in {tmp_path}", train_file="none.csv")
    refused("none.csv: no such file", train_file=tmp_path / "none.csv")
    refused("none.csv: no such file", train_file=tiny_file, dev_file=tmp_path / "none.csv")


def test_a_label_that_train_lacks(refused, tmp_path, tiny_file):
    other = write(tmp_path / "other.csv", frame(labels=["good", "odd"]))
    for role in ("dev", "test"):
        expected = f"{role} has the label 'odd', which train lacks .bad, good, so so."
        refused(expected, train_file=tiny_file, **{f"{role}_file": other})
    partly = write(tmp_path / "partly.csv", frame(labels=["good", "-1"]))
    refused("test has the label '-1'", train_file=tiny_file, test_file=partly)


def test_an_empty_text_in_another_file_or_column(refused, tmp_path, tiny_file):
    dev = write(tmp_path / "dev.csv", frame(["a", "", "c", "d"]).assign(label="good"))
    refused("dev.csv: row 2 has an empty text", train_file=tiny_file, dev_file=dev)
    pairs = write(tmp_path / "pairs.csv", frame().assign(other=["x"] * 31 + [" "]))
    expected = "pairs.csv: row 32 has an empty text in column 'other'"
    refused(expected, train_file=pairs, text_pair_column="other")


def test_a_sample_of_one_class(refused, tiny_file):
    refused("has one class .(good|bad|so so).; at least two", train_file=tiny_file, max_train_examples=1)


def test_more_tokens_than_the_model_takes(refused, tiny_file):
    expected = "max_length=600: the model takes at most 132 tokens"
    refused(expected, train_file=tiny_file, max_length=600)


def test_a_named_column_that_is_not_there(refused, tiny_file):
    expected = "reviews.csv: no column 'the text'; it has 'text', 'label'"
    refused(expected, train_file=tiny_file, text_column="the text")


def test_columns_of_registered_tasks_are_fixed(refused):
    expected = "text_column=x: the columns of task rotten_tomatoes are fixed; it goes with train_file"
    refused(expected, task="rotten_tomatoes", text_column="x")


def test_a_column_text_pair_is_taken_without_being_named(prepare, tmp_path):
    content = frame().assign(text_pair=[f"second {row}" for row in range(len(frame()))])
    data = prepare(train_file=write(tmp_path / "pairs.csv", content))
    assert data.splits["train"].paired
    with pytest.raises(UserError, match="train and dev must both have a text_pair, or neither"):
        prepare(train_file=tmp_path / "pairs.csv", dev_file=write(tmp_path / "dev.csv", frame()))


def test_minus_one_is_a_class_where_the_training_set_has_it(prepare, tmp_path):
    data = prepare(train_file=write(tmp_path / "signs.csv", frame(labels=["-1", "1"])))
    assert data.classes == ("-1", "1")
    assert all(split.labelled for split in data.splits.values())


def test_minus_one_is_told_as_a_class_and_asked_of_a_test_file_without_labels(prepare, refused, tmp_path):
    train, test = tmp_path / "film.csv", tmp_path / "test.csv"
    train.write_text(GOOD.replace(",a", ",0").replace(",b", ",1") + "".join(f"odd {n},-1\n" for n in range(5)))
    told = "film.csv: rows of train with the label -1, a class of its own here: 5; in the hub's data sets it marks rows"
    assert f"{told} without a label" in prepare(train_file=train).remarks
    test.write_text("text\nfilm\n")
    refused("test.csv: no column 'label'.* need a column 'label' of -1;", train_file=train, test_file=test)
    test.write_text("text,label\nfilm,-1\nodd,-1\n")  # were these the class, a score would be made of them
    refused("test has the label -1 alone, which is a class of train", train_file=train, test_file=test)
    test.write_text("text,label\nfilm,-1\nodd,1\n")
    assert prepare(train_file=train, test_file=test).splits["test"].labelled
