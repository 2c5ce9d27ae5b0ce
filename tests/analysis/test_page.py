"""The page from frames whose answers are known: sentences, pictures, what is left out and why, text to paste."""

import math
import re
import shlex
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from analysis.hypothesis import signed_rank
from analysis.judge import Rule, judge
from analysis.margins import margins
from analysis.pairing import pair
from analysis.present import charts, wording
from analysis.present.again import again
from analysis.present.answer import Evidence, answer, summaries
from analysis.present.charts import Row
from analysis.present.page import page
from analysis.present.render import as_text
from labelreg.methods import PAPER
from labelreg.settings import RUN

pytestmark = pytest.mark.filterwarnings("error")

SVG = re.compile(r"<svg.*?</svg>", re.S)
UP = [2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7]
MIXED = [3.0, -2.0, 1.0, -4.0, 2.5, 0.5, -1.5, 4.5]
NONE = [0.1, -0.11, 0.05, -0.02, 0.03, 0.07, -0.06, -0.04]


def runs(differences, **columns) -> pd.DataFrame:
    """Finished runs of finetune and of methods with these differences; columns of every run."""
    rows = []
    for method, d in {"finetune": [0.0] * 8, **differences}.items():
        for seed, added in enumerate(d):
            values = {"task": "sst5", "model": "minilm-3l", "init": "pretrained", "method": method, "seed": str(seed)}
            rows.append(
                {
                    "run_id": "-".join(map(str, [*columns.values(), method, seed])),
                    "status": "FINISHED",
                    **{f"params.{name}": value for name, value in values.items()},
                    "metrics.best/test/score": 70 + seed / 4 + added,
                    "tags.labelreg.kind": "student",
                    **columns,
                }
            )
    return pd.DataFrame(rows)


def ruled(margin=None, level=0.05, looks=()):
    return Rule(margins(margin), level, tuple(looks))


def made(frame, predictions=None, histories=None, metric=None, **rule) -> str:
    """The page of a table of scores, or with predictions of runs in a store."""
    found = answer(Evidence(frame, None, predictions), pair(frame, metric=metric), ruled(**rule), metric)
    return page(found, "experiment Default", histories=histories)


def text_of(html: str) -> str:
    """What a reader sees, without the pictures."""
    plain = re.sub(r"<[^>]+>", " ", SVG.sub("", html[html.index("<body>") :]))
    return " ".join(plain.replace("&#39;", "'").split())


def sentences(frame, **rule) -> list[str]:
    families = {}
    for row in judge(pair(frame), ruled(**rule)).to_dict("records"):
        families.setdefault(row["init"], []).append(row)
    return [wording.sentence(members) for members in families.values()]


def test_the_verdict_comes_first_in_one_sentence():
    (sentence,) = sentences(runs({"ls": UP, "tfreg": NONE, "kd": MIXED}))
    assert sentence == (
        "ls (+2.35) is better than finetune; tfreg (+0.00) is equivalent to finetune within ±0.5 points; "
        "kd (+0.50) is undecided (means over 8 seeds)."
    )
    html = made(runs({"ls": UP, "tfreg": NONE, "kd": MIXED}))
    assert html.index(sentence) < html.index("<svg")
    assert "pretrained: 3 comparisons in 1 family: 1 better, 1 equivalent, 1 undecided." in html


def test_fractions_with_a_margin_of_points_are_pointed_at():
    frame = runs({"ls": UP}, **{"metrics.score": 0.0})
    frame["metrics.score"] = frame["metrics.best/test/score"] / 100
    warning = "scores look like fractions of 1 (sst5, score): margin=0.5"
    assert warning in text_of(made(frame, metric="score", margin=0.5))
    found = answer(Evidence(frame), pair(frame, metric="score"), ruled(0.5), "score")
    assert warning in as_text(found.sections, verbose=False)


def test_a_small_but_real_difference_is_called_so():
    (sentence,) = sentences(runs({"ls": [0.1] * 8, "kd": [0.2] * 8}))
    assert "ls (+0.10) and kd (+0.20) are better than finetune, by less than the margin of ±0.5 points" in sentence


