"""A stored model as MLflow knows one: a folder that `mlflow models` serves, a LoggedModel, a registered version."""

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.types import ColSpec, Schema
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from mlflow.utils.validation import _validate_model_name

from labelreg.errors import UserError
from labelreg.output import words_of
from labelreg.store import logged, patience, tracking
from labelreg.store.patience import patiently

if TYPE_CHECKING:
    from labelreg.serving import Kind

logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # "validating input example" is no news

FOLDER = "model"  # of a run's artifacts
CODE = "code.zip"  # one file, which Python imports from: a server is asked once for each
CARD, CHAMPION = "README.md", "champion"
ENDS = ("best/", "last/")  # metrics that are about the weights that are stored


def store(run: tracking.Run, folder: Path, kind: "Kind", write: Callable[[Path], None], data: tuple[str, str]) -> None:
    """Store what `write` writes into a folder as the run's `model/`, and as a LoggedModel with the run's parameters,
    the scores of its ends and its data set.

    The LoggedModel's files are links to the run's where both lie on one disk; a server is sent both.

    Args:
        folder: empty or not there; where the files are made.
        data: name and digest of the data set, as `Run.data` logged it.
    """
    model = _logged_model(run.run_id)
    _package(folder, kind, run.run_id, model)
    write(folder)
    run.folder(folder, FOLDER)
    _same_files(run.run_id, model, folder)
    patiently(MlflowClient.finalize_logged_model, model.model_id, "READY")
    if run.spool:
        run.spool.flush()  # what is still under way is asked for now
    _measure(run.run_id, model.model_id, data)


def _logged_model(run_id: str) -> LoggedModel:
    """The LoggedModel of a run: made once, however often a call is repeated or the run is gone on with."""
    run = patiently(MlflowClient.get_run, run_id)
    name = re.sub(r"[/:.%\"']", "-", str(run.info.run_name))  # what MLflow does not take

    def made(store: MlflowClient) -> LoggedModel:
        where = run.info.experiment_id
        found = store.search_logged_models([where], f"source_run_id = '{run_id}'")
        return found[0] if found else store.create_logged_model(where, name, run_id, {}, logged.params(run))

    model = patiently(made)
    if not run.outputs or model.model_id not in {each.model_id for each in run.outputs.model_outputs}:
        patiently(MlflowClient.log_outputs, run_id, [LoggedModelOutput(model.model_id, 0)])
    return model


