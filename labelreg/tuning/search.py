"""The search of appendix D: a space as data, asynchronous successive halving, a storage that workers share.

It knows Optuna and not MLflow: what trains a trial is given as a function. Followed: Li et al. 2020 (ASHA, as
Optuna has it). The seed is never tuned: it would choose the luckiest run instead of the best setting.
"""

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages._rdb.models import BaseModel
from optuna.trial import FrozenTrial, TrialState

from labelreg import recipes
from labelreg.errors import USER_ERROR, StoreLostError, UserError, told, unknown
from labelreg.methods import METHODS, own_parameters
from labelreg.output import words_of
from labelreg.parameter import Parameter, Value, convert
from labelreg.settings import LORA, Fit, Lora, of
from labelreg.store import signals, sqlite

SILENT_BEATS = 3  # heartbeats that a worker may miss before its trial is taken over
RETRIES = 10  # a trial that kills its worker each time would otherwise keep the search from ending
SQLITE_PATIENCE_SECONDS, SERVER_PATIENCE_SECONDS = 60, 10  # for a lock; for an answer
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
BEGUN, REASON, PRUNED = "begun", "reason", "pruned"  # user attributes of trials

optuna.logging.set_verbosity(optuna.logging.ERROR)  # the caller says what happens, once

Space = dict[str, list[Value]]
Stop = Callable[[int, float, bool], bool]  # (epoch, dev score, whether it is the last) -> whether the trial ends here
Heard = Callable[[], AbstractContextManager[None]]  # a block in which a signal is heard at once
Train = Callable[["Draw", Stop], float]  # trains with the draw, asks after each epoch, returns the score


@dataclass(frozen=True)
class Search:
    """A search: its name in the storage, its space, and how it draws and prunes. A worker needs no more."""

    name: str
    storage: str
    space: Space
    trials: int
    seed: int
    sampler: str = "tpe"
    min_resource: int = 3
    reduction_factor: int = 4
    min_early_stopping_rate: int = 0
    heartbeat_seconds: int = 10


@dataclass(frozen=True)
class Draw:
    """One of a search's `trials` settings. A retried trial keeps its number, from 0."""

    number: int
    params: dict[str, Value]


@contextmanager
def experimental() -> Iterator[None]:
    """Heartbeats and pictures are experimental to Optuna, which would say so at every call."""
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        yield


def tunable() -> dict[str, Parameter]:
    """What a search may draw: the numbers of the fit, of an adapter and of the methods; epochs are what it halves."""
    numbers = of(Fit, Lora) | own_parameters()
    return {name: each for name, each in numbers.items() if each.kind in ("integer", "number") and name != "epochs"}


def space_for(method: str, recipe: Mapping, given: Mapping[str, Value]) -> Space:
    """The part of a search recipe's space that a method has and the user did not fix, each value checked.

    Raises:
        UserError: a parameter that is not tuned, no list of values, a value that the parameter or the method
            refuses, or nothing left to tune.
    """
    found = recipe.get("space")
    if not isinstance(found, dict):
        raise UserError(f"the search's space is a mapping of parameters to lists of values, not {found!r}")
    space: Space = {}
    own, adapters = {*METHODS[method].parameters, *of(Fit)}, Space()
    for name, values in found.items():
        if name in ("seed", "seeds"):
            raise UserError("the seed is never tuned: a search would choose the luckiest run, not the best setting")
        if name not in tunable():
            raise unknown("parameter of the space", str(name), tunable())
        if not isinstance(values, list) or not values:
            raise UserError(f"space: {name} is a list of values, not {values!r}")
        checked = [convert(name, tunable()[name], value) for value in values]
        if len(set(checked)) < len(checked):
            raise UserError(f"space: {name}={','.join(map(str, values))}: a value stands there twice")
        if name not in given and name in own:
            space[name] = checked
        elif name not in given and name in of(Lora):
            adapters[name] = checked
    first = {"method": method} | {name: values[0] for name, values in space.items()}
    tuning = recipes.resolve({**given} | first).tuning if adapters else None  # given, or the recipe's; None: of images
    if tuning == LORA:
        space |= adapters
    if not space and tuning:
        raise UserError(f"space: {', '.join(adapters)}: runs with tuning={tuning} have none; give tuning={LORA}")
    if not space:
        raise UserError(f"the space has no parameter that method {method} has and that is not given already")
    first = {"method": method} | {name: values[0] for name, values in space.items()}
    for name, values in space.items():
        for value in values:  # phase1_epochs must leave phase II an epoch
            recipes.resolve({**given} | first | {name: value})
    return space


class _Storage(RDBStorage):
    """Optuna's own; a signal waits for the end of each of its calls."""


