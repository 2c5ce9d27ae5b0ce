"""The registry against the paper and the GLUE server; its data sets in the hub's layout, small ones and real ones."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from labelreg import metrics, places
from labelreg.data import batching
from labelreg.data.tasks import TASKS, made_of
from labelreg.errors import UserError
from labelreg.models import registry

GLUE_FILES = {  # the names that gluebenchmark.com asks for
    "cola": {"test": "CoLA"},
    "sst2": {"test": "SST-2"},
    "mrpc": {"test": "MRPC"},
    "qqp": {"test": "QQP"},
    "mnli": {"test": "MNLI-m", "test_mismatched": "MNLI-mm"},
    "rte": {"test": "RTE"},
    "qnli": {"test": "QNLI"},
}


def test_the_issues_tasks_are_there():
    images = {"cifar100", "cifar10", "digits"}
    assert set(TASKS) == {*GLUE_FILES, "sst5", "fewrel", "fewrel_val", "rotten_tomatoes", *images}
    assert {name for name in TASKS if made_of(name, None) == "images"} == images


def test_scores_are_the_papers():
    """Section 3: Matthews for CoLA, F1 for MRPC, accuracy for the others."""
    assert {name: task.metric for name, task in TASKS.items() if task.metric != "accuracy"} == {
        "cola": "matthews",
        "mrpc": "f1",
    }
    assert {task.metric for task in TASKS.values()} == set(metrics.SCORES)


def test_glue_answers_have_the_servers_names():
    assert {name: task.glue for name, task in TASKS.items() if task.glue} == GLUE_FILES


def test_glue_answers_have_the_servers_labels():
    assert TASKS["rte"].classes == TASKS["qnli"].classes == ("entailment", "not_entailment")
    assert TASKS["mnli"].classes == ("entailment", "neutral", "contradiction")
    assert {TASKS[name].classes for name in ("cola", "sst2", "mrpc", "qqp")} == {("0", "1")}


@pytest.mark.parametrize("name", ["fewrel", "fewrel_val"])
def test_fewrel_is_divided_as_appendix_b_says(name):
    assert TASKS[name].per_class == {"train": 500, "dev": 100, "test": 100}
    assert TASKS[name].split_by == "seed"
    assert TASKS[name].splits == {"train": {"fewrel": "train_wiki", "fewrel_val": "val_wiki"}[name]}


def test_only_what_labelreg_divides_names_a_seed():
    divided = {"fewrel", "fewrel_val", "rotten_tomatoes", "cifar100", "cifar10", "digits"}
    assert {name for name, task in TASKS.items() if task.split_by} == divided


@pytest.mark.parametrize(("name", "nearest"), [("colla", "cola"), ("sst-5", "sst5"), ("MRPC", "mrpc")])
def test_an_unknown_task_names_the_nearest(name, nearest, prepare):
    with pytest.raises(UserError, match=f"unknown task .*did you mean '{nearest}'.*Known: cifar10, "):
        prepare(task=name)


SIZES = {  # dev, test; whether the test set is labelled
    "cola": (1043, 1063, False),
    "rte": (277, 3000, False),
    "mrpc": (408, 1725, True),
    "sst2": (872, 1821, False),
    "sst5": (1101, 2210, True),
}


@pytest.mark.parametrize("name", SIZES)
def test_real_tasks(name, hub, prepare, tmp_path):
    roots = places.Roots(hub, None, tmp_path / "cache")
    data = prepare(roots, task=name, model="minilm", max_length=64, max_train_examples=500)
    dev, test, labelled = SIZES[name]
    counts = {split: len(tokens) for split, tokens in data.splits.items()}
    assert counts.pop("rest", 10_000) > 1900  # of tasks whose test labels are hidden
    assert counts == {"train": 500, "dev": dev, "test": test}
    assert data.splits["test"].labelled == labelled
    assert data.splits["train"].labels.unique().tolist() == list(range(len(data.classes)))
    assert data.splits["train"].paired == (TASKS[name].text_pair is not None)
    assert data.splits["test"].idx.tolist() == list(range(test))  # the server's order


# data sets in the hub's layout


def layout(root, hub_id, splits, config=None):
    """A data set in the hub's layout: Parquet files, and a README that names them."""
    folder = root / hub_id
    inside = folder / (config or "data")
    inside.mkdir(parents=True)
    files = ""
    for split, content in splits.items():
        content.to_parquet(inside / f"{split}-00000-of-00001.parquet")
        files += f"  - {{split: {split}, path: {inside.name}/{split}-*}}\n"
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {config or 'default'}\n  data_files:\n{files}---\n"
    )
    return root


@pytest.fixture
def roots(tiny_roots, tmp_path):
    """`tiny_roots` with a data_root to fill."""
    return replace(tiny_roots, data=tmp_path / "data_root")


def counts(split):
    return Counter(split.labels.tolist())


def example(split, number):
    """The ids of one example."""
    return split.ids[split.offsets[number] : split.offsets[number + 1]].tolist()


