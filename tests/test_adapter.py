"""LoRA and the head alone: what is trained, what is kept, what all methods of a seed share, what is refused."""

import json
import re
import shutil
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from running import call, in_this_process, run_of, runs, succeed
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from analysis.pairing import pair
from bench import engine
from labelreg import job, recipes, training
from labelreg.errors import UserError
from labelreg.models import adapter, registry
from labelreg.settings import TUNINGS, Lora, Machine, of, with_defaults
from labelreg.store import checkpoint
from labelreg.store import logged as logs

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


def test_a_worker_keeps_no_adapter_of_an_earlier_run(tiny_roots):
    """A study's worker does one run after another, and its memory rose from run to run."""
    kept = []
    for seed in range(4):
        model = registry.load("bert-small", ("a", "b"), "pretrained", seed, tiny_roots, adapter=adapter.Adapter(4))
        alive = sum(each() is not None for each in kept)
        kept.append(weakref.ref(model))
        del model
    assert not alive


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
    every = [{}, {"lora_r": 4}, {"lora_alpha": 4}, {"lora_dropout": 0.1}, {"lora_targets": ["query"]}]
    every += [{"tuning": "head"}, {"tuning": "full"}]
    prints = {training.fingerprint(settings_of(tiny_file, **given), MACHINE, "d", "weights", None) for given in every}
    assert len(prints) == len(every)
    usual = {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
    assert training.fingerprint(settings_of(tiny_file, **usual), MACHINE, "d", "weights", None) in prints


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


def test_a_teacher_is_one_of_the_same_tuning(tiny_file):
    def logged(**given):
        settings = settings_of(tiny_file, **given)
        params = {name: logs.plain(value) for name, value in settings.told().items() if value is not None}
        data = SimpleNamespace(params=params, tags={"labelreg.fingerprint": "f"})
        return SimpleNamespace(data=data, info=SimpleNamespace(end_time=1)), settings

    every = [{"tuning": "full"}, {}, {"tuning": "head"}, {"lora_r": 4}, {"lora_targets": ["query"]}]
    found = [logged(**given) for given in every]
    for run, settings in found:
        assert job.teacher_among([each for each, _ in found], settings) is run
    data = SimpleNamespace(params={**found[0][0].data.params}, tags=found[0][0].data.tags)
    before = SimpleNamespace(data=data, info=found[0][0].info)
    assert job.teacher_among([before], found[0][1]) is before and "tuning" not in before.data.params


# through the commands


@pytest.mark.parametrize("model", ["bert-small", "minilm-3l"])
@pytest.mark.parametrize("tuning", TUNED)
def test_a_stored_adapter_loads_by_mlflow_and_by_peft(
    tiny, tiny_file, tiny_models, tmp_path, monkeypatch, tuning, model
):
    import mlflow
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    given = tiny | {"model": model, "precision": "fp32"}
    whole = run_of(succeed("train_student", **given))
    run = run_of(succeed("train_student", **given | {"lr": 1e-2}, tuning=tuning))
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
    assert list(told["class"]) == [name.removeprefix("p_") for name in expected.idxmax(axis=1)]

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


@pytest.fixture
def study(tiny, tmp_path) -> dict:
    """Parameters of a study of four small runs."""
    path = tmp_path / "study.yaml"
    path.write_text("kind: study\nsettings: default\nmodels: [bert-small]\ninits: [pretrained]\nseeds: [1, 2]\n")
    given = {name: value for name, value in tiny.items() if name not in ("model", "lr")}
    return given | {"recipe": path, "methods": "finetune,ls"}


def test_a_study_pairs_within_a_tuning_and_logs_what_it_cost(study, monkeypatch):
    monkeypatch.setattr("labelreg.workers.executors.execute", in_this_process)
    for tuning in ("full", "lora"):
        succeed("study", **study, lr=1e-3, tuning=tuning)
    found = runs("student")
    assert len(found) == 8
    tuned = [run for run in found if run.data.params.get("tuning") == "lora"]
    assert len(tuned) == 4 and {run.data.params["lora_r"] for run in tuned} == {"8"}
    assert not any(name.startswith("lora_") for run in found if run not in tuned for name in run.data.params)
    compared = pair(pd.concat([frame_of(run) for run in found])).comparisons
    assert len(compared) == 2 and all(len(each.seeds) == 2 for each in compared)
    every = {run.info.run_id: run.data.params.get("tuning") for run in found}
    for each in compared:
        assert len({every[run] for run in (*each.run_ids, *each.reference_run_ids)}) == 1
    for run in found:
        cost = run.data.metrics
        assert cost["cost/peak_memory_mb"] > 0 and cost["cost/train_seconds"] > 0
        assert cost["cost/trainable_parameters"] * 4 / 1e6 == pytest.approx(cost["cost/model_mb"])
    for name in ("cost/trainable_parameters", "cost/model_mb"):
        (few,), (many,) = ({run.data.metrics[name] for run in found if (run in tuned) == is_} for is_ in (True, False))
        assert few < many / 2


def test_an_adapter_of_a_folder_that_has_a_head_is_loaded_again(tiny, tiny_file, tmp_path):
    """The head goes on from the checkpoint's; the base is the folder, wherever one stands."""
    import mlflow

    first = run_of(succeed("train_student", **tiny | {"lr": 1e-2, "epochs": EPOCHS}))
    folder = mlflow.artifacts.download_artifacts(
        run_id=first.info.run_id, artifact_path="model", dst_path=str(tmp_path / "first")
    )
    given = tiny | {"model": folder, "head": "checkpoint", "tuning": "lora", "precision": "fp32", "method": "ls"}
    run = run_of(succeed("train_student", **given))
    found = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="predictions/test.parquet", dst_path=str(tmp_path)
    )
    expected = pd.read_parquet(found).set_index("idx").filter(like="p_")
    rows = pd.read_csv(tiny_file)[["text"]].loc[expected.index]
    told = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model").predict(rows)
    pd.testing.assert_frame_equal(told[list(expected)], expected, atol=1e-5, check_names=False, check_dtype=False)


