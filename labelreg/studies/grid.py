"""The grid of runs as a graph: which runs a study needs, in which order; labelreg/workers/executors.py runs them."""

import itertools
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from labelreg import recipes
from labelreg.data import image_folder
from labelreg.data.tasks import drawn_anew
from labelreg.errors import UserError
from labelreg.methods import METHODS, parted, unknown_method
from labelreg.methods.own_file import FILE
from labelreg.parameter import NEVER, Value, convert
from labelreg.settings import method_label, methods_in_order, needs_of, of_a_run
from labelreg.whole import digest, file_digest
from labelreg.workers.steps import Step


def lists(recipe: Mapping[str, Any], given: Mapping[str, Value]) -> dict[str, list]:
    """The study's grid: the recipe's lists, replaced by those that the user gave.

    Raises:
        UserError: an empty list, or one with a value twice.
    """
    grid = {}
    for name in recipes.LISTS:
        values = given[name] if name in given else convert(name, recipes.LISTS[name], recipe.get(name) or [])
        if not values:
            raise UserError(f"the study has no {name}: give {name}=...")
        if len(set(values)) != len(values):
            raise UserError(f"{name}={','.join(map(str, values))}: a value stands there twice")
        grid[name] = values
    grid["methods"] = [method_label(method) for method in grid["methods"]]
    for method in grid["methods"]:
        if parted(method)[0] not in METHODS:
            raise unknown_method(str(method))
    grid["methods"] = methods_in_order(grid["methods"])
    return grid


def teacher_seeds(wanted: str, seeds: Sequence[int]) -> dict[int, int]:
    """The seed of each seed's teacher, where not all seeds have one teacher: each its own, or so many in turn.

    Raises:
        UserError: neither one, each nor a number of teachers for these seeds.
    """
    if wanted == "one":
        return {}
    number = len(seeds) if wanted == "each" else int(wanted) if re.fullmatch("[0-9]{1,9}", wanted) else 0
    if not 1 <= number <= len(seeds):
        raise UserError(
            f"teacher_seeds={wanted}: allowed is one, each, or a number of teachers from 1 to {len(seeds)}, the "
            "number of seeds"
        )
    return {seed: seeds[nth % number] for nth, seed in enumerate(seeds)}


def steps(
    lists: Mapping[str, Sequence],
    given: Mapping[str, Value],
    teacher_of: Callable[[str, str], str],
    without: Sequence[Mapping[str, Collection]] = (),
    teachers_of: Mapping[int, int] | None = None,
) -> list[Step]:
    """Every run of the grid, teachers first, then seed by seed, so that what is done so far is paired.

    Args:
        given: parameters of every run (recipe included).
        teacher_of: (model, task) -> name of the teacher's model.
        without: cells that are left out, by some of task, model, init, method.
        teachers_of: seed -> the seed of its teacher, where not all have one.

    Raises:
        UserError: nothing is left, selfkd without the finetune run that it learns from, or teachers of seeds that
            nothing learns from.
    """
    teachers: dict[str, Step] = {}
    students = []
    methods = methods_in_order(lists["methods"])
    for seed, task, model, init in itertools.product(*(lists[name] for name in ("seeds", "tasks", "models", "inits"))):
        cell, place = f"{task} {model} {init}", {"task": task, "model": model, "init": init}
        here = [method for method in methods if not _left_out(place | {"method": method}, without)]
        for method in here:
            base, average = parted(method)
            run = (
                dict(given) | place | {"seed": seed, "method": base} | ({"average": average} if base != method else {})
            )
            needs = needs_of(base, run)
            if needs == "teacher":
                name = str(given.get("teacher_model") or teacher_of(model, task))
                own = f" seed={seed}" if drawn_anew(task, given.get("train_file")) else ""
                if teachers_of and own and teachers_of[seed] != seed:
                    raise UserError(
                        f"teacher_seeds: {task} is drawn anew for each seed, which has a teacher: give each"
                    )
                if teachers_of and not own:
                    run |= {"teacher_seed": teachers_of[seed]}
                    own = f" seed={teachers_of[seed]}"
                first = f"teacher {task} {name}{own}"
                teachers.setdefault(first, Step(first, run, "teacher"))
            elif needs == "finetune":
                first = f"{cell} finetune seed={seed}"
                if "finetune" not in here:
                    raise UserError(f"{method} learns from the finetune run of its seed: methods must name it too")
            students.append(Step(f"{cell} {method} seed={seed}", run, "student", (first,) if needs else ()))
    if not students:
        raise UserError("the study has no run: its recipe leaves out every one that is asked for (without)")
    if teachers_of and not teachers:
        raise UserError(f"teacher_seeds: none of methods={','.join(methods)} learns from a teacher")
    steps = [*teachers.values(), *students]
    if len({step.name for step in steps}) < len(steps):  # blanks in names: "a" with "b c", "a b" with "c"
        raise UserError("two runs of the study have one name: a task, model or teacher is named twice")
    return steps


def _left_out(place: Mapping[str, str], without: Sequence[Mapping[str, Collection]]) -> bool:
    return any(all(place[axis] in values for axis, values in cell.items()) for cell in without)


def identity(steps: Sequence[Step], plan_digest: str, recipe: str = "") -> str:
    """What makes two studies the same study, 32 hex digits: their plan, recipe, and what is given to their runs.

    Files and folders count by what they hold, whatever words name them.
    """
    kept, known = cache(content), of_a_run()
    decides = {key for key, each in known.items() if each.counts != NEVER}
    files = {key for key in decides if known[key].kind == "path"}
    facts = [
        {key: kept(value) if key in files else value for key, value in step.given.items() if key in decides}
        for step in steps
    ]
    own = {str(step.given["method"]): METHODS[str(step.given["method"])].defaults.get(FILE) for step in steps}
    files_of_methods = {name: held for name, held in own.items() if held}
    told = [plan_digest, kept(recipe), facts, *([files_of_methods] if files_of_methods else [])]
    return digest(json.dumps(told, sort_keys=True, default=str))


def content(name: Value) -> Value:
    """The digest of the file or folder that a text names; any other value as it is."""
    path = Path(str(name or ""))
    if not name or not path.exists():
        return name
    return file_digest(path) if path.is_file() else image_folder.digest_below(path)
