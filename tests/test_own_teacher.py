"""A teacher of one's own: what any model says of the training rows teaches, row by row, or is refused in one line."""

import json
import random
import shutil
import signal
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from injector import strike
from pictures import own_folder
from running import artifacts, call, in_this_process, measured, python, refused, run_of, runs, succeed
from safetensors.torch import load_file

from labelreg import job, places, recipes
from labelreg.data import corpus, own_teacher
from labelreg.data.batching import Tokens
from labelreg.data.own_teacher import FLOOR, as_logits
from labelreg.errors import UserError
from labelreg.methods import METHODS
from labelreg.models import registry
from labelreg.settings import Settings, with_defaults
from labelreg.store import records

pytest_plugins = ["running"]
CLASSES = ("bad", "good", "so so")


def said_of(labels, seed=0, right=4.0):
    """Logits [rows, classes] that are mostly right, no two rows alike."""
    chance = np.random.default_rng(seed)
    truth = np.array([CLASSES.index(label) for label in labels])
    return (chance.normal(size=(len(truth), 3)) + right * np.eye(3)[truth]).round(5)


def probabilities(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@pytest.fixture
def table(tiny_file):
    """The rows of `tiny_file` in another order, with an id of their own."""
    frame = pd.read_csv(tiny_file).sample(frac=1, random_state=3).reset_index(drop=True)
    return frame.assign(id=[f"r{n}" for n in random.Random(0).sample(range(1000), len(frame))])


@pytest.fixture
def taught(table, tmp_path):
    """Writes the rows with the columns of a teacher beside them, as CSV; `change` alters the frame before."""

    def write(change=lambda frame: None, values=None, prefix="gpt_"):
        values = said_of(table["label"]) if values is None else values
        frame = table.assign(**{f"{prefix}{name}": values[:, n] for n, name in enumerate(CLASSES)}).astype(object)
        change(frame)
        frame.to_csv(tmp_path / "taught.csv", index=False)
        return tmp_path / "taught.csv"

    return write


@pytest.fixture
def read(prepare):
    """own_teacher.read with these settings."""

    def reads(data=None, **given):
        split = {name: given[name] for name in ("train_file", "max_train_examples", "split_seed") if name in given}
        data = data or prepare(**split)
        settings = {"model": "bert-small", "max_length": 32, "seed": 0, "task": "t", "teacher_values": "auto"} | given
        return own_teacher.read(Settings(**settings), data), data

    return reads


def wrong(expected, reads, **given):
    with pytest.raises(UserError, match=expected) as error:
        reads(**given)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


# whose logits are whose


def test_the_logits_that_the_loss_sees_belong_to_their_texts(tiny, taught, table, monkeypatch):
    """A shuffled file, dev and test cut off, and a sample of what is left; at every step of a real run."""
    tokenizer = registry.tokenizer(tiny["model_root"] / "distilbert/distilgpt2")  # loses nothing of a text
    values = said_of(table["label"])
    of_text = {text: row for row, text in enumerate(table["text"])}
    texts, seen = [], []
    inputs = Tokens.inputs

    def watched(split, batch, width):
        found = inputs(split, batch, width)
        kept = [row[mask.bool()] for row, mask in zip(found["input_ids"], found["attention_mask"], strict=True)]
        texts.append([tokenizer.decode(row) for row in kept])
        return found

    def loss(logits, labels, teacher, epoch, **own):
        for text, label, row in zip(texts[-1], labels.tolist(), teacher.numpy(), strict=True):
            number = of_text[text]
            assert np.array_equal(row, values[number].astype(np.float32)) and CLASSES[label] == table["label"][number]
            seen.append(number)
        return METHODS["finetune"].loss(logits, labels, None, epoch)

    monkeypatch.setattr(Tokens, "inputs", watched)
    monkeypatch.setitem(METHODS, "kd", replace(METHODS["kd"], loss=loss))
    given = tiny | {"model": "distilgpt2", "method": "kd", "train_file": taught(), "teacher_column": "gpt_"}
    ended = succeed("train_student", **given | {"max_train_examples": 20, "max_length": 64})
    assert len(seen) == 20 == len(set(seen)) and seen != sorted(seen)
    assert "20 training rows" in ended.out and "rest" in ended.out, "others are left over, and teach nothing"


def test_columns_a_file_of_numbers_and_a_file_of_ids_teach_the_same(read, taught, table, tmp_path):
    path = taught()
    columns, data = read(train_file=path, teacher_column="gpt_", max_train_examples=30)
    values = pd.DataFrame(said_of(table["label"]), columns=[f"p_{name}" for name in CLASSES])
    mixed = values.assign(idx=range(60), id=table["id"]).sample(frac=1, random_state=1)
    mixed.drop(columns="id").to_parquet(tmp_path / "numbers.parquet", index=False)
    mixed.drop(columns="idx").to_json(tmp_path / "ids.jsonl", orient="records", lines=True)
    numbers, _ = read(data, train_file=path, teacher_file=tmp_path / "numbers.parquet")
    ids, _ = read(data, train_file=path, teacher_file=tmp_path / "ids.jsonl", teacher_id_column="id")
    rows = data.splits["train"].idx.numpy()
    assert torch.equal(columns.logits, torch.from_numpy(said_of(table["label"])[rows].astype(np.float32)))
    assert len(rows) == 30 and columns.digest == numbers.digest == ids.digest
    assert columns.kind == "logits" and 80 < columns.accuracy <= 100
    assert len({each.file_digest for each in (columns, numbers, ids)}) == 3


def test_rows_that_do_not_train_may_be_missing(read, taught, table, prepare, tmp_path):
    path = taught()
    data = prepare(train_file=path, max_train_examples=30)
    rows = data.splits["train"].idx.numpy()
    file = pd.DataFrame(said_of(table["label"])[rows], columns=[f"p_{name}" for name in CLASSES]).assign(idx=rows)
    file.to_csv(tmp_path / "few.csv", index=False)
    alone, _ = read(data, train_file=path, teacher_file=tmp_path / "few.csv")
    assert alone.digest == read(data, train_file=path, teacher_column="gpt_")[0].digest

    def empty(frame):
        frame.loc[~frame.index.isin(rows), "gpt_bad"] = None

    data = prepare(train_file=taught(empty), max_train_examples=30)
    assert read(data, train_file=path, teacher_column="gpt_")[0].digest == alone.digest


def test_images_are_named_by_their_paths(read, prepare, tmp_path):
    root = own_folder(tmp_path / "photos", splits=("",), each=10)
    data = prepare(train_file=root, model="resnet18", init="random", image_size=16, augment="none", batch_size=8)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    truth = [("cat", "dog", "owl").index(name.split("/")[0]) for name in names]
    table = pd.DataFrame(np.eye(3)[truth] * 0.8 + 0.2 / 3, columns=["p_cat", "p_dog", "p_owl"]).assign(path=names)
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "clip.csv", index=False)
    given = {"train_file": root, "teacher_file": tmp_path / "clip.csv"}
    own, _ = read(data, **given, teacher_id_column="path")
    assert own.accuracy == 100 and own.logits.argmax(1).equal(data.splits["train"].labels)
    wrong("which image is which", read, data=data, **given)
    wrong("teacher_column=p_: a folder of images has no columns", read, data=data, train_file=root, teacher_column="p_")


