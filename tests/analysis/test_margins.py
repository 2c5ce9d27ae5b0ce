"""Margins as they are written, what a test set can tell, and what is refused."""

import math

import numpy as np
import pytest

from analysis import AnalysisError
from analysis.margins import AUTO, Margins, margins, resolution

pytestmark = pytest.mark.filterwarnings("error")
SCORE = "best/test/score"


@pytest.mark.parametrize(
    "text, given, plain",
    [
        (None, {"": None}, 0.5),
        ("  ", {"": None}, 0.5),
        ("0.7", {"": 0.7}, 0.7),
        (2, {"": 2.0}, 2.0),
        ("auto", {"": AUTO}, "auto"),
        ("rte:1.5,sst5:0.5", {"": None, "rte": 1.5, "sst5": 0.5}, "rte:1.5,sst5:0.5"),
        (" rte : auto , 0.7 ", {"": 0.7, "rte": AUTO}, "rte:auto,0.7"),
        ("auto,rte:2", {"": AUTO, "rte": 2.0}, "auto,rte:2"),
        ("a:b:1", {"": None, "a:b": 1.0}, "a:b:1"),
    ],
)
def test_margins_are_read_and_written(text, given, plain):
    found = margins(text)
    assert found.given == given
    assert found.plain() in (plain, ",".join(sorted(str(plain).split(","), key=lambda part: ":" in part)))
    again = margins(found.plain())  # a plan holds it
    assert [again.of(task, SCORE, 2000) for task in ("rte", "sst5", "x")] == [
        found.of(task, SCORE, 2000) for task in ("rte", "sst5", "x")
    ]


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "half", "rte:", "rte:0", "rte:1,sst5", "rte=1"])
def test_what_is_no_margin_is_refused_in_one_line(text):
    with pytest.raises(AnalysisError) as error:
        margins(text)
    assert str(error.value) == (f"margin={text}: allowed are points above 0, auto, or TASK:POINTS, comma-separated")


@pytest.mark.parametrize("text, twice", [("1,2", "the margin of all tasks"), ("rte:1,rte:2", "rte")])
def test_a_task_stands_there_once(text, twice):
    with pytest.raises(AnalysisError, match=f"margin={text}: {twice} stands there twice"):
        margins(text)


def test_each_task_has_its_own():
    found = margins("rte:1.5,cola:auto")
    assert [found.of(task, SCORE, n) for task, n in (("rte", 277), ("cola", 1043), ("sst2", 872))] == [
        *(1.5, resolution(1043), 0.5)
    ]
    assert margins("rte:1.5,0.25").of("sst2", SCORE, 872) == 0.25


@pytest.mark.parametrize("n", [1, 50, 150, 277, 1000, 6730, 40_000])
def test_auto_is_what_a_test_set_can_tell(n):
    """Two examples, or the half-width of the interval of a difference between models that differ in a tenth of their
    answers: each example is then +1 or -1 with chance 0.05, and 0 otherwise."""
    variance = 0.05 * 1 + 0.05 * 1
    half = 1.959964 * math.sqrt(variance / n) * 100
    exact = max(200 / n, half)
    assert resolution(n) == pytest.approx(exact, abs=0.0101) and resolution(n) >= exact - 1e-3
    assert margins("auto").of("x", SCORE, n) == resolution(n) >= 2 * 100 / n
    assert resolution(n) == round(resolution(n), 2)


def test_auto_is_the_half_width_of_a_simulation():
    rng = np.random.default_rng(0)
    differences = rng.choice([-1, 0, 1], p=[0.05, 0.9, 0.05], size=(4000, 500)).mean(axis=1) * 100
    assert resolution(500) == pytest.approx(np.quantile(np.abs(differences), 0.95), abs=0.15)


def test_the_usual_margin_rises_where_one_example_is_worth_more():
    usual = margins(None)
    assert usual.of("x", SCORE, None) == usual.of("x", SCORE, 200) == usual.of("x", SCORE, 5000) == 0.5
    assert usual.of("x", SCORE, 199) == resolution(199) > 0.5
    assert usual.of("x", "test/nll", 50) == 0.5  # not in points: an example is worth nothing known
    assert usual.of("x", "accuracy", 50) == resolution(50)


def test_a_margin_that_nobody_gave_says_why():
    usual = margins(None)
    assert (
        usual.why("x", SCORE, 105) == "auto, not 0.5: what 105 test examples can tell; a smaller gain is not excluded"
    )
    assert usual.why("x", SCORE, 200) == usual.why("x", SCORE, None) == usual.why("x", "test/nll", 50) == ""
    assert (
        margins("auto").why("x", SCORE, 1000)
        == "auto: what 1,000 test examples can tell; a smaller gain is not excluded"
    )
    assert margins("x:2").why("x", SCORE, 105) == ""


def test_a_margin_below_one_example_is_refused():
    with pytest.raises(AnalysisError) as error:
        margins(0.5).of("reviews", SCORE, 150)
    assert str(error.value) == (
        "margin=0.5: reviews has 150 test examples, one of which is worth 0.67 points; "
        f"margin=reviews:{resolution(150):g} (auto) is what they can tell"
    )
    assert margins("reviews:0.67").of("reviews", SCORE, 150) == 0.67
    assert margins(0.5).of("reviews", SCORE, 200) == 0.5, "what one example is worth"
    assert margins(0.5).of("reviews", SCORE, None) == 0.5 and margins(0.001).of("reviews", "test/nll", 150) == 0.001


@pytest.mark.parametrize(
    "metric, n, told",
    [(SCORE, None, "the number of its test examples is not known"), ("test/nll", 80, "test/nll is not in points")],
)
def test_auto_needs_a_size_and_points(metric, n, told):
    with pytest.raises(AnalysisError) as error:
        margins("auto").of("rte", metric, n)
    assert str(error.value) == f"margin=auto: rte: {told}; give a number"


def test_what_is_given_is_all_there_is():
    assert Margins({"": 1.0}).plain() == 1.0 and margins(margins("rte:2").plain()).given == {"": None, "rte": 2.0}
