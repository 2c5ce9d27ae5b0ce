"""Every parameter once: type, range, help, default, and what it is for. Every list of parameters is derived from here.

A facet is a class of parameters that belong together; an entry point's parameters are the facets that it is made of.
`Settings` is what one run is done with, after its recipe has been read; what was *given* stays a mapping of what the
user wrote; what the machine makes of `auto` is a `Machine`. A method's own parameters stand with it (labelreg/methods).
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from labelreg import methods
from labelreg.errors import UserError
from labelreg.parameter import ALWAYS, LONGEST_NAME, MOST, MOST_AT_A_TIME, NEVER, UNUSUAL, Parameter, Value

# how a command that is printed begins: as after `make setup`. MLflow has no variable for it, and asks for conda unasked
RUN = "mlflow run . --env-manager local"

INITS = ("pretrained", "random")
SELECTIONS = ("best", "last")
STEMS = ("cifar", "imagenet")
AUGMENTATIONS = ("none", "crop+rotation", "crop+flip+rotation")
FULL, LORA, HEAD = TUNINGS = ("full", "lora", "head")
LARGEST_SEED = 2**32 - 1  # what every library takes
LARGEST_RANK = 4096  # wider than any layer that an adapter could spare
LARGEST_IMAGE = 4096  # pixels; a batch of 8 such pictures is 1.6 GB
MOST_THREADS = max(1024, os.cpu_count() or 1)  # OpenMP ends a process that asks for some ten thousand

TASK = Parameter("text", "registered task, hub data set id, or a name for your own file", high=LONGEST_NAME)
MODEL = Parameter("path", "student: a registered name, a hub id or a local folder")
INIT = Parameter("text", "where the student starts", "pretrained", choices=INITS)
METHOD = Parameter("text", "label regularisation method, or FILE.py:FUNCTION of your own", "finetune")
DRAWN = "fixes what is drawn: new weights, order of examples, augmentation, dropout; fewrel: its examples"
SEED = Parameter("integer", DRAWN, 42, low=0, high=LARGEST_SEED)
LOOK = Parameter("integer", "a number of seeds", words="a rising list of numbers of seeds, such as 10,14,20")
SHARE = Parameter("number", "", low=0, high=1, open_low=True, open_high=True)


def declared(parameter: Parameter, **facts: Any) -> Any:
    """A field of a facet; `facts` are those of the parameter that are this use's."""
    parameter = replace(parameter, **facts)
    return field(default=parameter.default, metadata={"parameter": parameter})


def integer(help: str, default: int | None = None, low: float = 1, high: float = MOST, **facts: Any) -> Any:
    return declared(Parameter("integer", help, default, low=low, high=high, **facts))


def number(help: str, default: float | None = None, **facts: Any) -> Any:
    return declared(Parameter("number", help, default, **facts))


def text(help: str, default: str | None = None, choices: Iterable[str] = (), **facts: Any) -> Any:
    return declared(Parameter("text", help, default, choices=tuple(choices), **facts))


def path(help: str, default: str | None = None, **facts: Any) -> Any:
    return declared(Parameter("path", help, default, **facts))


def flag(help: str, **facts: Any) -> Any:
    return declared(Parameter("flag", help, False, **facts))


def items(help: str, **facts: Any) -> Any:
    return declared(Parameter("list", help, **facts))


@dataclass(frozen=True)
class Cell:
    """What is compared."""

    task: str = declared(TASK, counts=ALWAYS, recipe=True, needed=True, often=True)
    model: str = declared(MODEL, counts=ALWAYS, recipe=True, needed=True, often=True)
    init: str = declared(INIT, counts=ALWAYS, often=True)
    method: str = declared(METHOD, counts=ALWAYS, often=True)
    seed: int = declared(SEED, counts=ALWAYS, often=True)


