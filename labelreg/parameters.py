"""Every parameter of every entry point: type, range, meaning; and how a command line becomes values.

MLflow checks no types (`-P seed=abc` reaches the command), so all checking is here, before anything
is downloaded or written. A default of None is decided by the recipe, the task or the machine.
"""

import argparse
import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from labelreg.errors import UserError, refusal, shortened, unknown

Value = str | int | float | bool | list | None


@dataclass(frozen=True)
class Parameter:
    """One parameter. `low`/`high` bound a number (`high`: a text's length), `open_low`/`open_high` exclude the end."""

    kind: str  # text, path (text in which ~ is the home folder), integer, number, flag, list
    help: str
    default: Value = None
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def allowed(self) -> str:
        """The allowed values in words."""
        words = {"integer": "an integer", "number": "a number", "flag": "true or false"}.get(self.kind, "text")
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.low is not None and self.high == MOST:
            return f"{words} of at least {self.low:g}, up to a billion"
        if self.low is not None and self.high is not None:
            ends = "(["[not self.open_low] + f"{self.low:.10g}, {self.high:.10g}" + ")]"[not self.open_high]
            return f"{words} in {ends}"
        if self.low is not None:
            return f"{words} {'above' if self.open_low else 'of at least'} {self.low:g}"
        return words


LONGEST_TEXT, LONGEST_NAME = 5000, 200  # characters; MLflow keeps 6000 of a parameter, 500 of a data set's name
MOST = 10**9  # what no count of this field reaches; libraries hold counts in 32 bits
MOST_AT_A_TIME = 1000  # processes of one machine
MOST_THREADS = max(1024, os.cpu_count() or 1)  # OpenMP ends a process that asks for some ten thousand
LARGEST_IMAGE = 4096  # pixels; a batch of 8 such pictures is 1.6 GB


def integer(help: str, default: int | None = None, low: float | None = 1, high: float | None = MOST) -> Parameter:
    return Parameter("integer", help, default, low=low, high=high)


def text(help: str, default: str | None = None, choices: Iterable[str] = (), most: int = LONGEST_TEXT) -> Parameter:
    return Parameter("text", help, default, choices=tuple(choices), high=most)


def path(help: str, default: str | None = None) -> Parameter:
    return Parameter("path", help, default)


INITS = ("pretrained", "random")
SELECTIONS = ("best", "last")
EXECUTORS = ("local", "ray")
PRECISIONS = ("auto", "bf16", "fp32")
HEADS = ("new", "checkpoint")
STEMS = ("cifar", "imagenet")
AUGMENTATIONS = ("none", "crop+rotation", "crop+flip+rotation")
LARGEST_SEED = 2**32 - 1  # what every library takes

