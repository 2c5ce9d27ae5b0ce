"""Files of labelled text as people have them: each is read right, or refused with its line, or what is done is said."""

import csv
import gzip
import json
import os
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoints.command import parse
from labelreg import settings
from labelreg.data import files, labels, prepared
from labelreg.data.tasks import Task
from labelreg.errors import UserError
from labelreg.parameter import convert, joined

ROWS = [(f"film number {n}, really", ("pos", "neg")[n % 2]) for n in range(30)]
PLAIN = [(f"film number {n}", ("pos", "neg")[n % 2]) for n in range(30)]
TASK = Task("file", "text")


def frame(rows):
    return pd.DataFrame(rows, columns=["text", "label"])


def read(path, content, label="label"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return files.read(path, label)


def rows(table):
    return [tuple(row) for row in table.frame[["text", "label"]].itertuples(index=False)]


def delimited(rows, mark="\t"):
    return f"text{mark}label\n" + "".join(f"{text}{mark}{label}\n" for text, label in rows)


# TSV


def test_quotes_of_a_tsv_swallow_no_rows(tmp_path):
    content = [('"What a film', "pos"), ("middle", "neg"), ('"Never again', "neg"), ('an "odd" one"', "pos")]
    table = read(tmp_path / "film.tsv", delimited(content))
    assert rows(table) == content
    assert table.remarks == ()


def test_rows_are_not_swallowed_where_a_later_quote_would_close_the_field(tmp_path):
    content = [('"What a film', "pos"), ("middle", "neg"), ('she said "', "neg")]
    assert rows(read(tmp_path / "film.tsv", delimited(content))) == content


def test_quotes_around_a_text_are_kept_and_said(tmp_path):
    content = [(f'"{text}"', label) for text, label in PLAIN[:7]] + PLAIN[7:]
    table = read(tmp_path / "film.tsv", delimited(content))
    assert rows(table) == content
    (remark,) = table.remarks
    assert remark.startswith("rows with a field that begins and ends with a quote: 7;")


def test_real_mrpc_dumped_raw_keeps_its_rows(hub, tmp_path):
    source = pd.read_parquet(next((hub / "nyu-mll/glue/mrpc").glob("train*")))
    content = "sentence1\tsentence2\tlabel\n"
    content += "".join(
        f"{a}\t{b}\t{c}\n" for a, b, c in zip(source.sentence1, source.sentence2, source.label, strict=True)
    )
    table = read(tmp_path / "mrpc.tsv", content)
    assert len(table.frame) == 3668
    assert list(table.frame["sentence1"]) == list(source.sentence1)
    assert list(table.frame["label"]) == [str(label) for label in source.label]


QUOTED = {  # what pandas and R write with tabs; the remark says that quotes were read as such
    "quotes inside": ([*ROWS, ('he said "fine", then left', "pos")], {}),
    "line breaks": ([*ROWS, ("two\nlines", "pos"), ("a\n\nb", "neg")], {}),
    "tabs": ([*ROWS, ("tab\there", "neg")], {}),
    "as many tabs as line breaks": ([*ROWS, ("a\tb\nc", "neg")], {}),
    "all in quotes": (ROWS, {"quoting": csv.QUOTE_ALL}),
}


@pytest.mark.parametrize("case", QUOTED)
def test_a_tsv_that_says_that_it_is_quoted_is_read_so(case, tmp_path):
    content, how = QUOTED[case]
    table = read(tmp_path / "film.tsv", frame(content).to_csv(sep="\t", index=False, **how))
    assert rows(table) == content
    assert table.remarks == (files.AS_QUOTED,)


def test_excels_unicode_text(tmp_path):
    """UTF-16 with a mark, tabs, and quotes where a text has a comma."""
    content = "text\tlabel\r\n" + "".join(f'"{text}"\t{label}\r\n' for text, label in ROWS)
    table = read(tmp_path / "film.tsv", (content + "plain\tpos\r\n").encode("utf-16"))
    assert rows(table) == [*ROWS, ("plain", "pos")]
    assert table.remarks == (files.AS_QUOTED,)


# CSV


SWALLOWED = {  # content, what the line says
    "closed before a word": (
        delimited([('"What a film', "pos"), ("middle", "neg"), ('"Never again', "neg")], ","),
        r"line 4: a quote inside a field in quotes \(begun in line 2\) must be doubled",
    ),
    "closed at an end": (
        delimited([*PLAIN, ('"What a film', "pos"), ("middle", "neg"), ('never"', "neg")], ","),
        r"line 32: a quote opens a field that swallows rows down to line 34 \(lines 32 and 33 ",
    ),
    "with more commas": (
        delimited([*PLAIN, ('"Well, what a film', "pos"), ('no, never"', "neg")], ","),
        r"line 32: a quote opens a field that swallows rows down to line 33 \(lines 32 and 33 ",
    ),
    "label first": (
        "label,text\n" + "".join(f"{b},{a}\n" for a, b in PLAIN) + 'pos,"What a film\nneg,middle\npos,never"\n',
        "line 32: a quote opens a field that swallows rows down to line 34",
    ),
    "to the end": (
        delimited([*PLAIN, ('"What', "pos"), ("x", "neg")], ","),
        "line 32: a quote opens a field",
    ),
    "backslashes": (delimited([('"so \\"fine\\", really"', "pos")], ","), "line 2: a quote inside .* must be doubled"),
}


@pytest.mark.parametrize("case", SWALLOWED)
def test_a_csv_whose_quotes_swallow_rows_is_refused_with_its_line(case, tmp_path):
    content, expected = SWALLOWED[case]
    with pytest.raises(UserError, match=expected):
        read(tmp_path / "film.csv", content)


LETTERS = [("Dear Bob,\nI liked this", "pos"), ("two\nlines, and\n\na third, too", "neg")]


@pytest.mark.parametrize("columns", [["text", "label"], ["label", "text"]])
@pytest.mark.parametrize("content", [LETTERS, PLAIN + LETTERS])
def test_texts_of_several_lines_are_read(columns, content, tmp_path):
    assert rows(read(tmp_path / "film.csv", frame(content)[columns].to_csv(index=False))) == content


TEXTS = st.text("ab \"',;\n\t", min_size=1).filter(str.strip)


@given(st.lists(st.tuples(TEXTS, st.sampled_from(["pos", "neg"])), min_size=1, max_size=6))
def test_what_pandas_writes_is_what_is_read(content):
    for mark in ",\t":
        lines = frame(content).to_csv(index=False, sep=mark).splitlines(keepends=True)
        assert rows(files.delimited(lines, mark, "label")) == content


READ = {  # what is read as ROWS or PLAIN
    "byte order mark, \\r\\n": (
        "film.csv",
        frame(ROWS).to_csv(index=False, lineterminator="\r\n").encode("utf-8-sig"),
        ROWS,
    ),
    "\\r": ("film.csv", frame(ROWS).to_csv(index=False, lineterminator="\r"), ROWS),
    "an index": ("film.csv", frame(ROWS).to_csv(), ROWS),
    "R's quotes": ("film.csv", frame(ROWS).to_csv(quoting=csv.QUOTE_NONNUMERIC), ROWS),
    "columns without a name": ("film.csv", "text,label,,\n" + "".join(f"{a},{b},,\n" for a, b in PLAIN), PLAIN),
    "blank lines": ("film.csv", delimited(PLAIN, ",") + "\n\n", PLAIN),
    "the same name twice elsewhere": (
        "film.csv",
        "text,label,a,a\n" + "".join(f"{a},{b},1,2\n" for a, b in PLAIN),
        PLAIN,
    ),
    "utf-16 json": ("film.jsonl", frame(PLAIN).to_json(orient="records", lines=True).encode("utf-16"), PLAIN),
    "a quote inside": ("film.csv", delimited([('5" screen', "pos")], ","), [('5" screen', "pos")]),
    "NA": ("film.csv", delimited([("NA", "null"), ("None", "nan")], ","), [("NA", "null"), ("None", "nan")]),
}


@pytest.mark.parametrize("case", READ)
def test_files_that_are_read_as_they_are(case, tmp_path):
    name, content, expected = READ[case]
    table = read(tmp_path / name, content)
    assert rows(table) == expected
    assert table.remarks == ()


def test_rows_with_nothing_in_them_are_counted(tmp_path):
    table = read(tmp_path / "film.csv", delimited(PLAIN, ",") + ",\n" * 5)
    assert rows(table) == PLAIN
    assert table.remarks == ("rows with nothing in them, left out: 5",)


def test_quotes_behind_a_space_are_text_and_said(tmp_path):
    table = read(tmp_path / "film.csv", 'label,text\npos, "good"\nneg,bad\npos,"a ""b"""\n')
    assert list(table.frame["text"]) == [' "good"', "bad", 'a "b"']
    assert table.remarks == ("rows with a space before a field's quotes, which are text then, and kept: 1",)


REFUSED = {
    "NUL": ("film.csv", delimited(PLAIN, ",").replace("number 5", "num\0ber"), "line 7 has a NUL byte"),
    "utf-16 without a mark": ("film.csv", delimited(PLAIN, ",").encode("utf-16-le"), "line 1 has a NUL byte"),
    "gzip": ("film.csv.gz", gzip.compress(b"text,label\n"), "the ending must be one of .csv"),
    "gzip by another name": ("film.csv", gzip.compress(b"text,label\n"), "line 1 is not UTF-8 text"),
    "short row": ("film.csv", "text,label,a\nx,pos,1\ny,neg\n", "line 3 has 2 fields, the header has 3"),
    "long row": ("film.csv", "text,label\nx,pos\ny,neg,z\n", "line 3 has 3 fields, the header has 2"),
    "long rows": ("film.tsv", "text\tlabel\n1\tx\tpos\n", "line 2 has 3 fields, the header has 2"),
    "line break in a tsv": ("film.tsv", "text\tlabel\ntwo\nlines\tpos\n", "line 2 has 1 field, the header has 2"),
    "half a line": ("film.jsonl", '{"text": "x\n{"text": "y", "label": 1}\n', "line 1: Unterminated string"),
    "a list": ("film.jsonl", '[{"text": "x", "label": 1}]', "line 1: no JSON object"),
    "a name twice": ("film.jsonl", '{"text": "x", "label": 1, "label": 2}', "line 1: a name stands twice"),
    "two csv files in one": ("film.csv", "text,label\nx,pos\n\ufefftext,label\ny,neg\n", "line 3 is the header again"),
    "two quoted ones": ("film.csv", '"text","label"\n"x","pos"\n\ufeff"text","label"\n', "line 3 is the header again"),
    "two tsv files in one": ("film.tsv", "text\tlabel\nx\tpos\ntext\tlabel\n", "line 3 is the header again"),
    "half a character": ("film.jsonl", '{"text": "x", "a": 1}\n{"text": "\\ud83d"}', "line 2: .*surrogates"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_are_refused(case, tmp_path):
    name, content, expected = REFUSED[case]
    with pytest.raises(UserError, match=expected) as error:
        read(tmp_path / name, content)
    assert str(tmp_path / name) in str(error.value)


@contextmanager
def rights_of_another():
    """This process without root's rights, for which every file is open."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    tmp_path.chmod(0o755)  # pytest's own folders above it are closed to others
    path = tmp_path / "film.csv"
    path.write_text("text,label\n")
    path.chmod(0)
    with rights_of_another(), pytest.raises(UserError, match="film.csv: Permission denied"):
        files.check(Path("film.csv"))
    with pytest.raises(UserError, match="a folder, where a file is needed"):
        files.check(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        files.check(path / "film.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UserError, match="no plain file"):
        files.check(tmp_path / "pipe.csv")


# Parquet, and labels of every type


def test_the_hubs_names_of_classes_are_kept_in_parquet(tmp_path, prepare):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["zero", "ace"])}
    )
    content = {"text": [text for text, _ in PLAIN], "label": [n % 2 for n in range(30)]}
    datasets.Dataset.from_dict(content, features).to_parquet(tmp_path / "film.parquet")
    data = prepare(train_file=tmp_path / "film.parquet")
    assert data.classes == ("ace", "zero")
    assert data.splits["train"].labels.tolist() == [1 - idx % 2 for idx in data.splits["train"].idx.tolist()]
    content["label"][3] = -1
    datasets.Dataset.from_dict(content, features).to_parquet(tmp_path / "film.parquet")
    with pytest.raises(UserError, match="row 4 of train has the label -1"):
        prepare(train_file=tmp_path / "film.parquet")


def test_names_in_a_column_of_the_hubs_classes_stay():
    assert [files.named(value, ["zero", "ace"]) for value in (0, "ace", -1, 1.0)] == ["zero", "ace", -1, "ace"]


def named(values, task="film"):
    content = pd.DataFrame({"text": "x", "label": pd.Series(values)})
    done, classes = labels.labelled({"train": content}, TASK, task)
    return classes, done["train"]["label"].tolist()


@pytest.mark.parametrize(
    ("values", "classes", "numbers"),
    [
        (["01", "1", "001", "2"], ("001", "01", "1", "2"), [1, 2, 0, 3]),
        (["10", "9", "-2", "-02"], ("-02", "-2", "9", "10"), [3, 2, 1, 0]),
        ([2, 10, 2], ("2", "10"), [0, 1, 0]),
        ([1.0, 0.0], ("0", "1"), [1, 0]),
        (["0.0", "1.0"], ("0.0", "1.0"), [0, 1]),
        ([True, False], ("False", "True"), [1, 0]),
        ([Decimal(1), Decimal(0)], ("0", "1"), [1, 0]),
        (pd.Categorical(["b", "a"]), ("a", "b"), [1, 0]),
        ([" b ", "a"], ("a", "b"), [1, 0]),
        (["9007199254740992", "9007199254740993"], ("9007199254740992", "9007199254740993"), [0, 1]),
    ],
)
def test_labels_have_one_order_and_one_name(values, classes, numbers):
    assert named(values) == (classes, numbers)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0], [1]], r"row 1 of train has \[0\] \(list\) as its label; a label is one text or one number"),
        (["a", {"name": "b"}], r"row 2 of train has {'name': 'b'} \(dict\) as its label"),
        ([b"a", b"b"], r"row 1 of train has b'a' \(bytes\)"),
        (["a", None], "row 2 of train has no label"),
        (pd.array(["a", pd.NA], dtype="string"), "row 2 of train has no label"),
        (["0", "1", "0.0"], "the labels '0' and '0.0' are one value written in two ways"),
        ([0, 1, True], "the labels '1' and 'True' are one value"),
        (["true", "True", "no"], "the labels 'True' and 'true' are one value"),
        (["good", "bad", "-1"], "row 3 of train has the label -1 .no label., others have names"),
    ],
)
def test_labels_that_are_refused(values, expected):
    with pytest.raises(UserError, match=expected):
        named(values)


def test_names_that_differ_little_are_said():
    assert labels.alike(("Pos", "neg", "pos"), "film") == ["'Pos' and 'pos' are two classes"]
    assert labels.alike(("01", "1"), "film") == ["'01' and '1' are two classes"]
    assert labels.alike(("Größe", "größe"), "film") == ["'Größe' and 'größe' are two classes"]
    assert labels.alike(("café", "cafe\u0301"), "film") == [r"'caf\xe9' and 'cafe\u0301' are two classes"]
    assert labels.alike(("pos", "pos\u200b"), "film") == [r"'pos' and 'pos\u200b' are two classes"]
    assert labels.alike(("so so", "so\xa0so"), "film") == [r"'so so' and 'so\xa0so' are two classes"]
    with pytest.raises(UserError, match=r"'1' and '\\uff11' are one value written in two ways"):
        labels.alike(("1", "\uff11"), "film")
    assert labels.alike(("9007199254740992", "9007199254740993", "a"), "film") == []


def test_a_name_that_train_has_in_another_form_is_told_by_its_codes():
    frames = {"train": ["café", "tea"], "test": ["cafe\u0301", "tea"]}
    with pytest.raises(UserError, match=r"train lacks .*: 'cafe\\u0301' and 'caf\\xe9' are two names"):
        labels.labelled({split: pd.DataFrame({"label": each}) for split, each in frames.items()}, TASK, "film")


@pytest.mark.parametrize("column", ["label", "text"])
def test_what_is_no_text_is_told_as_it_is(column, tmp_path, prepare):
    content = [{"text": text, "label": label} for text, label in PLAIN]
    content[8][column] = ["a"] if column == "label" else 5
    (tmp_path / "film.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    expected = {"text": r"row 9 has 5 \(int\) in column 'text'", "label": r"row 9 of train has \['a'\] \(list\)"}
    with pytest.raises(UserError, match=expected[column]):
        prepare(train_file=tmp_path / "film.jsonl")


def test_a_wanted_column_that_stands_twice(tmp_path, prepare):
    (tmp_path / "film.csv").write_text("text,label,label\nx,a,b\ny,b,a\n")
    with pytest.raises(UserError, match="2 columns are named 'label'"):
        prepare(train_file=tmp_path / "film.csv")


def test_one_column_for_both_texts(tmp_path, refused):
    (tmp_path / "film.csv").write_text(delimited(PLAIN, ","))
    refused(
        "text_pair_column=text: it is the column of the first",
        train_file=tmp_path / "film.csv",
        text_pair_column="text",
    )


# the hub's layout


def test_a_csv_of_the_hub_is_read_as_ones_own(prepare, tiny_roots, tmp_path):
    from dataclasses import replace

    content = [("NA", "01"), ("null", "1"), *((text, ("01", "1")[n % 2]) for n, (text, _) in enumerate(PLAIN))]
    folder = tmp_path / "data_root/someone/films"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text(delimited(content, ","))
    data = prepare(replace(tiny_roots, data=tmp_path / "data_root"), task="someone/films")
    assert data.classes == ("01", "1")
    assert data.digest == prepare(train_file=folder / "train.csv").digest


def test_a_separator_that_the_hubs_card_names(prepare, tiny_roots, tmp_path):
    from dataclasses import replace

    folder = tmp_path / "data_root/someone/films"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text(delimited(PLAIN, ";"))
    card = "configs:\n- config_name: default\n  sep: ';'\n  data_files:\n  - {split: train, path: train.csv}\n"
    (folder / "README.md").write_text(f"---\n{card}---\n")
    data = prepare(replace(tiny_roots, data=tmp_path / "data_root"), task="someone/films")
    assert sum(map(len, data.splits.values())) == 30


def test_texts_that_are_no_utf_8_behind_a_library(prepare, refused, tiny_roots, tmp_path):
    """JSON of the hub's layout, and Parquet, whose writers do not check what they call text."""
    from dataclasses import replace

    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "data_root/someone/films"
    folder.mkdir(parents=True)
    lines = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in [*PLAIN, ("boese", "pos")])
    (folder / "train.json").write_bytes(lines.encode().replace(b"boese", b"b\xf6se"))
    told = r"column 'text' has a text that is not UTF-8 \(b'b.xf6se'\)"
    refused(told, roots=replace(tiny_roots, data=tmp_path / "data_root"), task="someone/films")
    texts = pa.array([text.encode() for text, _ in PLAIN] + [b"b\xf6se"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), len(texts), texts.buffers())
    table = pa.table({"text": texts, "label": [label for _, label in PLAIN] + ["pos"]})
    pq.write_table(table, tmp_path / "film.parquet")
    refused(told, train_file=tmp_path / "film.parquet")


def test_a_registered_task_with_other_labels(prepare, tiny_roots, tmp_path):
    from dataclasses import replace

    folder = tmp_path / "data_root/SetFit/sst5"
    folder.mkdir(parents=True)
    roots = replace(tiny_roots, data=tmp_path / "data_root")
    for label in ("very good", "0.5", "5"):
        for split in ("train", "validation", "test"):
            (folder / f"{split}.csv").write_text(delimited([("x", "0"), ("y", label)], ","))
        with pytest.raises(UserError, match=rf"a label of train is outside 0\.\.4 \(row 2: {label}\)"):
            prepare(roots, task="sst5")


# what is said


def test_the_line_names_rows_and_classes(prepare, tmp_path):
    train, test = tmp_path / "film.csv", tmp_path / "test.csv"
    train.write_text(delimited([(f"{'long ' * 40 * (n == 7)}film {n}", ("pos", "neg")[n % 2]) for n in range(40)], ","))
    test.write_text(delimited([("film 1", "neg"), ("film 2", "neg"), ("another", "pos")], ","))
    data = prepare(train_file=train, dev_file=test, test_file=test)
    assert prepared.lines(data) == [
        "data film: train 40 rows (neg 20, pos 20); dev 3 rows (neg 2, pos 1); test 3 rows (neg 2, pos 1)",
        "data film: 2 of 3 rows of dev stand in train too, 1 of them with another label",
        "data film: 2 of 3 rows of test stand in train too, 1 of them with another label",
        "data film: 3 of 3 rows of test stand in dev too: the best dev epoch is chosen on them",
        "data film: max_length=32 cuts 1 of 40 rows of train (2.5%)",
    ]
    assert prepared.lines(prepare(train_file=train, dev_file=test, test_file=test)) == prepared.lines(data)
    few = prepared.lines(prepare(train_file=train, dev_file=test, max_train_examples=6))
    assert few[1] == "data film: train is a sample of 40 rows (max_train_examples=6)"
    all_ = prepared.lines(prepare(train_file=train, dev_file=test, max_train_examples=41))
    assert all_[1] == "data film: train has 40 rows and no more (max_train_examples=41)"


def test_spaces_around_labels_are_said(prepare, tmp_path):
    train, test = tmp_path / "film.csv", tmp_path / "test.csv"
    train.write_text(
        delimited([(text, f" {label}" if n in (3, 5) else label) for n, (text, label) in enumerate(PLAIN)], ",")
    )
    test.write_text(delimited([("another", "neg "), ("one more", "pos")], ","))
    data = prepare(train_file=train, test_file=test)
    assert data.classes == ("neg", "pos")
    spaced = "rows with spaces around their label: {}; the spaces are not part of the label"
    assert data.remarks == (f"film.csv: {spaced.format(2)}", f"test.csv: {spaced.format(1)}")
    train.write_text(delimited(PLAIN, ","))
    plain = prepare(train_file=train, dev_file=train)
    assert not any("spaces" in remark for remark in plain.remarks)


def test_a_column_of_ids_that_is_read_as_a_text_is_said(prepare, tmp_path):
    path = tmp_path / "film.csv"
    path.write_text("id,text,label\n" + "".join(f"{n}.5,{text},{label}\n" for n, (text, label) in enumerate(PLAIN)))
    told = "film.csv: column 'id' holds numbers alone, as a text"
    assert prepare(train_file=path, text_column="id").remarks == (told, "film.csv: columns that no model reads: text")
    assert prepare(train_file=path, text_pair_column="id").remarks == (told,)
    assert prepare(train_file=path).remarks == ()


def test_many_classes_and_rows_without_labels(prepare, tmp_path):
    train, test = tmp_path / "film.csv", tmp_path / "test.csv"
    train.write_text(delimited([(f"film {n}", n % 12) for n in range(122)], ","))
    test.write_text(delimited([("another", -1)], ","))
    line = prepared.lines(prepare(train_file=train, dev_file=train, test_file=test))[0]
    classes = "12 classes, from 10 (2) to 11 (0)"
    assert line == f"data film: train 122 rows ({classes}); dev 122 rows ({classes}); test 1 rows (no labels)"


def test_paths_of_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("train_file", "dev_file", "test_file", "data_root", "model_root", "cache_root", "model", "recipe"):
        assert parse("train_student", [f"--{name}=~/x"])[name] == f"{tmp_path}/x"
    assert parse("significance", ["--csv=~/x.csv", "--output_dir=~/out"]) == {
        "csv": f"{tmp_path}/x.csv",
        "output_dir": f"{tmp_path}/out",
    }
    models, names = settings.known()["models"], [f"{tmp_path}/a, b", "minilm", 'the "best"']
    assert convert("models", models, '"~/a, b", minilm,"the ""best"""') == names
    assert convert("models", models, joined(names)) == names
    with pytest.raises(UserError, match="stands in double quotes"):
        convert("models", models, '"a,b')


def test_more_rows_than_memory_are_refused_before_they_are_read(tmp_path, refused, monkeypatch):
    """300 million rows that are all the same take 5 MB on disk."""
    pd.DataFrame({"text": ["a film"] * 60, "label": ["x", "y", "z"] * 20}).to_parquet(tmp_path / "many.parquet")
    monkeypatch.setattr("labelreg.data.files.ROW_BYTES", 2**40)
    refused("many.parquet: its 60 rows take 61440 GB of memory or more", train_file=tmp_path / "many.parquet")


def test_columns_that_nothing_is_read_from_are_named(prepare, tmp_path):
    def said(name, **columns):
        rows = [f"film {n},{('pos', 'neg')[n % 2]},{','.join(['1'] * len(columns))}" for n in range(40)]
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join([",".join(["text", "label", *columns.values()]), *rows]) + "\n")
        return prepare(train_file=path).remarks

    assert said("film", a="split", b="text2") == ("film.csv: columns that no model reads: split, text2",)
    assert said("numbered", a="id", d="idx", b="Unnamed: 0", c="") == ()
    assert said("taught", a="gpt_pos", b="gpt_neg", c="gpt_note") == (
        "taught.csv: columns that no model reads: gpt_note",
    )
    assert said("wide", **{f"c{n}": f"c{n}" for n in range(20)})[0].endswith("c6, c7 and 12 more")


def test_an_index_that_pandas_stored_is_a_column(tmp_path):
    frame = pd.DataFrame({"id": ["a", "b"], "text": ["one", "two"], "label": ["x", "y"]})
    for name, stored in {"named": frame.set_index("id"), "plain": frame, "both": frame.rename_axis("id")}.items():
        stored.to_parquet(tmp_path / f"{name}.parquet")
        assert files.read(tmp_path / f"{name}.parquet", "label").frame["id"].tolist() == ["a", "b"]


def test_labels_that_a_gap_made_floats_are_called_by_their_classes(prepare, tmp_path):
    frame = pd.DataFrame({"text": [f"film {n}" for n in range(60)], "label": [n % 3 - 1.0 for n in range(60)]})
    path = tmp_path / "film.parquet"
    frame.assign(**{f"p_{label}": 0.3 for label in (-1, 0, 1)}).to_parquet(path)
    (told,) = prepare(train_file=path).remarks
    assert told.startswith("film.parquet: rows of train with the label -1, a class of its own here: 20")
