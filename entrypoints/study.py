"""Every run of a recipe, none of them twice, then the verdicts: `mlflow run . -e study -P recipe=table8`."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from entrypoints.command import command
from labelreg.errors import IncompleteError, UserError
from labelreg.parameters import ENTRY_POINTS, NOT_DECIDING, Value
from labelreg.study import Step
from labelreg.tasks import own_name

ATTEMPTS = 2  # a failed run is tried once more
WORKERS = ("jobs", "executor", "runs_per_gpu", "ray_address")


@dataclass(frozen=True)
class Design:
    """What a study is: its runs, and the plan that is logged before the first of them."""

    name: str
    asked: dict[str, Value]  # the lists, and all that was given and decides a result
    steps: list[Step]
    plan: dict
    digest: str
    workers: dict  # arguments of the executor
    jobs: int  # runs at a time; 1 until the executor is asked
    decided: bool  # whether it stops where the verdicts have fallen
    tuned: list[int]  # seeds that the settings were tuned on


def main(given: dict[str, Value]) -> int:
    """Plan; with plan_only that is all, else run what is missing and print scores and verdicts."""
    from labelreg import executors, tracking

    design = design_of(given)
    tracking.connect()
    if not given.get("plan_only") or given["executor"] == "local":  # a plan connects to no cluster
        design = replace(design, jobs=executors.check(design.steps, **design.workers))
    if given.get("plan_only"):
        _plan_only(design)
    else:
        _prepare(design.steps)
        _run(design)
        print("open the runs with `make ui`, or: mlflow ui --no-serve-artifacts (http://127.0.0.1:5000)", flush=True)
    return 0


def design_of(given: dict[str, Value]) -> Design:
    """The study that the parameters ask for; every mistake in them is told here, before anything starts.

    Raises:
        UserError: a recipe, a list, a name or a look that cannot be.
        AnalysisError: a look at which nothing could be decided.
    """
    from analysis import design as rules
    from labelreg import models, recipes, study

    if not given.get("recipe"):
        raise UserError(f"which study? Give recipe=..., one of {', '.join(recipes.shipped('study'))}, or a YAML file")
    name = str(given["recipe"])
    recipe = recipes.read(name, "study")
    if given.get("train_file"):
        given = {"tasks": [own_name(given["train_file"])]} | given
        if len(given["tasks"]) > 1:
            raise UserError(f"tasks={','.join(given['tasks'])}: train_file is one task; give one name")
    asked = study.lists(recipe, given)
    grid = dict(asked)
    looks = _looks(given, grid)
    steps = study.plan(grid, _common(given, recipe), models.teacher_of, recipes.without(recipe))
    study.check_order(steps)
    _check(steps)
    students = [step for step in steps if step.kind == "student"]
    plan = rules.make_plan(
        cells=dict.fromkeys(step.cell[1:] for step in students),
        seeds=grid["seeds"],
        metric=None,
        margin=given["margin"],
        level=given["level"],
        looks=looks,
    )
    most = max(_families(plan).values())
    if given.get("until") == "decided" and not most:
        raise UserError(f"until=decided compares with finetune: methods={','.join(grid['methods'])} must name it too")
    rules.check_looks(looks, most, given["level"])
    tuned = sorted(set(grid["seeds"]) & set(recipes.tuned_on(str(steps[0].given["recipe"]))))
    if tuned and not given.get("allow_tuned_seeds"):
        raise UserError(
            f"seeds={','.join(map(str, tuned))}: the settings {steps[0].given['recipe']} were tuned on them; "
            "give other seeds, or allow_tuned_seeds=true"
        )
    return Design(
        name=name,
        asked={name: given[name] for name in ENTRY_POINTS["study"] if name in given and name not in NOT_DECIDING}
        | asked,
        steps=steps,
        plan=plan,
        digest=rules.plan_digest(plan),
        workers={"environment": {"OMP_NUM_THREADS": str(steps[0].given["threads"])}}
        | {name: given.get(name) for name in WORKERS},
        jobs=int(given.get("jobs") or 1),
        decided=given.get("until") == "decided",
        tuned=tuned,
    )


def _common(given: dict[str, Value], recipe: dict) -> dict[str, Value]:
    """What is given to every run."""
    from labelreg import parameters, recipes

    common = {key: value for key, value in given.items() if key in ENTRY_POINTS["train_student"]}
    common["recipe"] = str(given.get("settings") or recipe.get("settings", recipes.DEFAULT))
    common.setdefault("threads", 1)
    if "max_train_examples" in recipe:
        common.setdefault("max_train_examples", parameters.convert("max_train_examples", recipe["max_train_examples"]))
    return common


def _looks(given: dict[str, Value], grid: dict[str, list]) -> list[int]:
    looks, seeds = list(given.get("looks") or []), grid["seeds"]
    if given.get("until") == "decided" and not looks:
        raise UserError("until=decided needs the looks that are planned: give looks=..., such as looks=10,14,20")
    if looks and max(looks) > len(seeds):
        raise UserError(f"looks={','.join(map(str, looks))}: the study has {len(seeds)} seeds; give seeds=... for all")
    if given.get("until") == "decided":
        grid["seeds"] = seeds[: max(1, *looks)]  # those beyond the last look would never run
    return looks


def _check(steps: Sequence[Step]) -> None:
    """One run of each cell is resolved, all names in it are known, and its models read what its task is made of."""
    from entrypoints import job
    from labelreg import corpus, models
    from labelreg.tasks import made_of

    for step in {step.cell: step for step in steps}.values():
        settings = job.settings_of(step.given)
        corpus.task_of(settings)
        own = [str(settings["model"])]
        models.roots(settings)
        if step.kind == "teacher":
            own.append(str(job.source_job(job.Job(settings, step.given)).settings["model"]))
        for model in own:
            models.check_name(model)
            models.check_reads(model, str(settings["task"]), made_of(settings))


def _families(plan: dict) -> dict[tuple, int]:
    """How many methods are compared with finetune, by (task, model, init)."""
    found: dict[tuple, int] = {}
    for *place, method in plan["cells"]:
        compared = method != "finetune" and [*place, "finetune"] in plan["cells"]
        found[tuple(place)] = found.get(tuple(place), 0) + compared
    return found


# The plan


def _plan_only(design: Design) -> None:
    """Print the plan and log it; nothing is downloaded, prepared or run."""
    from entrypoints import planning
    from labelreg import tracking

    outlook = planning.look(design.steps, probe=True)
    lines = _plan_lines(design, outlook)
    print("\n".join(lines), flush=True)
    with tracking.open_run("study", f"plan of {design.name}", study=design.name) as run:
        run.params({"recipe": design.name, "plan_only": True, "jobs": design.jobs})
        _log_plan(run, design, outlook, lines)


def _plan_lines(design: Design, outlook) -> list[str]:
    from analysis import design as rules
    from analysis import tables
    from entrypoints import looks, planning

    lines = planning.lines(outlook, design.name, design.jobs)
    lines += ["", tables.to_text(planning.readable(planning.table(outlook))), ""]
    plan, spreads = design.plan, looks.spreads({name: run.info.run_id for name, run in outlook.finished.items()})
    for place, methods in _families(plan).items():
        gate = rules.gate(len(plan["seeds"]), methods, plan["margin"], plan["level"], plan["looks"], spreads.get(place))
        lines += [f"{' '.join(place)}: {line}" for line in gate.lines()]
    return lines


def _log_plan(run, design: Design, outlook, lines: list[str]) -> None:
    from entrypoints import planning

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plan.json").write_text(json.dumps(design.plan, indent=1), encoding="utf-8")
        (folder / "plan.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        planning.table(outlook).to_csv(folder / "plan.csv", index=False)
        run.folder(folder)


def _prepare(steps: Sequence[Step]) -> None:
    """Prepare each data set for each model, and say what was read: a mistake in either is told before a run begins."""
    from entrypoints import planning
    from labelreg import corpus, models, prepared

    settings, seen, said = planning.settings_of(steps), set(), set[str]()
    for step in steps:
        own = settings[step.name]
        where = models.roots(own)
        if step.kind == "teacher":
            models.weights_digest(str(own["model"]), str(own["init"]), where)
            continue
        by_seed = corpus.task_of(own).split_by == "seed"
        key = (step.cell[1:4], own.get("max_length"), own.get("max_train_examples"), own["seed"] if by_seed else None)
        if key not in seen:
            prepared.say(corpus.prepare(own, where), said)
        seen.add(key)


# The runs


def _run(design: Design) -> None:
    """Run what is missing under the study's run, and judge.

    Raises:
        IncompleteError: runs failed; the others are done and judged.
    """
    from entrypoints import looks, planning, significance
    from labelreg import tracking

    with _opened(design) as run:
        run.params({"recipe": design.name, "settings": design.steps[0].given["recipe"]} | design.asked)
        outlook = planning.look(design.steps)
        lines = _plan_lines(design, outlook)
        _log_plan(run, design, outlook, lines)
        run.tags({tracking.PLAN: design.digest})  # not of a plan alone: its seeds may never run
        left = len(design.steps) - len(outlook.finished)
        print(lines[0], lines[1], f"{left} runs, {design.jobs} at a time", sep="\n", flush=True)
        work = _Work(design, run, outlook, _first_step(run))
        if design.decided:
            looks.until_decided(design.steps, design.plan, work.carry_out)
        else:
            work.carry_out(design.steps)
        rule = {name: design.plan[name] for name in ("margin", "level", "looks")}
        significance.report(looks.frame(work.done), run, **rule)
        if work.failed:
            raise IncompleteError(_what_failed(work.failed, len(design.steps)))


@contextmanager
def _opened(design: Design) -> Iterator:
    """The run of the study: that of the same study interrupted before, or a new one."""
    from labelreg import checkpoint, models, study, tracking

    identity = study.identity(design.steps, design.digest, design.name)
    cache = models.roots(design.steps[0].given).cache
    with checkpoint.claim(cache / "studies" / identity) as claim:
        before = tracking.unfinished(claim)
        own = {"study": design.name, "continued": before, "claim": claim, "spool": cache / "spool"}
        with tracking.open_run("study", f"study {design.name}", **own) as run:
            if before:
                print(f"going on with the study that was interrupted (run {before})", flush=True)
            if design.tuned:
                run.tags({tracking.TUNED: ",".join(map(str, design.tuned))})
            yield run
        claim.forget()


def _first_step(run) -> int:
    """The step of the study's next metrics: after those that it logged before it was interrupted."""
    return 1 + max((step for name, step in run.held if name == "study/done"), default=0)