# what the numbers are


def test_probabilities_become_logits_whose_softmax_they_are(read, taught, table):
    p = probabilities(said_of(table["label"])).round(4)
    own, data = read(train_file=taught(values=p), teacher_column="gpt_")
    rows = data.splits["train"].idx.numpy()
    assert own.kind == "probabilities"
    assert own.logits.mean(1).abs().max() < 1e-5
    assert np.allclose(own.logits.softmax(1), p[rows] / p[rows].sum(1, keepdims=True), atol=1e-6)


def test_probability_0_has_a_logarithm():
    logits, (told,) = as_logits(np.array([[1.0, 0.0, 0.0], [0.5, 0.5 - 1e-9, 1e-9]]))
    by_hand = np.log([1, FLOOR, FLOOR]) - 2 * np.log(FLOOR) / 3
    assert np.allclose(logits[0], by_hand) and np.isfinite(logits).all()
    assert told == "3 probabilities below 1e-07: counted as 1e-07"
    assert as_logits(np.array([[0.25, 0.75]]))[1] == []


NOT_SO = [  # values of the first training row, teacher_values, what the line says
    ([0.5, 0.3, 0.1], "auto", r"sums to 0\.9, not to 1 \(0\.5, 0\.3, 0\.1\), while row \d+ is made of probabilities"),
    ([1.2, -0.1, -0.1], "auto", "has a negative number .*while row"),
    ([0.5, 0.3, 0.1], "probabilities", r"sums to 0\.9, not to 1 .*no probabilities"),
    ([1.2, -0.1, -0.1], "probabilities", "has a negative number"),
    ([float("nan"), 0.5, 0.5], "auto", "has no value in column 'gpt_bad'"),
    ([float("inf"), 0.5, 0.5], "logits", "has 'inf', no finite number, in column 'gpt_bad'"),
    ([1e300, 0.5, 0.5], "logits", "no finite number"),
    (["high", 0.5, 0.5], "auto", "has 'high', no finite number"),
    ([0.5, 0.3, 0.17], "probabilities", r"sums to 0\.97, .*teacher_values=probabilities; put the row right\)$"),
    ([0.5, 0.3, 0.17], "auto", r"sums to 0\.97, .*which of them are all\? Put the row right$"),
    ([0.5, 0.3, 0.19], "auto", r"sums to 0\.99, .* Give teacher_values=probabilities, .*, or put the row right$"),
]