def write_csv(folder, columns=("text", "label"), labels="xy"):
    """A data set of 16 rows without a README."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"film {number},{labels[number % 2]}\n" for number in range(16))
    (folder / "train.csv").write_text(f"{','.join(columns)}\n{rows}")


def test_rotten_tomatoes_is_embedded(prepare):
    data = prepare(task="rotten_tomatoes", max_length=8)
    assert data.classes == ("negative", "positive")
    assert {name: counts(split) for name, split in data.splits.items()} == {
        "train": {0: 3413, 1: 3413},
        "dev": {0: 426, 1: 426},
        "test": {0: 426, 1: 426},
    }
    rows = torch.cat([split.idx for split in data.splits.values()])
    assert rows.sort().values.tolist() == list(range(8530))


def relations(split):
    """705 instances of each of three relations, as FewRel has them."""
    rows = [(relation, number) for number in range(705) for relation in ("P931", "P4552", "P140")]
    thing = "{} {} {}".format
    return pd.DataFrame(
        {
            "relation": [relation for relation, _ in rows],
            "tokens": [["the", "film", split, str(number), "is", relation] for relation, number in rows],
            "head": [{"text": thing("head", number, "x"), "type": "Q1", "indices": [[0]]} for _, number in rows],
            "tail": [{"text": thing("tail", number, "y"), "type": "Q2", "indices": [[1]]} for _, number in rows],
            "names": [["a", "b"] for _ in rows],
        }
    )


@pytest.mark.parametrize(("task", "source"), [("fewrel", "train_wiki"), ("fewrel_val", "val_wiki")])
def test_fewrel_is_divided_per_seed(task, source, prepare, roots):
    layout(roots.data, "thunlp/few_rel", {name: relations(name) for name in ("train_wiki", "val_wiki")})
    one, two = (prepare(roots, task=task, model="distilroberta", seed=seed) for seed in (1, 2))
    assert one.classes == ("P140", "P4552", "P931")
    for data in (one, two):
        for split, size in {"train": 500, "dev": 100, "test": 100}.items():
            assert counts(data.splits[split]) == {0: size, 1: size, 2: size}
        rows = torch.cat([split.idx for split in data.splits.values()])
        assert len(rows) == len(rows.unique()) == 3 * 700
    assert one.digest != two.digest
    assert one.digest == prepare(roots, task=task, model="distilroberta", seed=1, split_seed=7).digest

    tokenizer, test = registry.tokenizer(registry.checkpoint("distilroberta", roots)), one.splits["test"]
    row = int(test.idx[0])
    relation, number = one.classes[int(test.labels[0])], row // 3
    text = f"the film {source} {number} is {relation} head {number} x tail {number} y"
    assert tokenizer.decode(example(test, 0)) == tokenizer.decode(
        tokenizer(text, truncation=True, max_length=32)["input_ids"]
    )


def test_fewrel_needs_700_of_each_relation(refused, roots):
    layout(roots.data, "thunlp/few_rel", {"train_wiki": relations("train_wiki").iloc[:2000]})
    refused(
        "fewrel: class P140 has 666 examples, too few to split into .*: 700 are needed: give it more, or leave it out$",
        roots=roots,
        task="fewrel",
    )


def test_real_fewrel(hub, prepare, tmp_path):
    """16 relations of the hub's val_wiki; context, head and tail are all in the text."""
    roots = places.Roots(hub, None, tmp_path / "cache")
    one, two = (prepare(roots, task="fewrel_val", model="minilm", max_length=128, seed=seed) for seed in (42, 549))
    assert len(one.classes) == 16
    for data in (one, two):
        assert {name: set(counts(split).values()) for name, split in data.splits.items()} == {
            "train": {500},
            "dev": {100},
            "test": {100},
        }
    assert one.digest != two.digest
    assert set(one.splits["test"].idx.tolist()) != set(two.splits["test"].idx.tolist())
    source = pd.read_parquet(next((hub / "thunlp/few_rel").glob("val_wiki*.parquet")))
    tokenizer = registry.tokenizer(registry.checkpoint("minilm", roots))
    for number, idx in enumerate(one.splits["dev"].idx[:20].tolist()):
        row = source.iloc[idx]
        text = f"{' '.join(row['tokens'])} {row['head']['text']} {row['tail']['text']}"
        assert example(one.splits["dev"], number) == tokenizer(text, truncation=True, max_length=128)["input_ids"]
        assert one.classes[int(one.splits["dev"].labels[number])] == row["relation"]


def glue(columns, label, rows=6, **more):
    """A few rows of a GLUE task; idx counts from 10, to tell it from the row."""
    texts = {column: [f"{column} {number}" for number in range(rows)] for column in columns}
    labels = [batching.UNLABELLED] * rows if label is None else [number % label for number in range(rows)]
    return pd.DataFrame(texts | {"label": np.array(labels, dtype=np.int64), "idx": np.arange(10, 10 + rows)} | more)


