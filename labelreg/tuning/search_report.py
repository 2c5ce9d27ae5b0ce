"""What a search found: the best settings as a recipe, what they cost, what mattered, and its pictures."""

import math
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import yaml

from labelreg import recipes
from labelreg.errors import UserError
from labelreg.methods import METHODS, label, own_file, own_parameters
from labelreg.methods.paper import with_phase1
from labelreg.models import registry
from labelreg.parameter import NEVER, Value
from labelreg.settings import DEMO, Settings, given_teacher, of_a_run, parameters, settable
from labelreg.store import logged
from labelreg.tuning import search

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}  # Optuna's, in words
DATA = ("max_length", "image_size", "max_train_examples")  # of the teacher as of its students


def settings(given: Mapping[str, Value], chosen: Mapping[str | None, Mapping[str, Value]], run_id: str) -> str:
    """A settings file as text: the recipe that the search began with and, over it, what it found for students.

    Args:
        given: what every trial was given: recipe, seed, epochs, and what the user fixed.
        chosen: parameters by method; None stands for all methods.
    """
    recipe = str(given.get("recipe", recipes.DEFAULT))
    shipped = (recipes.HERE / "settings" / f"{recipe}.yaml").is_file()
    first = next(iter(chosen))
    run = recipes.resolve(dict(given) | {"method": first or "finetune"} | dict(chosen[first]))
    always = {"task": run.task, "model": run.model} | {name: given[name] for name in DATA if name in given}
    own = own_parameters()
    # given to each run of the search, what selfkd learns from included: what is found holds beside such runs alone
    shared = {name: given[name] for name in settable() if name in given and name not in (*always, *own)}
    divides = any("phase1_epochs" in rule["set"] for rule in recipes.rules(recipe))
    if divides and shared.get("epochs", 1) > 1:  # the recipe's division belongs to the recipe's number
        shared |= with_phase1({}, shared["epochs"])
    fixed = {name: given[name] for name in own if name in given}
    students = {"role": "student", "init": run.init}
    found: list[dict] = [{"set": always}, *([{"when": students, "set": shared}] if shared else [])]
    for method, params in chosen.items():
        found.append({"when": students | ({"method": method} if method else {}), "set": fixed | dict(params)})
    content: dict = {"kind": "settings"} | ({"extends": recipe} if shipped else {})
    content["tuned_on_seeds"] = sorted({*recipes.tuned_on(recipe), run.seed})
    content["rules"] = ([] if shipped else recipes.rules(recipe)) + found
    about = f"# Found by a search, run {run_id}: highest dev score of {run.task} with seed {run.seed}.\n"
    return about + yaml.safe_dump(content, sort_keys=False)


def commands(given: dict[str, Value], searches: Mapping[str, search.Search], methods: Sequence[str]) -> list[str]:
    """How a run and a study take the settings: with all that was searched with and that no settings file may name.
    `methods`: those that the settings were found for. A study takes no teacher by its run or seed."""
    method, first = next(iter(searches.items()))
    run = recipes.resolve(given | {"method": method} | {name: values[0] for name, values in first.space.items()})
    more = {
        name: given[name]
        for name, each in of_a_run().items()
        if given.get(name) not in (None, each.default) and each.counts != NEVER and not each.recipe
    }
    own = ("method", "seed", "rest", "recipe", "threads")  # the search's, the file's and the machine's
    more = {name: value for name, value in more.items() if name not in own}
    more |= {"task": run.task} if "train_file" in more and "task" in given else {}  # else the file's name is the task's
    lists: dict[str, Value] = {"tasks": run.task, "models": run.model, "inits": run.init}
    own_methods = {each: own_file.place_of(each) for each in own_file.inherited()}
    by_itself = recipes.read(DEMO, "study")["methods"]  # what `main` compares: else what was found would stand unused
    if run.average != "none" or own_methods or not set(methods) <= set(by_itself) or not _has_teacher(given, run):
        named = [label(each, run.average) for each in (*methods, *own_methods)]
        shown = [own_file.with_folder(each, own_methods.values()) for each in named]
        lists["methods"] = [*dict.fromkeys(["finetune", *shown])]
    more = {"method": own_methods.get(method, method)} | more
    asked_of = {"train_student": {"recipe": "FILE"} | more, "main": {"settings": "FILE"} | lists | more}
    if {"teacher_run_id", "teacher_seed"} & {*more} and any(METHODS[each].needs for each in searches):
        del asked_of["main"]  # a study has teachers of its own: it would compare what another one teaches
    return [
        " ".join(
            [each, *(f"-P {shlex.quote(f'{n}={logged.plain(v)}')}" for n, v in asked.items() if n in parameters(each))]
        )
        for each, asked in asked_of.items()
    ]


def _has_teacher(given: Mapping[str, Value], run: Settings) -> bool:
    """Whether a study can have kd: a hub id or a folder has no teacher of its own."""
    try:
        return bool(given.get("teacher_model") or given_teacher(given) or registry.teacher_of(run.model, run.task))
    except UserError:
        return False