@pytest.mark.parametrize(("values", "kind", "expected"), NOT_SO)
def test_what_a_row_cannot_be(values, kind, expected, read, taught, table, prepare):
    row = int(prepare(train_file=taught()).splits["train"].idx[0])

    def change(frame):
        frame.loc[row, [f"gpt_{name}" for name in CLASSES]] = values

    path = taught(change, probabilities(said_of(table["label"])))
    wrong(
        rf"taught\.csv: row {row + 1} .*{expected}", read, train_file=path, teacher_column="gpt_", teacher_values=kind
    )


def test_what_may_be_either_is_refused_and_can_be_said(read, taught, table):
    p = probabilities(said_of(table["label"]))
    percent = taught(values=100 * p)
    wrong("sums to 100, not to 1 .*no row has a negative", read, train_file=percent, teacher_column="gpt_")
    as_said, _ = read(train_file=taught(values=p), teacher_column="gpt_", teacher_values="logits")
    assert as_said.kind == "logits" and as_said.logits.max() <= 1
    assert "as they are" in own_teacher.lines(as_said)[0]


@pytest.mark.parametrize("percent", [True, False])
def test_minus_1_where_a_call_failed_makes_no_logits(percent, read, taught, table, prepare):
    rows = prepare(train_file=taught()).splits["train"].idx.tolist()  # 48

    def failed(count):
        values = 100 * probabilities(said_of(table["label"])) if percent else np.abs(said_of(table["label"])) + 1
        values[rows[5 : 5 + count]] = -1
        return {"train_file": taught(values=values), "teacher_column": "gpt_"}

    expected = (
        rf"row {rows[5] + 1} has a negative number \(-1, -1, -1\), as do 4 of 48 rows.* Give teacher_values=logits"
    )
    wrong(expected, read, **failed(4))
    assert read(**failed(4), teacher_values="logits")[0].kind == "logits"
    assert read(**failed(5))[0].kind == "logits"