PARAMETERS: dict[str, Parameter] = {
    # what is compared
    "task": text("registered task, hub data set id, or a name for your own file", most=LONGEST_NAME),
    "model": path("student: a registered name, a hub id or a local folder"),
    "init": text("where the student starts", "pretrained", INITS),
    "head": text(
        "text: the classifier's head; checkpoint: a fine-tuned checkpoint's own, by class names", "new", HEADS
    ),
    "method": text("label regularisation method", "finetune"),
    "seed": integer("fixes head initialisation, order of examples and dropout", 42, low=0, high=LARGEST_SEED),
    # settings: decided by the recipe
    "recipe": path("settings (train_*, prepare) or study (study, main): a shipped name or a YAML file"),
    "lr": Parameter("number", "peak learning rate", low=0, open_low=True),
    "batch_size": integer("examples per step"),
    "epochs": integer("epochs in all; akd divides them into two phases"),
    "phase1_epochs": integer("akd: epochs of phase I, default round(2/3 epochs)"),
    "alpha": Parameter("number", "weight of the smoothing distribution r(x)", low=0, high=1),
    "tau": Parameter("number", "temperature; akd: the maximum temperature", low=0, open_low=True),
    "a": Parameter(
        "number", "tfreg: probability of the true class in r(x)", low=0, high=1, open_low=True, open_high=True
    ),
    "tfreg_target": text("tfreg: r at tau by the paper's equations, or by Yuan et al.'s code", None, ("paper", "code")),
    "weight_decay": Parameter("number", "weight decay (adamw: matrices only; sgd: all)", low=0),
    "warmup_ratio": Parameter("number", "share of the steps in which lr rises from 0", low=0, high=1),
    "optimizer": text(
        "adamw: lr falls linearly, gradients clipped; sgd: lr falls at milestones", None, ("adamw", "sgd")
    ),
    "momentum": Parameter("number", "sgd: momentum", low=0, high=1, open_high=True),
    "lr_milestones": Parameter(
        "list",
        "sgd: where lr falls, as shares of the epochs (0.3,0.6)",
        low=0,
        high=1,
        open_low=True,
        open_high=True,
    ),
    "lr_decay": Parameter("number", "sgd: what lr is multiplied by at each milestone", low=0, high=1, open_low=True),
    "max_length": integer("text: tokens an example is cut to", low=4),
    "stem": text("images: first layers for small images (3x3, no pooling) or torchvision's own", None, STEMS),
    "image_size": integer(
        "images: side in pixels that the model sees (default 32, with stem=imagenet 224)", low=8, high=LARGEST_IMAGE
    ),
    "augment": text("images: what is drawn for each in training", None, AUGMENTATIONS),
    "max_train_examples": integer("train on this many, a stratified sample fixed by split_seed"),
    "selection": text("the epoch whose weights are kept: best dev score, or the last", "best", SELECTIONS),
    "split_seed": integer("splits own files and embedded data, once for all seeds", 42, low=0, high=LARGEST_SEED),
    # the teacher
    "teacher_model": path("kd, akd: the model to learn from (default: the student's own teacher)"),
    "teacher_run_id": text("kd, akd, selfkd: take the logits of this run"),
    # the machine
    "precision": text("auto: bf16 autocast where the machine computes in bf16, else fp32", "auto", PRECISIONS),
    "compile": text("torch.compile; auto: on a GPU, for long runs", "auto", ("auto", "on", "off")),
    "resume": text("auto: go on with a killed run of the same command; never: start anew", "auto", ("auto", "never")),
    "checkpoint_seconds": Parameter("number", "training between checkpoints, 0: each epoch", 60, low=0),
    "threads": integer("compute threads (default: all cores; 1 per worker in studies)", high=MOST_THREADS),
    "save_model": text(
        "store the student's weights (auto: when it runs on its own)", "auto", ("auto", "true", "false")
    ),
    # the data
    "data_root": path("folder laid out like the hub, for data sets (or LABELREG_DATA_ROOT)"),
    "model_root": path("folder laid out like the hub, for checkpoints (or LABELREG_MODEL_ROOT)"),
    "clean": text(
        "of cache_root, what no unfinished run needs: list it, or remove it too (true); nothing is prepared",
        "false",
        ("false", "list", "true"),
    ),
    "cache_root": path("prepared data and copies of logits (or LABELREG_CACHE_ROOT)"),
    "train_file": path("your own data: CSV, TSV, JSONL or Parquet, or a folder of images (train/CLASS/*.png)"),
    "dev_file": path("your own dev set (default: split from train_file)"),
    "test_file": path("your own test set (default: split from train_file when dev_file is missing too)"),
    "text_column": text("column of the text"),
    "text_pair_column": text("column of the second text, for pairs"),
    "label_column": text("column of the label"),
    # studies
    "settings": path("the study's settings: a shipped name or a YAML file (default: the recipe's own)"),
    "tasks": Parameter("list", "tasks of the study, comma-separated; one with a comma in its name in double quotes"),
    "models": Parameter("list", "models of the study, comma-separated; one with a comma in its name in double quotes"),
    "inits": Parameter("list", "initialisations of the study, comma-separated"),
    "methods": Parameter("list", "methods of the study, comma-separated"),
    "seeds": Parameter("list", "seeds of the study, comma-separated"),
    "executor": text("local: worker processes of this machine; ray: tasks of a Ray cluster", "local", EXECUTORS),
    "jobs": integer("runs at a time (default: one a core, or runs_per_gpu a GPU)", high=MOST_AT_A_TIME),
    "runs_per_gpu": integer("runs that share a GPU", 1, high=MOST_AT_A_TIME),
    "ray_address": text("auto: the cluster of this machine; local: one of the study's own; or ray://HOST:PORT", "auto"),
    "plan_only": Parameter("flag", "true: print and log the plan, run nothing", False),
    "until": text(
        "all: every seed; decided: at each of `looks`, go on only with what is undecided", "all", ("all", "decided")
    ),
    "allow_tuned_seeds": Parameter("flag", "compare on seeds that the settings were tuned on, and say so", False),
    # search
    "space": path("search space: a shipped name or a YAML file", "search"),
    "trials": integer("trials in all, those of an interrupted search included (default: the space's)", high=10**6),
    "storage": text("where the search is kept: any Optuna storage URL (default: SQLite in cache_root)"),
    "sampler": text("how settings are drawn", "tpe", ("tpe", "random")),
    "min_resource": integer("pruning: epochs before the first rung; above epochs nothing is pruned", 3),
    "reduction_factor": integer("pruning: of the trials at a rung, one in this many goes on", 4, low=2),
    "min_early_stopping_rate": integer("pruning: rungs that are left out at the start", 0, low=0),
    "heartbeat_seconds": integer("a worker's sign of life; silent for three of them, its trial is taken over", 10),
    "cross_check": integer("this many of the best settings are run with every method (the paper: 5); 0: off", 0, low=0),
    "per_method": Parameter("flag", "true: a search of the same size for each of `methods`", False),
    # analysis
    "experiment": text("experiment name or id (default: MLflow's current one)"),
    "metric": text("metric to compare (default per task: best/test/score, else best/dev/score)"),
    "lower_is_better": Parameter("list", "metrics of which lower is better and whose name does not say so"),
    "reference": text("the method all others are compared with", "finetune"),
    "margin": Parameter("number", "differences below this many points do not matter", 0.5, low=0, open_low=True),
    "level": Parameter("number", "significance level", 0.05, low=0, high=0.5, open_low=True),
    "zeros": text("Wilcoxon's zero differences", "wilcox", ("wilcox", "pratt")),
    "where": text("MLflow filter that narrows the runs, e.g. params.task = 'sst5'"),
    "n": integer("audit: runs per cell of the csv", low=2),
    "output_dir": path("also write the files into this folder"),
    "study": text("the runs of this study only (a recipe's name)"),
    "looks": Parameter("list", "planned looks: numbers of seeds at which is tested, e.g. 10,14,20"),
    "examples": text(
        "read predictions: intervals over seeds and examples, calibration (auto: of up to 1000 runs)",
        "auto",
        ("auto", "true", "false"),
    ),
    "csv": path(
        "scores from a table instead of a store: task,model,init,method,seed,score; "
        "audit: another paper's: table,split,row,column,mean,std"
    ),
    "scores": path("CSV of the GLUE server's answers: run_id or task,model,init,method,seed; and score"),
}

