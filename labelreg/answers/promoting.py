"""From verdict to model: what is registered is what the answer of `significance` supports; nothing is decided anew."""

import json
import shlex
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.pairing import Paired
from analysis.plan_check import LACKS
from analysis.present import again, wording
from analysis.present.answer import Answer
from labelreg.answers import card
from labelreg.answers.answering import answer
from labelreg.answers.sources import runs_of
from labelreg.errors import UserError
from labelreg.parameter import Value
from labelreg.settings import RUN, named
from labelreg.store import logged, models, tracking, views

CALIBRATION = ("nll", "ece", "brier")  # of what is served: probabilities as they are
SHOWN = {"ece": "ece above its floor"}
PORT = 5001  # `make ui` has 5000, which is `mlflow models serve`'s own as well
QUOTED = '"$`\\!'  # what a shell reads in double quotes
FAMILY = ["task", "model", "init", "metric", "protocol"]
DATA = f"tags.{tracking.DATA}"


@dataclass(frozen=True)
class Choice:
    """The run that is registered, and why: `method` by its verdict, the seed by its dev score."""

    method: str
    run_id: str
    why: tuple[str, ...]
    rows: pd.DataFrame  # of the family's verdicts


def promote(given: dict[str, Value]) -> None:
    """Register the model that the evidence supports and move the alias champion; print which, and why.

    Raises:
        UserError: no verdict, several questions at once, or the chosen run has stored no model. Nothing has changed.
    """
    if not given.get("name"):
        raise UserError("name=NAME is needed: the registered model that is to have the alias champion")
    name = str(given["name"])
    models.check_name(name)
    tracking.connect()
    runs, _, metric, remarks = runs_of(given)
    found = answer(runs, given, metric, remarks, "true")
    choice = choose(found, bool(given.get("accept_worse_calibration")))
    (row,) = found.runs[found.runs["run_id"] == choice.run_id].to_dict("records")
    chosen = f"{choice.method}, seed {row['params.seed']}"
    run, model = _stored(choice.run_id)
    known = [line for line in found.told("plan") if line.startswith(LACKS)]  # it goes on, and may say otherwise
    if model is None and (was := run.data.tags.get(tracking.RESTORED)):
        raise UserError(
            f"run {choice.run_id} ({chosen}) is what the evidence supports, and stands for {was} of a table, which has "
            "neither its model nor all that its command needs: "
            f"mlflow runs delete --run-id {choice.run_id}, the study's own command, which trains it, and this again"
        )
    if model is None:
        known += _of_other_data(run)
        raise UserError(
            f"run {choice.run_id} ({chosen}) is what the evidence supports, and has stored no model: "
            f"{again.with_model(row)}, then this command again{''.join(f'; {line}' for line in known)}"
        )
    asked = request(models.inputs(model))
    written = card.card(name, choice.method, choice.why, choice.rows, found, run, choice.run_id)
    before, data = models.champion(name), run.data.tags[tracking.DATA]
    if before and before.tags.get(tracking.DATA, data) != data:  # whoever asks it for answers gets others now
        known.append(
            f"{models.CHAMPION} was version {before.version}, of other data ({before.tags[tracking.DATA][:8]})"
        )
    with tracking.open_run("promote", f"promote {name}") as opened:
        opened.params({each: given.get(each) for each in named("promote")})
        tags = {tracking.VERDICT: choice.why[0], tracking.DATA: data}
        version = models.register(name, model, written, "; ".join(choice.why), tags)
    said = [*choice.why, *known, *card.own_limits(run)]
    print(f"{name} version {version} is {models.CHAMPION}: {chosen}, run {run.info.run_id}", *said, sep="\n  ")
    served = shlex.quote(f"models:/{name}@{models.CHAMPION}")  # a name may have blanks
    print(f"mlflow models serve -m {served} --env-manager local -p {PORT}")
    print(asked, flush=True)
    views.tell_version(name, version)