def test_probabilities_of_two_digits(read, taught, table):
    third = np.full((60, 3), 0.33)
    given = {"train_file": taught(values=third), "teacher_column": "gpt_"}
    with pytest.raises(UserError, match=r"sums to 0\.99, not to 1 .*Give teacher_values=probabilities") as error:
        read(**given)
    assert "logits" not in str(error.value)
    own, _ = read(**given, teacher_values="probabilities")
    assert own.kind == "probabilities" and own.logits.abs().max() < 1e-6
    assert own.remarks[0] == "48 of 48 rows summed to 1 within 0.02 only: set right"
    p = np.tile([0.9, 0.05, 0.03], (60, 1))
    own, _ = read(train_file=taught(values=p), teacher_column="gpt_", teacher_values="probabilities")
    assert np.allclose(own.logits.softmax(1), p[:48] / 0.98, atol=1e-6)
    scores = taught(values=np.tile([0.9, 0.7, 0.2], (60, 1)))  # of a sigmoid
    with pytest.raises(UserError, match=r"sums to 1\.8, .*probabilities that are wrong\? Put the row right$"):
        read(train_file=scores, teacher_column="gpt_")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, 10**400], "row 2 has '10000.*', no finite number, in column 'p'"),
        ([0.5, [0.1, 0.2]], r"row 2 has '\[0\.1, 0\.2\]', no finite number"),
        ([0.5, {"a": 1}], "row 2 has .*, no finite number"),
        ([0.5, 1j], r"row 1 has '\(0\.5\+0j\)', no finite number"),
        (pd.Series([0.5, 1j], dtype=object), "row 2 has '1j', no finite number"),
        (pd.to_timedelta([1, 2], unit="s"), "row 1 has '0 days 00:00:01', no finite number"),
        (pd.to_datetime(["2026-01-01", "2026-01-02"]), "row 1 has '2026-01-01 00:00:00', no finite number"),
        (pd.to_datetime(["2026-01-01", None]).tz_localize("UTC"), "row 1 has '2026-01-01 .*', no finite number"),
        ([0.5, pd.NaT], "row 2 has no value"),
        (["0.5", "1_0"], "row 2 has '1_0', no finite number"),
    ],
)
def test_what_is_no_number(values, expected):
    with pytest.raises(UserError, match=f"^t: {expected}") as error:
        own_teacher._numbers(pd.Series(values, name="p"), ["row 1", "row 2"], "t")
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_what_is_a_number():
    for values in (["0.5", " 2 "], [0.5, 2], [Decimal("0.5"), 2], [np.float32(0.5), "2"], pd.array([0.5, 2])):
        assert own_teacher._numbers(pd.Series(values, name="p"), ["row 1", "row 2"], "t").tolist() == [0.5, 2]


def test_a_whole_number_of_json_that_float64_cannot_hold(read, table, tmp_path):
    path, columns = tmp_path / "large.jsonl", {f"gpt_{name}": 10**400 for name in CLASSES}
    path.write_text("".join(json.dumps(row | columns) + "\n" for row in table.to_dict("records")))
    wrong(r"row \d+ has '1000.*', no finite number, in column 'gpt_bad'", read, train_file=path, teacher_column="gpt_")


def test_a_teacher_that_knows_nothing_is_told(read, taught):
    own, _ = read(train_file=taught(values=np.tile([0.5, 0.3, 0.2], (60, 1))), teacher_column="gpt_")
    assert "no better than the most frequent class (33.33%), give or take chance" in own_teacher.lines(own)[-1]
    own, _ = read(train_file=taught(), teacher_column="gpt_")
    assert len(own_teacher.lines(own)) == 1


@pytest.mark.parametrize(("right", "told"), [(25, True), (26, False)])  # of 48: 33.33% + 20.41% are 25.8 rows
def test_a_teacher_that_is_right_by_chance_is_told(right, told, read, taught, table, prepare):
    rows = prepare(train_file=taught()).splits["train"].idx.tolist()
    truth = np.array([CLASSES.index(label) for label in table["label"]])
    said = (truth + 1) % 3
    said[rows[:right]] = truth[rows[:right]]
    own, _ = read(train_file=taught(values=np.eye(3)[said]), teacher_column="gpt_")
    assert own.accuracy == pytest.approx(100 * right / 48)
    assert any("give or take chance: are its rows" in line for line in own_teacher.lines(own)) == told


# what is refused of a file


def without(name):
    return lambda frame: frame.drop(columns=name, inplace=True)


