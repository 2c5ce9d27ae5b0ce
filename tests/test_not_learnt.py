"""Runs that end on one class: real ones, what they say, and how every comparison counts them."""

import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
from conftest import WORDS
from running import in_this_process, run_of, runs, succeed

from analysis import pairing
from analysis.interim import at_looks
from analysis.judge import Rule, judge
from analysis.present.wording import sentence, verdict_lines

pytest_plugins = ["running"]
RUINED = {"weight_decay": 900.0}  # with lr 1e-3 every matrix goes to 0: what is left are biases, one class for all
LEARNS = {"lr": 1e-2, "epochs": 20}
TAG, NEVER = "labelreg.one_class", "labelreg.never_predicted"


def predicted(run, split: str = "test") -> pd.DataFrame:
    path = Path(run.info.artifact_uri.removeprefix("file://")) / "predictions" / f"{split}.parquet"
    return pd.read_parquet(path).filter(like="p_").idxmax(axis=1)


def test_the_end_and_a_tag_say_it_and_a_run_that_learnt_has_neither(tiny):
    ended = succeed("train_student", **tiny | RUINED, method="ls")
    run, last = run_of(ended), ended.out.splitlines()[-2]  # the link stands behind it
    (name,) = set(predicted(run))  # what the run itself wrote
    assert run.data.tags[TAG] == name.removeprefix("p_")
    assert last.startswith(f"not learnt: every example of test gets the class {run.data.tags[TAG]}, so this score ")
    assert "lower lr (here 0.001)" in last and "epochs, here 1" in last and "batch_size, here 8" in last
    learnt = 0
    for seed in (1, 2, 3):
        ended = succeed("train_student", **tiny | LEARNS, seed=seed)
        several = predicted(run_of(ended)).nunique() > 1
        learnt += several
        assert (TAG not in run_of(ended).data.tags) == several == ("not learnt" not in ended.out)
    assert learnt, "one of three seeds learns three words for each class"


def test_a_teacher_that_has_not_learnt_is_told_by_itself_and_where_a_student_learns_from_it(tiny):
    taught = succeed("train_teacher", **tiny | RUINED)
    assert taught.out.splitlines()[-2].startswith("not learnt: every example of test gets the class ")
    teacher = run_of(taught)
    ended = succeed("train_student", **tiny, method="kd", teacher_run_id=teacher.info.run_id)
    line = f"what it learns from has not learnt: run {teacher.info.run_id} gives every example the class "
    assert line + teacher.data.tags[TAG] in ended.out.splitlines()
    forget(teacher)  # as a run from before there was the tag: its logits say it
    again = succeed("train_student", **tiny, method="kd", teacher_run_id=teacher.info.run_id)
    assert line + teacher.data.tags[TAG] in again.out.splitlines()


def test_a_class_that_is_never_predicted_is_named_by_the_run_the_answer_the_table_and_the_card(tiny, tmp_path):
    path, chance = tmp_path / "rare.csv", random.Random(0)
    rows = [(" ".join(chance.sample(WORDS[label], 2)), label) for label in list(WORDS)[:2] for _ in range(60)]
    rare = [(rows[nth][0], "Rare, odd") for nth in range(4)]  # with the words of a class that is more frequent
    path.write_text("text,label\n" + "".join(f'{text},"{label}"\n' for text, label in rows + rare))
    given = tiny | LEARNS | {"train_file": path, "save_model": "true"}
    told = [succeed("train_student", **given, method=m, seed=s) for m in ("finetune", "ls") for s in range(1, 6)]
    made = [run_of(ended) for ended in told]
    assert all(run.data.tags[NEVER] == '"Rare, odd"' and "p_Rare, odd" not in set(predicted(run)) for run in made)
    line = 'no example of test is given the class "Rare, odd", which some of them have'
    assert all(ended.out.splitlines()[-2] == line for ended in told)
    said = (
        "predicted for no example (rare, bert-small, pretrained): "
        "Rare, odd by 5 of 5 runs of finetune, 5 of 5 runs of ls"
    )
    assert said in succeed("significance", output_dir="answer").out
    assert said in succeed("significance", csv="answer/scores.csv").out, "the table holds it"
    assert 'It gave no test example the class "Rare, odd"' in succeed("promote", name="rare").out
    cards = [path.read_text() for path in Path().rglob("README.md")]
    assert any('- It gave no test example the class "Rare, odd", which some of them have.' in card for card in cards)


def forget(*these) -> None:
    import mlflow

    for run in these:
        if TAG in run.data.tags:
            mlflow.MlflowClient().delete_tag(run.info.run_id, TAG)


def test_what_no_run_has_learnt_has_no_verdict_whether_a_tag_says_it_or_predictions(tiny):
    """Two seeds of ls beside finetune, none of which has learnt."""
    made = [
        run_of(succeed("train_student", **tiny | RUINED, method=method, seed=seed))
        for method in ("finetune", "ls")
        for seed in (1, 2)
    ]
    assert all(TAG in run.data.tags for run in made)
    said, told = compared("tagged")
    assert [row["verdict"] for row in told["comparisons"]] == ["not learnt"]
    assert [(row["not_learnt"], row["not_learnt_reference"]) for row in told["comparisons"]] == [(2, 2)]
    assert "ls vs finetune" in said and ": not learnt; mean difference" in said and "equivalent;" not in said
    assert "every run of both sides gives all examples one class, so there is nothing to compare" in said
    csv = pd.read_csv("tagged/significance.csv")
    assert csv["verdict"].tolist() == ["not learnt"] and csv["not_learnt_reference"].tolist() == [2]
    assert "not learnt" in Path("tagged/significance.md").read_text()
    notes = {run.data.params["method"]: run.data.tags for run in runs("summary")}
    assert notes["ls"]["labelreg.verdict"] == "not learnt"
    assert "so there is nothing to compare" in notes["ls"]["mlflow.note.content"]
    assert notes["finetune"]["mlflow.note.content"].endswith("over 2 seeds, 2 of them not learnt")
    page = succeed("report", output_dir="page") and Path("page/report.html").read_text()
    assert "1 comparison in 1 family: 1 not learnt." in page and "no run of ls (" in page
    assert "1 equivalent" not in page and "∅" in page

    flaw = "ls (reviews, bert-small, pretrained): 2 of 2 runs have not learnt, every example gets one class"
    assert flaw in succeed("tables").out

    forget(*made)
    assert compared("older") == (said, told), "a run from before there was the tag is known by its predictions"
    assert flaw in succeed("tables").out


