"""Recipes are data: settings (hyper-parameters by rule), studies (grids that name a settings file), search spaces.

A settings file is a list of rules, read from top to bottom; a later rule wins, and a parameter given
by the user wins over all. `when` narrows a rule by task, model, init, method, role (teacher or
student) and data (text or images); `extends` names a settings file whose rules come first; `tuned_on_seeds`
names the seeds that a search has looked at. A study is five lists and the settings that they are run with;
`without` names cells (by task, model, init, method) that are left out. It may also ask for what its command takes
(`looks`, `margin`, `precision`, ...); what the command is given wins.
"""

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from labelreg.data.tasks import drawn_anew, made_of, own_name
from labelreg.errors import UserError, unknown
from labelreg.methods import METHODS, inherit, own_file, own_parameters, parted, unknown_method
from labelreg.output import words_of
from labelreg.parameter import Parameter, Value, convert
from labelreg.settings import (
    FULL,
    INITS,
    LORA,
    Averaged,
    Averaging,
    Cell,
    Head,
    Images,
    Lists,
    Lora,
    OwnTeacher,
    Settings,
    Sgd,
    Study,
    Testing,
    Text,
    Tuning,
    Workers,
    given_teacher,
    method_named,
    of,
    settable,
)
from labelreg.whole import digest

HERE = Path(__file__).parent
CONDITIONS = ("task", "model", "init", "method", "role", "data")
KNOWN = {"init": INITS, "method": METHODS, "role": ("student", "teacher")}  # a task or a model may be your own
KNOWN |= {"data": ("text", "images")}
OF_DATA = {"text": of(Text, Head, Lora, Tuning), "images": of(Images)}  # what only these read
LISTS = of(Lists)
# beside its lists; files are given by their user, workers by the machine
ASKED = {
    name: each
    for name, each in of(Study).items()
    if each.kind != "path" and name not in (*LISTS, *of(Workers), "plan_only")
}
LISTED = {each.each[0]: name for name, each in LISTS.items() if each.each}
AXES = {axis: LISTED[axis] for axis in of(Cell) if axis != "seed"}  # what `without` may name
KEYS = {
    "settings": ("kind", "extends", "rules", "tuned_on_seeds"),
    "study": ("kind", "settings", *LISTS, "without", *ASKED),
    "search": ("kind", "trials", "epochs", "space"),
}
FOLDERS = {"settings": HERE / "settings", "study": HERE / "studies", "search": HERE}
DEFAULT = "default"  # the settings file used without `recipe`
IMAGE_SIZES = {"cifar": 32, "imagenet": 224}  # what each stem was made for


def shipped(kind: str) -> dict[str, Path]:
    """The recipes of a kind that come with labelreg, by name."""
    return {path.stem: path for path in sorted(FOLDERS[kind].glob("*.yaml"))}


def read(name: str, kind: str) -> dict[str, Any]:
    """A recipe by its shipped name or by path; `kind` is settings, study or search.

    Raises:
        UserError: no such recipe, no YAML mapping, or a recipe of another kind.
    """
    known = shipped(kind)
    path = known.get(name) or (carried(name) if carried(name).is_file() else Path(name))
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        other = next((other for other in FOLDERS if other != kind and name in shipped(other)), None)
        if other:
            raise UserError(f"recipe {name}: kind is {other!r}, here it must be {kind!r}: {', '.join(known)}")
        raise unknown(f"recipe ({kind})", name, known)
    try:
        recipe = copy.deepcopy(_parsed(path.read_text(encoding="utf-8")))  # `rules` changes what it has read
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {name}: not YAML ({words_of(error, 500)})") from None
    its_kind = recipe.get("kind") if isinstance(recipe, dict) else None
    if its_kind != kind:
        raise UserError(f"recipe {name}: kind is {its_kind!r}, here it must be {kind!r}")
    for key in recipe:
        if key not in KEYS[kind] and kind == "study" and key in of(Study):
            raise UserError(f"recipe {name}: {key} is given to the command ({key}=...), not in a recipe")
        if key not in KEYS[kind]:
            raise unknown(f"key in recipe {name}", str(key), KEYS[kind])
    return recipe


