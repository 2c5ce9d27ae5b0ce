"""Search for good settings as in appendix D: `mlflow run . -e tune -P task=sst5`.

The search is a run; each trial is a run nested under it. The same command continues an interrupted search.
"""

import contextlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import sqlalchemy

from analysis.present import render
from labelreg import job, one_run, places, recipes, training
from labelreg.data import corpus, own_teacher, prepared
from labelreg.errors import DivergedError, StoreLostError, UserError
from labelreg.methods import METHODS, PAPER, unknown_method
from labelreg.output import duration
from labelreg.parameter import Value, convert
from labelreg.settings import (
    Averaged,
    Averaging,
    Checkpoints,
    Degenerate,
    Fit,
    Folders,
    Halving,
    Run,
    Tune,
    Workers,
    facet,
    given_teacher,
    methods_in_order,
    needs_of,
    of,
)
from labelreg.store import checkpoint, logged, records, sqlite, tracking, views
from labelreg.store.patience import CLOSING_SECONDS, within
from labelreg.tuning import search, search_report
from labelreg.whole import digest
from labelreg.workers import executors
from labelreg.workers.steps import ATTEMPTS, Step

if TYPE_CHECKING:
    import optuna

STATE, TRIAL, EPOCHS = "optuna.state", "optuna.trial", "optuna.epochs"
PRUNER = tuple(of(Halving))
SILENT = "its worker was silent for too long, and another has taken it over"
SETTINGS_FILE = "settings.yaml"


@dataclass(frozen=True)
class Tried:
    """What one trial came to."""

    method: str
    number: int
    state: str
    score: float | None
    epochs: int
    reason: str
    flaw: str = ""  # one_run.Done.flaw


def carry_out(given: dict[str, Value]) -> None:
    """Search, and log the best settings, what mattered, and what it cost."""
    recipe = recipes.read(str(given["space"]), "search")
    methods = _methods(given)
    common = _given_to_trials(given, recipe)
    trials: int = given.get("trials") or convert("trials", of(Tune)["trials"], recipe.get("trials"))
    spaces = {method: search.space_for(method, recipe, common) for method in methods}
    workers = facet(Workers, given)
    first = {each: common | {"method": each} | {n: v[0] for n, v in space.items()} for each, space in spaces.items()}
    others = (given.get("methods") or list(PAPER)) if given["cross_check"] else []
    first |= {each: first[methods[0]] | {"method": each} for each in others}
    job.say_never_read((job.settings_of(each), common) for each in first.values())
    executors.check(_steps(common, dict.fromkeys(methods, trials)), common["threads"], workers)
    roots = places.roots(facet(Folders, given))
    roots.cache.mkdir(parents=True, exist_ok=True)
    url = sqlite.absolute(str(given.get("storage") or f"sqlite:///{roots.cache}/search.db"))
    search.open_storage(url)
    if given["executor"] == "ray":
        from labelreg.workers import ray_tasks  # Ray takes a second to import, and few have a cluster

        ray_tasks.check_file("storage", url)
    tracking.connect()
    own = {name: given[name] for name in (*PRUNER, "sampler", "seed", "heartbeat_seconds")}
    said: set[str] = set()
    searches = {
        method: search.Search(_name(common | {"method": method}, space, own, said), url, space, trials, **own)
        for method, space in spaces.items()
    }
    asked = [given.get(name) for name in ("recipe", "space", "cross_check", "per_method")]  # parameters of its run
    same = _digest([sorted(each.name for each in searches.values()), trials, sorted(given.get("methods", [])), asked])
    with checkpoint.claim(roots.cache / "checkpoints" / f"tune-{same}") as claim:
        before = tracking.unfinished(claim)
        title = f"tune {searches[methods[0]].name}" if len(methods) == 1 else f"tune {len(methods)} methods"
        with tracking.open_run("tune", title, continued=before, claim=claim) as run:
            _log_start(run, given, common, searches, before)
            _search(run, searches, common, workers)
            kept = None
            if given["cross_check"]:
                methods = methods_in_order(given.get("methods") or list(PAPER))
                kept = _cross_check(run, searches, int(given["cross_check"]), common, methods, workers)
            _report(run, searches, common, kept, methods, given.get("output_dir"))
        claim.forget()
    views.tell("search", tracking.current_experiment())