for _name, _call in vars(RDBStorage).items():
    if inspect.isfunction(_call):
        setattr(_Storage, _name, signals.undivided()(_call))


@experimental()
def open_storage(url: str, heartbeat_seconds: int = 10) -> RDBStorage:
    """Optuna's storage behind a URL; a trial whose worker fell silent is failed there and put back into the queue.

    Raises:
        UserError: it does not open, holds something else, or could not be shared by workers.
    """
    try:
        address = sqlalchemy.make_url(url)
        shown = address.render_as_string(hide_password=True)
    except (sqlalchemy.exc.ArgumentError, ValueError):  # the latter of a port that is no number
        hidden = f"***@{url.rpartition('@')[2]}" if "@" in url else url  # a password may be anywhere before
        raise UserError(f"storage={hidden}: no database URL, such as sqlite:///search.db or postgresql://...") from None
    if address.get_backend_name() == "sqlite":
        if address.database in (None, "", ":memory:"):
            raise UserError(f"storage={shown}: a database in memory is lost with its process; name a file")
        options: dict[str, Any] = {"connect_args": {"timeout": SQLITE_PATIENCE_SECONDS}}
    else:
        options = {"connect_args": {"connect_timeout": SERVER_PATIENCE_SECONDS}, "pool_pre_ping": True}
    try:
        engine = sqlalchemy.create_engine(url, **options)
        tables = sqlalchemy.inspect(engine).get_table_names()
        engine.dispose()
        if tables and "studies" not in tables:
            raise UserError(f"storage={shown}: holds other tables ({', '.join(sorted(tables)[:3])}, ...); name another")
        if file := sqlite.file_of(url):
            sqlite.complete(file, BaseModel.metadata.tables, "EXISTS (SELECT 1 FROM studies)", RDBStorage)
        return _Storage(
            url,
            options,
            heartbeat_interval=heartbeat_seconds,
            grace_period=SILENT_BEATS * heartbeat_seconds,
            heartbeat_stale_trial_callback=_retry(RETRIES),
        )
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"storage={shown}: its driver is not installed ({error})") from None
    except Exception as error:  # SQLAlchemy's types, Optuna's and those of the drivers
        raise UserError(f"storage={shown}: does not open ({words_of(error)})") from None


def open_study(search: Search) -> optuna.Study:
    """The search in its storage, as it was left; it maximises the dev score."""
    return optuna.create_study(
        study_name=search.name,
        storage=open_storage(search.storage, search.heartbeat_seconds),
        direction="maximize",
        load_if_exists=True,
        sampler=_sampler(search, 0),
        pruner=_Halving(search.min_resource, search.reduction_factor, search.min_early_stopping_rate),
    )


