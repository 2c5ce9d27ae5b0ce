"""Recipes are data: settings (hyper-parameters by rule), studies (grids that name a settings file), search spaces.

A settings file is a list of rules, read from top to bottom; a later rule wins, and a parameter given
by the user wins over all. `when` narrows a rule by task, model, init, method, role (teacher or
student) and data (text or images); `extends` names a settings file whose rules come first; `tuned_on_seeds`
names the seeds that a search has looked at. A study is five lists and the settings that they are run with;
`without` names cells (by task, model, init, method) that are left out.
"""

import hashlib
from pathlib import Path
from typing import Any

import yaml

from labelreg.errors import UserError, unknown
from labelreg.methods import METHODS, Method
from labelreg.parameters import INITS, PARAMETERS, Value, convert
from labelreg.tasks import made_of, own_name

HERE = Path(__file__).parent
CONDITIONS = ("task", "model", "init", "method", "role", "data")
KNOWN = {"init": INITS, "method": tuple(METHODS), "role": ("student", "teacher")}  # a task or a model may be your own
KNOWN |= {"data": ("text", "images")}
SETTABLE = (
    "task model lr batch_size epochs phase1_epochs alpha tau a tfreg_target weight_decay warmup_ratio optimizer "
    "momentum lr_milestones lr_decay max_length stem image_size augment max_train_examples"
).split()
OF_DATA = {"text": ("max_length",), "images": ("stem", "image_size", "augment")}  # what only these read
OF_SGD = ("momentum", "lr_milestones", "lr_decay")
LISTS = ("tasks", "models", "inits", "methods", "seeds")
AXES = {"task": "tasks", "model": "models", "init": "inits", "method": "methods"}  # what `without` may name
KEYS = {
    "settings": ("kind", "extends", "rules", "tuned_on_seeds"),
    "study": ("kind", "settings", *LISTS, "without", "max_train_examples"),
    "search": ("kind", "trials", "epochs", "space"),
}
FOLDERS = {"settings": HERE / "settings", "study": HERE / "studies", "search": HERE}
DEFAULT = "default"  # the settings file used without `recipe`
IMAGE_SIZES = {"cifar": 32, "imagenet": 224}  # what each stem was made for
PHASE1_SHARE = 2 / 3  # table 11: 20 of 30 epochs


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
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {name}: not YAML ({' '.join(str(error).split())})") from None
    found = recipe.get("kind") if isinstance(recipe, dict) else None
    if found != kind:
        raise UserError(f"recipe {name}: kind is {found!r}, here it must be {kind!r}")
    for key in recipe:
        if key not in KEYS[kind]:
            raise unknown(f"key in recipe {name}", str(key), KEYS[kind])
    return recipe


def carried(name: str) -> Path:
    """Where a recipe of the user's own lies in a copy of the project that was sent to another machine."""
    return HERE / "carried" / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.yaml"


def own(name: str) -> list[str]:
    """The settings files of the user's own that a recipe consists of: itself and those that it extends."""
    found: list[str] = []
    while name and not (FOLDERS["settings"] / f"{name}.yaml").is_file():
        found.append(name)
        name = str(read(name, "settings").get("extends") or "")
    return found


def without(recipe: dict[str, Any]) -> list[dict[str, list]]:
    """The cells that a study leaves out: each by the values of some of task, model, init, method.

    Raises:
        UserError: not a list of such mappings.
    """
    found = recipe.get("without") or []
    cells = found if isinstance(found, list) else [found]
    for cell in cells:
        if not isinstance(cell, dict) or not cell:
            raise UserError(f"without: a list of mappings such as {{method: akd, init: random}}, not {found!r}")
        for axis in cell:
            if axis not in AXES:
                raise unknown("key in without", str(axis), AXES)
        for method in convert("methods", cell.get("method", [])):
            if method not in METHODS:
                raise unknown("method in without", str(method), METHODS)
    return [{axis: convert(AXES[axis], values) for axis, values in cell.items()} for cell in cells]


def tuned_on(name: str, seen: tuple[str, ...] = ()) -> list[int]:
    """The seeds on which the values of a settings file (and of those that it extends) were chosen."""
    recipe = read(name, "settings")
    own = convert("seeds", recipe.get("tuned_on_seeds") or [])
    before = tuned_on(str(recipe["extends"]), (*seen, name)) if "extends" in recipe and name not in seen else []
    return sorted({*before, *own})


