"""Figure 1 from generated runs: what is drawn, what is said in the title, what is left out."""

import pandas as pd
import pytest
from paper_runs import SEEDS, paper_shaped, row

from analysis.pairing import pair
from analysis.present.figures import COLUMNS, figure1, figure1_scores, plain_text, title
from analysis.present.paper_tables import GLUE, scores

pytestmark = pytest.mark.filterwarnings("error")


def cells(frame):
    return scores(frame, pair(frame))


@pytest.fixture(scope="module")
def papers():
    return cells(paper_shaped("1478"))


def drawn(figure):
    """Per panel: its title, and (method, mean, half length of the interval) of every method."""
    panels = []
    for panel in figure.axes:
        labels = [label.get_text() for label in panel.get_xticklabels()]
        found = []
        for container in panel.containers:
            line, _, bars = container.lines
            (at,), (mean,) = line.get_data()
            low, high = bars[0].get_segments()[0][:, 1] if bars else (mean, mean)
            found.append((labels[int(at)], round(mean, 6), round((high - low) / 2, 6)))
        panels.append((panel.get_title(), found))
    return panels


def test_both_initialisations_side_by_side_with_means_and_deviations(papers):
    frame, left = figure1_scores(papers, "distilroberta")
    assert not left and list(frame.columns) == COLUMNS
    assert set(frame["split"]) == {"test"} and set(frame["tasks"]) == {7} and len(frame) == 50
    figure = figure1(frame, "DistilRoBERTa, GLUE")
    assert figure.get_suptitle() == (
        "DistilRoBERTa, GLUE: test score, mean of 7 tasks\nmean and one standard deviation, n = 5"
    )
    (first, pretrained), (second, scratch) = drawn(figure)
    assert (first, second) == ("pre-trained", "from scratch")
    names = ["Finetune", "LS", "TF-reg", "Self-KD", "KD"]
    assert [name for name, _, _ in pretrained] == [name for name, _, _ in scratch] == names
    assert [round(mean, 2) for _, mean, _ in pretrained] == [79.82, 79.43, 79.35, 79.80, 79.91], "table 1, test"
    one = papers[(papers["init"] == "random") & (papers["method"] == "kd") & (papers["split"] == "test")]
    per_seed = one[one["task"].isin(GLUE.values())].groupby("seed")["score"].mean()
    assert scratch[-1][1:] == (round(per_seed.mean(), 6), round(per_seed.std(), 6))


def test_without_test_scores_it_shows_dev_and_says_so():
    frame = cells(paper_shaped("17", keep=lambda place: place[3] == "dev" or place[2] != "cola"))
    shown, left = figure1_scores(frame, "distilroberta")
    assert set(shown["split"]) == {"dev"} and len(shown) == 50 and not left
    assert title(shown, "x") == (
        "x: dev score, mean of 7 tasks\nmean and one standard deviation, n = 5; no test scores"
    )


def test_seeds_and_methods_without_all_tasks_are_left_out_and_named():
    frame = paper_shaped("1")
    lost = (frame["params.task"] == "qqp") & (frame["params.method"] == "ls")
    lost |= (frame["params.task"] == "rte") & (frame["params.seed"] == "42") & (frame["params.method"] == "kd")
    shown, left = figure1_scores(cells(frame[~lost]), "distilroberta")
    assert left == [f"figure 1: KD pretrained, seed {SEEDS[0]}"] + [
        f"figure 1: LS pretrained, seed {seed}" for seed in sorted(SEEDS[:5])
    ]
    assert set(shown["method"]) == {"finetune", "tfreg", "selfkd", "kd"}
    assert len(shown) == 19 and title(shown).endswith("n = 4 to 5")


def test_another_study_shows_the_tasks_that_finetune_has_in_every_init():
    rows = [
        row(f"{task} {init} {method} {seed}", task, "m", init, method, seed, dev=60.0 + seed, test=61.0 + seed)
        for task, init in (("a", "pretrained"), ("b", "pretrained"), ("a", "random"))
        for method in ("finetune", "zeta")
        for seed in range(3)
    ]
    shown, left = figure1_scores(cells(pd.DataFrame(rows)), "m")
    assert set(shown["tasks"]) == {1} and not left and len(shown) == 12
    assert title(shown, "m") == "m: test score\nmean and one standard deviation, n = 3"
    ((_, pretrained), _) = drawn(figure1(shown, "m"))
    assert pretrained == [("Finetune", 62.0, 1.0), ("zeta", 62.0, 1.0)]


def test_a_study_without_a_task_in_every_init_says_why_there_is_no_figure():
    rows = [row(init, init, "m", init, "finetune", seed=1, test=61.0) for init in ("pretrained", "random")]
    shown, left = figure1_scores(cells(pd.DataFrame(rows)), "m")
    assert shown.empty and left == ["figure 1: no task of m has every initialisation"]


def test_one_seed_has_no_interval_and_no_score_no_figure():
    frame = cells(pd.DataFrame([row("1", "a", "m", "pretrained", "finetune", 1, test=61.0)]))
    ((_, only),) = drawn(figure1(figure1_scores(frame, "m")[0]))
    assert only == [("Finetune", 61.0, 0.0)]
    nothing, left = figure1_scores(frame, "another")
    assert nothing.empty and not left
    with pytest.raises(ValueError, match="no scores"):
        figure1(nothing)


def test_the_picture_is_a_vector_with_text_that_fits(papers, tmp_path):
    figure = figure1(figure1_scores(papers, "distilroberta")[0], "DistilRoBERTa")
    figure.savefig(tmp_path / "figure.svg")
    assert "<svg" in (tmp_path / "figure.svg").read_text() and "<image" not in (tmp_path / "figure.svg").read_text()
    page = figure.bbox
    boxes = [figure._suptitle.get_window_extent()]
    for panel in figure.axes:
        boxes += [panel.title.get_window_extent(), *(label.get_window_extent() for label in panel.get_xticklabels())]
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1 for box in boxes)


@pytest.mark.parametrize("name", ["$x_{$", "日本"])
def test_names_are_no_formulas_and_letters_without_a_glyph_no_warning(name, tmp_path):
    rows = [("pretrained", method, seed, 70.0 + seed, "test", 1) for method in ("finetune", name) for seed in range(3)]
    figure = figure1(pd.DataFrame(rows, columns=COLUMNS), name)
    assert drawn(figure)[0][1][1][0] == name
    with plain_text():
        for ending in ("svg", "png", "pdf"):
            figure.savefig(tmp_path / f"figure.{ending}")