def test_the_question_of_the_paper_is_answered():
    frame = pd.concat([runs({"ls": NONE}), runs({"ls": UP}, **{"params.init": "random"})])
    html = made(frame)
    assert "the effect is larger from scratch in 1 of 1 comparison, smaller in 0, not shown to differ in 0." in html
    assert "Verdicts and mean differences" in html  # two families: a table of all
    assert 'aria-label="Verdicts of all families"' in html


def test_families_that_differ_in_protocol_are_families_of_their_own():
    longer = {"params.epochs": "5"}
    said = text_of(made(pd.concat([runs({"ls": UP}, **{"params.epochs": "3"}), runs({"ls": MIXED}, **longer)])))
    assert "2 comparisons in 2 families: 1 better, 1 undecided." in said
    assert "sst5 · minilm-3l · pretrained · epochs=3" in said
    assert "epochs=5 ls (+0.50) is undecided (mean" in said
    assert "in 2 cells of task, model and initialisation" in said


def test_seeds_and_methods_of_one_initialisation_are_told():
    other = {"params.init": "random"}
    said = text_of(made(pd.concat([runs({"ls": UP, "kd": UP}), runs({"ls": UP[:6]}, **other)])))
    assert "kd (sst5, minilm-3l, pretrained): no counterpart in the other initialisation" in said
    said = text_of(made(pd.concat([runs({"ls": UP}), runs({"kd": UP}, **other)])))
    assert "kd (sst5, minilm-3l, random): no counterpart" in said


def test_every_picture_is_told_and_its_ids_are_its_own():
    frame = pd.concat([runs({"ls": UP, "kd": MIXED}), runs({"ls": UP, "kd": NONE}, **{"params.init": "random"})])
    html = made(frame)
    pictures = SVG.findall(html)
    assert len(pictures) == 7  # scores, differences and intervals of two families, one interaction
    for picture in pictures:
        tree = ElementTree.fromstring(picture)  # well-formed
        title, desc = tree.find("title"), tree.find("desc")
        assert tree.get("role") == "img" and title.text and desc.text
        assert tree.get("aria-labelledby").split() == [title.get("id"), desc.get("id")]
        assert not re.search(r"#[0-9a-f]{6}\b", picture), "a colour that does not follow the page"
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert f"kd: {signed_rank(MIXED).estimate:+.2f}  ? undecided" in html
    assert {f"var(--{name})" for name in re.findall(r"var\(--([\w-]+)\)", html)} <= {
        f"var(--{name})" for name in re.findall(r"--([\w-]+):", html)
    }, "a variable without a value"


def test_sizes_have_a_picture_each_under_their_own_name_and_one_of_all():
    sizes = {"2000": MIXED, "250": UP, "8544": NONE}
    parts = [runs({"kd": d}, **{"params.max_train_examples": size, "params.epochs": "3"}) for size, d in sizes.items()]
    titles = re.findall(r"<title[^>]*>(.*?)</title><desc[^>]*>(.*?)</desc>", made(pd.concat(parts)))
    place = "sst5 · minilm-3l · pretrained"
    own = [(title, told.partition(":")[0]) for title, told in titles if title.startswith("intervals")]
    in_order = [(f"intervals, {place} · max_train_examples={size}", "kd") for size in ("250", "2000", "8544")]
    assert own == in_order
    (told,) = [told for title, told in titles if title == f"trend, {place}"]
    first, last = (signed_rank(d).estimate for d in (UP, NONE))
    assert told == f"difference in points over training examples, kd: {first:.3g} to {last:.3g}"
    (scores,) = [told for title, told in titles if title == f"scores, {place}"]
    named = re.findall(r"finetune \[max_train_examples=(\d+)\]", scores)
    assert named == ["250", "2000", "8544"], "by the number, not by its digits"


