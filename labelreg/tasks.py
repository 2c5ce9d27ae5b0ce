"""The registry of tasks: data set, columns, classes, metric, splits. A new task is one entry."""

from dataclasses import dataclass, field

GLUE = "nyu-mll/glue"


@dataclass(frozen=True)
class Task:
    """One classification task.

    `source` is a hub data set id, or `embedded`; `splits` maps train, dev, test (and test sets beside
    it) to the names of the source, `None` for a split that labelreg makes. `classes` are the names of
    the integer labels; `()` means that the label column is text. `glue` maps a test split to its file
    name for the GLUE server.
    """

    source: str
    text: str
    text_pair: str | None = None
    label: str = "label"
    config: str | None = None
    classes: tuple[str, ...] = ()
    metric: str = "accuracy"
    splits: dict[str, str] = field(default_factory=lambda: {"train": "train", "dev": "validation", "test": "test"})
    glue: dict[str, str] = field(default_factory=dict)
    split_by: str | None = None  # "split_seed", or "seed": a new data set per seed (appendix B)
    per_class: dict[str, int] = field(default_factory=dict)  # examples of each class per split


ENTAILMENT = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")

TASKS = {
    "cola": Task(GLUE, "sentence", config="cola", classes=("0", "1"), metric="matthews", glue={"test": "CoLA"}),
    "sst2": Task(GLUE, "sentence", config="sst2", classes=("0", "1"), glue={"test": "SST-2"}),
    "mrpc": Task(GLUE, "sentence1", "sentence2", config="mrpc", classes=("0", "1"), metric="f1", glue={"test": "MRPC"}),
    "qqp": Task(GLUE, "question1", "question2", config="qqp", classes=("0", "1"), glue={"test": "QQP"}),
    "mnli": Task(
        GLUE,
        "premise",
        "hypothesis",
        config="mnli",
        classes=NLI,
        splits={
            "train": "train",
            "dev": "validation_matched",
            "test": "test_matched",
            "test_mismatched": "test_mismatched",
        },
        glue={"test": "MNLI-m", "test_mismatched": "MNLI-mm"},
    ),
    "rte": Task(GLUE, "sentence1", "sentence2", config="rte", classes=ENTAILMENT, glue={"test": "RTE"}),
    "qnli": Task(GLUE, "question", "sentence", config="qnli", classes=ENTAILMENT, glue={"test": "QNLI"}),
    "sst5": Task("SetFit/sst5", "text", classes=("very negative", "negative", "neutral", "positive", "very positive")),
    # appendix B: per seed, of each relation's 700 instances 500 to train, 100 to dev, 100 to test
    "fewrel": Task(
        "thunlp/few_rel",
        "text",
        label="relation",
        splits={"train": "train_wiki"},
        split_by="seed",
        per_class={"train": 500, "dev": 100, "test": 100},
    ),
    "fewrel_val": Task(
        "thunlp/few_rel",
        "text",
        label="relation",
        splits={"train": "val_wiki"},
        split_by="seed",
        per_class={"train": 500, "dev": 100, "test": 100},
    ),
    "rotten_tomatoes": Task(
        "embedded", "text", classes=("negative", "positive"), splits={"train": "train"}, split_by="split_seed"
    ),
}