OPTIMIZER = "adamw: lr falls linearly, gradients clipped; sgd: lr falls at milestones"
SETTING: dict[str, Any] = {"counts": ALWAYS, "recipe": True, "needed": True}
IF_UNUSUAL: dict[str, Any] = {"counts": UNUSUAL, "recipe": True}  # of what came later
OWN_SETTING: dict[str, Any] = IF_UNUSUAL | {"needed": True}


@dataclass(frozen=True)
class Fit:
    """How a model is trained: a student's own, and another of its teacher."""

    lr: float = number("peak learning rate", low=0, open_low=True, often=True, **SETTING)
    batch_size: int = integer("examples per step", **SETTING)
    epochs: int = integer("epochs in all; akd divides them into two phases", pairs=True, often=True, **SETTING)
    weight_decay: float = number("weight decay (adamw: matrices only; sgd: all)", low=0, **SETTING)
    warmup_ratio: float = number("share of the steps in which lr rises from 0", low=0, high=1, **SETTING)
    optimizer: str = text(OPTIMIZER, None, ("adamw", "sgd"), counts=UNUSUAL, usual="adamw", recipe=True, needed=True)


@dataclass(frozen=True)
class Sgd:
    """What only optimizer=sgd reads."""

    momentum: float = number("sgd: momentum", low=0, high=1, open_high=True, **OWN_SETTING)
    lr_milestones: list[float] = items(
        "sgd: where lr falls, as shares of the epochs (0.3,0.6)", each=("lr_milestones", SHARE), **OWN_SETTING
    )
    lr_decay: float = number(
        "sgd: what lr is multiplied by at each milestone", low=0, high=1, open_low=True, **OWN_SETTING
    )


@dataclass(frozen=True)
class Head:
    """What only tasks of text read, and a teacher has of its own."""

    head: str = text(
        "text: the classifier's head; checkpoint: a fine-tuned checkpoint's own, by class names",
        "new",
        ("new", "checkpoint"),
        counts=UNUSUAL,
        usual="new",
        silent=True,
    )


@dataclass(frozen=True)
class Tuning:
    """Which weights are trained; what only tasks of text read, and a teacher has of its own."""

    tuning: str = text(
        "text: what is trained: all weights (full, the default), a LoRA adapter and the head, or the head alone",
        None,
        TUNINGS,
        counts=UNUSUAL,
        usual=FULL,
        recipe=True,
        silent=True,
        pairs=True,
    )


@dataclass(frozen=True)
class Lora:
    """What only tuning=lora reads; a teacher has its own."""

    lora_r: int | None = integer("lora: rank of the adapter (default 8)", high=LARGEST_RANK, usual=8, **IF_UNUSUAL)
    lora_alpha: int | None = integer(
        "lora: the adapter is scaled by lora_alpha / lora_r (default 16)", usual=16, **IF_UNUSUAL
    )
    lora_dropout: float | None = number(
        "lora: dropout before the adapter (default 0)", low=0, high=1, open_high=True, usual=0.0, **IF_UNUSUAL
    )
    lora_targets: list[str] | None = items(
        "lora: linear layers that have one, by the ends of their names: query,value (default: all)", **IF_UNUSUAL
    )


@dataclass(frozen=True)
class Text:
    """What only tasks of text read."""

    max_length: int = integer("text: tokens an example is cut to", low=4, pairs=True, **SETTING)


@dataclass(frozen=True)
class Images:
    """What only tasks of images read."""

    stem: str = text(
        "images: first layers for small images (3x3, no pooling) or torchvision's own",
        None,
        STEMS,
        pairs=True,
        **OWN_SETTING,
    )
    image_size: int = integer(
        "images: side in pixels that the model sees (default 32, with stem=imagenet 224)",
        low=8,
        high=LARGEST_IMAGE,
        pairs=True,
        **OWN_SETTING,
    )
    augment: str = text("images: what is drawn for each in training", None, AUGMENTATIONS, pairs=True, **OWN_SETTING)


