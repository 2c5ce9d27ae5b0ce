"""The registry of tasks: data set, columns, classes, metric, splits. A new task is one entry."""

import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

from labelreg.errors import UserError

GLUE = "nyu-mll/glue"
FILES = ("train_file", "dev_file", "test_file")  # a user's own


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
    image: str | None = None  # column of the image, for a task of images; `text` is empty then
    archive: str | None = None  # torchvision's: the folder in it, and the name of the .tar.gz
    group: str | None = field(default=None, repr=False)  # column of what examples belong to, a whole of which is split
    count: int = 0  # classes of a task of images, whose names come with the data


ENTAILMENT = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")

# appendix B: per seed, of each relation's 700 instances 500 to train, 100 to dev, 100 to test
FEWREL = Task(
    "thunlp/few_rel",
    "text",
    label="relation",
    splits={"train": "train_wiki"},
    split_by="seed",
    per_class={"train": 500, "dev": 100, "test": 100},
)

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
    "fewrel": FEWREL,
    "fewrel_val": replace(FEWREL, splits={"train": "val_wiki"}),
    "rotten_tomatoes": Task(
        "embedded", "text", classes=("negative", "positive"), splits={"train": "train"}, split_by="split_seed"
    ),
    # section 4.2.1; appendix C: dev is 10% of train
    "cifar100": Task(
        "uoft-cs/cifar100",
        "",
        label="fine_label",
        splits={"train": "train", "test": "test"},
        split_by="split_seed",
        image="img",
        archive="cifar-100-python",
        count=100,
    ),
    "cifar10": Task(
        "uoft-cs/cifar10",
        "",
        splits={"train": "train", "test": "test"},
        split_by="split_seed",
        image="img",
        archive="cifar-10-batches-py",
        count=10,
    ),
    # scikit-learn's 1,797 images, at least 174 of each class: 10% of what is not the test set is dev
    "digits": Task(
        "embedded",
        "",
        classes=tuple("0123456789"),
        splits={"train": "train"},
        split_by="split_seed",
        per_class={"train": 90, "dev": 10, "test": 70},
        image="image",
        count=10,
    ),
}


def own_path(given: object) -> Path:
    """The file or folder that a user's parameter names: `~` is the home folder, which only a shell would put in."""
    return Path(os.path.expanduser(str(given)))


def own_name(given: object) -> str:
    """What the task of a user's file or folder is called, of `.` too."""
    return Path(os.path.abspath(own_path(given))).stem


def drawn_anew(name: str, own: object) -> bool:
    """Whether each seed has examples of its own (appendix B), of a run with this task and train_file."""
    return not own and name in TASKS and TASKS[name].split_by == "seed"


def made_of(name: str | None, own: str | None) -> str:
    """`text` or `images`: what the examples of a run's task are made of.

    Args:
        name: of the task.
        own: the run's train_file.

    Raises:
        UserError: there is no train_file of that name, so that nothing says.
    """
    task = TASKS.get(str(name))
    if not own:
        return "images" if task is not None and task.image else "text"
    try:
        return "images" if stat.S_ISDIR(own_path(own).stat().st_mode) else "text"
    except FileNotFoundError:
        where = "" if own_path(own).is_absolute() else f" in {Path.cwd()}"
        raise UserError(f"train_file={own}: no such file or folder{where}") from None
    except OSError as error:
        raise UserError(f"train_file={own}: cannot be read ({error.strerror})") from None