def test_sizes_of_two_metrics_are_two_panels():
    """As where the runs of one study keep the best epoch and those of another the last."""
    sizes = {"250": UP, "1000": MIXED, "2000": NONE}
    parts = [
        runs({"kd": d}, **{"params.max_train_examples": size, "params.selection": kept})
        for kept in ("best", "last")
        for size, d in sizes.items()
    ]
    frame = pd.concat(parts, ignore_index=True)
    frame["metrics.last/test/score"] = frame["metrics.best/test/score"]
    (told,) = re.findall(r"<title[^>]*>trend, .*?</title><desc[^>]*>(.*?)</desc>", made(frame))
    assert "best/test/score over training examples, kd" in told and "last/test/score over training examples, kd" in told


def test_a_name_of_several_lines_has_room():
    line = Row("kd [max_train_examples=1000, epochs=4, batch_size=16]", "", "kd", 1.0, 0.0, 2.0)
    text_height = charts.LINE * 3
    assert charts.rows([line], "points", (-1, 3)).get_figheight() * 72 >= text_height + charts.BELOW


def test_the_page_runs_and_asks_for_nothing():
    html = made(runs({"ls": UP}))
    assert not re.search(r"<script|\son\w+=|@import|<link|<img|<iframe", html)
    assert not re.search(r"""(?:src|href)=["'](?!#)""", html)
    assert not re.search(r"url\((?!#)", html)
    assert "default-src 'none'" in html


def test_names_are_escaped():
    html = made(runs({"<b>kd</b>": UP}, **{"params.task": "a&b<script>"}))
    assert "<b>" not in html and "<script>" not in html
    assert "&lt;b&gt;kd&lt;/b&gt; (+2.35) is better" in html and "a&amp;b" in html


@pytest.mark.parametrize("name", ["$x_{$", "a$b$c", "日本"])
def test_names_are_no_formulas_and_need_no_glyph(name):
    columns = {"params.model": name, "metrics.cost/train_seconds": 40.0}
    frame, other = (runs({name: UP}, **columns, **{"params.task": f"{task} {name}"}) for task in "tu")
    points = [(run, "dev/score", step, 80.0) for run in frame["run_id"] for step in (1, 2)]
    histories = pd.DataFrame(points, columns=["run_id", "name", "step", "value"])
    both = pd.concat([frame, other])
    html = made(both, lambda run_id, split: None, histories)
    assert f">{name}</text>" in html and html.count("<svg") > 6


def test_a_table_of_scores_has_no_store_parts_and_says_so():
    said = text_of(made(runs({"ls": UP})))
    assert "Calibration Left out: predictions are in a store, not in a table of scores" in said
    assert "Cost Left out: no run logged cost/train_seconds" in said
    assert "Learning curves Left out: no run has logged more than one epoch" in said


def test_curves_calibration_and_cost_are_drawn_where_they_are():
    frame = runs({"ls": UP}, **{"metrics.cost/train_seconds": 40.0, "artifact_uri": "/nowhere"})
    points = [(run, name, step, 80.0 + step) for run in frame["run_id"] for name in ("dev/score", "train/loss")
              for step in (1, 2, 3)]  # fmt: skip
    histories = pd.DataFrame(points, columns=["run_id", "name", "step", "value"])
    chance = np.random.default_rng(0)
    p = chance.uniform(0.01, 0.99, 100)
    table = pd.DataFrame({"idx": range(100), "label": (chance.random(100) < p).astype(int), "p_0": 1 - p, "p_1": p})
    html = made(frame, lambda run_id, split: table, histories)
    for section in ("curves", "calibration"):
        part = html[html.index(f'<section id="{section}">') :]
        assert "<svg" in part[: part.index("</section>")], section
    assert "dev/score over epoch, ls: 81 to 83" in html
    assert "times the reference" in html[html.index('<section id="cost">') :]
    assert "16 runs are left out here: its predictions give" in text_of(html)  # generated: not the logged score


def test_one_method_alone_is_no_error():
    said = text_of(made(runs({})))
    assert "Nothing to compare yet: it takes runs of finetune and of another method with the same seeds." in said
    assert "Methods section" not in said, "there is no comparison to describe"
    assert "Scores, mean and standard deviation over seeds" in said


@pytest.mark.parametrize("d", [[1.0], [1.0, 2.0], [0.0] * 8, [0.0], UP[:5]])
def test_no_nan_reaches_a_reader(d):
    html = made(runs({"ls": d}))
    assert not re.search(r"\bnan\b", html, re.I)
    assert len(SVG.findall(html)) == 3