def _methods(given: dict[str, Value]) -> list[str]:
    """The methods that are searched for, each with a search of its own."""
    for method in (given["method"], *given.get("methods", [])):
        if method not in METHODS:
            raise unknown_method(str(method))
    chosen = given.get("methods") or list(PAPER)
    for method in (given["method"], *chosen):
        if not re.fullmatch(r"[\w.\- :]+", str(method)):  # what MLflow allows in the name of a metric
            raise UserError(f"method={method}: allowed in a file's name are letters, digits, '.', '-', '_' and blanks")
    if len(set(chosen)) < len(chosen):
        raise UserError(f"methods={','.join(chosen)}: a value stands there twice")
    if given["per_method"] and given["cross_check"]:
        raise UserError("cross_check runs one method's settings with all, per_method tunes each: give one of them")
    if not given["per_method"]:
        if given.get("methods") and not given["cross_check"]:
            raise UserError("methods is for per_method=true and cross_check=N; one method is method=NAME")
        return [str(given["method"])]
    return chosen


def _given_to_trials(given: dict[str, Value], recipe: Mapping[str, Any]) -> dict[str, Value]:
    others = {name for name in of(Tune) if name not in of(Checkpoints, Run, Averaging, Averaged, Degenerate)}
    others |= {"method"}
    common = {name: value for name, value in given.items() if name not in others}
    common.setdefault("threads", 1)
    if "epochs" not in common:
        common["epochs"] = convert("epochs", of(Fit)["epochs"], recipe.get("epochs"))
    return common | {"resume": "auto", "rest": "off"}  # also of what students learn from; no search looks at a test set


def _name(given: dict[str, Value], space: search.Space, asked: dict[str, Value], said: set[str]) -> str:
    """The search's name in the storage: the same for the same question, whatever the number of trials.

    What is read for it is told, unless it is `said` already.
    """
    given = given | {name: values[0] for name, values in space.items()}
    settings = job.settings_of(given)
    own_teacher.check(settings)
    data, first = corpus.prepare(settings, places.roots(settings)), job.Job(settings, given)
    job.check(settings, data)
    prepared.tell(prepared.lines(data), said)
    teaching = one_run.find_sources(first, data) if settings.teacher_run_id else ()
    own = own_teacher.read(settings, data) if given_teacher(vars(settings)) else None
    prepared.tell(own_teacher.lines(own) if own else (), said)
    facts = [job.fingerprint(first, data, teaching, own), space, asked["sampler"]]
    told = _digest([*facts, *(asked[name] for name in PRUNER)])
    return f"{settings.method} {settings.task} {settings.model} {settings.init} {told}"


def _digest(facts: object) -> str:
    return digest(json.dumps(facts))[:8]


def _log_start(
    run: tracking.Run,
    given: dict[str, Value],
    common: dict[str, Value],
    searches: Mapping[str, search.Search],
    before: str | None,
) -> None:
    method, one = next(iter(searches.items()))
    settings = recipes.resolve(common | {"method": method} | {name: values[0] for name, values in one.space.items()})
    storage = sqlalchemy.make_url(one.storage).render_as_string(hide_password=True)
    names = (*"task model init seed epochs recipe space sampler cross_check per_method".split(), *PRUNER)
    run.params(
        {name: given.get(name, settings.value(name)) for name in names}
        | {"trials": one.trials, "methods": given.get("methods") or list(searches)}
    )
    if before:
        print(f"going on with the interrupted search {before}", flush=True)
    for method, each in searches.items():
        axes = ", ".join(f"{name} {{{', '.join(f'{v:g}' for v in values)}}}" for name, values in each.space.items())
        print(f"{method}: {each.trials} trials in {axes}", flush=True)
    print(f"stored in {storage} (optuna-dashboard opens it)", flush=True)


