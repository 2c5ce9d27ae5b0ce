"""Plans that are lost, and summaries whose writing was killed: the answer is given, and nothing is listed twice."""

import shutil
import signal

import pytest
from injector import strike
from running import python, runs, succeed
from test_significance import generated, planned

pytest_plugins = ["running"]


def damage(path, how: str) -> None:
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how != "missing":
        path.write_text(how)


def test_the_answer_is_given_without_a_lost_plan_and_says_so(store):
    study, digest = planned()
    generated(study)
    whole = succeed("significance", verbose="true").out
    table, lost = whole.partition("\nplan ")[0], f"plan {digest} of run {study} cannot be read"
    (file,) = store.glob(f"mlruns/0/{study}/artifacts/plan.json")
    plan = file.read_text()
    for how in ("missing", "", "{", "[1]", '{"cells": 3}', "[" * 100_000, "a folder"):
        file.write_text(plan)
        damage(file, how)
        said = succeed("significance", verbose="true").out
        assert lost in said and lost not in whole, how[:20]
        assert said.startswith(table.rpartition("\n\n")[0]), f"the same verdicts: {how[:20]}"
        if how in ("missing", ""):
            page = succeed("report", output_dir=store)
            assert "Traceback" not in page.err, how
            assert lost in (store / "report.html").read_text(), how


def test_marks_of_tuned_seeds_outlive_the_plan(store):
    import mlflow

    study, _ = planned()
    mlflow.MlflowClient().set_tag(study, "labelreg.tuned_seeds", "2,5")
    generated(study)
    mark = "tuned on seeds of this comparison (2, 5)"
    whole = " ".join(succeed("significance").out.split())  # whatever the terminal's width
    shutil.rmtree(store / "mlruns" / "0" / study)
    said = " ".join(succeed("significance").out.split())
    assert "its settings were tuned on seeds 2, 5" in said
    assert whole.count(mark) == said.count(mark) > 0


@pytest.mark.parametrize("place", ["mlflow:MlflowClient.log_batch", "mlflow:MlflowClient.set_terminated"])
def test_a_summary_that_was_killed_half_way_is_finished(place, store):
    generated(planned()[0])
    count = 1 if place.endswith("terminated") else 3  # after the kind and the parameters of the run itself
    assert strike(python("significance"), store, place, "SIGKILL", count).status == -signal.SIGKILL
    half = runs("summary")
    assert [run.info.status for run in half] == ["RUNNING"]
    succeed("significance")
    found = runs("summary")
    assert {run.info.status for run in found} == {"FINISHED"}
    assert len({run.data.tags["labelreg.fingerprint"] for run in found}) == len(found) == 6
    assert half[0].info.run_id in {run.info.run_id for run in found}
    told = {run.info.run_id: (run.data.params, run.data.metrics, run.data.tags) for run in found}
    assert all(params and metrics for params, metrics, _ in told.values())
    succeed("significance")
    assert {run.info.run_id: (run.data.params, run.data.metrics, run.data.tags) for run in runs("summary")} == told
