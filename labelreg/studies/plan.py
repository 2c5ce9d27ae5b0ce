"""What a study is: its runs, its plan with what its seeds can decide, and what is told before the first run."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis import interim as looking
from analysis import pairing, plan_check
from analysis.judge import LEVEL
from analysis.margins import USUAL, margins
from analysis.present import render
from labelreg import job, places, recipes
from labelreg.data import corpus, own_teacher, prepared
from labelreg.data.tasks import drawn_anew, made_of, own_name
from labelreg.errors import UserError
from labelreg.models import registry
from labelreg.parameter import Value
from labelreg.settings import Workers, facet, given_teacher, named, parameters
from labelreg.store import tracking
from labelreg.studies import grid, interim, outlook
from labelreg.workers import executors
from labelreg.workers.steps import Step

WIDTH = 80  # of the table, in plan.txt too: what any terminal has


@dataclass(frozen=True)
class Design:
    """What a study is: its runs, and the plan that is logged before the first of them."""

    name: str  # that of the recipe; of the user's own file, the file's
    recipe: str
    asked: dict[str, Value]  # the lists, and all that was given and decides a result
    steps: list[Step]
    plan: dict
    digest: str
    threads: int  # of each run
    workers: Workers
    jobs: int  # runs at a time; 1 until the executor is asked
    decided: bool  # whether it stops where the verdicts have fallen
    tuned: list[int]  # seeds that the settings were tuned on


def design_of(given: dict[str, Value]) -> Design:
    """The study that the parameters ask for; every mistake in them is told here, before anything starts.

    Raises:
        UserError: a recipe, a list, a name or a look that cannot be.
        AnalysisError: a look at which nothing could be decided.
    """
    if not given.get("recipe"):
        raise UserError(f"which study? Give recipe=..., one of {', '.join(recipes.shipped('study'))}, or a YAML file")
    name = str(given["recipe"])
    recipe = recipes.read(name, "study")
    if given.get("train_file"):
        given = {"tasks": [own_name(given["train_file"])]} | given
        if len(given["tasks"]) > 1:
            raise UserError(f"tasks={','.join(given['tasks'])}: train_file is one task; give one name")
    asked = grid.lists(recipe, given)
    lists = dict(asked)
    looks = _looks(given, lists)
    _check_own_teacher(given, lists)
    teachers = grid.teacher_seeds(str(given.get("teacher_seeds") or "one"), lists["seeds"])
    steps = grid.steps(lists, _common(given, recipe), registry.teacher_of, recipes.without(recipe, given), teachers)
    _check(steps)
    margins(given.get("margin")).check({step.cell[1] for step in steps if step.kind == "student"})
    students = [step for step in steps if step.kind == "student"]
    plan = plan_check.make_plan(
        cells=dict.fromkeys(step.cell[1:] for step in students),
        seeds=lists["seeds"],
        metric=None,
        margins=margins(given.get("margin")),
        level=given.get("level") or LEVEL,
        looks=looks,
    )
    most = max(families(plan).values())
    if given.get("until") == "decided" and not most:
        raise UserError(f"until=decided compares with finetune: methods={','.join(lists['methods'])} must name it too")
    looking.check_looks(looks, most, given.get("level") or LEVEL)
    tuned = sorted(set(lists["seeds"]) & set(recipes.tuned_on(str(steps[0].given["recipe"]))))
    if tuned and not given.get("allow_tuned_seeds"):
        raise UserError(
            f"seeds={','.join(map(str, tuned))}: the settings {steps[0].given['recipe']} were tuned on them; "
            "give other seeds, or allow_tuned_seeds=true"
        )
    return Design(
        name=given["tasks"][0] if given.get("train_file") else name,
        recipe=name,
        asked={name: given[name] for name in named("study") if name in given} | asked,
        steps=steps,
        plan=plan,
        digest=plan_check.plan_digest(plan),
        threads=steps[0].given["threads"],
        workers=facet(Workers, given),
        jobs=int(given.get("jobs") or 1),
        decided=given.get("until") == "decided",
        tuned=tuned,
    )


def _common(given: dict[str, Value], recipe: dict) -> dict[str, Value]:
    """What is given to every run."""
    common = {key: value for key, value in given.items() if key in parameters("train_student")}
    common["recipe"] = str(given.get("settings") or recipe.get("settings", recipes.DEFAULT))
    common.setdefault("threads", 1)
    return common


def _looks(given: dict[str, Value], lists: dict[str, list]) -> list[int]:
    looks, seeds = list(given.get("looks") or []), lists["seeds"]
    if given.get("until") == "decided" and not looks:
        raise UserError("until=decided needs the looks that are planned: give looks=..., such as looks=10,14,20")
    if looks and max(looks) > len(seeds):
        raise UserError(f"looks={','.join(map(str, looks))}: the study has {len(seeds)} seeds; give seeds=... for all")
    if given.get("until") == "decided":
        lists["seeds"] = seeds[: max(1, *looks)]  # those beyond the last look would never run
    return looks


def _check_own_teacher(given: dict[str, Value], lists: dict[str, list]) -> None:
    """One file is of one task's rows, and of one teacher."""
    own = given_teacher(given)
    if own and len(lists["tasks"]) > 1:
        raise UserError(f"{own}: it has the rows of one task; tasks={','.join(lists['tasks'])}: give one")
    if own and (given.get("teacher_seeds") or "one") != "one":
        raise UserError(f"teacher_seeds={given['teacher_seeds']}: {own} is the teacher of every seed, none is trained")