@pytest.mark.parametrize(
    ("change", "column", "expected"),
    [
        (
            without("gpt_so so"),
            "gpt_",
            "no column 'gpt_so so' .it has gpt_bad, gpt_good.*each class: gpt_bad, gpt_good",
        ),
        (lambda frame: None, "llama_", "no column 'llama_bad' .no column begins with 'llama_'"),
    ],
)
def test_columns_must_be_the_classes(change, column, expected, read, taught):
    wrong(expected, read, train_file=taught(change), teacher_column=column)


def test_other_columns_that_begin_so_are_told(read, taught):
    def others(frame):
        frame["gpt_4_bad"], frame["gpt_reason"] = 0.1, "it reads so"

    alone, _ = read(train_file=taught(), teacher_column="gpt_")
    own, _ = read(train_file=taught(others), teacher_column="gpt_")
    assert own.digest == alone.digest and alone.remarks == ()
    assert own.remarks == ("columns that begin with gpt_ and are of no class: gpt_4_bad, gpt_reason",)

    def one_less(frame):
        others(frame)
        frame.drop(columns="gpt_bad", inplace=True)

    wrong("no column 'gpt_bad' .it has gpt_good, .*gpt_4_bad", read, train_file=taught(one_less), teacher_column="gpt_")


def in_file(folder, values, ids, name="idx"):
    path = folder / "teacher.csv"
    pd.DataFrame(values, columns=[f"p_{name}" for name in CLASSES]).assign(**{name: ids}).to_csv(path, index=False)
    return path


def test_a_column_of_train_file_that_is_named_idx(read, taught, table, tmp_path):
    """A shuffled file's own idx would be taken as the row's number, and every row would have another's teacher."""
    values, own_ids = said_of(table["label"]), random.Random(5).sample(range(60), 60)

    def column(ids):
        def change(frame):
            frame["idx"] = ids

        return taught(change)

    file = in_file(tmp_path, values, own_ids)
    path = column(own_ids)
    wrong("taught.csv: train_file has a column idx that is not the row's number .row 1, which is 0, has .* give "
          "teacher_id_column=idx", read, train_file=path, teacher_file=file)  # fmt: skip
    columns, _ = read(train_file=path, teacher_column="gpt_")
    assert read(train_file=path, teacher_file=file, teacher_id_column="idx")[0].digest == columns.digest
    wrong("row 60, which is 59, has a", read, train_file=column([*range(59), "a"]), teacher_file=file)
    wrong("row 1, which is 0, has 1", read, train_file=column(range(1, 61)), teacher_file=file)
    in_file(tmp_path, values, range(60))
    assert read(train_file=column(range(60)), teacher_file=file)[0].digest == columns.digest


def test_rows_that_may_count_from_1(read, taught, table, prepare, tmp_path):
    """Where row 0 is none that is trained on, none is missing: each row would have the next one's teacher."""
    path, values = taught(), said_of(table["label"])
    splits = (prepare(train_file=path, split_seed=seed) for seed in range(500))
    data = next(each for each in splits if _fits(each.splits["train"].idx.tolist()))
    rows = data.splits["train"].idx.tolist()
    from_1, from_0 = np.arange(1, 61), np.arange(60)
    gap = next(row for row in range(5, 58) if row not in rows and row + 1 not in rows)

    def reads(ids, those, **given):
        file = in_file(tmp_path, values[those], ids[those])
        return lambda **_: read(data, teacher_file=file, **({"train_file": path} | given))[0]

    refusal = "idx begins at 1, where rows count from 0; if these do, put row 0 in too"
    wrong("idx 60, but .* has 60 rows", reads(from_1, from_0 >= 0))
    wrong(refusal, reads(from_1, from_0 < 59))  # the last row's answer is missing
    wrong(refusal, reads(from_1, (from_0 < 59) & (from_0 != gap)))  # and another's
    wrong(f"{refusal}.*training set of sst5, from 0$", reads(from_1, from_0 >= 0, train_file=None, task="sst5"))
    whole = reads(from_0, from_0 >= 0)()
    assert reads(from_0, np.isin(from_0, rows))().digest == whole.digest, "the rows that are trained on have gaps"
    assert reads(from_0, np.isin(from_0, [0, *range(1, 59)]))().digest == whole.digest