@dataclass(frozen=True)
class Protocol:
    """How a study is done, whatever is trained in it."""

    recipe: str = path("settings (train_*, prepare) or study (study, main): a shipped name or a YAML file", often=True)
    max_train_examples: int | None = integer(
        "train on this many, a stratified sample fixed by split_seed", counts=ALWAYS, recipe=True, pairs=True
    )
    selection: str = text(
        "the epoch whose weights are kept: the best dev score's, as usual, or the last",
        None,
        SELECTIONS,
        counts=ALWAYS,
        usual="best",
        recipe=True,
        pairs=True,
    )
    split_seed: int = integer(
        "splits own files, embedded data and CIFAR's training set, once for all seeds",
        42,
        low=0,
        high=LARGEST_SEED,
        counts=ALWAYS,
        pairs=True,
    )


@dataclass(frozen=True)
class Averaging:
    """Whether a student's weights are averaged over its steps."""

    average: str = text(
        "weights that are evaluated and kept: the last step's, their moving average, or their mean (SWA)",
        "none",
        ("none", *methods.AVERAGES),
        counts=UNUSUAL,
        usual="none",
        silent=True,
    )


@dataclass(frozen=True)
class Averaged:
    """What only average=ema and average=swa read."""

    average_start: float | None = number(
        "ema, swa: where it begins, as a share of the steps (default 0.5)",
        low=0,
        high=1,
        open_high=True,
        usual=0.5,
        **IF_UNUSUAL,
    )
    ema_decay: float | None = number(
        "ema: what is kept of the average at each step (default 0.99)", low=0, high=1, usual=0.99, **IF_UNUSUAL
    )
    swa_lr: float | None = number(
        "swa: learning rate from there on (default: what the schedule has there)", low=0, open_low=True, **IF_UNUSUAL
    )


@dataclass(frozen=True)
class Degenerate:
    """What is trained though little can come of it."""

    allow_degenerate: bool | None = declared(
        Parameter(
            "flag",
            "true: train dkd, dist, lskd on two classes, and rdrop without dropout, where nothing is left of them",
        )
    )


@dataclass(frozen=True)
class Testing:
    """What a student is tested on."""

    rest: str = text(
        "test on the labelled rows that max_train_examples leaves over; auto: of texts without a given test set",
        "auto",
        ("auto", "on", "off"),
    )


@dataclass(frozen=True)
class Teacher:
    """Which model a student learns from."""

    teacher_model: str | None = path(
        "the model that methods with a teacher learn from (default: the student's own teacher)"
    )


@dataclass(frozen=True)
class TeacherRun:
    """Which run a student learns from."""

    teacher_run_id: str | None = text("take the logits of this run; kd: ID,ID for the mean of several")
    teacher_seed: int | None = integer("seed of the teacher (default 42)", low=0, high=LARGEST_SEED, usual=42)


@dataclass(frozen=True)
class OwnTeacher:
    """Any model in the world as the teacher: what it says of the training rows."""

    teacher_column: str | None = text(
        "how the columns of your own teacher begin, one a class: gpt_ reads gpt_good, gpt_bad (teacher_file: p_)",
        high=LONGEST_NAME,
    )
    teacher_file: str | None = path(
        "file with these columns where train_file lacks them; its column idx is a row's number there, from 0"
    )
    teacher_id_column: str | None = text(
        "column of teacher_file and train_file that names a row, instead of idx; of images, their paths"
    )
    teacher_values: str | None = text(
        "what your own teacher's columns hold (default auto: what all rows are, and none can be else)",
        None,
        ("auto", "probabilities", "logits"),
        usual="auto",
    )


@dataclass(frozen=True)
class Computing:
    """What is asked of the machine; a fingerprint has what came of it (`Machine`)."""

    precision: str = text(
        "auto: bf16 autocast where the machine computes in bf16, else fp32",
        "auto",
        ("auto", "bf16", "fp32"),
        pairs=True,
    )
    compile: str = text("torch.compile; auto: on a GPU, for long runs", "auto", ("auto", "on", "off"))
    threads: int | None = integer("compute threads (default: all cores; 1 per worker in studies)", high=MOST_THREADS)