@cache  # a study reads its settings for each of its runs
def _parsed(text: str) -> Any:
    return yaml.load(text, _Once)  # safe_load, with its loader made stricter


class _Once(yaml.SafeLoader):
    """safe_load, but that a key which stands twice is refused: the first would be lost, and a rule with it."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set[str]()  # before anything is merged into it
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"{key.value} stands twice", key.start_mark)
            seen.add(str(key.value))
        return node


def asked(name: str) -> dict[str, Value]:
    """What a study recipe asks for beside its lists, converted."""
    found = {key: value for key, value in read(name, "study").items() if key in ASKED}
    if blank := [key for key, value in found.items() if value is None]:
        raise UserError(f"recipe {name}: {blank[0]} has no value; give it one, or leave it out")
    if isinstance(by_task := found.get("margin"), dict):
        found["margin"] = ",".join(f"{task}:{points}" for task, points in by_task.items())
    return {key: convert(key, ASKED[key], value) for key, value in found.items()}


def carried(name: str) -> Path:
    """Where a recipe of the user's own lies in a copy of the project that was sent to another machine."""
    return HERE / "carried" / f"{digest(name)}.yaml"


def own(name: str) -> list[str]:
    """The settings files of the user's own that a recipe consists of: itself and those that it extends."""
    names: list[str] = []
    while name and not (FOLDERS["settings"] / f"{name}.yaml").is_file():
        names.append(name)
        name = str(read(name, "settings").get("extends") or "")
    return names


def without(recipe: dict[str, Any], given: Mapping[str, Value] = {}) -> list[dict[str, list]]:
    """The cells that a study leaves out: each by the values of some of task, model, init, method.

    Raises:
        UserError: not a list of such mappings, or a name that is neither among the recipe's own nor `given`.
    """
    listed = recipe.get("without") or []
    cells = listed if isinstance(listed, list) else [listed]
    for cell in cells:
        if not isinstance(cell, dict) or not cell:
            raise UserError(f"without: a list of mappings such as {{method: akd, init: random}}, not {listed!r}")
        for axis in cell:
            if axis not in AXES:
                raise unknown("key in without", str(axis), AXES)
        for method in convert("methods", LISTS["methods"], cell.get("method", [])):
            if parted(str(method))[0] not in METHODS:
                raise unknown("method in without", str(method), METHODS)
    found = [{axis: convert(AXES[axis], LISTS[AXES[axis]], values) for axis, values in cell.items()} for cell in cells]
    for axis in ("task", "model"):  # which may be your own: a name that no list has would leave nothing out
        own = convert(AXES[axis], LISTS[AXES[axis]], recipe.get(AXES[axis]) or [])
        known = [*own, *(given.get(AXES[axis]) or [])]  # the command may name more than the recipe
        if own and (strange := [value for cell in found for value in cell.get(axis, ()) if value not in known]):
            raise unknown(f"{axis} in without", strange[0], known)
    return found


def tuned_on(name: str, seen: tuple[str, ...] = ()) -> list[int]:
    """The seeds on which the values of a settings file (and of those that it extends) were chosen."""
    recipe = read(name, "settings")
    listed = recipe.get("tuned_on_seeds")
    own = convert("seeds", LISTS["seeds"], [] if listed is None else listed)  # 0 is a seed
    before = tuned_on(str(recipe["extends"]), (*seen, name)) if "extends" in recipe and name not in seen else []
    return sorted({*before, *own})