class _Halving(optuna.pruners.SuccessiveHalvingPruner):
    """Optuna's own, which would let an interrupted trial compete beside its retry."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        view = copy.copy(study)
        view.get_trials = lambda deepcopy=True, states=None: own(study)  # type: ignore[method-assign]  # of this copy
        return super().prune(view, trial)


@experimental()
def own(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count: an interrupted one that was put back into the queue is counted there."""
    trials = study.get_trials(deepcopy=False)
    retried = {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
    return [trial for trial in trials if trial.number not in retried]


def left(study: optuna.Study, trials: int) -> int:
    """How many trials are still to be started."""
    found = own(study)
    return max(0, trials - len(found)) + sum(trial.state == TrialState.WAITING for trial in found)


@experimental()
def take_over(study: optuna.Study, heartbeat_seconds: int) -> int:
    """Put trials of silent workers back into the queue; how many are still under way."""
    optuna.storages.fail_stale_trials(study)
    long_ago = datetime.now() - timedelta(seconds=SILENT_BEATS * heartbeat_seconds)
    for trial in own(study):
        begun = trial.user_attrs.get(BEGUN) == trial.number
        since = trial.datetime_complete or trial.datetime_start
        if not since or since >= long_ago:
            continue
        if trial.state == TrialState.RUNNING and not begun:  # killed before its first heartbeat: Optuna would wait
            _retry(RETRIES)(study, study.tell(trial.number, state=TrialState.FAIL))
        elif trial.state == TrialState.FAIL and REASON not in trial.user_attrs:  # who failed it was killed before he
            _retry(RETRIES)(study, study.trials[trial.number])  # put it back into the queue
    return sum(trial.state == TrialState.RUNNING for trial in own(study))


def run_trial(study: optuna.Study, search: Search, train: Train) -> tuple[int, FrozenTrial] | None:
    """One trial: draw a setting (or take an interrupted one), train, prune; its number and what Optuna holds of it.

    A RuntimeError in training (a diverged loss, no memory left) fails the trial and counts; Ctrl-C, a lost tracking
    store and what the system refuses (a full disk) put it back into the queue. One that another worker has taken over,
    as this one was silent for too long, ends here and is the other's. None when the search has all its trials.
    """
    if not left(study, search.trials):
        return None
    begun: list[tuple[int, optuna.Trial]] = []
    lost: list[int] = []
    try:
        with signals.undivided() as heard:  # but for the training: Optuna hides one that comes while it tells
            study.optimize(partial(_objective, search, train, begun, lost, heard), n_trials=1, catch=(RuntimeError,))
    except (KeyboardInterrupt, _Away, ValueError) as end:  # Optuna's, of a trial that ended elsewhere, is ValueError
        if not lost:
            if isinstance(end, ValueError):
                raise
            for held in (study.trials[trial.number] for _, trial in begun):
                in_queue = held.number not in {each.number for each in own(study)}
                if held.state == TrialState.FAIL and not in_queue:  # else the signal came when all was told
                    _retry(None)(study, held)
            raise end.__cause__ or end from None
    number, trial = begun[0]
    return number, study.trials[trial.number]


class TakenOver(KeyboardInterrupt):
    """Another worker has the trial: training ends as if it were interrupted, and its run with it."""


class _Away(Exception):
    """The tracking store is away, or the system refuses: no failure of the trial, which Optuna would count as one."""


def _objective(search: Search, train: Train, begun: list, lost: list, heard: Heard, trial: optuna.Trial) -> float:
    if isinstance(storage := trial.study._storage, BaseHeartbeat):  # a database: before the thread that does it, as
        storage.record_heartbeat(trial._trial_id)  # what has begun and has no heartbeat would be waited for for ever
    trial.set_user_attr(BEGUN, trial.number)
    number = _number(trial)
    trial.study.sampler = _sampler(search, number)
    params = {name: trial.suggest_categorical(name, values) for name, values in search.space.items()}
    begun.append((number, trial))
    reported = set(trial.study.trials[trial.number].intermediate_values)  # a retried trial has those of the first try
    pruned = False

    def check_own() -> None:
        if trial.study.get_trials(deepcopy=False)[trial.number].state != TrialState.RUNNING:
            lost.append(trial.number)
            raise TakenOver

    def stop(epoch: int, score: float, last: bool) -> bool:
        nonlocal pruned
        check_own()
        if epoch not in reported:
            trial.report(score, epoch)
            if not last and trial.should_prune():  # at the last epoch nothing is spared, and its best one would be lost
                trial.set_user_attr(PRUNED, epoch)  # a retry inherits it: the decision stands
        pruned = trial.user_attrs.get(PRUNED) == epoch
        return pruned

    try:
        with heard():
            score = train(Draw(number, params), stop)
        check_own()
    except StoreLostError as error:
        raise _Away from error
    except Exception as error:
        check_own()
        line, status = told(error)
        if status == USER_ERROR and not isinstance(error, UserError):  # a full disk, say: no fault of the settings
            raise _Away from error
        trial.set_user_attr(REASON, line)
        raise
    if pruned:
        raise optuna.TrialPruned
    return score


@experimental()
def _number(trial: optuna.Trial) -> int:
    """The trial's place among those that count: the same whether or not the search was interrupted."""
    before = trial.study.get_trials(deepcopy=False)
    original = RetryHeartbeatStaleTrialCallback.retried_trial_number(before[trial.number])
    first = trial.number if original is None else original
    return first - sum(bool(RetryHeartbeatStaleTrialCallback.retry_history(other)) for other in before[:first])


def _sampler(search: Search, number: int) -> optuna.samplers.BaseSampler:
    """Each trial has random numbers of its own, so that an interrupted search goes on with the same ones."""
    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    return {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}[search.sampler](seed=seed)


@experimental()
def _retry(times: int | None) -> RetryHeartbeatStaleTrialCallback:
    return RetryHeartbeatStaleTrialCallback(times, inherit_intermediate_values=True)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Complete and pruned trials, best first; a pruned one's value is its last dev score."""
    done = [trial for trial in own(study) if trial.state in FINISHED and trial.value is not None]
    return sorted(done, key=lambda trial: (-score_of(trial), trial.number))


def score_of(trial: FrozenTrial) -> float:
    """The dev score of a finished trial."""
    assert trial.value is not None
    return trial.value


def best(study: optuna.Study, count: int = 1) -> list[FrozenTrial]:
    """The best trials with different settings: complete ones first, so that none is ahead of what ran to its end."""
    seen, chosen = [], []
    for trial in sorted(finished(study), key=lambda trial: trial.state != TrialState.COMPLETE):
        if trial.params not in seen:
            seen.append(trial.params)
            chosen.append(trial)
    return chosen[:count]
