"""A stored model as an MLflow model: from raw texts and images to classes, over HTTP, in the store's list of models."""

import ast
import json
import os
import shlex
import socket
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
from running import BIN, ROOT, artifacts, finish, run_of, started, succeed, wait_for

from labelreg.answers.promoting import request
from labelreg.settings import TUNINGS
from labelreg.store import models

SOAK = pytest.mark.soak  # of an adapter, lora says the same
pytest_plugins = ["running"]


def predictions(run, folder: Path, split: str = "test") -> pd.DataFrame:
    """What the run itself predicted, by number of the source's row."""
    import mlflow

    path = f"predictions/{split}.parquet"
    found = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path, dst_path=str(folder))
    return pd.read_parquet(found).set_index("idx").filter(like="p_")


def logged_model(run):
    import mlflow

    (output,) = mlflow.get_run(run.info.run_id).outputs.model_outputs
    return mlflow.get_logged_model(output.model_id)


def printed(run) -> str:
    """The line that `promote` prints of the model of a run."""
    return request(models.inputs(logged_model(run)))


def test_a_served_model_gives_over_http_what_its_run_predicted(tiny, tiny_file, tmp_path):
    rows = pd.read_csv(tiny_file).rename(columns={"text": "review"})
    rows.to_csv(tmp_path / "own.csv", index=False)
    given = tiny | {"train_file": tmp_path / "own.csv", "text_column": "review", "precision": "fp32"}
    run = run_of(succeed("train_student", **given))
    expected = predictions(run, tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(BIN / "mlflow"), "models", "serve", "-m", f"runs:/{run.info.run_id}/model", "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    (elsewhere := tmp_path / "elsewhere").mkdir()  # with nothing of this project but what the model brings

    def answers() -> bool:
        try:
            return requests.get(f"{address}/ping", timeout=5).ok
        except requests.RequestException:
            return False

    with started([*command, "--env-manager", "local"], elsewhere, PYTHONPATH="") as process:
        wait_for(answers, "the served model", process)
        chosen = rows.loc[expected.index, ["review"]]
        asked = requests.post(f"{address}/invocations", json={"dataframe_split": chosen.to_dict("split")}, timeout=60)
        *_, kind, _, body = shlex.split(printed(run))
        one = requests.post(f"{address}/invocations", body, headers=dict([kind.split(": ")]), timeout=60)
        bad = requests.post(f"{address}/invocations", json={"dataframe_records": [{"review": " "}]}, timeout=60)
    told = pd.DataFrame(asked.json()["predictions"], index=expected.index)
    assert list(told) == ["class", "p_bad", "p_good", "p_so so"]
    np.testing.assert_allclose(told[list(expected)], expected, atol=1e-5)
    assert list(told["class"]) == [name.removeprefix("p_") for name in expected.idxmax(axis=1)]
    assert one.ok and len(one.json()["predictions"]) == 1 and '{"review": ' in body
    assert not bad.ok and "row 1 has no text in column 'review'" in bad.text


@pytest.mark.parametrize("tuning", [pytest.param(each, marks=[SOAK] * (each == "head")) for each in TUNINGS])
def test_the_command_line_reads_a_csv(tuning, tiny, tiny_file, tiny_models, tmp_path):
    run = run_of(succeed("train_student", **tiny, method="ls", tuning=tuning))
    command = [str(BIN / "mlflow"), "models", "predict", "-m", f"runs:/{run.info.run_id}/model"]
    command += ["-i", str(tiny_file), "-t", "csv", "--env-manager", "local"]
    (elsewhere := tmp_path / "elsewhere").mkdir()
    root = {} if tuning == "full" else {"LABELREG_MODEL_ROOT": str(tiny_models)}  # where an adapter's base is
    ended = finish(command, elsewhere, PYTHONPATH="", **root)
    told = json.loads(ended.out)["predictions"]  # nothing else is printed
    assert len(told) == 60 and set(told[0]) == {"class", "p_bad", "p_good", "p_so so"}


def test_the_model_stands_in_mlflows_list_with_scores_and_data(tiny):
    import mlflow

    ended = succeed("train_student", **tiny)
    assert "Warning" not in ended.err and "INFO" not in ended.err, "nothing is said that is no news"
    run = run_of(ended)
    found = logged_model(run)
    assert found.status == "READY" and found.source_run_id == run.info.run_id
    assert found.params == run.data.params
    ends = {name: value for name, value in run.data.metrics.items() if name.startswith(("best/", "last/"))}
    assert {each.key: each.value for each in found.metrics} == ends and "best/test/score" in ends
    assert {(each.dataset_name, each.dataset_digest) for each in found.metrics} == {
        ("reviews", run.data.tags["labelreg.data"])
    }
    for name in ends:
        assert len(mlflow.MlflowClient().get_metric_history(run.info.run_id, name)) == 1, "one point, not one for each"

    ours, theirs = (Path(uri.removeprefix("file://")) for uri in (run.info.artifact_uri, found.artifact_location))
    ours /= "model"
    assert os.path.samefile(ours / "model.safetensors", theirs / "model.safetensors"), "one disk holds them once"
    loaded = mlflow.pyfunc.load_model(found.model_uri)
    assert loaded.metadata.signature.inputs.input_names() == ["text"]
    assert loaded.metadata.run_id == run.info.run_id and len(loaded.predict(loaded.input_example)) == 1
    assert all("==" in line for line in (theirs / "requirements.txt").read_text().splitlines())
    assert loaded.predict(pd.DataFrame({"text": []}, dtype=str)).empty


def test_a_run_without_a_stored_model_has_none_in_the_list(tiny):
    run = run_of(succeed("train_student", **tiny, save_model="false"))
    assert not run.outputs or not run.outputs.model_outputs


def test_pairs_are_asked_for_by_the_columns_of_their_task(store, small_hub, tiny_models, tmp_path):
    import mlflow

    short = {"model": "distilgpt2", "epochs": 1, "batch_size": 8, "max_length": 24, "threads": 1, "precision": "fp32"}
    run = run_of(succeed("train_student", **short, task="mrpc", data_root=small_hub, model_root=tiny_models))
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    rows = pd.read_parquet(next(small_hub.glob("nyu-mll/glue/mrpc/test-*.parquet"))).set_index("idx")
    expected = predictions(run, tmp_path)
    told = loaded.predict(rows.loc[expected.index, ["sentence1", "sentence2"]])
    np.testing.assert_allclose(told[list(expected)], expected, atol=1e-5)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_images_are_read_as_in_training(stem, store, tmp_path):
    import mlflow
    from mlflow.pyfunc.scoring_server import invocations
    from PIL import Image

    from labelreg.data import image_folder

    chance = np.random.default_rng(0)
    for number, name in enumerate(("dark", "light")):
        (folder := tmp_path / "photos" / name).mkdir(parents=True)
        for nth in range(20):
            pixels = chance.integers(100 * number, 100 * number + 120, (20, 14, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{nth}.png")
    given = {"train_file": tmp_path / "photos", "init": "random", "model": "shufflenet_v2", "image_size": 16}
    given |= {"epochs": 1, "batch_size": 8, "threads": 1, "precision": "fp32", "stem": stem}
    run = run_of(succeed("train_student", **given))
    assert {"model/config.json", "model/model.safetensors", "model/MLmodel"} <= artifacts(run)
    expected = predictions(run, tmp_path)
    files = image_folder.find(tmp_path / "photos", "photos").splits["train"]
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    rows = pd.DataFrame({"image": [files[index][0].read_bytes() for index in expected.index]})
    np.testing.assert_allclose(loaded.predict(rows)[list(expected)], expected, atol=1e-4)
    assert len(loaded.predict(loaded.input_example)) == 1
    make, _, ask = printed(run).rpartition(" | ")
    (tmp_path / "FILE.png").write_bytes(rows["image"].iloc[0])
    body = subprocess.run(["sh", "-c", make], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    told = invocations(body, "application/json", loaded, loaded.metadata.get_input_schema())
    assert ask.endswith(" -d @-") and json.loads(told.response)["predictions"][0]["p_dark"] == pytest.approx(
        expected["p_dark"].iloc[0], abs=1e-4
    )
    with pytest.raises(Exception, match="row 1 is no image"):
        loaded.predict(pd.DataFrame({"image": [b"no image"]}))
    with pytest.raises(Exception, match="row 1 has a text in column 'image', not the bytes of an image"):
        loaded.predict(pd.DataFrame({"image": ["aGVsbG8="]}))  # as a CSV is read


def test_the_requirements_hold_all_that_is_imported():
    from labelreg.serving import NEEDS

    code = "import sys, labelreg.serving; print(*(m.__file__ for n, m in sys.modules.items() if n[:8] in OURS))"
    code = code.replace("OURS", "('labelreg', 'analysis')")
    asked = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    files = asked.stdout.split()
    named = set()
    for node in (node for file in files for node in ast.parse(Path(file).read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            named |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            named.add(str(node.module).partition(".")[0])
    packages = packages_distributions()
    used = {name for module in named for name in packages.get(module, []) if module not in ("labelreg", "analysis")}
    assert len(files) > 20 and {"torch", "pandas", "safetensors"} <= used
    assert used <= set(NEEDS), "no package is there by chance"
