"""The fingerprints of every shipped study's runs, frozen in frozen.json: rebuilding the code must not change one.

What depends on a machine or on data is stubbed: weights and data have digests made of their names, a run computes in
fp32 with one thread on a CPU. A change that is meant to change results raises RESULT_VERSION or a recipe's value, and
writes the file anew: `python tests/test_frozen.py`.
"""

import hashlib
import json
from pathlib import Path

import pytest

from labelreg import job, recipes, training
from labelreg.models import registry
from labelreg.settings import Machine, Settings, with_defaults
from labelreg.studies import grid

FROZEN = Path(__file__).with_name("frozen.json")
MACHINE = Machine(precision="fp32", compile="off", threads=1, device="cpu")


def settings_and_teacher(step: grid.Step) -> tuple[Settings, Settings | None]:
    """The settings of a step's own run, and those of the run that it learns from."""
    asked = job.Job(job.settings_of(step.given), step.given)
    first = job.source_job(asked).settings if step.needs or step.kind == "teacher" else None
    return (first, None) if step.kind == "teacher" else (asked.settings, first)


def fingerprint(settings: Settings, teacher: str | None) -> str:
    data = f"data of {settings.task}, {settings.max_train_examples}"
    return training.fingerprint(settings, MACHINE, data, f"{settings.model} {settings.init}", teacher)


def fingerprints(recipe: str) -> dict[str, str]:
    """By cell of a study, kind first: a digest over the fingerprints of its seeds, in their order."""
    read = recipes.read(recipe, "study")
    common = with_defaults("train_student", {"recipe": read["settings"], "threads": 1})
    common |= {name: read[name] for name in ("max_train_examples",) if name in read}
    found: dict[str, list[str]] = {}
    for step in grid.steps(grid.lists(read, {}), common, registry.teacher_of, recipes.without(read)):
        settings, first = settings_and_teacher(step)
        found.setdefault(" ".join(step.cell), []).append(fingerprint(settings, first and fingerprint(first, None)))
    return {cell: hashlib.sha256(" ".join(prints).encode()).hexdigest()[:16] for cell, prints in found.items()}


@pytest.mark.parametrize("recipe", recipes.shipped("study"))
def test_no_fingerprint_of_a_shipped_study_changes(recipe):
    assert fingerprints(recipe) == json.loads(FROZEN.read_text(encoding="utf-8"))[recipe]


if __name__ == "__main__":
    every = {recipe: fingerprints(recipe) for recipe in recipes.shipped("study")}
    FROZEN.write_text(json.dumps(every, indent=1) + "\n", encoding="utf-8")