def test_a_look_without_a_pair_is_no_error():
    frame = runs({"finetune": [np.nan] * 8 + [0.0], "ls": [1.0] * 9})
    html = made(frame, looks=(8, 12))
    assert not re.search(r"\bnan\b", html, re.I)
    assert "ls (no pair) is undecided" in html and "no pair  ? undecided" in html
    (summary,) = [f for f in summaries(pair(frame), judge(pair(frame), ruled(looks=(8,)))) if f["verdict"]]
    assert set(summary["metrics"]) == {"n", "low", "high", "p_value", "p_holm", "p_verdict"}


def test_the_methods_section_has_what_a_paper_needs():
    digest = "0123456789abcdef" * 2
    tags = {"data": digest, "version.torch": "2.14.0", "python": "3.11.7"}
    frame = runs({"ls": UP, "kd": MIXED[:7]}, **{f"tags.labelreg.{name}": value for name, value in tags.items()})
    frame.loc[len(frame) - 1, "status"] = "FAILED"
    paired = pair(frame)
    told = wording.methods_section(paired, judge(paired), frame, Rule())
    for part in (
        "We compared ls and kd with finetune in 1 cell of task, model and initialisation: ",
        "sst5 · minilm-3l · pretrained. Runs were paired by seed",
        "Each comparison has 6 to 8 pairs (seeds 0, 1, 2, 3, 4, 5, 6, 7).",
        "The metric is best/test/score in percent.",
        "exact two-sided Wilcoxon signed-rank test",
        "zero differences were dropped before ranking",
        "Holm's method within each family",
        "2 methods per family), at level 0.05",
        "Equivalence within ±0.5",
        "(of up to 6 seeds, fixed beforehand, with the exact rank-sum test of the scores)",
        "the seeds at hand can give is 0.0022 to 0.0078",
        "1 run had no part in any comparison: failed (1).",
        "Python 3.11.7, torch 2.14.0",
        "numpy 2.",
        "sst5 0123456789abcdef0123456789abcdef.",
    ):
        assert part in told, part


def test_the_methods_section_names_seeds_as_they_are_named():
    """int() would take 1_1 for 11, and 01 for 1."""
    frame = runs({"ls": UP})
    names = dict(zip("01234567", ("2", "10", "01", "1_1", "1_2", "1.1", "b", "1"), strict=True))
    frame["params.seed"] = frame["params.seed"].map(names)
    paired = pair(frame)
    told = wording.methods_section(paired, judge(paired), frame, Rule())
    assert "(seeds 1, 2, 10, 01, 1.1, 1_1, 1_2, b)" in told


def test_the_methods_section_under_looks_is_about_the_looks():
    frame = runs({"finetune": [0.0] * 12, "ls": [2.0 + i / 10 for i in range(12)]})
    paired = pair(frame)
    rule = ruled(looks=(8, 12))
    told = wording.methods_section(paired, judge(paired, rule), frame, rule)
    assert "has 8 pairs (seeds 0, 1, 2, 3, 4, 5, 6, 7)" in told and "rank-sum" not in told
    share = f"{rule.level_of_a_look:.4g}"
    assert f"after 8 and 12 seeds as planned, each time at {share}, which holds the level of 0.05" in told


def test_the_commands_repeat_every_run():
    frame = runs({"ls": UP, "kd": UP[:3]}, **{"params.train_file": "my reviews.csv", "params.lr": "0.0005"})
    frame["tags.mlflow.source.git.commit"] = "c0ffee"
    frame.loc[frame["params.method"] == "kd", "params.alpha"] = "0.5"
    lines = again(pair(frame), frame, (("margin", "0.5"), ("where", "params.seed < '9'")))
    assert lines[0] == "git checkout c0ffee"
    assert lines[1] == "for method in finetune ls; do for seed in 0 1 2 3 4 5 6 7; do", "kd has a setting of its own"
    words = shlex.split(lines[2])
    assert words[:7] == [*RUN.split(), "-e", "train_student"] and "--env-manager" in RUN, "as after make setup"
    assert {"task=sst5", "lr=0.0005", "train_file=my reviews.csv", "method=$method", "seed=$seed"} <= set(words)
    assert lines[4] == "for method in kd; do for seed in 0 1 2; do" and "alpha=0.5" in lines[5]
    assert shlex.split(lines[-1])[5:] == ["-e", "report", "-P", "margin=0.5", "-P", "where=params.seed < '9'"]