def _fits(rows):
    """Row 0 and the last are not trained on, 1 is, and somewhere two that follow each other are not."""
    return 1 in rows and not {0, 59} & set(rows) and any(not {row, row + 1} & set(rows) for row in range(5, 58))


IDS = [  # what becomes of the file's ids, what the line says
    (lambda ids: ids[1:], "1 of the 48 training rows are missing"),
    (lambda ids: [*ids[:-1], ids[0]], r"rows 1 and 60 have one id \(idx 0\)"),
    (lambda ids: [each + 1 for each in ids], r"idx 60, but .* has 60 rows, from 0 to 59"),
    (lambda ids: ["a", *ids[1:]], "row 1 has idx 'a'; idx is the row's number in"),
    (lambda ids: [None, *ids[1:]], "row 1 has no id"),
]


@pytest.mark.parametrize(("change", "expected"), IDS)
def test_ids_name_each_row_once(change, expected, read, taught, table, prepare, tmp_path):
    path = taught()
    data = prepare(train_file=path)
    order = sorted(range(60), key=lambda row: row not in data.splits["train"].idx)  # a training row is the first
    order = order if "missing" in expected else list(range(60))
    values = said_of(table["label"])[order]
    ids = change(list(order))
    frame = pd.DataFrame(values[-len(ids) :], columns=[f"p_{name}" for name in CLASSES]).assign(idx=ids)
    frame.to_csv(tmp_path / "teacher.csv", index=False)
    wrong(f"teacher.csv: .*({expected})", read, data=data, train_file=path, teacher_file=tmp_path / "teacher.csv")


def test_ids_of_ones_own_are_in_both_files(read, taught, table, tmp_path):
    path = taught()
    values = pd.DataFrame(said_of(table["label"]), columns=[f"p_{name}" for name in CLASSES])
    values.assign(id=[f"x{n}" for n in range(60)]).to_csv(tmp_path / "other.csv", index=False)
    given = {"train_file": path, "teacher_file": tmp_path / "other.csv"}
    wrong("48 of the 48 training rows are missing .id r", read, **given, teacher_id_column="id")
    wrong("no column is named 'name'; it has ", read, **given, teacher_id_column="name")


def test_mistakes_are_one_line_and_status_2(tiny, taught, table, tmp_path):
    path = taught()
    given = tiny | {"train_file": path, "method": "kd"}
    lost = tmp_path / "none.csv"
    refused(call("train_student", **given, teacher_file=lost), "none.csv: no such file")
    refused(call("train_student", **given, teacher_column="llama_"), "taught.csv: no column 'llama_bad'")
    both = {"teacher_run_id": "0" * 32, "teacher_column": "gpt_"}
    refused(call("train_student", **given, **both), "teacher_run_id=000", "teacher_column=gpt_: a student learns")
    refused(call("train_student", **given, teacher_column="gpt_", teacher_id_column="id"), "it goes with teacher_file")
    refused(
        call("train_student", **given, teacher_column="gpt_", teacher_values="odds"), "unknown teacher_values 'odds'"
    )
    refused(
        call("train_student", task="rotten_tomatoes", model="bert-small", method="kd", teacher_column="gpt_"),
        "teacher_column=gpt_: task rotten_tomatoes has no columns of yours",
    )
    study = {name: value for name, value in given.items() if name not in ("model", "method")}
    study |= {"recipe": "smoke", "teacher_column": "gpt_"}
    refused(call("study", **study, teacher_seeds="each"), "teacher_seeds=each: teacher_column=gpt_ is the teacher")
    assert not runs("student") and not runs("teacher")


# runs