def _check(steps: Sequence[Step]) -> None:
    """One run of each cell is resolved, all names in it are known, and its models read what its task is made of."""
    for step in {step.cell: step for step in steps}.values():
        settings = job.settings_of(step.given)
        corpus.check_files(settings)
        corpus.task_of(settings)
        own_teacher.check(settings)
        own = [settings.model]
        places.roots(settings)
        if step.kind == "teacher":
            own.append(job.source_job(job.Job(settings, step.given)).settings.model)
        for model in own:
            registry.check_name(model)
            registry.check_reads(model, settings.task, made_of(settings.task, settings.train_file))


def families(plan: dict) -> dict[tuple, int]:
    """How many methods are compared with finetune, by (task, model, init)."""
    found: dict[tuple, int] = {}
    for *place, method in plan["cells"]:
        compared = method != "finetune" and [*place, "finetune"] in plan["cells"]
        found[tuple(place)] = found.get(tuple(place), 0) + compared
    return found


def only(design: Design, seen: outlook.Outlook, lines: list[str]) -> None:
    """Print the plan and log it; nothing is downloaded, prepared or run."""
    print("\n".join(lines), flush=True)
    with tracking.open_run("study", f"plan of {design.name}", study=design.name) as run:
        run.params({"recipe": design.recipe, "plan_only": True, "jobs": design.jobs})
        log(run, design, seen, lines)


def gate_of(
    design: Design, seen: outlook.Outlook, place: tuple, spread: float | None, seeds: int | None = None
) -> plan_check.Gate:
    """What the plan (or so many seeds of it) can decide at a place, with differences of this spread."""
    plan, given = design.plan, margins(design.asked.get("margin"))
    number, examples = seeds or len(plan["seeds"]), seen.examples.get(place[0])
    asked = given.asked(place[0])
    if examples or isinstance(asked, float):
        margin, why = given.of(place[0], pairing.TEST, examples), given.why(place[0], pairing.TEST, examples)
    else:  # what is small is not known before the data are
        margin, spread = USUAL, None if asked else spread
        why = "auto once the data are prepared" + ("" if asked else ", where one test example is worth more")
    return plan_check.gate(number, families(plan)[place], margin, plan["level"], plan["looks"], spread, why)


def lines_of(design: Design, seen: outlook.Outlook, pilot: Mapping[tuple, float]) -> list[str]:
    """The plan in lines; `pilot`: spreads that other seeds have, where they have one."""
    together = executors.side_by_side(design.jobs, design.workers.executor)
    lines = outlook.lines(seen, design.name, design.jobs, together)
    own = next((step for step in design.steps if given_teacher(vars(seen.settings[step.name]))), None)
    lines += [f"{given_teacher(own.given)} is the teacher of its students: none is trained"] if own else []
    lines += ["", render.to_text(outlook.table(seen), WIDTH), ""]
    lines += [f"seeds, in this order: {', '.join(map(str, design.plan['seeds']))}", *outlook.settings_lines(seen), ""]
    spreads = interim.spreads({name: found.info.run_id for name, found in seen.finished.items()})
    gates: dict[tuple[str, ...], list[str]] = {}
    for place in families(design.plan):
        gate = gate_of(design, seen, place, pilot.get(place, spreads.get(place)))
        gates.setdefault(tuple(gate.lines()), []).append(" ".join(place))
    for told, alike in gates.items():
        lines += [f"{'; '.join(alike)}:", *(f"  {line}" for line in told)]
    return lines


def log(run: tracking.Run, design: Design, seen: outlook.Outlook, lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reused = [found.info.run_id for found in seen.finished.values()]
        (folder / "plan.json").write_text(json.dumps(design.plan | {"reused": reused}, indent=1), encoding="utf-8")
        (folder / "plan.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "plan.csv").write_text(render.to_csv(outlook.table(seen)), encoding="utf-8")
        run.folder(folder)


def prepare(steps: Sequence[Step]) -> None:
    """Prepare each data set for each model, and say what was read: a mistake in either is told before a run begins."""
    settings, said = outlook.settings_of(steps), set[str]()
    seen: dict[tuple, prepared.PreparedTask] = {}
    taught = set[tuple]()
    for step in steps:
        own = settings[step.name]
        where = places.roots(own)
        if step.kind == "teacher":
            corpus.prepare(own, where)
            registry.weights_digest(own.model, own.init, where)
            registry.check_adapter(own, where)
            continue
        by_seed = drawn_anew(own.task, own.train_file)
        batch = own.batch_size if made_of(own.task, own.train_file) == "images" else None  # one may be left over
        key = (step.cell[1:4], own.max_length, own.max_train_examples, batch, own.seed if by_seed else None)
        if key not in seen:
            seen[key] = corpus.prepare(own, where)
            prepared.tell(prepared.lines(seen[key]), said)
        job.check(own, seen[key])
        if given_teacher(vars(own)) and key not in taught:
            prepared.tell(own_teacher.lines(own_teacher.read(own, seen[key])), said)
            taught.add(key)