def test_a_study_is_repeated_by_its_own_command():
    frame = runs({"ls": UP}, **{"tags.labelreg.study": "table8", "tags.mlflow.parentRunId": "s"})
    study = {
        "run_id": "s",
        "tags.labelreg.kind": "study",
        "tags.labelreg.study": "table8",
        "params.recipe": "table8",
        "params.split_seed": "42",
        "params.epochs": "2",
    }
    frame = pd.concat([frame, pd.DataFrame([study | {"params.seeds": "0,1,2", "status": "FINISHED"}])])
    assert again(pair(frame), frame, ())[0] == f"{RUN} -P epochs=2 -P recipe=table8 -P split_seed=42 -P seeds=0,1,2"


def test_rows_keep_their_numbers_and_show_unbounded_ends():
    row = Row("ls", "Holm p 0.0049", "ls", 1.0, -math.inf, math.inf)
    low, high = charts.extent([row], 0.5)
    assert low < -0.5 and high > 1.0 and math.isfinite(low) and math.isfinite(high)
    figure = charts.rows([row], "points", (low, high), margin=0.5)
    markers = [line.get_marker() for line in figure.axes[0].lines]
    assert "<" in markers and ">" in markers
    picture = charts.svg(figure, "a", "t", "d")
    assert "Holm p 0.0049" in picture and 'role="img"' in picture


def test_methods_differ_in_colour_and_in_marker():
    looks = [charts.look(method) for method in charts.METHODS]
    assert len({(look["color"], look["marker"]) for look in looks}) == len(looks)
    papers = looks[: len(PAPER)]
    assert len({look["color"] for look in papers}) == len({look["marker"] for look in papers}) == len(papers)
    assert charts.look("my-own") == charts.look("my-own")
    averaged = [charts.look(f"{method}{average}") for method in PAPER for average in ("", "+ema", "+swa")]
    assert len({(look["color"], look["marker"]) for look in averaged}) == len(averaged)


def test_panels_share_one_legend():
    rows = [(method, "", x, y) for method, last in (("kd", 3.0), ("finetune", 2.0)) for x, y in ((1, 1.0), (2, last))]
    lines = pd.DataFrame(rows, columns=["method", "setting", "x", "y"])
    figure, told = charts.panels({"dev/score": lines, "train/loss": lines}, "epoch", deep=2)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["finetune", "kd"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["dev/score", "train/loss"]
    assert told.startswith("dev/score over epoch, finetune: 1 to 2; dev/score over epoch, kd: 1 to 3; train/loss")


def test_the_verdicts_picture_comes_first_and_what_limits_them_before_it():
    frame = runs({"ls": UP, "kd": [*UP[:7], np.nan]})
    frame.loc[frame["run_id"] == "kd-7", "status"] = "FAILED"
    html = made(frame)
    assert html.index("1 of 8 seeds of kd failed (as losses, uncorrected: ") < html.index("<svg")
    first = SVG.findall(html)[0]
    assert "▲ better" in first and "Estimates, intervals, margin" in html
    points = [(run, "dev/score", 1, 80.0) for run in frame["run_id"]]
    histories = pd.DataFrame(points, columns=["run_id", "name", "step", "value"])
    assert "Left out: no run has logged more than one epoch" in text_of(made(frame, histories=histories))


def test_several_tasks_have_one_picture_of_their_verdict():
    frame = pd.concat([runs({"ls": UP}, **{"params.task": task}) for task in ("sst5", "rte")])
    html = made(frame)
    part = html[html.index('<section id="these_tasks">') :]
    assert "<svg" in part[: part.index("</section>")] and "+2.35  ▲ better" in part