def rules(name: str, seen: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The rules of a settings file, those of the file that it extends first; checked. `seen`: those that extend it."""
    if name in seen:
        raise UserError(f"recipe {name}: extends itself ({' -> '.join((*seen, name))})")
    recipe = read(name, "settings")
    before = rules(str(recipe["extends"]), (*seen, name)) if "extends" in recipe else []
    may, own = settable(), recipe.get("rules") or []
    if not isinstance(own, list):
        raise UserError(f"recipe {name}: 'rules' is a list of rules, not {own!r}")
    for rule in own:
        parts = rule if isinstance(rule, dict) else {}
        mappings = isinstance(parts.get("set"), dict) and isinstance(parts.get("when") or {}, dict)
        if not mappings or set(parts) - {"set", "when"}:
            raise UserError(f"recipe {name}: a rule has a mapping 'set' and perhaps a mapping 'when', not {rule!r}")
        absent: list[str] = []
        for key, value in (rule.get("when") or {}).items():
            if key not in CONDITIONS:
                raise unknown(f"condition in recipe {name}", str(key), CONDITIONS)
            ones = value if isinstance(value, list) else [value]
            if not ones:
                raise UserError(f"recipe {name}: {key} has no value in 'when': such a rule holds for no run")
            if key == "method" and (theirs := [one for one in ones if isinstance(one, str) and own_file.MARK in one]):
                # one's own is called by its name, in whatever folder its file lies; where this command does not name
                # it, the rule is one for other runs
                ones = rule["when"][key] = [Path(one).name if one in theirs else one for one in ones]
                names = [Path(one).name for one in theirs]
                absent = [name for name in names if name not in METHODS and own_file.may_be(name)]
            if key in KNOWN:
                for one in ones:
                    if not isinstance(one, str) or one not in KNOWN[key] and one not in absent:
                        raise unknown(f"{key} in recipe {name}", str(one), KNOWN[key])
            else:  # as what is given, else it would match nothing: `no` is a truth value in YAML, 2024 a number
                rule["when"][key] = [convert(key, may[key], one) for one in ones]
        for key in rule["set"]:
            if key not in may and not absent:  # what it sets may be that method's own
                raise unknown(f"parameter in recipe {name}", str(key), may)
            free = {"data"} if key == "model" else set()  # the other conditions themselves read them
            if key in ("task", "model"):
                if set(rule.get("when") or ()) - free:
                    raise UserError(f"recipe {name}: {key} is set by a rule without 'when' only")
                rule["set"][key] = convert(key, may[key], rule["set"][key])  # as in 'when', which is compared with it
    return before + own


def resolve(given: Mapping[str, Value], role: str = "student") -> Settings:
    """`given` completed by its recipe: the settings of one run, None for what it does not read.

    Raises:
        UserError: a recipe that does not decide what the run needs.
    """
    decided, data = decisions(given, role)
    own = {"method": method_named(str(given.get("method", of(Cell)["method"].default)))}
    return _complete(decided | dict(given) | own, data, role, str(given.get("recipe", DEFAULT)))


def decisions(given: Mapping[str, Value], role: str = "student") -> tuple[dict[str, Value], str]:
    """What the recipe says of a run, whatever else of it is `given`; and what its examples are: text or images."""
    inherit()
    may, known = settable(), rules(str(given.get("recipe", DEFAULT)))
    decided: dict[str, Value] = {}
    for rule in known:  # the task first, then the model: later rules depend on them
        if "task" in rule["set"]:
            decided["task"] = rule["set"]["task"]
    if "train_file" in given and "task" not in given:
        decided["task"] = own_name(given["train_file"])
    data = made_of(given.get("task", decided.get("task")), given.get("train_file"))
    for rule in known:
        if "model" in rule["set"] and (rule.get("when") or {}).get("data", data) == data:
            decided["model"] = rule["set"]["model"]
    facts = (
        {axis: each.default for axis, each in of(Cell).items()} | decided | dict(given) | {"role": role, "data": data}
    )
    facts["method"] = method_named(str(facts["method"]))
    if facts["method"] not in METHODS:
        raise unknown_method(str(facts["method"]))
    for rule in known:
        conditions = (rule.get("when") or {}).items()
        if all(facts[key] in (value if isinstance(value, list) else [value]) for key, value in conditions):
            decided |= {key: value for key, value in rule["set"].items() if key in may}
    if "epochs" in given:  # the recipe's division belongs to the recipe's number
        decided.pop("phase1_epochs", None)
    decided |= {key: facts[key] for key in ("task", "model") if facts[key] is not None}
    return {key: convert(key, may[key], value) for key, value in decided.items()}, data


def unread(run: Mapping[str, Value], data: str, role: str = "student") -> dict[str, set[str]]:
    """What a run on `data` (text or images) does not read of all that may be given, by the reason in words."""
    name, own, tuning, optimizer = str(run["method"]), given_teacher(run), run.get("tuning"), run.get("optimizer")
    average = "none" if role == "teacher" else run.get("average") or "none"
    averaged = {"ema": {"average_start", "ema_decay"}, "swa": {"average_start", "swa_lr"}}.get(average, set())
    method, files, seed = METHODS[name], {*of(OwnTeacher)}, {"teacher_seed"}
    named = {"teacher_model"} | seed
    taught, twin = method.needs == "teacher", method.needs == "finetune"
    no_teacher = set() if taught else named if twin else {*named, *files, "teacher_run_id"}
    task = str(run.get("task"))  # a recipe that names none is told of it later
    by_id = taught and run.get("teacher_run_id")
    anew = taught and not by_id and drawn_anew(task, run.get("train_file"))
    found = {
        f"method {name} has none": {*own_parameters()} - {*method.parameters} | no_teacher,
        f"method {name} learns from its own fine-tuned twin": files if twin else (),
        f"{own} is the teacher": named if taught and own else (),
        "no teacher of your own is given (teacher_file, teacher_column)": files if taught and not own else (),
        f"the task is made of {data}": {key for kind, keys in OF_DATA.items() if kind != data for key in keys},
        "teacher_run_id names the teacher": named if by_id else (),
        f"task {task} is drawn anew for each seed, and its teacher has that seed": seed if anew else (),
        f"average {average} has none": {*of(Averaged)} - averaged,
        f"tuning {tuning} has none": () if data == "images" or tuning == LORA else of(Lora),
        f"optimizer {optimizer} has none": () if optimizer == "sgd" else of(Sgd),
        "it is a teacher": of(Testing, Averaging) if role == "teacher" else (),
    }
    return {why: set(names) for why, names in found.items()}


def _complete(decided: Mapping[str, Value], data: str, role: str, name: str) -> Settings:
    """Leave out what the run does not read; what it needs and nothing decides is a mistake of the recipe."""
    method, run = METHODS[str(decided["method"])], dict(decided)
    run.setdefault("image_size", IMAGE_SIZES.get(str(run.get("stem"))))
    own_teacher = given_teacher(run) if method.needs == "teacher" else ""
    if own_teacher and run.get("teacher_run_id"):
        raise UserError(
            f"teacher_run_id={run['teacher_run_id']} and {own_teacher}: a student learns from one; give one of them"
        )
    left_out = set[str]().union(*unread(run, data, role).values())

    def value(key: str, each: Parameter) -> Value:
        result = run.get(key, method.defaults.get(key) if key in method.parameters else None)
        result = (each.usual if each.default is None else each.default) if result is None else result
        if result is None and each.needed:
            of_method = f" for method {run['method']}" if key in method.parameters else ""
            help = "" if of_method else f" ({each.help})"
            raise UserError(f"recipe {name} has no {key}{of_method}: give {key}=...{help}")
        return result

    if data == "text" and run.get("tuning", FULL) != FULL and run.get("init") == "random":
        raise UserError(
            f"tuning={run['tuning']}: with init=random the weights that stay as they are would be random; "
            f"give tuning={FULL}, or init=pretrained (a study: inits=pretrained)"
        )
    own: Mapping[str, Value] = {key: value(key, each) for key, each in method.parameters.items()}
    own = {key: each if each is None else convert(key, method.parameters[key], each) for key, each in own.items()}
    read: dict[str, Value] = {key: None if key in left_out else value(key, each) for key, each in of(Settings).items()}
    if isinstance(targets := read["lora_targets"], list):
        read["lora_targets"] = sorted(set(targets)) or None  # neither their order nor an empty list decides anything
    own = method.complete({key: each for key, each in own.items() if each is not None}, read["epochs"])
    return Settings(**read, own=own)