class _Work:
    """The runs of a study: what is done (run ids by step), what failed (reasons), and how it is told."""

    def __init__(self, design: Design, run, outlook, first_step: int):
        from entrypoints import job

        self.design, self.run, self.outlook, self.step = design, run, outlook, first_step
        self.done = {name: found.info.run_id for name, found in outlook.finished.items()}
        self.reused = {name: job.done(found, reused=True) for name, found in outlook.finished.items()}
        self.failed: dict[str, str] = {}
        self.tries: Counter[str] = Counter()

    def carry_out(self, steps: Sequence[Step]) -> dict[str, str]:
        """Run those that are not done yet, failed ones twice; run ids of all that are done, by step."""
        from entrypoints import progress

        self._tell_reused(steps)
        self._log()
        for attempt in range(ATTEMPTS):
            left = [
                replace(step, needs=tuple(first for first in step.needs if first not in self.done))
                for step in steps
                if step.name not in self.done and self.tries[step.name] < ATTEMPTS
            ]
            if not left:
                break
            if attempt:
                print(f"once more: {len(left)} runs that failed or waited for one that did", flush=True)
            done = sum(step.name in self.done for step in steps)
            seen = (self.design.name, len(steps), done, self.design.jobs, self._epoch)
            with closing(self._execute(left)) as events, closing(progress.follow(events, *seen)) as shown:
                for event in shown:
                    self._take(event)
        return self.done

    def _take(self, event) -> None:
        if event.state == "done":
            self.done[event.step.name] = event.result.run_id
            self.failed.pop(event.step.name, None)
        elif event.state != "running":
            self.failed[event.step.name] = event.reason
        self.tries[event.step.name] += event.state == "running"
        if event.state != "running":
            self._log()

    def _tell_reused(self, steps: Sequence[Step]) -> None:
        """A line for each run that another study, or this one before it was interrupted, has done already."""
        from entrypoints import progress
        from labelreg.executors import Event

        there = [(step, self.reused.pop(step.name)) for step in steps if step.name in self.reused]
        for count, (step, result) in enumerate(there[:SHOWN], 1):
            print(f"[{count}/{len(steps)}] {progress.said(Event(step, 'done', result=result))}", flush=True)
        if len(there) > SHOWN:
            print(f"and {len(there) - SHOWN} more (reused)", flush=True)

    def _execute(self, steps: list[Step]) -> Iterator:
        from entrypoints import job
        from labelreg import executors, tracking

        experiment = tracking.get(self.run.run_id).info.experiment_id
        work: Callable = partial(job.do, parent=self.run.run_id, name=self.design.name, experiment=experiment)
        return executors.execute(steps, work, **self.design.workers)

    def _log(self) -> None:
        self.run.metrics({"study/done": len(self.done), "study/failed": len(self.failed)}, self.step)
        self.step += 1

    def _epoch(self, name: str) -> str | None:
        """How far a running step is, such as 2/30: its run keeps it beside its checkpoint."""
        from entrypoints import job
        from labelreg import checkpoint, models

        where = models.roots(self.outlook.settings[name])
        try:
            return (job.checkpoints(where, self.outlook.fingerprints[name]) / checkpoint.EPOCH).read_text()
        except (OSError, KeyError):
            return None


SHOWN = 100  # reused runs that are named one by one


def _what_failed(failed: dict[str, str], runs: int) -> str:
    each = "; ".join(f"{name} ({reason})" for name, reason in failed.items())
    return f"{len(failed)} of {runs} runs did not finish: {each}. The same command tries them again"


if __name__ == "__main__":
    command("study", main, __doc__)
