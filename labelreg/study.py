"""The grid of runs as a graph; labelreg/executors.py runs it."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labelreg import recipes
from labelreg.errors import UserError, unknown
from labelreg.methods import METHODS
from labelreg.parameters import Value, convert


@dataclass(frozen=True)
class Step:
    """One run of a study: what is given to it, and the names of the steps that come first."""

    name: str
    given: dict[str, Value]
    kind: str = "student"  # or teacher
    needs: tuple[str, ...] = ()


def lists(recipe: Mapping[str, Any], given: Mapping[str, Value]) -> dict[str, list]:
    """The study's grid: the recipe's lists, replaced by those that the user gave.

    Raises:
        UserError: an empty list, or one with a value twice.
    """
    grid = {}
    for name in recipes.LISTS:
        values = given.get(name) or convert(name, recipe.get(name) or [])
        if not values:
            raise UserError(f"the study has no {name}: give {name}=...")
        if len(set(values)) != len(values):
            raise UserError(f"{name}={','.join(map(str, values))}: a value stands there twice")
        grid[name] = values
    for method in grid["methods"]:
        if method not in METHODS:
            raise unknown("method", str(method), METHODS)
    return grid


def plan(grid: Mapping[str, Sequence], given: Mapping[str, Value], teacher_of: Callable[[str, str], str]) -> list[Step]:
    """Every run of the grid, teachers first, then seed by seed, so that what is done so far is paired.

    Args:
        given: parameters of every run (recipe included).
        teacher_of: (model, task) -> name of the teacher's model.
    """
    teachers: dict[str, Step] = {}
    students = []
    cells = itertools.product(grid["seeds"], grid["tasks"], grid["models"], grid["inits"])
    for seed, task, model, init in cells:
        cell = f"{task} {model} {init}"
        for method in sorted(grid["methods"], key=list(METHODS).index):
            run = dict(given) | {"task": task, "model": model, "init": init, "seed": seed, "method": method}
            needs = METHODS[method].needs
            if needs == "teacher":
                name = str(given.get("teacher_model") or teacher_of(model, task))
                own = f" seed={seed}" if task.startswith("fewrel") else ""
                first = f"teacher {task} {name}{own}"
                teachers.setdefault(first, Step(first, run, "teacher"))
            elif needs == "finetune":
                first = f"{cell} finetune seed={seed}"
                if "finetune" not in grid["methods"]:
                    raise UserError("selfkd learns from the finetune run of its seed: methods must name finetune too")
            students.append(Step(f"{cell} {method} seed={seed}", run, "student", (first,) if needs else ()))
    return [*teachers.values(), *students]