@dataclass(frozen=True)
class Folders:
    """Where things lie; none of them changes a result."""

    data_root: str | None = path("folder laid out like the hub, for data sets (or LABELREG_DATA_ROOT)", counts=NEVER)
    model_root: str | None = path(
        "folder laid out like the hub, for checkpoints (or LABELREG_MODEL_ROOT)", counts=NEVER
    )
    cache_root: str | None = path("prepared data and copies of logits (or LABELREG_CACHE_ROOT)", counts=NEVER)


@dataclass(frozen=True)
class Files:
    """Data of one's own."""

    train_file: str | None = path(
        "your own data: CSV, TSV, JSONL or Parquet, or a folder of images (train/CLASS/*.png)", often=True
    )
    dev_file: str | None = path("your own dev set (default: split from train_file)")
    test_file: str | None = path("your own test set (default: split from train_file when dev_file is missing too)")
    text_column: str | None = text("column of the text")
    text_pair_column: str | None = text("column of the second text, for pairs")
    label_column: str | None = text("column of the label")
    group_column: str | None = text("column of what examples belong to (document, user): it is in one split alone")


@dataclass(frozen=True)
class Checkpoints:
    """How often a run that trains is kept on disk."""

    checkpoint_seconds: float = number("training between checkpoints, 0: each epoch", 60, low=0, counts=NEVER)


@dataclass(frozen=True)
class Resuming(Checkpoints):
    """What becomes of a run that was interrupted."""

    resume: str = text(
        "auto: go on with a killed run of the same command; never: start anew",
        "auto",
        ("auto", "never"),
        counts=NEVER,
    )


@dataclass(frozen=True)
class Saving:
    """What is kept of a student."""

    save_model: str = text(
        "store the student's weights (auto: when it runs on its own)",
        "auto",
        ("auto", "true", "false"),
        counts=NEVER,
    )


@dataclass(frozen=True)
class Run(
    Files,
    Folders,
    OwnTeacher,
    TeacherRun,
    Teacher,
    Computing,
    Protocol,
    Images,
    Text,
    Head,
    Lora,
    Tuning,
    Sgd,
    Fit,
    Cell,
):
    """What a run is done with, whoever asks for it."""


@dataclass(frozen=True)
class TrainStudent(Saving, Resuming, Testing, Averaged, Averaging, Degenerate, Run):
    pass


@dataclass(frozen=True)
class Settings(TrainStudent):
    """The settings of one run, all decided (recipes.resolve); None is what it does not read. `own`: its method's."""

    own: Mapping[str, Value] = field(default_factory=dict)

    def value(self, name: str) -> Value:
        """A parameter by its name, its method's own included; None is what the run does not read."""
        if name in self.own:
            return self.own[name]
        return vars(self).get(name) if name != "own" else None  # one's own may have any name

    def values(self) -> dict[str, Value]:
        """All parameters that the run reads, by name."""
        return {name: value for name in of_a_run() if (value := self.value(name)) is not None}

    def decisive(self) -> dict[str, Value]:
        """What of it stands in a fingerprint, by name; None is what the run does not read."""
        found = [(name, known, self.value(name)) for name, known in of_a_run().items()]
        return {
            name: value
            for name, known, value in found
            if known.counts == ALWAYS or known.counts == UNUSUAL and value not in (None, known.usual)
        }

    def told(self) -> dict[str, Value]:
        """What a run logs of it: all but where, when and how it is done, by name."""
        found = [(name, known, self.value(name)) for name, known in of_a_run().items() if known.counts != NEVER]
        return {name: value for name, known, value in found if not (known.silent and value == known.usual)}


@dataclass(frozen=True)
class Machine:
    """What the machine makes of `auto`: facts that a result depends on, logged as precision_used, compile_used, ..."""

    precision: str
    compile: str
    threads: int
    device: str

    def facts(self) -> dict[str, Value]:
        """By the names that a run logs."""
        used = {"precision_used": self.precision, "compile_used": self.compile}
        return used | {"threads": self.threads, "device": self.device}