def test_the_logits_of_a_run_teach_to_the_last_bit_as_that_run(tiny, tmp_path):
    succeed("train_teacher", **tiny | {"model": "gpt2"})
    (teacher,) = runs("teacher")
    given = tiny | {"method": "kd", "alpha": 0.7, "tau": 2, "epochs": 2}
    by_run = run_of(succeed("train_student", **given, teacher_run_id=teacher.info.run_id))
    logits = load_file(records.download(teacher.info.run_id, "logits/train.safetensors", tmp_path))["logits"].numpy()
    settings = job.settings_of(with_defaults("train_student", dict(given)))
    rows = corpus.prepare(settings, places.roots(settings)).splits["train"].idx.numpy()
    file = pd.DataFrame(logits, columns=[f"p_{name}" for name in CLASSES]).assign(idx=rows)
    file.sample(frac=1, random_state=0).to_parquet(tmp_path / "own.parquet", index=False)
    ended = succeed("train_student", **given, teacher_file=tmp_path / "own.parquet", teacher_model="gpt2")
    by_file = run_of(ended)
    mine = measured(by_file)
    assert mine.pop("teacher/train/accuracy") == pytest.approx(
        100
        * np.mean(logits.argmax(1) == corpus.prepare(settings, places.roots(settings)).splits["train"].labels.numpy())
    )
    assert mine == measured(by_run)
    params = by_file.data.params
    assert "teacher_run_id" not in params and "teacher_model" not in params
    assert params["teacher_file"].endswith("own.parquet") and params["teacher_values"] == "logits"
    assert len(params["teacher_digest"]) == 32
    assert "teacher_model is ignored: teacher_file=" in ended.out and "no teacher is trained" in ended.out
    assert by_file.data.tags["labelreg.fingerprint"] != by_run.data.tags["labelreg.fingerprint"]
    assert len(runs("teacher")) == 1 and "predictions/test.parquet" in artifacts(by_file, "predictions")


def test_what_teaches_is_in_the_fingerprint_by_content(tiny_models, read, taught, table, tmp_path, prepare):
    path = taught()
    data = prepare(train_file=path)
    common = {"train_file": str(path), "model": "bert-small", "model_root": str(tiny_models), "recipe": "default"}
    common |= {"max_length": 32, "threads": 1}

    def identity(**given):
        given = with_defaults("train_student", common | given)
        settings = job.settings_of(given)
        return job.fingerprint(job.Job(settings, given), data)

    values = pd.DataFrame(said_of(table["label"]), columns=[f"p_{name}" for name in CLASSES]).assign(idx=range(60))
    values.to_csv(tmp_path / "one.csv", index=False)
    shutil.copy(tmp_path / "one.csv", tmp_path / "moved.csv")
    values.assign(p_bad=values["p_bad"] + 1).to_csv(tmp_path / "other.csv", index=False)
    one, moved, other = (
        identity(method="kd", teacher_file=str(tmp_path / f"{name}.csv")) for name in ("one", "moved", "other")
    )
    assert one == moved == identity(method="kd", teacher_column="gpt_") != other
    assert one == identity(method="kd", teacher_file=str(tmp_path / "one.csv"), teacher_values="logits")
    assert one != identity(method="akd", teacher_column="gpt_")
    for method in ("finetune", "ls", "selfkd"):  # no teacher teaches them
        assert identity(method=method) == identity(method=method, teacher_column="gpt_")


def test_a_method_without_a_teacher_says_that_it_reads_none(taught):
    for method, why in (("ls", "method ls has none"), ("selfkd", "method selfkd learns from its own fine-tuned twin")):
        given = with_defaults(
            "train_student", {"train_file": str(taught()), "method": method, "teacher_column": "gpt_"}
        )
        settings = job.settings_of(given)
        assert settings.teacher_column is None and settings.teacher_values is None
        assert job.ignored(settings, given) == [f"teacher_column is ignored: {why}"]
    fewrel = {"task": "fewrel", "method": "kd", "teacher_seed": 7, "teacher_run_id": "0123"}
    (line,) = job.ignored(job.settings_of(fewrel), fewrel)  # for two reasons, told once
    assert line == "teacher_seed is ignored: teacher_run_id names the teacher"
    given = with_defaults("train_student", {"task": "sst5", "model": "bert-small", "method": "kd"})
    assert job.ignored(job.settings_of(given), given) == []
    assert recipes.resolve(given).teacher_values is None


