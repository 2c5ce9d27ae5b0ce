"""LoRA and the head alone: what is trained, what is kept, what is the same for all methods of a seed, what is refused."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from running import call, run_of, runs, succeed
from safetensors import safe_open
from torch.testing import assert_close

from labelreg import job, recipes, training
from labelreg.data import batching
from labelreg.errors import UserError
from labelreg.models import adapter, registry
from labelreg.settings import TUNINGS, Lora, Machine, of, with_defaults
from labelreg.store import checkpoint

pytest_plugins = ["running"]
EPOCHS = 3
MACHINE = Machine("fp32", "off", threads=1, device="cpu")
TUNED = [name for name in TUNINGS if name != "full"]


def settings_of(path, **given):
    common = {"model": "bert-small", "train_file": str(path), "epochs": EPOCHS, "lr": 1e-2, "checkpoint_seconds": 0}
    return job.settings_of(with_defaults("train_student", common | {"tuning": "lora"} | given))


@pytest.fixture
def trained(prepare, tiny_file, tiny_roots):
    """Trains, from its checkpoint where there is one; the model and its last report."""

    def train(keep=None, stop=EPOCHS, machine=MACHINE, teacher=None, **given):
        settings = settings_of(tiny_file, **given)
        data = prepare(train_file=str(tiny_file), model=settings.model)
        model = registry.load(
            settings.model, data.classes, "pretrained", settings.seed, tiny_roots, adapter=adapter.of(settings)
        )
        if keep:
            keep.mkdir(exist_ok=True)
        start = training.snapshot(model)
        whole = {name: value.clone() for name, value in model.state_dict().items()}
        for report in training.train(model, data, settings, machine, teacher, keep):
            if report.epoch == stop:
                break
        return SimpleNamespace(model=model, report=report, start=start, whole=whole, data=data, settings=settings)

    return train


@pytest.mark.parametrize("model", ["bert-small", "distilroberta", "distilgpt2", "minilm-3l"])
@pytest.mark.parametrize("tuning", TUNED)
def test_what_is_frozen_stays_and_all_else_moves(trained, tuning, model):
    done = trained(tuning=tuning, model=model)
    for name, value in done.model.state_dict().items():
        assert torch.equal(value, done.whole[name]) == (name not in done.start), name
    assert any("lora_A" in name for name in done.start) == (tuning == "lora")
    assert all("lora_" in name or "modules_to_save" in name for name in done.start)
    assert done.start.keys() == done.report.best.weights.keys()
    assert adapter.parameters(done.model) == sum(value.numel() for value in done.start.values())


def test_all_methods_of_a_seed_begin_with_one_adapter(trained):
    first = trained(stop=1).start
    again = trained(stop=1, method="ls", alpha=0.1).start
    other = trained(stop=1, seed=1).start
    full = trained(stop=1, tuning="full").start
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    for name, value in first.items():
        assert "lora_B" in name or value.ndim < 2 or not torch.equal(value, other[name]), name
        if "modules_to_save" in name:  # and the head is full fine-tuning's
            assert torch.equal(value, full[name.replace(".modules_to_save.default", "")])


@pytest.mark.parametrize("method", ["ls", "kd", "tfreg"])
@pytest.mark.parametrize("tuning", TUNED)
def test_alpha_0_is_finetune_to_the_last_bit(trained, tuning, method):
    given = {"alpha": 0} | ({"tau": 1, "teacher_model": "bert-large"} if method != "ls" else {})
    plain = trained(tuning=tuning, lora_dropout=0.1) if tuning == "lora" else trained(tuning=tuning)
    more = {"lora_dropout": 0.1} if tuning == "lora" else {}
    teacher = torch.randn(len(plain.data.splits["train"]), 3) if method == "kd" else None
    regularised = trained(tuning=tuning, method=method, teacher=teacher, **given, **more)
    assert plain.report.train_loss == regularised.report.train_loss
    for name, value in training.snapshot(plain.model).items():
        assert torch.equal(value, training.snapshot(regularised.model)[name]), name


@pytest.mark.parametrize("average", ["none", "ema", "swa"])
@pytest.mark.parametrize("tuning", TUNED)
def test_a_run_that_was_stopped_ends_the_same_to_the_last_bit(trained, tmp_path, tuning, average):
    given = {"tuning": tuning, "average": average} | ({"lora_dropout": 0.2} if tuning == "lora" else {})
    trained(tmp_path / "stopped", stop=2, **given)
    resumed, straight = trained(tmp_path / "stopped", **given), trained(tmp_path / "straight", **given)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for name, value in straight.report.best.weights.items():
        assert torch.equal(value, resumed.report.best.weights[name]), name
    assert straight.report.dev == resumed.report.dev


@pytest.mark.parametrize("average", ["none", "swa"])
def test_a_checkpoint_holds_what_is_trained_alone(trained, tmp_path, average):
    sizes = {}
    for tuning in TUNINGS:
        done = trained(tmp_path / tuning, tuning=tuning, average=average, stop=2)
        tensors, _ = checkpoint.load(tmp_path / tuning)
        kept = {name.removeprefix("model.") for name in tensors if name.startswith("model.")}
        assert kept == set(done.report.best.weights)
        sizes[tuning] = (tmp_path / tuning / checkpoint.FILE).stat().st_size
    assert sizes["head"] < sizes["lora"] < sizes["full"]
    assert sizes["head"] < sizes["full"] / 20


def test_bf16_and_many_passes(trained):
    done = trained(machine=replace(MACHINE, precision="bf16"), method="rdrop", lora_dropout=0.1)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in done.report.best.weights.values())
    assert any(not torch.equal(value, done.start[name]) for name, value in done.report.best.weights.items())


@pytest.mark.parametrize("tuning", TUNED)
def test_the_batch_makes_no_difference(trained, tuning):
    done = trained(tuning=tuning, stop=1)
    split = done.data.splits["dev"]
    together = training.predict(done.model, split, MACHINE)
    done.model.eval()
    with torch.inference_mode():
        alone = [done.model(**split.inputs(torch.tensor([i]), int(split.lengths[i]))).logits for i in range(len(split))]
    assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


# settings


def test_a_run_that_trains_all_reads_no_more_than_before(tiny_file):
    for tuning in ({}, {"tuning": "full"}, {"tuning": "full", "lora_r": 4}):
        settings = recipes.resolve(with_defaults("train_student", {"train_file": str(tiny_file)} | tuning))
        assert not {"tuning", *of(Lora)} & {*settings.decisive()}
        assert all(settings.value(name) is None for name in of(Lora))
    assert job.ignored(settings, {"lora_r": 4}) == ["lora_r is ignored: tuning full has none"]


def test_each_value_of_an_adapter_makes_another_run(tiny_file):
    data = SimpleNamespace(digest="d")
    every = [{}, {"lora_r": 4}, {"lora_alpha": 4}, {"lora_dropout": 0.1}, {"lora_targets": ["query"]}]
    every += [{"tuning": "head"}, {"tuning": "full"}]
    prints = {training.fingerprint(settings_of(tiny_file, **given), MACHINE, data, "weights", None) for given in every}
    assert len(prints) == len(every)
    usual = {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
    assert training.fingerprint(settings_of(tiny_file, **usual), MACHINE, data, "weights", None) in prints


def test_a_recipe_decides_for_students_and_teachers(tmp_path, tiny_file):
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        "kind: settings\nextends: default\nrules:\n- set: {tuning: lora, lora_r: 4}\n"
        "- when: {role: teacher}\n  set: {tuning: head}\n"
    )
    given = with_defaults("train_student", {"train_file": str(tiny_file), "recipe": str(recipe), "method": "kd"})
    student = job.settings_of(given)
    first = job.source_job(job.Job(student, given)).settings
    assert (student.tuning, student.lora_r, first.tuning, first.lora_r) == ("lora", 4, "head", None)
    own = with_defaults("train_student", {"train_file": str(tiny_file), "method": "kd", "tuning": "lora"})
    assert job.source_job(job.Job(job.settings_of(own), own)).settings.tuning == "full"  # the recipe's
    twin = own | {"method": "selfkd"}
    assert job.source_job(job.Job(job.settings_of(twin), twin)).settings.tuning == "lora"  # the student's own


# through the commands


@pytest.mark.parametrize("model", ["bert-small", "minilm-3l"])
@pytest.mark.parametrize("tuning", TUNED)
def test_a_stored_adapter_loads_by_mlflow_and_by_peft(
    tiny, tiny_file, tiny_models, tmp_path, monkeypatch, tuning, model
):
    import mlflow
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    whole = run_of(succeed("train_student", **tiny | {"model": model}))
    run = run_of(succeed("train_student", **tiny | {"model": model, "lr": 1e-2}, tuning=tuning))
    folder = tmp_path / "stored"
    mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="model", dst_path=str(folder))
    folder /= "model"
    weights = list(folder.glob("*.safetensors"))
    assert [path.name for path in weights] == [adapter.WEIGHTS]
    with safe_open(weights[0], "pt") as file:
        assert all("lora_" in key or not key.startswith("base_model.model.bert.encoder") for key in file.keys())  # noqa: SIM118
    for each in (whole, run):
        sizes = {item.path: item.file_size for item in mlflow.MlflowClient().list_artifacts(each.info.run_id, "model")}
        (size,) = [size for path, size in sizes.items() if path.endswith(".safetensors")]
        assert 0 <= size / 1e6 - each.data.metrics["cost/model_mb"] < 0.02, "names and shapes"
    assert run.data.metrics["cost/model_mb"] < whole.data.metrics["cost/model_mb"] / 2
    assert run.data.metrics["cost/trainable_parameters"] * 4 / 1e6 == pytest.approx(run.data.metrics["cost/model_mb"])

    split = "predictions/test.parquet"
    found = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=split, dst_path=str(tmp_path))
    expected = pd.read_parquet(found).set_index("idx").filter(like="p_")
    texts = pd.read_csv(tiny_file)["text"].loc[expected.index]
    monkeypatch.setenv("LABELREG_MODEL_ROOT", str(tiny_models))
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    told = loaded.predict(pd.DataFrame({"text": list(texts)}))
    assert_close(
        torch.tensor(told[list(expected)].values), torch.tensor(expected.values), atol=1e-5, rtol=0, check_dtype=False
    )

    hub_id = registry.MODELS[model].hub_id
    about = json.loads((folder / adapter.CONFIGURATION).read_text())
    assert about["base_model_name_or_path"] == hub_id and not (folder / adapter.CARD).exists()
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny_models / hub_id, config=AutoConfig.from_pretrained(folder)
    )
    plain = PeftModel.from_pretrained(base, folder).eval()
    coded = AutoTokenizer.from_pretrained(folder)(list(texts), padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = plain(**coded).logits
    assert_close(logits.softmax(1), torch.tensor(expected.values), atol=1e-5, rtol=0, check_dtype=False)
    assert [plain.config.id2label[i] for i in range(3)] == [name.removeprefix("p_") for name in expected]