def _search(
    run: tracking.Run, searches: Mapping[str, search.Search], given: dict[str, Value], workers: Workers
) -> None:
    """Run trials until each search has all of them, those of workers that died included.

    Raises:
        DivergedError: not one trial could be started.
    """
    studies = {method: search.open_study(each) for method, each in searches.items()}

    def left() -> dict[str, int]:
        return {method: search.left(studies[method], each.trials) for method, each in searches.items()}

    while True:
        todo = left()
        if not sum(todo.values()):
            beat = min(each.heartbeat_seconds for each in searches.values())
            under_way = sum(search.take_over(study, beat) for study in studies.values())
            todo = left()
            if not sum(todo.values()):
                if not under_way:
                    return
                print(f"waiting for trials under way elsewhere, or abandoned: {under_way}", flush=True)
                time.sleep(beat)
                continue
        ended, reason = _round(run, searches, studies, given, todo, workers)
        if not ended and left() == todo:  # as many may be left where others' were put back into the queue meanwhile
            raise DivergedError(f"no trial could be started: {reason or 'the workers found none in the storage'}")


def _round(
    run: tracking.Run,
    searches: Mapping[str, search.Search],
    studies: "Mapping[str, optuna.Study]",
    given: dict[str, Value],
    todo: dict[str, int],
    workers: Workers,
) -> tuple[int, str]:
    """Run this many trials of each search, a line per event; how many ended, and why the last step failed that did."""
    reason, began, ended = "", time.monotonic(), 0
    task = partial(work, searches=searches, parent=run.run_id, experiment=tracking.current_experiment())
    with contextlib.closing(executors.execute(_steps(given, todo), task, given["threads"], workers)) as events:
        for event in events:
            if event.state in ("failed", "skipped"):
                reason = event.reason if event.state == "failed" else reason  # of skipped ones it is the consequence
                print(f"{event.step.name}: {event.state}: {event.reason}", flush=True)
            elif event.state == "done" and isinstance(event.result, Tried):
                ended += 1
                _say(run, searches, studies, event.result, event.seconds, (time.monotonic() - began) / ended)
            elif event.state == "done" and event.step.kind == "teacher" and not event.result.reused:
                made = event.result
                print(f"{event.step.name}: {made.split} score {made.score:.2f}{made.flaw()}", flush=True)
    return ended, reason


def _steps(given: dict[str, Value], todo: dict[str, int]) -> list[Step]:
    """First what students learn from, one after another (kd and akd may share it); then trials, methods in turn."""
    steps: list[Step] = []
    for method in [method for method, count in todo.items() if count and needs_of(method, given)]:
        before = (steps[-1].name,) if steps else ()
        steps.append(Step(f"what {method} learns from", given | {"method": method}, "teacher", before))
    sources = {str(step.given["method"]): (step.name,) for step in steps}
    for nth in range(max(todo.values())):
        for method in [method for method, count in todo.items() if nth < count]:
            needs = sources.get(method, ())
            steps.append(
                Step(f"{method} trial ({nth + 1} of {todo[method]})", given | {"method": method}, "trial", needs)
            )
    return steps


def _say(
    run: tracking.Run,
    searches: Mapping[str, search.Search],
    studies: "Mapping[str, optuna.Study]",
    tried: Tried,
    seconds: float,
    pace: float,
) -> None:
    done = sum(trial.state.is_finished() for study in studies.values() for trial in search.own(study))
    failed = sum(trial.state.name == "FAIL" for study in studies.values() for trial in search.own(study))
    total = sum(each.trials for each in searches.values())
    line = f"[{done}/{total}] {tried.method} trial {tried.number}: {tried.state}"
    line += f" at epoch {tried.epochs}" if tried.state == "pruned" else ""
    line += f": {tried.reason}" if tried.reason else ""
    line += f", dev score {tried.score:.2f}{tried.flaw}" if tried.score is not None else ""
    found = search.best(studies[tried.method])
    line += f" ({seconds:.0f} s)" + (f"; best {found[0].value:.2f}" if found else "")
    line += f"; about {duration((total - done) * pace)} to go" if total > done else ""
    print(line, flush=True)
    best = {f"search/best/{tried.method}": search.score_of(found[0])} if found else {}
    run.metrics({"search/done": done, "search/failed": failed} | best, step=done)