def test_an_adapter_of_a_folder_is_loaded_from_any_other(tiny, tiny_models, tmp_path, monkeypatch):
    import mlflow

    base = shutil.copytree(tiny_models / registry.MODELS["bert-small"].hub_id, tmp_path / "mybase")
    monkeypatch.chdir(tmp_path)
    run = run_of(succeed("train_student", **tiny | {"model": "mybase"}, tuning="lora"))
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    uri = f"runs:/{run.info.run_id}/model"
    loaded = mlflow.pyfunc.load_model(uri)
    assert len(loaded.predict(loaded.input_example)) == 1
    folder = mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path / "stored"))
    assert adapter.base_of(tmp_path / "stored" / "model") == adapter.base_of(Path(folder)) == str(base)
    base.rename(tmp_path / "moved")
    said = f"the base {base} of this adapter is not here: set LABELREG_MODEL_ROOT=.*: model {base}: no such folder"
    with pytest.raises(UserError, match=said):
        mlflow.pyfunc.load_model(uri)


def frame_of(run) -> pd.DataFrame:
    """A run as `mlflow.search_runs` gives it."""
    row = {"run_id": run.info.run_id, "status": run.info.status, "start_time": run.info.start_time}
    for kind in ("params", "tags", "metrics"):
        row |= {f"{kind}.{name}": value for name, value in getattr(run.data, kind).items()}
    return pd.DataFrame([row])


def test_a_teacher_by_lora(tiny):
    taught = {name: value for name, value in tiny.items() if name != "model"}
    teacher = run_of(succeed("train_teacher", **taught, model="bert-large", tuning="lora"))
    assert teacher.data.params["tuning"] == "lora"
    student = run_of(succeed("train_student", **tiny, method="kd", teacher_run_id=teacher.info.run_id))
    assert student.data.params["teacher_run_id"] == teacher.info.run_id and "tuning" not in student.data.params
    other = run_of(succeed("train_student", **tiny, method="kd", teacher_model="bert-large", tuning="lora"))
    assert other.data.params["teacher_run_id"] != teacher.info.run_id, "the recipe's teacher trains all weights"
    assert len(runs("teacher")) == 2