DEMO = "smoke"  # the study of `mlflow run .`
MOST_USED = "What most people give."  # the first group of --help
LISTED = " of the study, comma-separated"
QUOTED = "; one with a comma in its name in double quotes"


@dataclass(frozen=True)
class Methods:
    """Which methods."""

    methods: list[str] = items(
        f"methods{LISTED}; with averaged weights finetune+swa, kd+ema", each=("method", METHOD), often=True
    )


@dataclass(frozen=True)
class Lists(Methods):
    """The grid of a study."""

    tasks: list[str] = items(f"tasks{LISTED}{QUOTED}", each=("task", TASK), often=True)
    models: list[str] = items(f"models{LISTED}{QUOTED}", each=("model", MODEL), often=True)
    inits: list[str] = items(f"initialisations{LISTED}", each=("init", INIT))
    seeds: list[int] = items(f"seeds{LISTED}", each=("seed", SEED), often=True)


@dataclass(frozen=True)
class Workers:
    """Where and how many at a time."""

    executor: str = text(
        "local: worker processes of this machine; ray: tasks of a Ray cluster",
        "local",
        ("local", "ray"),
        counts=NEVER,
    )
    jobs: int | None = integer(
        "runs at a time (default: one a core, or runs_per_gpu a GPU)", high=MOST_AT_A_TIME, counts=NEVER
    )
    runs_per_gpu: int = integer("runs that share a GPU", 1, high=MOST_AT_A_TIME, counts=NEVER)
    ray_address: str = text(
        "auto: the cluster of this machine; local: one of the study's own; or ray://HOST:PORT", "auto", counts=NEVER
    )


@dataclass(frozen=True)
class Rule:
    """What decides."""

    margin: str | None = text(
        "differences below this many points do not matter: POINTS, auto (what the test set can tell) or TASK:POINTS, "
        "comma-separated (default: 0.5, or auto where one test example is worth more)",
        often=True,
    )
    level: float | None = number("significance level (default: the plan's, else 0.05)", low=0, high=0.5, open_low=True)
    looks: list[int] | None = items(
        "planned looks: numbers of seeds at which is tested, e.g. 10,14,20",
        each=("looks", LOOK),
    )


@dataclass(frozen=True)
class Output:
    """Where files go."""

    output_dir: str | None = path("also write the files into this folder", counts=NEVER)


@dataclass(frozen=True)
class Prepare(Testing, Run):
    """Making room."""

    clean: str = text(
        "of cache_root, what no unfinished run needs: list it, or remove it too (true); nothing is prepared",
        "false",
        ("false", "list", "true"),
    )


@dataclass(frozen=True)
class TrainTeacher(Resuming, Run):
    pass


@dataclass(frozen=True)
class Study(
    Rule,
    Workers,
    Lists,
    Resuming,
    Files,
    Folders,
    OwnTeacher,
    Teacher,
    Computing,
    Testing,
    Averaged,
    Degenerate,
    Protocol,
    Images,
    Text,
    Head,
    Lora,
    Tuning,
    Sgd,
    Fit,
):
    """How a study is planned and carried out."""

    settings: str | None = path("the study's settings: a shipped name or a YAML file (default: the recipe's own)")
    teacher_seeds: str = text(
        "one: a teacher for all seeds; each: one a seed, of that seed; a number: so many, in turn", "one"
    )
    plan_only: bool = flag("true: print and log the plan, run nothing", counts=NEVER, often=True)
    until: str = text(
        "all: every seed; decided: at each of `looks`, go on only with what is undecided",
        "all",
        ("all", "decided"),
        counts=NEVER,
    )
    accept_undecidable: bool = flag("run a study whose seeds can decide nothing")
    allow_tuned_seeds: bool = flag("compare on seeds that the settings were tuned on, and say so")


@dataclass(frozen=True)
class Main(Study):
    recipe: str = path("study: a shipped name or a YAML file", DEMO, often=True)