def work(
    step: Step, searches: Mapping[str, search.Search], parent: str, experiment: str
) -> one_run.Done | Tried | None:
    """One step, in a worker process: a trial, a run of the cross-check, or the run that they learn from."""
    own = searches[str(step.given["method"])] if step.kind != "student" else next(iter(searches.values()))
    if step.kind != "trial":
        first = {name: values[0] for name, values in own.space.items()} if step.kind == "teacher" else {}
        return one_run.do(step, parent, own.name, experiment, first)

    flaws: list[str] = []

    def train(draw: search.Draw, stop: search.Stop) -> float:
        before = _ended_before(own.name, draw)  # its worker died before the search was told, or its storage is lost
        if before:
            scores, complete, score = before
            if any(stop(epoch, each, complete and epoch == max(scores)) for epoch, each in scores.items()) or complete:
                return score
        settings = job.settings_of(step.given | draw.params)
        place = f"-{_digest(own.name)}-{draw.number}"
        watched = partial(watch, draw, stop, settings.epochs)
        done = one_run.carry_out(
            job.Job(settings, step.given, "trial", parent, own.name, experiment, quiet=True, place=place, watch=watched)
        )
        flaws.append(done.flaw())
        return done.score

    study = search.open_study(own)
    found = search.run_trial(study, own, train)
    if found is None:  # another machine has begun the last one
        return None
    number, trial = found
    if trial.number not in {own.number for own in search.own(study)}:
        return Tried(str(step.given["method"]), number, "left", None, trial.last_step or 0, SILENT)
    reason = trial.user_attrs.get(search.REASON, "") if trial.state.name == "FAIL" else ""
    state = search_report.STATES[trial.state.name]
    return Tried(str(step.given["method"]), number, state, trial.value, trial.last_step or 0, str(reason), *flaws)


def _ended_before(search: str, draw: search.Draw) -> tuple[dict[int, float], bool, float] | None:
    """Of the finished run of this trial: its dev scores by epoch, whether it ran to its end, its own dev score."""
    tags = {tracking.KIND: "trial", tracking.STUDY: search, TRIAL: str(draw.number)}
    for run in tracking.find(tracking.tagged(tags)):
        held, ends = run.data.tags, "last/dev/score" in run.data.metrics
        told = held.get(STATE) and held.get(EPOCHS, "").isdecimal() and ends  # as it was written
        if told and _drew(run, draw.params):
            points = records.histories([run.info.run_id], ["dev/score"])
            scores = dict(zip(points["step"], points["value"], strict=True))
            return scores, held[STATE] == "complete", one_run.done(run).score
    return None


def _drew(run: tracking.Found, params: dict[str, Value]) -> bool:
    """Whether a trial's run has this setting."""
    return all(logged.same(run.data.params.get(name, ""), logged.plain(value)) for name, value in params.items())


def watch(
    draw: search.Draw, stop: search.Stop, last_epoch: int, run: tracking.Run, epochs: Iterator[training.EpochReport]
) -> Iterator[training.EpochReport]:
    """Between Optuna and MLflow: epochs pass through to be logged, then Optuna is told and may end the trial."""
    name = f"trial {draw.number} {_words(draw.params, ' ')}"
    run.tags({"mlflow.runName": name, TRIAL: str(draw.number), STATE: "running"})
    state, last = "complete", 0
    try:
        for report in epochs:
            yield report
            last = report.epoch
            if stop(report.epoch, report.dev["score"], report.epoch == last_epoch):
                state = "pruned"
                break
    except (KeyboardInterrupt, GeneratorExit):  # who reads the epochs stops: Ctrl-C, or the store is lost
        with contextlib.suppress(StoreLostError), within(CLOSING_SECONDS):
            run.tags({STATE: "interrupted", EPOCHS: str(last)})
        raise
    except Exception:
        with contextlib.suppress(Exception):  # the error is what is told
            run.tags({STATE: "failed", EPOCHS: str(last)})
        raise
    run.tags({STATE: state, EPOCHS: str(last)})