def budgets(studies: Mapping[str, optuna.Study], epochs_allowed: Mapping[str, int]) -> pd.DataFrame:
    """One row a method: trials by state, epochs spent and allowed, best dev score, and its gain over finetune's."""
    rows = []
    best = {method: search.score_of(search.best(study)[0]) for method, study in studies.items()}
    for method, study in studies.items():
        states = [trial.state.name for trial in search.own(study)]
        counts = {word: states.count(name) for name, word in STATES.items()}
        spent = {"epochs": epochs_spent(study), "epochs allowed": epochs_allowed[method]}
        gain = {"gain over finetune": best[method] - best["finetune"]} if "finetune" in best else {}
        rows.append({"method": method, "trials": len(states)} | counts | spent | {"best dev": best[method]} | gain)
    return pd.DataFrame(rows)


def best_of_n(studies: Mapping[str, optuna.Study]) -> pd.DataFrame:
    """Expected best dev score of n trials: a row for each n, a column for each method."""
    curves = {
        m: expected_best([search.score_of(trial) for trial in search.finished(study)]) for m, study in studies.items()
    }
    frame = pd.DataFrame({method: pd.Series(values, dtype=float) for method, values in curves.items()})
    frame.insert(0, "n", range(1, len(frame) + 1))
    return frame


def cross_check(chosen: Sequence[Mapping[str, Value]], scores: pd.DataFrame) -> tuple[int, pd.DataFrame, pd.DataFrame]:
    """Which setting is best on average; all settings and scores; and what each method's own best differs.

    Args:
        scores: dev score, a row a setting, a column a method; a setting with a missing one is not kept.

    Raises:
        ValueError: every setting has a missing score.
    """
    means = scores.mean(axis=1, skipna=False)
    kept = int(means.dropna().idxmax())
    all_of_them = pd.concat([pd.DataFrame(list(chosen)).map("{:g}".format), scores, means.rename("mean")], axis=1)
    all_of_them.insert(0, "setting", range(1, len(chosen) + 1))
    own = scores.idxmax()
    differs = pd.DataFrame(
        {
            "method": scores.columns,
            "kept": scores.loc[kept].to_numpy(),
            "own best": scores.max().to_numpy(),
            "own setting": own.to_numpy() + 1,
        }
    )
    differs["difference"] = differs["own best"] - differs["kept"]
    return kept, all_of_them, differs


def epochs_spent(study: optuna.Study) -> int:
    """Epochs of all trials that count, failed ones included."""
    return sum(trial.last_step or 0 for trial in search.own(study))


def expected_best(scores: Sequence[float]) -> list[float]:
    """Expected best score of n trials, n = 1..N: the mean of the maximum over all subsets of n of the N scores.

    E_n = sum_i v_(i) C(i-1, n-1) / C(N, n), v_(1) <= ... <= v_(N): the unbiased estimate (Tang et al. 2020, where
    Dodge et al. 2019 draw with replacement). Exact for trials that are drawn independently (sampler=random).
    """
    values = sorted(scores)
    total = len(values)
    return [
        sum(value * (math.comb(i, n - 1) / math.comb(total, n)) for i, value in enumerate(values))
        for n in range(1, total + 1)
    ]


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of each parameter in the variance of the dev score (fANOVA, Hutter et al. 2014), pruned trials included.

    Optuna's default, PED-ANOVA, looks at the best tenth of the trials: of 20, that is two.
    """
    drawn = _as_complete(study)
    if len({trial.value for trial in drawn.trials}) < 2:
        return {}
    return optuna.importance.get_param_importances(drawn, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0))


@search.experimental()
def plot(study: optuna.Study, folder: Path) -> None:
    """Optuna's history, slice, parallel-coordinate and learning-curve plots as SVG; pruned trials are shown in all."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as draw

    folder.mkdir(parents=True, exist_ok=True)
    drawn = _as_complete(study)
    pictures: dict[str, Callable[..., Any]] = {
        "history": draw.plot_optimization_history,
        "slice": draw.plot_slice,
        "parallel_coordinate": draw.plot_parallel_coordinate,
    }
    for name, picture in pictures.items():
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # an axis with one value
            picture(drawn, target_name="dev score")
        plt.gcf().savefig(folder / f"{name}.svg", bbox_inches="tight")
        plt.close("all")
    draw.plot_intermediate_values(study)
    plt.gcf().savefig(folder / "curves.svg", bbox_inches="tight")
    plt.close("all")


def plot_best_of_n(curves: pd.DataFrame, path: Path) -> None:
    """The frame of `best_of_n` as SVG."""
    import matplotlib

    matplotlib.use("Agg")
    axes = curves.plot(x="n", xlabel="trials", ylabel="expected best dev score", marker=".")
    axes.figure.savefig(path, bbox_inches="tight")


def _as_complete(study: optuna.Study) -> optuna.Study:
    """A copy in memory in which pruned trials are complete: Optuna leaves them out of pictures and importances."""
    copy = optuna.create_study(direction="maximize")
    for trial in sorted(search.finished(study), key=lambda trial: trial.number):
        copy.add_trial(optuna.create_trial(params=trial.params, distributions=trial.distributions, value=trial.value))
    return copy