def choose(found: Answer, any_calibration: bool = False) -> Choice:
    """The method that is better (of several: by most), else the reference; of its runs that of the median dev score.

    Raises:
        UserError: nothing is compared, more than one question is, too few seeds for any verdict, or the method is worse
            calibrated and that was not asked for.
    """
    judged = found.judged
    if judged.empty:
        raise UserError(f"no verdict, so nothing is registered; a study gives one: {RUN} -P train_file=FILE")
    families = list(judged[FAMILY].drop_duplicates().itertuples(index=False, name=None))
    if len(families) > 1:
        told = "; ".join(", ".join(filter(None, each)) for each in families)
        ways = [_narrowing(families, found.runs), *(f"-P study={shlex.quote(name)}" for name in _studies(found))]
        raise UserError(
            f"{len(families)} questions are answered here ({told}), and one model is registered: narrow with "
            f"{', or '.join(filter(None, ways)) or '-P where=FILTER'}"
        )
    _one_baseline(found.paired)
    better = judged[judged["verdict"] == "better"].sort_values("mean_difference", kind="stable", ascending=False)
    blind = judged[(judged["verdict"] == "undecided") & ~judged["decidable"].astype(bool)]
    if better.empty and len(blind):
        looks = found.rule.looks
        told = "; ".join(f"{row['reason']} ({wording.deciding(row, looks)})" for row in blind.to_dict("records"))
        raise UserError(f"no verdict, so nothing is registered: {told}")
    lines = wording.verdict_lines(judged)
    if better.empty:
        method, mine = found.paired.reference, list(found.paired.comparisons)
        told = ", ".join(f"{wording.label(row)}: {wording.verdict(row)}" for row in judged.to_dict("records"))
        why = f"no method is shown to be better than {method} ({told})"
        run_ids = list(dict.fromkeys(run_id for c in mine for run_id in c.reference_run_ids))
    else:
        row = better.iloc[0]
        method, why = wording.label(row.to_dict()), lines[judged.index.get_loc(better.index[0])]
        if len(better) > 1:
            why += f" (of {len(better)} that are better, the largest mean difference; among them nothing is tested)"
        here = (row["method"], row["setting"])
        run_ids = next(list(c.run_ids) for c in found.paired.comparisons if (c.method, c.setting) == here)
        calibrated = _calibrated(found, row, any_calibration)
        why = f"{why}; {calibrated}"
    run_id, seed = _median(found, run_ids, method)
    return Choice(method, run_id, (why, seed), judged)


def request(columns: Mapping[str, str]) -> str:
    """A shell's line that asks the served model about an example; images come from a pipe: a word cannot be so long."""
    ask = f"curl localhost:{PORT}/invocations -H 'Content-Type: application/json' -d"
    record = {name: "%s" if kind == "binary" else "a text" for name, kind in columns.items()}
    rows = json.dumps({"dataframe_records": [record]}, ensure_ascii=False)
    if "%s" in record.values():
        return f"printf {shlex.quote(rows)} \"$(base64 < FILE.png | tr -d '\\n')\" | {ask} @-"
    return f"{ask} {shlex.quote(rows)}"


def _narrowing(families: list[tuple], runs: pd.DataFrame) -> str:
    """A `where` that leaves one of these questions, of parameters that the runs have; "" where there is none."""
    for task, model, init, _, protocol in families:
        about = {"task": task, "model": model, "init": init}
        about |= dict(each.split("=", 1) for each in protocol.split(", ") if "=" in each)
        about = {
            name: value
            for name, value in about.items()
            if (name == "data" or f"params.{name}" in runs and (runs[f"params.{name}"] == value).any())
            and not all(_has(family, name, value) for family in families)
            and not {"'", '"'} <= set(value)
        }
        if sum(all(_has(family, *each) for each in about.items()) for family in families) == 1:
            known = {f"params.{name}": value for name, value in about.items() if name != "data"}
            if "data" in about:  # the family has the beginning of the digest
                known[DATA] = next(each for each in runs[DATA].dropna() if each.startswith(about["data"]))
            where = tracking.having(known)
            plain = not set(where) & set(QUOTED)  # then a shell takes it in double quotes as it stands
            word = f'"where={where}"' if plain else shlex.quote(f"where={where}")
            return f"-P {word}"
    return ""


def _studies(found: Answer) -> list[str]:
    """The studies whose runs answer one question."""
    study = found.runs.set_index("run_id").get(f"tags.{tracking.STUDY}", pd.Series(dtype=object)).dropna()
    answered = defaultdict(set)
    for c in found.paired.comparisons:
        for name in {study.get(run_id) for run_id in c.run_ids} & {study.get(run_id) for run_id in c.reference_run_ids}:
            answered[name].add((*c.where, c.metric))
    return sorted(name for name, questions in answered.items() if name and len(questions) == 1)


def _has(family: tuple, name: str, value: str) -> bool:
    """Whether a question is about this value of a parameter."""
    place = dict(zip(FAMILY, family, strict=True))
    return place[name] == value if name in place else f"{name}={value}" in place["protocol"].split(", ")