@dataclass(frozen=True)
class Halving:
    """Asynchronous successive halving, in Optuna's names."""

    min_resource: int = integer("pruning: epochs before the first rung; above epochs nothing is pruned", 3)
    reduction_factor: int = integer("pruning: of the trials at a rung, one in this many goes on", 4, low=2)
    min_early_stopping_rate: int = integer("pruning: rungs that are left out at the start", 0, low=0)


@dataclass(frozen=True)
class Tune(Output, Workers, Methods, Halving, Checkpoints, Averaged, Averaging, Degenerate, Run):
    """How settings are searched for."""

    method: str = declared(METHOD, default="kd", counts=ALWAYS, often=True)  # appendix D tunes KD
    seed: int = declared(SEED, default=7, counts=ALWAYS, often=True)  # no shipped study has it
    space: str = path("search space: a shipped name or a YAML file", "search", often=True)
    trials: int | None = integer(
        "trials in all, those of an interrupted search included (default: the space's)", high=10**6, often=True
    )
    storage: str | None = text("where the search is kept: any Optuna storage URL (default: SQLite in cache_root)")
    sampler: str = text("how settings are drawn", "tpe", ("tpe", "random"))
    heartbeat_seconds: int = integer("a worker's sign of life; silent for three of them, its trial is taken over", 10)
    cross_check: int = integer(
        "this many of the best settings are run with every method (the paper: 5); 0: off", 0, low=0
    )
    per_method: bool = flag("true: a search of the same size for each of `methods`")


@dataclass(frozen=True)
class Runs:
    """Which runs are read."""

    experiment: str | None = text("experiment name or id (default: MLflow's current one)")
    where: str | None = text("MLflow filter that narrows the runs, e.g. params.task = 'sst5'")


@dataclass(frozen=True)
class Store(Runs):
    """Which study's runs are read."""

    study: str | None = text("only the runs of this study, and those it reused (its recipe, or your file)", often=True)


@dataclass(frozen=True)
class Table:
    """Scores that are in no store."""

    csv: str | None = path(
        "scores from a table instead of a store: task,model,init,method,seed,score; "
        "audit: another paper's: table,split,row,column,mean,std; restore: one that significance wrote",
        often=True,
    )


@dataclass(frozen=True)
class Compared:
    """What is compared with what."""

    metric: str | None = text(
        "metric to compare (default: the score on rest, test or dev, the first that all of a task have)"
    )
    lower_is_better: list[str] | None = items("metrics of which lower is better and whose name does not say so")
    reference: str = text("the method all others are compared with", "finetune", often=True)


@dataclass(frozen=True)
class Report(Compared, Output, Table, Rule, Store):
    pass


@dataclass(frozen=True)
class Significance(Report):
    """What more is read and told."""

    examples: str = text(
        "read predictions: intervals over seeds and examples, calibration (auto: of up to 1000 runs)",
        "auto",
        ("auto", "true", "false"),
    )
    verbose: bool = flag("true: print every table and sentence, not the verdicts alone", counts=NEVER)


@dataclass(frozen=True)
class Promote(Compared, Rule, Store):
    """What is registered."""

    name: str | None = text("the registered model whose alias champion is moved", often=True)
    accept_worse_calibration: bool = flag("a method that is better may be worse calibrated, or not known not to be")


@dataclass(frozen=True)
class Tables(Output, Table, Store):
    pass


@dataclass(frozen=True)
class Audit(Table):
    """What the table does not say."""

    n: int | None = integer("audit: runs per cell of the csv", low=2)


@dataclass(frozen=True)
class Restore(Table):
    pass


@dataclass(frozen=True)
class Submission(Output, Runs):
    """The GLUE server's answers."""

    scores: str | None = path("CSV of the GLUE server's answers: run_id or task,model,init,method,seed; and score")


ENTRY_POINTS = {
    "prepare": Prepare,
    "train_teacher": TrainTeacher,
    "train_student": TrainStudent,
    "study": Study,
    "main": Main,
    "significance": Significance,
    "report": Report,
    "promote": Promote,
    "tables": Tables,
    "audit": Audit,
    "tune": Tune,
    "submission": Submission,
    "restore": Restore,
}