_DATA = "data_root model_root cache_root train_file dev_file test_file text_column text_pair_column label_column"
_SETTINGS = (
    "split_seed recipe lr batch_size epochs phase1_epochs alpha tau a tfreg_target max_length max_train_examples "
    "weight_decay warmup_ratio optimizer momentum lr_milestones lr_decay stem image_size augment precision "
    "compile threads selection teacher_model head"
)
_RESUME = "resume checkpoint_seconds"
_LISTS = "tasks models inits methods seeds"
_WORKERS = "executor jobs runs_per_gpu ray_address"
_STUDY = (
    f"{_SETTINGS} {_DATA} {_RESUME} settings {_LISTS} {_WORKERS} margin level plan_only until looks allow_tuned_seeds"
)
_RUN = f"task model init method seed {_SETTINGS} teacher_run_id {_DATA}"
NOT_DECIDING = tuple(  # where, when and how a run is done: none of its results depends on these
    f"data_root model_root cache_root {_RESUME} {_WORKERS} save_model plan_only until output_dir".split()
)
ENTRY_POINTS: dict[str, tuple[str, ...]] = {
    "prepare": (*_RUN.split(), "clean"),
    "train_teacher": tuple(f"{_RUN} {_RESUME}".split()),
    "train_student": tuple(f"{_RUN} {_RESUME} save_model".split()),
    "study": tuple(_STUDY.split()),
    "main": tuple(_STUDY.split()),
    "significance": tuple(
        "experiment study where metric lower_is_better reference margin level zeros looks examples csv "
        "output_dir".split()
    ),
    "report": tuple(
        "experiment study where metric lower_is_better reference margin level zeros looks csv output_dir".split()
    ),
    "tables": ("experiment", "study", "where", "zeros", "csv", "output_dir"),
    "audit": ("csv", "n"),
    "tune": tuple(
        f"{_RUN} checkpoint_seconds space trials storage sampler min_resource reduction_factor min_early_stopping_rate "
        f"heartbeat_seconds cross_check per_method methods {_WORKERS} output_dir".split()
    ),
    "submission": ("experiment", "where", "scores", "output_dir"),
}
OWN_DEFAULTS: dict[str, dict[str, Value]] = {  # where an entry point's default is not that of the table
    "tune": {"method": "kd", "seed": 7},  # appendix D tunes KD; no shipped study has seed 7
}
FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def convert(name: str, value: object, spec: Parameter | None = None) -> Value:
    """One value, from a command line (text) or a recipe (YAML), checked against `spec` (default: that of its name).

    Raises:
        UserError: wrong type or out of range; the line says what is allowed.
    """
    spec = spec or PARAMETERS[name]
    mistake = UserError(f"{name}={shortened(str(value))}: allowed is {spec.allowed()}")
    if spec.kind == "list":
        items = value if isinstance(value, list) else _items(name, str(value))
        if name == "looks":
            return _looks(items)
        single = None if name in _SINGULAR else replace(spec, kind="text" if spec.low is None else "number")
        return [convert(_SINGULAR.get(name, name), item, single) for item in items if item != ""]
    if value is None or (isinstance(value, bool) and spec.kind in ("integer", "number")):  # YAML has such values
        raise mistake
    readers = {"integer": _integer, "number": _number, "flag": lambda v: FLAGS[str(v).lower()]}
    readers |= {"path": lambda v: os.path.expanduser(str(v))}  # a shell leaves -P train_file=~/film.csv as it is
    try:
        result = readers.get(spec.kind, str)(value)
    except (ValueError, KeyError, TypeError, OverflowError):
        raise mistake from None
    if isinstance(result, str):
        _check_text(name, result, int(spec.high or LONGEST_TEXT))
    if spec.choices and result not in spec.choices:
        raise unknown(name, str(result), spec.choices)
    if spec.kind in ("integer", "number"):
        below = spec.low is not None and (result <= spec.low if spec.open_low else result < spec.low)
        above = spec.high is not None and (result >= spec.high if spec.open_high else result > spec.high)
        if below or above or result != result or result in (float("inf"), float("-inf")):
            raise mistake
    return result