def _one_baseline(paired: Paired) -> None:
    """Raises UserError where the reference has several settings: differences from each say nothing of the others."""
    runs: dict[str, set[str]] = defaultdict(set)
    for comparison in paired.comparisons:
        for seed, run_id in zip(comparison.seeds, comparison.reference_run_ids, strict=True):
            runs[seed].add(run_id)
    several = max(map(len, runs.values()), default=1)
    if several > 1:
        raise UserError(
            f"{paired.reference} has {several} settings here, and each method is compared with the one of its own: "
            "narrow with -P where=FILTER (such as params.lr = '2e-05') or -P study=NAME"
        )


def _stored(run_id: str) -> tuple[tracking.Found, "models.LoggedModel | None"]:
    """A run and its model; where it has stored none, those of the newest run of its fingerprint that has."""
    run = tracking.get(run_id)
    if model := models.of_run(run):
        return run, model
    alike = {name: run.data.tags[name] for name in (tracking.FINGERPRINT, tracking.KIND)}
    for other in reversed(tracking.find(tracking.tagged(alike))):
        if model := models.of_run(other):
            return other, model
    return run, None


def _of_other_data(run: tracking.Found) -> list[str]:
    """That a later run by the same command has a model, and has learnt from other data: the file was changed."""
    data = run.data.tags[tracking.DATA]
    for other in reversed(tracking.find(tracking.tagged({tracking.KIND: run.data.tags[tracking.KIND]}))):
        digest, later = other.data.tags.get(tracking.DATA, data), other.info.start_time > run.info.start_time
        if later and digest != data and _again(other) == _again(run) and models.of_run(other):
            told = f"the model of run {other.info.run_id} has learnt from other data ({digest[:8]}, not {data[:8]})"
            return [f"{told}: the file has changed since this run"]
    return []


def _again(run: tracking.Found) -> str:
    """The command that does a run again."""
    return again.with_model({f"params.{name}": value for name, value in logged.params(run).items()})


def _calibrated(found: Answer, row: Mapping, allowed: bool) -> str:
    """What is known of the calibration of a method that is better, in words.

    Raises:
        UserError: it is worse, or not known, and that is not allowed.
    """
    table = found.frame("calibration_differences")
    if len(table):
        here = (table["method"] == row["method"]) & (table["setting"] == row["setting"]) & (table["scaled"] == "none")
        table = table[here & table["measure"].isin(CALIBRATION)]
    way = "accept_worse_calibration=true registers it all the same"
    if table.empty or (table["min_p_holm"] > found.rule.level).any():
        why = "no predictions" if table.empty else f"predictions of {table['n'].min()} pairs, too few to tell"
        if allowed:
            return f"its calibration is not known ({why})"
        raise UserError(f"{row['method']} is better, and its calibration is not known ({why}): {way}")
    worse = table[(table["p_holm"] <= found.rule.level) & (table["estimate"] > 0)]
    told = ", ".join(
        f"{SHOWN.get(each['measure'], each['measure'])} {each['mean_method']:.3f} against {each['mean_reference']:.3f}"
        for each in table.to_dict("records")
    )
    if len(worse) and not allowed:
        raise UserError(
            f"{row['method']} is better and worse calibrated ({', '.join(worse['measure'])}: {told}): {way}"
        )
    return f"{'worse calibrated, as was asked for' if len(worse) else 'not shown to be worse calibrated'} ({told})"


def _median(found: Answer, run_ids: list[str], method: str) -> tuple[str, str]:
    """The run whose dev score is the median (of an even number the lower one; of equal ones the first seed's), and
    that in words."""
    known = found.runs.set_index("run_id").loc[run_ids]
    which = known.get("params.selection", pd.Series("best", known.index)).fillna("best")
    learnt = {run_id: float(known.at[run_id, f"metrics.{which[run_id]}/dev/score"]) for run_id in run_ids}
    learnt = {run_id: score for run_id, score in learnt.items() if run_id not in found.paired.not_learnt}
    if not learnt:
        raise UserError(f"no run of {method} has learnt (each gives every example one class): nothing is registered")
    order = sorted(learnt.values())
    score = order[(len(order) - 1) // 2]
    tied = {str(known.at[run_id, "params.seed"]): run_id for run_id, its in learnt.items() if its == score}
    seed = str(wording.in_order(list(tied))[0])
    if 1 < len(tied) == len(order):
        why = f"all {len(order)} runs that learnt have its dev score {score:.2f}; of equal ones the first seed is taken"
        return tied[seed], f"seed {seed}: {why}, so that the test set did not choose it"
    spread = f"{order[0]:.2f} to {order[-1]:.2f}"
    first = f"; of the {len(tied)} that have it the first seed" if len(tied) > 1 else ""
    why = f"its dev score {score:.2f} is the median of {len(order)} runs that learnt ({spread}){first}"
    return tied[seed], f"seed {seed}: {why}, so that neither luck nor the test set chose it"