def _cross_check(
    run: tracking.Run,
    searches: Mapping[str, search.Search],
    count: int,
    given: dict[str, Value],
    methods: list[str],
    workers: Workers,
) -> dict[str | None, dict[str, Value]]:
    """Appendix D: the best settings of one method are run with every method; the best on average is kept: what all
    methods take of it (None), and what each takes beside that.

    Raises:
        DivergedError: no setting could be run with every method.
    """
    ((tuned, best_of),) = searches.items()
    chosen = [trial.params for trial in search.best(search.open_study(best_of), count)]
    taken = {method: _alike(given, method, tuned, chosen[0]) for method in methods}
    for method, names in taken.items():
        unread = METHODS[tuned].parameters.keys() - METHODS[method].parameters.keys()
        if others := sorted(best_of.space.keys() - names - unread):
            print(f"{method} keeps the recipe's {' and '.join(others)}, which the recipe sets apart from {tuned}'s")
    steps = []
    for index, params in enumerate(chosen, 1):
        for method in methods:
            twin = METHODS[method].needs == "finetune" and "finetune" in methods
            first = (f"setting {index} with finetune",) if twin else ()
            run_given = given | {name: params[name] for name in taken[method]} | {"method": method}
            steps.append(Step(f"setting {index} with {method}", run_given, "student", first))
    print(f"cross-check: {len(chosen)} settings with {len(methods)} methods, {len(steps)} students", flush=True)
    task = partial(work, searches={"": best_of}, parent=run.run_id, experiment=tracking.current_experiment())
    scores = pd.DataFrame(index=range(len(chosen)), columns=methods, dtype=float)
    done: dict[str, float] = {}
    for _ in range(ATTEMPTS):  # as in a study: a killed worker, or a full disk, must not choose the setting
        left = [replace(step, needs=tuple({*step.needs} - {*done})) for step in steps if step.name not in done]
        done |= _students(left, task, given["threads"], workers) if left else {}
    for step in steps:
        scores.loc[int(step.name.split()[1]) - 1, step.given["method"]] = done.get(step.name, float("nan"))
    if scores.isna().any(axis=1).all():
        raise DivergedError("cross_check: no setting could be run with every method")
    kept, settings, differs = search_report.cross_check(chosen, scores)
    print(f"\n{render.to_text(settings)}\n\nkept for every method: setting {kept + 1}")
    print(f"what each method's own best differs:\n{render.to_text(differs)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        settings.to_csv(Path(folder) / "cross_check.csv", index=False)
        differs.to_csv(Path(folder) / "cross_check_methods.csv", index=False)
        run.folder(Path(folder))
    common = set(best_of.space).intersection(*taken.values())
    parts: dict[str | None, set[str]] = {None: common} | {method: names - common for method, names in taken.items()}
    return {method: {n: v for n, v in chosen[kept].items() if n in names} for method, names in parts.items() if names}


def _students(steps: list[Step], task: Callable[[Step], Any], threads: int, workers: Workers) -> dict[str, float]:
    """Train students, a line for each; the dev scores of those that ended, by the names of their steps."""
    scores = {}
    with contextlib.closing(executors.execute(steps, task, threads, workers)) as events:
        for event in events:
            if event.state in ("failed", "skipped"):
                print(f"{event.step.name}: {event.state}: {event.reason}", flush=True)
            elif event.state == "done":
                found, flaw = tracking.get(event.result.run_id).data, event.result.flaw()
                score = scores[event.step.name] = found.metrics[f"{found.params['selection']}/dev/score"]
                print(f"{event.step.name}: dev score {score:.2f}{flaw} ({event.seconds:.0f} s)", flush=True)
    return scores


def _alike(given: dict[str, Value], method: str, tuned: str, params: Mapping[str, Value]) -> set[str]:
    """What `method` takes of a setting that was found for `tuned`: not where the recipe sets the two apart, as label
    smoothing's alpha (table 9) and Annealing KD's largest temperature (table 11), which are other things than KD's."""
    here, there = (recipes.decisions(given | {"method": each})[0] for each in (method, tuned))
    has = {name for name in params if name in METHODS[method].parameters or name not in METHODS[tuned].parameters}
    return {name for name in has if name not in here or here[name] == there.get(name)}


def _report(
    run: tracking.Run,
    searches: Mapping[str, search.Search],
    given: dict[str, Value],
    kept: dict[str | None, dict[str, Value]] | None,
    methods: list[str],
    output_dir: str | None,
) -> None:
    """Best settings, importances, budgets and pictures: printed, and artifacts of the search.

    Raises:
        DivergedError: a method has no trial that succeeded.
    """
    studies = {method: search.open_study(each) for method, each in searches.items()}
    for method, study in studies.items():
        if not search.finished(study):
            reasons = [trial.user_attrs.get(search.REASON) for trial in search.own(study)]
            raise DivergedError(f"no trial of {method} succeeded: {next(filter(None, reasons), 'no reason is known')}")
    chosen: dict[str | None, dict[str, Value]]
    chosen = {method: search.best(study)[0].params for method, study in studies.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = search_report.settings(given, kept or chosen, run.run_id)
        for target in {folder, Path(output_dir or folder)}:
            target.mkdir(parents=True, exist_ok=True)
            (target / SETTINGS_FILE).write_text(content, encoding="utf-8")
        _write_budgets(run, folder, studies, {m: each.trials * int(given["epochs"]) for m, each in searches.items()})
        for method, study in studies.items():
            own = folder / method if len(studies) > 1 else folder
            search_report.plot(study, own / "plots")
            study.trials_dataframe().to_csv(own / "trials.csv", index=False)
            shares = search_report.importances(study)
            (own / "importances.json").write_text(json.dumps(shares, indent=1), encoding="utf-8")
            run.metrics({f"importance/{method}/{name}": share for name, share in shares.items()})
            best = search.best(study)[0]
            flaw = _flaw(searches[method].name, best.params)
            print(f"{method}: best dev score {best.value:.2f} with {_words(best.params)}{flaw}", flush=True)
            if shares:
                print("  importances: " + ", ".join(f"{key} {share:.2f}" for key, share in shares.items()), flush=True)
        run.folder(folder)
    place = output_dir or records.place(run.run_id)
    ways = "; ".join(search_report.commands(given, searches, methods))
    print(f"settings: {place}/{SETTINGS_FILE} ({ways})", flush=True)
    print(f"tuned on seed {given['seed']}: a comparison with them must use other seeds", flush=True)


def _flaw(search: str, params: dict[str, Value]) -> str:
    """What must be said of the best setting beside its score: that its trial gives every example of dev one class."""
    runs = tracking.find(tracking.tagged({tracking.KIND: "trial", tracking.STUDY: search}))
    name = next((run.data.tags.get(tracking.ONE_CLASS) for run in runs if _drew(run, params)), None)
    return f"; not learnt: every example of dev gets {name}, and no setting did better" if name else ""


def _write_budgets(
    run: tracking.Run, folder: Path, studies: "Mapping[str, optuna.Study]", epochs_allowed: dict[str, int]
) -> None:
    budgets, curves = search_report.budgets(studies, epochs_allowed), search_report.best_of_n(studies)
    for row in curves.to_dict("records"):
        run.metrics({f"search/best_of_n/{method}": row[method] for method in studies}, step=int(row["n"]))
    budgets.to_csv(folder / "budget.csv", index=False)
    curves.to_csv(folder / "best_of_n.csv", index=False)
    search_report.plot_best_of_n(curves, folder / "best_of_n.svg")
    shown = curves[curves["n"].isin([1, 2, 5, 10, 20, len(curves)])]
    print(f"\n{render.to_text(budgets)}\n\nexpected best dev score of n trials:\n{render.to_text(shown)}\n", flush=True)
    if budgets["trials"].nunique() > 1:  # a search keeps what it has tried before
        each = ", ".join(f"{row.method} {row.trials}" for row in budgets.itertuples())
        most = budgets["trials"].max()
        print(f"searches of unequal size ({each} trials), of which the largest finds most: trials={most} for all")
    if len(studies) == 1:
        print(f"only {next(iter(studies))} was tuned: per_method=true gives every method the same budget", flush=True)


def _words(params: dict[str, Value], between: str = ", ") -> str:
    return between.join(f"{name}={value:g}" for name, value in params.items())