def test_a_search_draws_an_adapters_rank(tiny, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("kind: search\ntrials: 2\nepochs: 1\nspace:\n  lora_r: [2, 4]\n  lora_dropout: [0.0, 0.1]\n")
    given = {name: value for name, value in tiny.items() if name not in ("epochs",)}
    succeed("tune", **given, method="finetune", space=space, tuning="lora", jobs=1, sampler="random")
    assert {run.data.params["lora_r"] for run in runs("trial")} <= {"2", "4"}
    refused = call("tune", **given, method="finetune", space=space, jobs=1)
    assert refused.status == 2 and "lora_r, lora_dropout: runs with tuning=full have none" in refused.err


# what is refused

BAD = {
    "rank 0": ({"tuning": "lora", "lora_r": 0}, r"lora_r=0: allowed is an integer in \[1, 4096\]"),
    "dropout 1": ({"tuning": "lora", "lora_dropout": 1}, r"lora_dropout=1: allowed is a number in \[0, 1\)"),
    "another tuning": ({"tuning": "lora2"}, "unknown tuning 'lora2'; did you mean 'lora'"),
    "no such layer": (
        {"tuning": "lora", "lora_targets": "query,q_proj"},
        "lora_targets=q_proj: model bert-small has no linear layer of that name; it has dense, key, query, value",
    ),
    "lora from scratch": ({"tuning": "lora", "init": "random"}, "tuning=lora: with init=random the weights that stay"),
    "head from scratch": ({"tuning": "head", "init": "random"}, "init=pretrained .a study: inits=pretrained"),
    "remote code": ({"trust_remote_code": "true"}, "trust_remote_code"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(tiny, case):
    given, said = BAD[case]
    assert_refused(call("train_student", **tiny | given), said)
    assert not runs("student")


def assert_refused(ended, said):
    assert ended.status == 2, ended
    (line,) = [line for line in ended.err.splitlines() if line.strip()]
    assert re.search(said, line), line


def test_without_peft_it_is_said_before_anything_is_read(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert_refused(call("train_student", **tiny, tuning="lora"), "tuning=lora needs the package peft, .* not installed")
    assert succeed("train_student", **tiny)


@pytest.mark.parametrize(
    ("model", "targets"),
    [("bert-small", "w"), ("bert-small", "pooler.dense"), ("minilm-3l", "layer.5.attention.self.query")],
    ids=["unknown", "drawn", "left out"],
)
def test_a_study_with_layers_that_are_not_there_begins_no_run(study, model, targets):
    """A pooler that the checkpoint lacks is trained whole; minilm-3l has three layers of six."""
    said = f"lora_targets={targets}: model {model} has no linear layer"
    assert_refused(call("study", **study, models=model, tuning="lora", lora_targets=targets), said)
    assert not runs("student") and not runs("study")


def test_a_stored_adapter_is_no_model(trained, tiny_roots, tmp_path):
    done = trained(tuning="head", stop=1)
    registry.save(done.model, "bert-small", tmp_path / "saved", tiny_roots)
    hub_id = registry.MODELS["bert-small"].hub_id
    with pytest.raises(UserError, match=f"holds an adapter of {hub_id}, no whole model; give that, or merge"):
        registry.load(str(tmp_path / "saved"), done.data.classes, "pretrained", 0, tiny_roots)
    with pytest.raises(UserError, match="is an adapter of model bert-large, whose files here are not those"):
        digest = registry.base_digest("bert-small", tiny_roots)
        registry.load_adapter(tmp_path / "saved", "bert-large", digest, done.data.classes, tiny_roots)
    (tmp_path / "saved" / "model.safetensors").touch()
    with pytest.raises(UserError, match=f"remove {adapter.CONFIGURATION} and {adapter.WEIGHTS} there"):
        registry.checkpoint(str(tmp_path / "saved"), tiny_roots)


def test_the_tokenizer_of_an_adapters_base_is_not_asked(trained, tiny_models, tiny_roots, tmp_path):
    """GPT-2's head looks for the padding's id, which the tokenizer decides: the one that is stored."""
    base = shutil.copytree(tiny_models / registry.MODELS["distilgpt2"].hub_id, tmp_path / "base")
    done, folder = trained(model=str(base), stop=1), tmp_path / "saved"
    registry.save(done.model, str(base), folder, tiny_roots)
    digest = registry.base_digest(str(base), tiny_roots)
    for file in registry.TOKENIZER_FILES:
        (base / file).unlink(missing_ok=True)
    again = registry.load_adapter(folder, str(base), digest, done.data.classes, tiny_roots)
    told, expected = (training.predict(model, done.data.splits["test"], MACHINE) for model in (again, done.model))
    assert torch.equal(told, expected)


@pytest.mark.parametrize("tuning", TUNED)
def test_a_damaged_adapter_is_refused(trained, tiny_roots, tmp_path, tuning):
    done, folder = trained(tuning=tuning, stop=1), tmp_path / "saved"
    registry.save(done.model, "bert-small", folder, tiny_roots)
    digest = registry.base_digest("bert-small", tiny_roots)
    weights = load_file(folder / adapter.WEIGHTS)
    name = min(weights)
    missing = {key: value for key, value in weights.items() if key != name}
    for bad in (missing, weights | {"strange": torch.zeros(1)}, weights | {name: torch.zeros(1, 1)}):
        save_file(bad, folder / adapter.WEIGHTS)
        said = f"{adapter.WEIGHTS} is damaged: .*{'strange' if 'strange' in bad else re.escape(name)}"
        with pytest.raises(UserError, match=said):
            registry.load_adapter(folder, "bert-small", digest, done.data.classes, tiny_roots)
    save_file(weights, folder / adapter.WEIGHTS)
    registry.load_adapter(folder, "bert-small", digest, done.data.classes, tiny_roots)


def test_a_model_without_linear_layers_has_none_for_an_adapter(tiny, study, tiny_models, tmp_path):
    from transformers import IBertConfig, IBertModel

    folder = shutil.copytree(tiny_models / registry.MODELS["distilroberta"].hub_id, tmp_path / "ibert")
    about = json.loads((folder / "config.json").read_text())
    IBertModel(IBertConfig(**about | {"model_type": "ibert"}), add_pooling_layer=False).save_pretrained(folder)
    said = "tuning=lora: model .*ibert has no linear layer for an adapter; give tuning=head or full"
    assert_refused(call("train_student", **tiny | {"model": folder}, tuning="lora"), said)
    assert_refused(call("study", **study, models=folder, tuning="lora"), said)
    assert not runs()
    succeed("train_student", **tiny | {"model": folder}, tuning="head")


def test_code_of_a_checkpoint_is_never_run(tiny, tiny_models, tmp_path):
    folder = shutil.copytree(tiny_models / registry.MODELS["bert-small"].hub_id, tmp_path / "own")
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    file = folder / "config.json"
    config = json.loads(file.read_text()) | {"auto_map": {"AutoConfig": "modeling.Own", "AutoModel": "modeling.Own"}}
    file.write_text(json.dumps(config))
    succeed("train_student", **tiny | {"model": folder})  # transformers' own BERT
    file.write_text(json.dumps(config | {"model_type": "theirs"}))
    said = "config.json asks for code that comes with the checkpoint .*, and such code is never run"
    assert_refused(call("train_student", **tiny | {"model": folder}), said)
    file.write_text(json.dumps(config))
    file, said = folder / "tokenizer_config.json", said.replace("config.json", "tokenizer_config.json")
    for kind, status in (("BertTokenizer", 0), ("TheirTokenizer", 2), (None, 2), (["a list"], 2)):
        code = {"auto_map": {"AutoTokenizer": ["modeling.Own", None]}, "tokenizer_class": kind}
        file.write_text(json.dumps(code))
        ended = call("train_student", **tiny | {"model": folder})
        assert ended.status == status, ended
        assert status == 0 or re.search(said, ended.err)
    assert not (tmp_path / "ran").exists()


def test_attention_is_one_that_runs_everywhere(tiny_models, tiny_roots, tmp_path):
    for name, kind in (("modernbert-base", "sdpa"), ("qwen3-0.6b", "sdpa"), ("deberta-v3-small", "eager")):
        folder = shutil.copytree(tiny_models / registry.MODELS[name].hub_id, tmp_path / name)
        config = json.loads((folder / "config.json").read_text()) | {"attn_implementation": "flash_attention_2"}
        (folder / "config.json").write_text(json.dumps(config))
        model = registry.load(str(folder), ("a", "b"), "pretrained", 0, tiny_roots)
        assert model.config._attn_implementation == kind


def test_the_speed_bench_tells_the_peak_of_memory(tiny_models, monkeypatch):
    monkeypatch.delenv("LABELREG_DATA_ROOT", raising=False)
    monkeypatch.setenv("LABELREG_MODEL_ROOT", str(tiny_models))
    monkeypatch.setattr(engine, "EXAMPLES", 64)
    for found in (engine.labelreg(0), engine.rival(engine.DYNAMIC)):
        assert found["memory"] > 0 and all(value > 0 for value in found["seconds"].values())