def _package(folder: Path, kind: "Kind", run_id: str, model: LoggedModel) -> None:
    """Write what makes a folder an MLflow model: MLmodel, the code, the environment's files, an example."""
    made = Model(FOLDER, run_id, model_id=model.model_id, model_uuid=model.model_id)
    probabilities = [ColSpec("double", name) for name in kind.outputs[1:]]
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # MLflow's use of pandas
        mlflow.pyfunc.save_model(
            folder,
            loader_module=kind.loader,
            mlflow_model=made,
            signature=ModelSignature(
                Schema([ColSpec(type, name) for name, type in kind.inputs.items()]),
                Schema([ColSpec("string", kind.outputs[0]), *probabilities]),
            ),
            input_example=kind.example,
            pip_requirements=list(kind.requirements),
        )
    with zipfile.ZipFile(folder / CODE, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in kind.code:
            for file in sorted(package.rglob("*.py")):
                archive.write(file, file.relative_to(package.parent))
    made.flavors[mlflow.pyfunc.FLAVOR_NAME][mlflow.pyfunc.CODE] = CODE
    made.save(folder / "MLmodel")


def _same_files(run_id: str, model: LoggedModel, folder: Path) -> None:
    """Put the files of the run's model where the LoggedModel's are looked for."""
    theirs = get_artifact_repository(model.artifact_location, mlflow.get_tracking_uri())
    ours = patience.artifacts_of(run_id)
    if isinstance(ours, LocalArtifactRepository) and isinstance(theirs, LocalArtifactRepository):
        shutil.copytree(Path(ours.artifact_dir, FOLDER), theirs.artifact_dir, copy_function=_linked, dirs_exist_ok=True)
    else:
        patience.send(theirs, folder)


def _linked(source: str, target: str) -> str:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copy2(source, target)
    return target


def _measure(run_id: str, model_id: str, data: tuple[str, str]) -> None:
    """Log the run's ends for the model too: the same points, which the run has once."""
    names = [name for name in patiently(MlflowClient.get_run, run_id).data.metrics if name.startswith(ENDS)]
    points = [point for name in names for point in patiently(MlflowClient.get_metric_history, run_id, name)]
    named = [Metric(p.key, p.value, p.timestamp, p.step, model_id, *data, run_id=run_id) for p in points]
    patiently(MlflowClient.log_batch, run_id, named)


# The registry


def of_run(run: tracking.Found) -> LoggedModel | None:
    """The LoggedModel of a run, where it has one whose files are all there: one that was deleted is none."""
    if not run.outputs or not run.outputs.model_outputs:
        return None
    try:
        found = patiently(MlflowClient.get_logged_model, run.outputs.model_outputs[0].model_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    files = get_artifact_repository(found.artifact_location, mlflow.get_tracking_uri())
    held = {Path(file.path).name for file in patience.moving(files.list_artifacts)}
    whole = "MLmodel" in held and any(name.endswith(".safetensors") for name in held)
    return found if found.status == "READY" and whole else None


def inputs(model: LoggedModel) -> dict[str, str]:
    """The columns that a model reads, with MLflow's type of each."""
    read = patience.moving(Model.load, model.artifact_location).get_input_schema()
    return {column.name: column.type.name for column in read.inputs}


def check_name(name: str) -> None:
    """Raises UserError for what cannot be the name of a registered model."""
    try:
        _validate_model_name(name)
    except MlflowException as error:
        raise UserError(f"name={name}: {words_of(error)}") from None


def champion(name: str) -> ModelVersion | None:
    """The version of `name` that is the champion now; None where there is none."""
    try:
        return patiently(MlflowClient.get_model_version_by_alias, name, CHAMPION)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no such model, no alias
            raise
        return None


def register(name: str, model: LoggedModel, card: str, line: str, tags: dict[str, str]) -> str:
    """Make a model a version of `name` (the one that it is already, where it is one) and the champion; the version.

    `card` becomes README.md of the model, of its run's `model/` too, before anything is registered; `line` is the
    version's description.
    """
    run_id = str(model.source_run_id)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, CARD).write_text(card, encoding="utf-8")
        tracking.Run(run_id).folder(Path(folder), FOLDER)
        patience.send(get_artifact_repository(model.artifact_location, mlflow.get_tracking_uri()), Path(folder))
    try:
        patiently(MlflowClient.create_registered_model, name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = patiently(_version, name, model, run_id)
    # what the UI's page of the model reads; MLflow's own register_model writes it too
    there = json.loads(model.tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
    versions = [each for each in there if each["name"] != name or str(each["version"]) != version]
    told = json.dumps([*versions, {"name": name, "version": version}])
    patiently(MlflowClient.set_logged_model_tags, model.model_id, {MLFLOW_MODEL_VERSIONS: told})
    for key, value in tags.items():
        patiently(MlflowClient.set_model_version_tag, name, version, key, value)
    patiently(MlflowClient.update_model_version, name, version, line)
    patiently(MlflowClient.set_registered_model_alias, name, CHAMPION, version)
    return version


def _version(store: MlflowClient, name: str, model: LoggedModel, run_id: str) -> str:
    """The version of `name` that this model is: looked for first, as an answer may be lost and the call repeated."""
    source = f"models:/{model.model_id}"
    for each in store.search_model_versions(f"run_id = '{run_id}'"):
        if (each.name, each.source) == (name, source):
            return str(each.version)
    return str(store.create_model_version(name, source, run_id, model_id=model.model_id).version)
