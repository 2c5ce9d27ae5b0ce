"""`tables` and `audit` as commands: real stores, real files, scores that came back from the GLUE server."""

import sys

import pandas as pd
import pytest
from running import artifacts, call, finish, mlflow_run, refused, runs, succeed

pytest_plugins = ["running"]


def student(task, method, seed, model="distilroberta", init="pretrained", study=None, **metrics):
    """A finished run as labelreg logs it, without the training."""
    import mlflow

    tags = {"labelreg.kind": "student", "labelreg.fingerprint": f"{task} {model} {init} {method} {seed}"}
    if study:
        tags["labelreg.study"] = study
    with mlflow.start_run(tags=tags):
        mlflow.log_params({"task": task, "model": model, "init": init, "method": method, "seed": seed})
        mlflow.log_metrics({f"best/{split}/score": score for split, score in metrics.items()})


def read(run, path, tmp_path):
    import mlflow

    return mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path, dst_path=str(tmp_path))


def test_tables_of_a_store(store, tmp_path):
    for seed in (42, 549):
        student("cola", "finetune", seed, dev=60.0 + seed / 549, study="mine")
        student("cola", "ls", seed, dev=61.0 + seed / 549, study="mine")
    student("a task", "finetune", 42, model="my/model", dev=70.0, test=71.0)
    ended = succeed("tables", output_dir=tmp_path / "out")
    assert "Table 1: DistilRoBERTa on GLUE (dev, n = 2)" in ended.out
    assert "Finetune      60.54 ± 0.65" in ended.out and "(paper)       60.53 ± 0.70" in ended.out
    assert "  table 1 dev, KD: everything" in ended.out and "table 2 (BERT-small on GLUE): no runs" in ended.out
    assert "my/model pretrained (test, n = 1)" in ended.out and "Warning" not in ended.err
    (run,) = runs("report")
    files = {"tables.csv", "tables.md", "tables.tex"}
    files |= {f"figure1-{model}.{end}" for model in ("distilroberta", "my_model") for end in ("svg", "pdf")}
    assert artifacts(run) == files == {path.name for path in (tmp_path / "out").iterdir()}
    assert run.info.status == "FINISHED"
    cells = pd.read_csv(tmp_path / "out" / "tables.csv", dtype={"table": str})
    ls = cells[(cells["table"] == "1") & (cells["row"] == "LS") & (cells["column"] == "CoLA")]
    assert ls["split"].tolist() == ["dev", "test"] and ls["n"].tolist() == [2, 0]
    assert ls["difference"].tolist()[0] == pytest.approx(61.538 - 60.46, abs=0.001)
    narrow = succeed("tables", study="mine").out
    refused(call("tables", study="mime"), "study", "mine")
    assert "Table 1" in narrow and "my/model" not in narrow
    assert "Table 1" not in succeed("tables", where="params.task = 'a task'").out


def test_a_file_of_ones_own_is_no_task_of_the_papers(store):
    import mlflow

    student("cola", "finetune", 42, dev=60.0)
    with mlflow.start_run(run_id=runs("student")[0].info.run_id):
        mlflow.log_param("train_file", "cola.csv")
    student("rte", "finetune", 42, dev=70.0)
    said = succeed("tables").out
    assert "table 1 dev, Finetune: CoLA" in said and "cola (own file)" in said and "60.00" in said


def test_glue_test_scores_come_back_from_the_server(store, tmp_path):
    for seed in (42, 549):
        student("cola", "finetune", seed, dev=60.0 + seed)
    assert "Table 1: DistilRoBERTa on GLUE (test)" in succeed("tables", output_dir=tmp_path / "before").out
    assert "no test scores" in (tmp_path / "before" / "figure1-distilroberta.svg").read_text()
    answers = tmp_path / "server.csv"
    answers.write_text(
        "task,model,init,method,seed,score\n"
        "cola,distilroberta,pretrained,finetune,42,51.0\ncola,distilroberta,pretrained,finetune,549,52.0\n"
    )
    fractions = tmp_path / "fractions.csv"
    fractions.write_text(answers.read_text().replace("51.0", "0.81"))
    refused(call("submission", scores=fractions), "line 2: score '0.81' beside 102.00 on dev is a fraction")
    succeed("submission", scores=answers)
    ended = succeed("tables", output_dir=tmp_path / "after")
    assert "Table 1: DistilRoBERTa on GLUE (test, n = 2)" in ended.out and "51.50 ± 0.71" in ended.out
    assert "no test scores" not in (tmp_path / "after" / "figure1-distilroberta.svg").read_text()


def test_tables_of_a_table_of_scores(store, tmp_path):
    rows = [f"cifar100,resnet18,random,{method},{seed},{70 + seed}" for method in ("finetune", "ls") for seed in (1, 2)]
    path = tmp_path / "scores.csv"
    path.write_text("\n".join(["task,model,init,method,seed,score", *rows]))
    ended = succeed("tables", csv=path, output_dir=tmp_path / "out")
    assert "Table 6: ResNet18 on CIFAR100 (n = 2)" in ended.out and "71.50 ± 0.71" in ended.out
    assert runs("report")[0].data.params["csv"] == str(path)
    refused(call("tables", csv=path, study="mine"), "csv=", "study=mine")
    more = [f"cifar100,resnet18,random,finetune,{seed},70" for seed in range(3, 12)]
    path.write_text("\n".join(["task,model,init,method,seed,score", *rows, *more]))
    said = succeed("tables", csv=path).out
    assert "table 6: up to 11 seeds a cell, where the paper has 10" in said and "study=table6" not in said
    refused(call("tables", csv=tmp_path / "none.csv"), "no such file")