def _items(name: str, text: str) -> list[str]:
    """The items of a list, as CSV has them: one with a comma in it stands in double quotes, which are doubled in it."""
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{name}={shortened(text)}: {error}; an item with a comma stands in double quotes, as in a CSV"
        ) from None
    return [item.strip() for row in rows for item in row]


def joined(items: Iterable[object]) -> str:
    """A list as one text, from which `convert` makes the same list."""
    result = io.StringIO()
    csv.writer(result, lineterminator="").writerow(list(items))
    return result.getvalue()


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _check_text(name: str, text: str, most: int) -> None:
    """A text that no store, terminal or path could hold as it is."""
    if found := _CONTROL.search(text):
        raise UserError(
            f"{name}={ascii(shortened(text))}: {ascii(found[0])} stands in it; allowed is text in UTF-8 without "
            "line breaks and control characters"
        )
    if len(text) > most:
        raise UserError(f"{name}={shortened(text)}: {len(text)} characters; allowed are up to {most}")


_SINGULAR = {"tasks": "task", "models": "model", "inits": "init", "methods": "method", "seeds": "seed"}


def _looks(items: list) -> list[int]:
    try:
        return [_integer(item) for item in items if item != ""]
    except (ValueError, TypeError):
        given = ",".join(map(str, items))
        raise UserError(f"looks={given}: allowed are numbers of seeds that rise, such as 10,14,20") from None