def of(*facets: type) -> dict[str, Parameter]:
    """The parameters of some facets, by name."""
    return {each.name: each.metadata["parameter"] for facet in facets for each in fields(facet) if each.metadata}


def parameters(entry_point: str) -> dict[str, Parameter]:
    """What an entry point takes, by name: where runs are trained, every method's own too."""
    kind = ENTRY_POINTS[entry_point]
    return of(kind) | (methods.own_parameters() if issubclass(kind, Fit) else {})


def grouped(entry_point: str) -> dict[str, dict[str, Parameter]]:
    """What an entry point takes, by group: what most people give, then facet by facet, in the facets' own words."""
    kind, own = ENTRY_POINTS[entry_point], "A method's own, of those that are trained."
    known = parameters(entry_point)
    found: dict[str, dict[str, Parameter]] = {MOST_USED: {name: each for name, each in known.items() if each.often}}
    for name, each in known.items():
        facet = next((base for base in reversed(kind.__mro__) if name in vars(base).get("__annotations__", {})), None)
        if not each.often:
            found.setdefault(str(facet.__doc__) if facet else own, {})[name] = each
    return {title: these for title, these in found.items() if these}


def with_defaults(entry_point: str, given: dict[str, Value]) -> dict[str, Value]:
    """`given` with the defaults of its entry point; what a recipe or a method decides stays absent."""
    known = of(ENTRY_POINTS[entry_point])
    return {name: each.default for name, each in known.items() if each.default is not None} | given


def of_a_run() -> dict[str, Parameter]:
    """What decides how one run is done, its method's own parameters included."""
    return of(Settings) | methods.own_parameters()


def known() -> dict[str, Parameter]:
    """Every parameter of every entry point."""
    return {name: each for entry_point in ENTRY_POINTS for name, each in parameters(entry_point).items()}


def settable() -> dict[str, Parameter]:
    """What a settings recipe may decide."""
    return {name: each for name, each in of_a_run().items() if each.recipe}


def named(entry_point: str) -> tuple[str, ...]:
    """What a command names to be run again: all but where, when and how."""
    return tuple(name for name, each in parameters(entry_point).items() if each.counts != NEVER)


def method_named(text: str) -> str:
    """The name that a method has in METHODS; one in a file of the user's own is loaded.

    Raises:
        UserError: as `methods.named`, or a parameter of it has the name of another that there is.
    """
    name = methods.named(text)
    method = methods.METHODS.get(name)
    taken = {"help"}.union(*(of(kind) for kind in ENTRY_POINTS.values()))
    if method and (clash := sorted(taken & {*method.parameters})):
        raise UserError(f"method={text}: {', '.join(clash)}: every run has a parameter of this name; take another")
    return name


def method_label(text: str) -> str:
    """The same for a method that may have an average behind it: finetune+swa."""
    method, average = methods.parted(text)
    return methods.label(method_named(method), average)


def methods_in_order(labels: Iterable[str]) -> list[str]:
    """Methods in the order of METHODS, each before itself with averaged weights."""
    rank = {name: nth for nth, name in enumerate(methods.METHODS)}
    return sorted(labels, key=lambda each: (rank[methods.parted(each)[0]], each))


def given_teacher(given: Mapping[str, Value]) -> str:
    """The parameter by which the user gives a teacher of his own, with its value; empty where he gives none."""
    return next((f"{name}={given[name]}" for name in ("teacher_file", "teacher_column") if given.get(name)), "")


def needs_of(method: str, given: Mapping[str, Value]) -> str | None:
    """The kind of run that a run of this method learns from (teacher, finetune); None too where a file teaches."""
    needs = methods.METHODS[method].needs
    return None if needs == "teacher" and given_teacher(given) else needs


def facet(kind: type, given: Mapping[str, Value]) -> Any:
    """The parameters of a facet among what was given; its defaults for the others."""
    return kind(**{name: given[name] for name in of(kind) if name in given})
