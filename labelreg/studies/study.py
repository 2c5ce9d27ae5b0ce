"""A study carried out: what is missing of its runs, none of them twice, then the verdicts."""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from labelreg import job, one_run, places
from labelreg.answers import answering
from labelreg.errors import IncompleteError
from labelreg.methods import own_file
from labelreg.parameter import Value, joined
from labelreg.settings import Folders, facet
from labelreg.store import checkpoint, tracking, views
from labelreg.studies import gate, grid, interim, outlook, plan, progress
from labelreg.studies.plan import Design
from labelreg.workers import executors
from labelreg.workers.steps import ATTEMPTS, Event, Step

SHOWN = 100  # reused runs that are named one by one


def carry_out(given: dict[str, Value]) -> int:
    """Plan; with plan_only that is all, else run what is missing and print scores and verdicts."""
    design = plan.design_of(given)
    tracking.connect()
    if not given.get("plan_only") or given["executor"] == "local":  # a plan connects to no cluster
        design = replace(design, jobs=executors.check(design.steps, design.threads, design.workers))
    steps = design.steps
    design, seen = _seen(design, steps)
    cells = {step.cell[1:]: step for step in design.steps if step.kind == "student"}
    job.say_never_read((seen.settings[step.name], step.given) for step in cells.values())
    spreads = gate.pilot(given, design, seen)
    if given.get("plan_only"):
        told = gate.undecidable(design, seen, spreads)
        plan.only(design, seen, plan.lines_of(design, seen, spreads) + ([told] if told else []))
    else:
        gate.check(given, design, seen, spreads)  # before what may take long to prepare, and when its size is known
        plan.prepare(design.steps)
        design, seen = _seen(design, steps)
        spreads = gate.pilot(given, design, seen)
        gate.check(given, design, seen, spreads)
        _run(design, seen, spreads)
        views.tell("methods", tracking.current_experiment())
    return 0


def _seen(design: Design, steps: Sequence[Step]) -> tuple[Design, outlook.Outlook]:
    """The study of these steps, and what is known of them; without teachers that only finished students have learnt
    from, as where a table was restored, which has no weights: they would be trained for nobody."""
    seen = outlook.look(steps)
    wanted = {first for step in steps if step.name not in seen.finished for first in step.needs}
    left = [step for step in steps if step.kind == "student" or step.name in {*seen.finished, *wanted}]
    return replace(design, steps=left), replace(seen, steps=left)


def _run(design: Design, seen: outlook.Outlook, spreads: Mapping[tuple, float]) -> None:
    """Run what is missing under the study's run, and judge.

    Raises:
        IncompleteError: runs failed; the others are done and judged.
    """
    with _told_when_interrupted(design) as tell, _opened(design) as opened:
        opened.params({"recipe": design.recipe, "settings": design.steps[0].given["recipe"]} | design.asked)
        lines = plan.lines_of(design, seen, spreads)
        plan.log(opened, design, seen, lines)
        opened.tags({tracking.PLAN: design.digest})  # not of a plan alone: its seeds may never run
        methods = dict.fromkeys(str(step.given["method"]) for step in design.steps)
        if own := [own_file.place_of(each) for each in methods if own_file.MARK in each]:
            opened.tags({tracking.METHOD_FILE: joined(own)})
        left = len(design.steps) - len(seen.finished)
        runs = f"{left} run" + ("" if left == 1 else "s")
        print(lines[0], lines[1], f"{runs}, {design.jobs} at a time", sep="\n", flush=True)
        work = _Work(design, opened, seen)
        tell(work)
        # the margin as it was given: the usual one gives way to a small test set
        rule = design.plan | {"margin": design.asked.get("margin")}
        if design.decided:
            interim.until_decided(design.steps, design.plan, answering.rule_of(rule), work.carry_out, opened.run_id)
        else:
            work.carry_out(design.steps)
        answering.report(interim.frame(work.done, opened.run_id), opened, rule)
        if work.failed:
            each = "; ".join(f"{name} ({reason})" for name, reason in work.failed.items())
            failed = f"{len(work.failed)} of {len(design.steps)} runs did not finish"
            raise IncompleteError(f"{failed}: {each}. The same command tries them again")


@contextmanager
def _told_when_interrupted(design: Design) -> Iterator[Callable[["_Work"], None]]:
    """A Ctrl-C says how far the study is; what is yielded takes the work that is counted."""
    under_way: list[_Work] = []
    try:
        yield under_way.append
    except KeyboardInterrupt:
        done = f"{len(under_way[0].done)} of {len(design.steps)} runs are done; " if under_way else ""
        raise KeyboardInterrupt(f"{done}the same command goes on with the others") from None


@contextmanager
def _opened(design: Design) -> Iterator[tracking.Run]:
    """The run of the study: that of the same study interrupted before, or a new one."""
    identity = grid.identity(design.steps, design.digest, design.name)
    cache = places.roots(facet(Folders, design.steps[0].given)).cache
    with checkpoint.claim(cache / "studies" / identity) as claim:
        before = tracking.unfinished(claim)
        own: dict[str, Any] = {"study": design.name, "continued": before, "claim": claim, "spool": cache / "spool"}
        with tracking.open_run("study", f"study {design.name}", **own) as run:
            if before:
                print(f"going on with the study that was interrupted (run {before})", flush=True)
            if design.tuned:
                run.tags({tracking.TUNED: ",".join(map(str, design.tuned))})
            yield run
        claim.forget()


class _Work:
    """The runs of a study: what is done (run ids by step), what failed (reasons), and how it is told."""

    def __init__(self, design: Design, opened: tracking.Run, seen: outlook.Outlook):
        self.design, self.opened, self.outlook = design, opened, seen
        # of its next metrics: after those that it logged before it was interrupted
        self.step = 1 + max((step for name, step in opened.held if name == "study/done"), default=0)
        self.done = {name: found.info.run_id for name, found in seen.finished.items()}
        self.reused = {name: one_run.done(found, reused=True) for name, found in seen.finished.items()}
        self.failed: dict[str, str] = {}
        self.tries: Counter[str] = Counter()

    def carry_out(self, steps: Sequence[Step]) -> dict[str, str]:
        """Run those that are not done yet, failed ones twice; run ids of all that are done, by step."""
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
        if self.failed:
            tracking.end_left(self.opened.run_id)
        return self.done

    def _take(self, event: Event) -> None:
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
        there = [(step, self.reused.pop(step.name)) for step in steps if step.name in self.reused]
        for count, (step, result) in enumerate(there[:SHOWN], 1):
            print(f"[{count}/{len(steps)}] {progress.said(Event(step, 'done', result=result))}", flush=True)
        if len(there) > SHOWN:
            print(f"and {len(there) - SHOWN} more (reused)", flush=True)

    def _execute(self, steps: list[Step]) -> Generator[Event, None, None]:
        experiment = tracking.get(self.opened.run_id).info.experiment_id
        work: Callable = partial(one_run.do, parent=self.opened.run_id, name=self.design.name, experiment=experiment)
        return executors.execute(steps, work, self.design.threads, self.design.workers)

    def _log(self) -> None:
        self.opened.metrics({"study/done": len(self.done), "study/failed": len(self.failed)}, self.step)
        self.step += 1

    def _epoch(self, name: str) -> str | None:
        """How far a running step is, such as 2/30: its run keeps it beside its checkpoint."""
        where = places.roots(self.outlook.settings[name])
        try:
            return (job.checkpoints(where, self.outlook.fingerprints[name]) / checkpoint.EPOCH).read_text()
        except (OSError, KeyError):
            return None