def rules(name: str, seen: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The rules of a settings file, those of the file that it extends first; checked."""
    if name in seen:
        raise UserError(f"recipe {name}: extends itself ({' -> '.join((*seen, name))})")
    recipe = read(name, "settings")
    before = rules(str(recipe["extends"]), (*seen, name)) if "extends" in recipe else []
    own = recipe.get("rules") or []
    if not isinstance(own, list):
        raise UserError(f"recipe {name}: 'rules' is a list of rules, not {own!r}")
    for rule in own:
        parts = rule if isinstance(rule, dict) else {}
        mappings = isinstance(parts.get("set"), dict) and isinstance(parts.get("when") or {}, dict)
        if not mappings or set(parts) - {"set", "when"}:
            raise UserError(f"recipe {name}: a rule has a mapping 'set' and perhaps a mapping 'when', not {rule!r}")
        for key, value in (rule.get("when") or {}).items():
            if key not in CONDITIONS:
                raise unknown(f"condition in recipe {name}", str(key), CONDITIONS)
            for one in value if isinstance(value, list) else [value]:
                if key in KNOWN and one not in KNOWN[key]:
                    raise unknown(f"{key} in recipe {name}", str(one), KNOWN[key])
        for key in rule["set"]:
            if key not in SETTABLE:
                raise unknown(f"parameter in recipe {name}", str(key), SETTABLE)
            free = {"data"} if key == "model" else set()  # the other conditions themselves read them
            if key in ("task", "model") and set(rule.get("when") or ()) - free:
                raise UserError(f"recipe {name}: {key} is set by a rule without 'when' only")
    return before + own


def resolve(given: dict[str, Value], role: str = "student") -> dict[str, Value]:
    """`given` completed by its recipe: the settings of one run.

    A method's parameter that the run's method does not read is left out of the result.

    Raises:
        UserError: a recipe that does not decide what the run needs.
    """
    name = given.get("recipe", DEFAULT)
    known = rules(name)
    settings: dict[str, Value] = {}
    for rule in known:  # the task first, then the model: later rules depend on them
        if "task" in rule["set"]:
            settings["task"] = convert("task", rule["set"]["task"])
    if "train_file" in given and "task" not in given:
        settings["task"] = own_name(given["train_file"])
    data = made_of(settings | given)
    for rule in known:
        if "model" in rule["set"] and (rule.get("when") or {}).get("data", data) == data:
            settings["model"] = convert("model", rule["set"]["model"])
    run = settings | given
    if run["method"] not in METHODS:
        raise unknown("method", str(run["method"]), METHODS)
    method = METHODS[run["method"]]
    facts = {key: run.get(key) for key in ("task", "model", "init", "method")} | {"role": role, "data": data}
    for rule in known:
        conditions = (rule.get("when") or {}).items()
        if all(facts[key] in (value if isinstance(value, list) else [value]) for key, value in conditions):
            settings |= {key: convert(key, value) for key, value in rule["set"].items()}
    if "epochs" in given:  # the recipe's division belongs to the recipe's number
        settings.pop("phase1_epochs", None)
    run = settings | run
    _complete(run, method, data, name)
    if "phase1_epochs" in method.parameters:
        run.setdefault("phase1_epochs", max(1, round(PHASE1_SHARE * run["epochs"])))
        if not 1 <= run["phase1_epochs"] < run["epochs"]:
            raise UserError(
                f"phase1_epochs={run['phase1_epochs']} of epochs={run['epochs']}: both phases of akd need an epoch"
            )
    if not method.needs:
        run.pop("teacher_run_id", None)
    if method.needs != "teacher":
        run.pop("teacher_model", None)
    return run


def _complete(run: dict[str, Value], method: Method, data: str, name: str) -> None:
    """Leave out what the run does not read; what it needs and nothing decides is a mistake of the recipe."""
    run.setdefault("optimizer", "adamw")  # that of every table but 13
    run.setdefault("tfreg_target", "paper")
    run.setdefault("image_size", IMAGE_SIZES.get(str(run.get("stem"))))
    others = [key for kind, keys in OF_DATA.items() if kind != data for key in keys]
    for key in (*others, *(OF_SGD if run["optimizer"] != "sgd" else ())):
        run.pop(key, None)
    for key in ("alpha", "tau", "a", "tfreg_target", "phase1_epochs"):
        if key not in method.parameters:
            run.pop(key, None)
        elif run.get(key) is None and key != "phase1_epochs":
            raise UserError(f"recipe {name} has no {key} for method {run['method']}: give {key}=...")
    needed = ("task", "model", "lr", "batch_size", "epochs", *OF_DATA[data], "weight_decay", "warmup_ratio")
    for key in (*needed, *(OF_SGD if run["optimizer"] == "sgd" else ())):
        if run.get(key) is None:
            raise UserError(f"recipe {name} has no {key}: give {key}=... ({PARAMETERS[key].help})")