def test_glue_with_an_unlabelled_test_set(prepare, roots):
    splits = {split: glue(["sentence"], None if split == "test" else 2) for split in ("train", "validation", "test")}
    layout(roots.data, "nyu-mll/glue", splits, "cola")
    data = prepare(roots, task="cola")
    assert (data.metric, data.classes, data.glue) == ("matthews", ("0", "1"), {"test": "CoLA"})
    assert {name: split.labelled for name, split in data.splits.items()} == {"train": True, "dev": True, "test": False}
    assert data.splits["test"].idx.tolist() == list(range(10, 16))  # the server's numbers


def test_mnli_has_two_test_sets(prepare, roots):
    columns = ["premise", "hypothesis"]
    splits = {"train": glue(columns, 3)} | {
        f"{split}_{genre}": glue(columns, None if split == "test" else 3, rows)
        for split in ("validation", "test")
        for genre, rows in (("matched", 4), ("mismatched", 5))
    }
    layout(roots.data, "nyu-mll/glue", splits, "mnli")
    data = prepare(roots, task="mnli")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 6,
        "dev": 4,
        "test": 4,
        "test_mismatched": 5,
    }
    assert not data.splits["test_mismatched"].labelled
    assert data.glue == {"test": "MNLI-m", "test_mismatched": "MNLI-mm"}
    assert data.splits["dev"].paired


def test_qqp_has_empty_second_questions(prepare, roots):
    """Two rows of its training set: the data set is the paper's, and is taken as it is."""
    columns = ["question1", "question2"]
    splits = {"train": glue(columns, 2, question2=["", *"abcde"]), "validation": glue(columns, 2)}
    layout(roots.data, "nyu-mll/glue", splits | {"test": glue(columns, None)}, "qqp")
    assert len(prepare(roots, task="qqp").splits["train"]) == 6


def test_a_changed_data_set_is_read_again(prepare, roots):
    splits = {split: glue(["sentence"], 2) for split in ("train", "validation", "test")}
    layout(roots.data, "nyu-mll/glue", splits, "cola")
    first = prepare(roots, task="cola")
    glue(["sentence"], 2, 4).to_parquet(next((roots.data / "nyu-mll/glue/cola").glob("train-*")))
    second = prepare(roots, task="cola")
    assert (len(first.splits["train"]), len(second.splits["train"])) == (6, 4)
    assert first.digest != second.digest


def test_a_label_outside_the_tasks_classes(refused, roots):
    splits = {split: glue(["sentence"], 3) for split in ("train", "validation", "test")}
    layout(roots.data, "nyu-mll/glue", splits, "cola")
    refused(r"task cola: a label of train is outside 0\.\.1", roots=roots, task="cola")


def test_any_data_set_in_the_hubs_layout(prepare, roots):
    """`owner/name` with the usual columns; the names of its classes come from its features."""
    import datasets

    folder = roots.data / "someone/films"
    folder.mkdir(parents=True)
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["zero", "ace"])}
    )
    rows = {"text": [f"film {number}" for number in range(40)], "label": [0, 1] * 20}
    datasets.Dataset.from_dict(rows, features).to_parquet(folder / "train.parquet")
    unlabelled = {"text": rows["text"][:6], "label": [-1] * 6}
    datasets.Dataset.from_dict(unlabelled, features).to_parquet(folder / "test.parquet")
    data = prepare(roots, task="someone/films")
    assert (data.task, data.classes) == ("someone/films", ("ace", "zero"))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 36, "test": 6, "dev": 4}
    assert not data.splits["test"].labelled
    assert data.splits["train"].labels.tolist() == [1 - int(idx) % 2 for idx in data.splits["train"].idx]
    assert not any("not read" in remark for remark in data.remarks)


def test_splits_of_other_names_are_told(prepare, roots):
    """By a README a split may have any name: one that is no dev set here is drawn from train then."""
    folder = roots.data / "someone/films"
    write_csv(folder, ("text", "label"))
    (train,) = folder.glob("*.csv")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        f"    path: {train.name}\n  - split: dev\n    path: {train.name}\n---\n"
    )
    told = "splits that are not read: dev (read are train, validation, test)"
    assert told in prepare(roots, task="someone/films").remarks


def test_a_data_sets_columns_can_be_named(prepare, refused, roots):
    write_csv(roots.data / "someone/films", ("review", "stars"))
    data = prepare(roots, task="someone/films", text_column="review", label_column="stars")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 12, "dev": 2, "test": 2}
    refused("no column 'text' and no column 'label'; it has 'review', 'stars'", roots=roots, task="someone/films")


def test_data_sets_that_cannot_be_had(refused, roots):
    refused("dataset someone/films: .*not to be had .*give data_root=FOLDER", task="someone/films")
    expected = "dataset SetFit/sst5: not under .*data_root and not to be had"
    refused(expected, roots=roots, task="sst5")
    (roots.data / "SetFit/sst5").mkdir(parents=True)
    (roots.data / "SetFit/sst5/train.parquet").write_bytes(b"half a download")
    refused("task sst5: .*SetFit/sst5 cannot be read", roots=roots, task="sst5")
    (roots.data / "SetFit/sst5/train.parquet").unlink()
    write_csv(roots.data / "SetFit/sst5", labels="01")
    refused("task sst5: .*has no split 'validation'; it has train", roots=roots, task="sst5")