def test_a_study_trains_no_teacher(tiny, taught, tmp_path, monkeypatch):
    monkeypatch.setattr("labelreg.workers.executors.execute", in_this_process)
    path = tmp_path / "study.yaml"
    path.write_text("kind: study\nsettings: default\nmodels: [bert-small]\ninits: [pretrained]\nseeds: [1, 2]\n")
    given = {name: value for name, value in tiny.items() if name != "model"}
    given |= {"train_file": taught(), "recipe": path, "methods": "finetune,selfkd,kd", "teacher_column": "gpt_"}
    ended = succeed("study", **given)
    assert not runs("teacher") and len(runs("student")) == 6
    assert "teacher gpt_* of taught.csv: logits (as they are)" in ended.out and "no teacher is trained" in ended.out
    assert "6 students, 0 teachers, 0 reused" in ended.out
    by_method = {run.data.params["method"]: run for run in runs("student")}
    assert "teacher_digest" in by_method["kd"].data.params and "teacher_digest" not in by_method["selfkd"].data.params
    assert by_method["kd"].data.metrics["teacher/train/accuracy"] > 80
    said = succeed("significance", verbose="true").out
    assert f"for this one teacher (own {by_method['kd'].data.params['teacher_logits'][:8]})" in " ".join(said.split())
    planned = succeed("study", **given, plan_only="true").out
    assert "6 reused" in planned and "teacher_column=gpt_ is the teacher of its students: none is trained" in planned
    again = succeed("study", **given).out
    assert again.count("(reused)") == 6 and len(runs("student")) == 6


def test_a_search_trains_no_teacher(tiny, taught, tmp_path, monkeypatch):
    monkeypatch.setattr("labelreg.workers.executors.execute", in_this_process)
    space = tmp_path / "space.yaml"
    space.write_text("kind: search\ntrials: 2\nepochs: 1\nspace:\n  tau: [1, 2]\n")
    given = tiny | {"train_file": taught(), "space": space, "method": "kd", "teacher_column": "gpt_", "cross_check": 0}
    ended = succeed("tune", **given)
    assert len(runs("trial")) == 2 and not runs("teacher")
    assert ended.out.count("teacher gpt_* of taught.csv: logits") == 1 and "-P teacher_column=gpt_" in ended.out
    assert all("teacher/train/accuracy" in run.data.metrics for run in runs("trial"))


def test_a_killed_run_goes_on_to_the_same_bits(tiny, taught, tmp_path, monkeypatch):
    given = tiny | {"train_file": taught(), "method": "akd", "epochs": 4, "checkpoint_seconds": 0}
    given |= {"teacher_column": "gpt_"}
    ended = strike(python("train_student", **given), tmp_path, "labelreg.metrics:evaluate", "SIGKILL", 4)
    assert ended.status == -signal.SIGKILL, ended
    (killed,) = runs("student")
    again = succeed("train_student", **given)
    assert "going on with the interrupted run" in again.out
    (whole,) = runs("student")
    assert whole.info.run_id == killed.info.run_id and whole.info.status == "FINISHED"
    monkeypatch.setenv("LABELREG_CACHE_ROOT", str(tmp_path / "elsewhere"))
    assert measured(run_of(succeed("train_student", **given))) == measured(whole)


def test_digits_are_named_by_their_numbers(store):
    from sklearn.datasets import load_digits

    truth = load_digits().target
    values = np.eye(10)[truth] * 0.91 + 0.009
    pd.DataFrame(values, columns=[f"p_{n}" for n in range(10)]).assign(idx=range(len(truth))).to_parquet("t.parquet")
    given = {"task": "digits", "init": "random", "method": "kd", "epochs": 1, "max_train_examples": 32, "threads": 1}
    run = run_of(succeed("train_student", **given, teacher_file="t.parquet", precision="fp32"))
    assert run.data.metrics["teacher/train/accuracy"] == 100
    assert run.data.params["teacher_values"] == "probabilities"