def compared(folder: str) -> tuple[str, dict]:
    ended = succeed("significance", output_dir=folder, verbose=True)
    return ended.out, json.loads(Path(folder, "significance.json").read_text()) | {"parameters": {}}


def frame(scores: dict, lost=()) -> pd.DataFrame:
    """Runs of generated scores, by method and seed; `lost` have the tag."""
    rows = [
        {
            "run_id": f"{method}-{seed}",
            "status": "FINISHED",
            **{f"params.{name}": value for name, value in (("task", "t"), ("model", "m"), ("init", "i"))},
            "params.method": method,
            "params.seed": str(seed),
            "metrics.best/test/score": score,
            "tags.labelreg.kind": "student",
            "tags.labelreg.one_class": "neg" if (method, seed) in lost else None,
        }
        for method, values in scores.items()
        for seed, score in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_some_runs_that_have_not_learnt_stand_in_the_line_and_the_verdict_stays():
    base = np.array([70.0, 71, 69, 72, 50, 70, 71, 69])
    scores = {"finetune": base, "ls": base + [3, 3.1, 3.2, 3.3, 0, 3.4, 3.5, 3.6], "kd": base + np.arange(8) + 1}
    lost = {("finetune", 4), ("ls", 4)}
    found = judge(pairing.pair(frame(scores, lost)))
    ls, kd = verdict_lines(found)
    assert ": better;" in ls and ": better;" in kd
    told = "1 of 8 seeds of finetune not learnt (every example gets one class)"
    assert ls.endswith(f"; 1 of 8 seeds of ls and {told}") and kd.endswith(f"; {told}")
    assert f"; 1 of 8 seeds of ls and {told} (" in sentence(found.to_dict("records")), "the reference once"
    without = verdict_lines(judge(pairing.pair(frame(scores))))
    assert [line.partition("; 1 of 8 seeds of")[0] for line in (ls, kd)] == [w.rstrip() for w in without]


def test_a_comparison_without_a_run_that_learnt_keeps_its_place_in_the_family():
    base = np.array([70.0, 71, 69, 72, 70, 70, 71, 69])
    up = base + np.linspace(2, 3, 8)
    scores = {"finetune": base, "ls": base, "kd": up}
    with_both = judge(pairing.pair(frame(scores))).set_index("method")
    lost = {(method, seed) for method in ("finetune", "ls") for seed in range(8)}
    judged = judge(pairing.pair(frame(scores, lost))).set_index("method")
    assert judged["verdict"].to_dict() == {"ls": "not learnt", "kd": "better"}
    assert with_both["verdict"].to_dict() == {"ls": "equivalent", "kd": "better"}
    assert judged["p_holm"].tolist() == with_both["p_holm"].tolist()


def test_looks_go_on_with_what_has_not_learnt():
    zero, told = [(70.0, 70.0)] * 14, "not learnt"
    first = at_looks({"ls": zero[:8]}, 0.5, 0.05, (8, 14), not_learnt={"ls": range(8)})["ls"]
    assert (first.word, first.look) == (told, 8) and "the next is at 14" in first.reason
    assert at_looks({"ls": zero[:8]}, 0.5, 0.05, (8, 14))["ls"].word == "equivalent"
    last = at_looks({"ls": zero}, 0.5, 0.05, (8, 14), not_learnt={"ls": range(8)})["ls"]
    assert (last.word, last.look) == ("equivalent", 14)  # six later seeds have learnt
    lost = {("ls", s) for s in range(8)}
    both = judge(pairing.pair(frame({"finetune": [0.0] * 8, "ls": [0.0] * 8}, lost)), Rule(looks=(8,)))
    assert both["verdict"].tolist() == ["equivalent"]  # finetune has learnt


def test_a_search_says_that_its_best_setting_has_not_learnt(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("labelreg.workers.executors.execute", in_this_process)
    space = tmp_path / "space.yaml"
    space.write_text("kind: search\ntrials: 2\nepochs: 1\nspace: {lr: [1.0e-3, 1.1e-3]}\n")
    given = {name: value for name, value in tiny.items() if name not in ("lr", "epochs")} | RUINED
    ended = succeed("tune", **given, space=space, storage=f"sqlite:///{tmp_path}/search.db", output_dir="found")
    trials = runs("trial")
    assert len(trials) == 2 and all(TAG in run.data.tags for run in trials)
    (best,) = [line for line in ended.out.splitlines() if ": best dev score " in line]
    assert "; not learnt: every example of dev gets " in best and best.endswith("and no setting did better")
    ends = [line for line in ended.out.splitlines() if " trial " in line]
    assert len(ends) == 2 and all(", not learnt: every example gets " in line for line in ends)