def test_a_table_of_a_metric_of_ones_own(store, tmp_path):
    """Which way it counts is said, or given; a name that looks like a formula is none in the files."""
    path, out = tmp_path / "scores.csv", tmp_path / "out"
    rows = [f"rte,m,x,{m},1.{fold},{9 + fold - (m == '=kd')}" for m in ("finetune", "=kd") for fold in range(1, 11)]
    path.write_text("\n".join(["task,model,init,method,seed,gap", *rows]))
    ended = succeed("significance", csv=path, metric="gap", output_dir=out, verbose=True)
    assert "scores.csv: 20 rows; 1 task, 2 methods, 10 seeds" in ended.out
    assert "gap: not a known name, taken as higher is better; lower_is_better=gap turns it" in ended.out
    assert "=kd vs finetune (rte, m, x, gap): worse" in ended.out and "n = 10 seeds" in ended.out
    assert [line.split(",")[3] for line in (out / "significance.csv").read_text().splitlines()] == ["method", "'=kd"]
    ended = succeed("significance", csv=path, metric="gap", lower_is_better="gap", verbose=True)
    assert "gap: lower is better; the sign of differences is turned" in ended.out
    assert "=kd vs finetune (rte, m, x, gap): better" in ended.out
    assert {run.data.params.get("lower_is_better") for run in runs("significance")} == {None, "gap"}
    refused(
        call("significance", csv=path, metric="gap", lower_is_better="gab"), "lower_is_better 'gab'", "nearest: gap"
    )
    page = succeed("report", csv=path, metric="gap", lower_is_better="gap", output_dir=out).out
    assert "report.html" in page and "the sign of differences is turned" in (out / "report.html").read_text()


def test_no_runs_is_an_answer_and_unknown_names_are_mistakes(store):
    ended = succeed("tables")
    assert "no runs to show yet" in ended.out and "mlflow run . --env-manager local -e train_student" in ended.out
    assert runs("report")[0].info.status == "FINISHED"
    refused(call("tables", experiment="nowhere"), "nowhere", "Default")
    refused(call("tables", zeros="zsplit"), "unknown parameter 'zeros'")
    refused(call("tables", where="nonsense"), "where=nonsense")
    refused(
        call("tables", where="init = 'random'"), "Invalid attribute key 'init'", "parameters are params.NAME, their"
    )
    refused(call("tables", margin=1), "margin")
    assert len(runs("report")) == 1


def test_the_audit_of_the_paper(store):
    ended = succeed("audit")
    assert "Numbers that do not agree with each other: 10" in ended.out
    assert "score                 2      dev    Teacher     Score        82.19    84.29" in ended.out
    (run,) = runs("audit")
    assert artifacts(run) == {"findings.csv", "ranges.csv", "audit.txt"}
    assert run.data.metrics["audit/findings"] == 10 and run.info.status == "FINISHED"


def test_the_audit_of_a_table_of_ones_own(store, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(
        "table,split,row,column,mean,std\nmain,,Baseline,x,80.0,1.0\nmain,,Baseline,y,60.0,2.0\n"
        "main,,Baseline,Avg,71.0,1.2\nmain,,Mixup,x,82.0,1.0\n"
    )
    ended = succeed("audit", csv=table, n=3)
    assert "Numbers that do not agree with each other: 1" in ended.out and "71.0     70.00" in ended.out
    (run,) = runs("audit")
    assert artifacts(run) == {"findings.csv", "ranges.csv", "audit.txt"}
    assert run.data.params == {"csv": str(table), "n": "3"}
    refused(call("audit", csv=table), "give n too")
    refused(call("audit", n=5), "it belongs to csv=FILE")
    refused(call("audit", csv=table, n=1), "n=1", "at least 2")
    refused(call("audit", csv=tmp_path / "absent.csv", n=3), "absent.csv", "no such file")
    table.write_text("table,row,column,mean\nmain,a,b,1\n")
    refused(call("audit", csv=table, n=3), "no column split, std")
    assert len(runs("audit")) == 1, "a mistake leaves nothing behind"


@pytest.mark.slow
def test_both_through_mlflow_run_and_without_torch(store):
    student("sst5", "finetune", 42, dev=53.0, test=54.0)
    for entry_point, told in (("tables", "Table 4: DistilRoBERTa on SST-5 (n = 1)"), ("audit", "do not agree")):
        ended = finish(mlflow_run(entry_point), store)
        assert ended.status == 0 and told in ended.out, ended
        script = f"import sys, runpy; sys.argv = ['{entry_point}']\ntry: runpy.run_module('entrypoints.{entry_point}', "
        script += (
            "run_name='__main__')\nexcept SystemExit: print('torch' in sys.modules, 'transformers' in sys.modules)"
        )
        assert finish([sys.executable, "-c", script], store).out.endswith("False False\n")
