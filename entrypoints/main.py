"""The question in small: every method with paired seeds, then the verdicts. `mlflow run .`"""

import os
from functools import partial
from pathlib import Path

from entrypoints.command import command
from labelreg.parameters import Value

STUDY_FAILED = 4
DEFAULT_STUDY = "smoke"


def main(given: dict[str, Value]) -> int:
    """Run the study that the recipe names and print scores and verdicts; 4 when runs failed."""
    from entrypoints import significance
    from labelreg import models, recipes, study, tracking

    name = given.pop("recipe", DEFAULT_STUDY)
    recipe = recipes.read(str(name), "study")
    if "train_file" in given and "tasks" not in given:
        given["tasks"] = [Path(str(given["train_file"])).stem]
    grid = study.lists(recipe, given)
    own = (*recipes.LISTS, "settings", "jobs", "margin", "level")
    common = {key: value for key, value in given.items() if key not in own}
    # the demo's settings are made for the demo's data; an own file gets the default ones
    usual = recipes.DEFAULT if "train_file" in given else recipe.get("settings", recipes.DEFAULT)
    common["recipe"] = given.get("settings") or usual
    common.setdefault("threads", 1)
    if "max_train_examples" in recipe:
        common.setdefault("max_train_examples", recipe["max_train_examples"])
    steps = study.plan(grid, common, models.teacher_of)
    for step in steps:
        recipes.resolve(step.given)  # a mistake in the recipe is said before anything starts
    tracking.connect()
    _prepare(steps)
    with tracking.open_run("study", f"study {name}", study=str(name)) as run:
        run.params({"recipe": str(name)} | {key: values for key, values in grid.items()})
        run_ids, failed = _execute(steps, run, str(name), int(given.get("jobs") or os.cpu_count() or 1))
        these = ", ".join(f"'{run_id}'" for run_id in run_ids)  # a reused run may be of another experiment
        runs = tracking.frame(None, f"attributes.run_id IN ({these or repr('')})")
        significance.report(runs, run, margin=given["margin"], level=given["level"])
    print("open the runs with `make ui`, or: mlflow ui --no-serve-artifacts (http://127.0.0.1:5000)", flush=True)
    return STUDY_FAILED if failed else 0


def _prepare(steps) -> None:
    """Prepare each task for each model: a mistake in either is said before a run begins, and workers find the cache."""
    from entrypoints import job
    from labelreg import corpus, models

    seen = set()
    for step in steps:
        settings = job.settings_of(step.given)
        where = models.roots(settings)
        if settings.get("teacher_model"):
            teacher = str(settings["teacher_model"])
            models.weights_digest(teacher, models.teacher_init(teacher), where)
        start = (settings["task"], settings["model"], settings["init"])
        if start not in seen:
            corpus.prepare(settings, where)
        seen.add(start)


def _execute(steps, run, name: str, jobs: int) -> tuple[list[str], int]:
    """Run the plan, a line per event; the ids of its finished runs, and how many did not finish."""
    from labelreg import study, tracking

    print(f"study {name}: {len(steps)} runs, {jobs} at a time", flush=True)
    job = partial(work, parent=run.run_id, study=name, experiment=tracking.current_experiment())
    run_ids: list[str] = []
    count = {"done": 0, "failed": 0, "skipped": 0}
    for event in study.execute(steps, job, jobs, {"OMP_NUM_THREADS": str(steps[0].given["threads"])}):
        if event.state == "running":
            continue
        count[event.state] += 1
        ended = f"[{sum(count.values())}/{len(steps)}] {event.step.name}: {event.state}"
        if event.state == "done":
            run_ids.append(event.result.run_id)
            reused = " (reused)" if event.result.reused else f" ({event.seconds:.0f} s)"
            print(f"{ended}, {event.result.split} score {event.result.score:.2f}{reused}", flush=True)
        else:
            print(f"{ended}: {event.reason}", flush=True)
        run.metrics(
            {"study/done": count["done"], "study/failed": count["failed"] + count["skipped"]}, step=sum(count.values())
        )
    return run_ids, count["failed"] + count["skipped"]


def work(step, parent: str, study: str, experiment: str):
    """One run of the study, in a worker process."""
    from entrypoints import job

    settings = job.settings_of(step.given)
    student = job.Job(settings, step.given, "student", parent, study, experiment, reuse=True, quiet=True)
    return job.source(student) if step.kind == "teacher" else job.run(student)


if __name__ == "__main__":
    command("main", main, __doc__)