def _integer(value: object) -> int:
    """Decimal digits: int() alone also takes 1_000 and the digits of other scripts, which MLflow would hold as text."""
    if isinstance(value, str) and not re.fullmatch(r"[+-]?[0-9]+", value.strip()):
        raise ValueError
    if isinstance(value, float) and value != int(value):
        raise ValueError
    return int(value)


def _number(value: object) -> float:
    if isinstance(value, str) and not (value.isascii() and "_" not in value):
        raise ValueError
    return float(value) + 0.0  # -0.0 is 0, in fingerprints too


class _Once(argparse.Action):
    """A parameter is given once: of two values, one would be dropped without a word."""

    def __call__(self, parser, namespace, value, option=None):
        before = getattr(namespace, self.dest, value)
        if before != value:
            raise UserError(f"{self.dest} is given twice: {shortened(before)} and {shortened(value)}")
        setattr(namespace, self.dest, value)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(message)


def parse(entry_point: str, arguments: Sequence[str], description: str = "") -> dict[str, Value]:
    """The parameters given on a command line, converted; those not given (or empty) are absent.

    Raises:
        UserError: an unknown parameter (with the nearest name), or a value that is not allowed.
    """
    names = ENTRY_POINTS[entry_point]
    shown = {}
    if {"-h", "--help"} & set(arguments):  # elsewhere their names are checked later: reading them loads torch
        from labelreg.methods import METHODS

        shown = {"method": METHODS, "methods": METHODS, "reference": METHODS}
    parser = _Parser(
        prog=f"python -m entrypoints.{entry_point}",
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for name in names:
        spec = PARAMETERS[name]
        default = default_of(entry_point, name)
        default = "" if default is None else f" [{default}]"
        choices = f" ({', '.join(words)})" if (words := shown.get(name, spec.choices)) else ""
        parser.add_argument(
            f"--{name}",
            action=_Once,
            metavar=spec.kind.upper(),
            help=f"{spec.help}{choices}{default}".replace("%", "%%"),
        )
    known, rest = parser.parse_known_args(arguments)
    if rest:
        if not rest[0].startswith("--") or rest[0] == "--":
            raise UserError(
                f"{shortened(rest[0])!r}: parameters are given as --name=value (`mlflow run`: -P name=value)"
            )
        raise unknown("parameter", rest[0].lstrip("-").split("=")[0], names)
    return {name: convert(name, value) for name, value in vars(known).items() if value != ""}


def with_defaults(entry_point: str, given: dict[str, Value]) -> dict[str, Value]:
    """`given` with the fixed defaults of the table above; what a recipe decides stays absent."""
    defaults = {name: default_of(entry_point, name) for name in ENTRY_POINTS[entry_point]}
    return {name: value for name, value in defaults.items() if value is not None} | given


def default_of(entry_point: str, name: str) -> Value:
    """The fixed default of a parameter; None is decided by the recipe, the task or the machine."""
    return OWN_DEFAULTS.get(entry_point, {}).get(name, PARAMETERS[name].default)


def folder(value: str | None, variable: str, environment: dict[str, str]) -> Path | None:
    """A root folder from a parameter or an environment variable; it must exist.

    Raises:
        UserError: it does not exist.
    """
    name = value or environment.get(variable)
    if not name:
        return None
    said = f"{variable.removeprefix('LABELREG_').lower()}={name}"
    try:
        path = Path(os.path.expanduser(name)).resolve()
        os.listdir(path)
    except (FileNotFoundError, NotADirectoryError, RuntimeError):  # RuntimeError: no such home, links in a circle
        raise UserError(f"{said}: no such folder") from None
    except OSError as error:
        raise UserError(f"{said}: {refusal(error)}") from None
    return path
