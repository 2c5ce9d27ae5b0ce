"""Sections as text, Markdown, JSON and CSV, and one rounding for all of them."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from analysis.present.render import (
    MOST_LINES,
    Section,
    as_json,
    as_markdown,
    as_text,
    number,
    p_text,
    plain_text,
    signed,
    to_csv,
    to_markdown,
    to_text,
)

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize(
    "value, told",
    [
        (92.205, "92.21"),  # its float is 92.20499999999999829
        (0.125, "0.13"),
        (-0.125, "-0.13"),
        (2.675, "2.68"),
        (-0.001, "0.00"),
        (-0.005, "-0.01"),
        (0.0, "0.00"),
        (-0.0, "0.00"),
        (7, "7.00"),
        (1e-9, "0.00"),
        (1234567.891, "1234567.89"),
        (5e14, "500000000000000.00"),
        (np.float64(92.205), "92.21"),
        (np.mean([68.44, 67.58, 64.21, 62.59]), "65.71"),  # 65.705, computed as 65.70499999999998
        (np.float32(0.5), "0.50"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
    ],
)
def test_numbers_are_rounded_as_people_do(value, told):
    assert number(value) == told


def test_differences_have_a_sign():
    assert [signed(x) for x in (0.305, -0.001, 0.0, -2.5, math.inf)] == ["+0.31", "+0.00", "+0.00", "-2.50", "+inf"]
    assert number(0.12345, 4) == "0.1235" and number(12.5, 0) == "13" and number(0.00001, 4) == "0.0000"


def test_a_number_beyond_all_scores_is_rounded_too():
    assert number(1e30).startswith("1")


@pytest.mark.parametrize("p, told", [(1.0, "1.00"), (0.31, "0.31"), (1 / 128, "0.0078"), (2.0**-19, "1.9e-06")])
def test_p_text(p, told):
    assert p_text(p) == told


def test_text_and_markdown():
    frame = pd.DataFrame(
        {
            "method": ["ls", "a|b"],
            "n": [8, 10],
            "mean": [92.205, np.nan],
            "p_value": [0.0078125, 0.5],
            "decidable": [True, False],
            "level": [0.9609375, 1.0],
            "ece_scaled": [0.01234, 0.5],
            "family": [("ls", "kd"), ("ls",)],
        }
    )
    assert to_text(frame).split("\n") == [
        "method   n   mean  p_value  decidable  level  ece_scaled  family",
        "------  --  -----  -------  ---------  -----  ----------  ------",
        "ls       8  92.21   0.0078  yes        0.961      0.0123  ls, kd",
        "a|b     10      -     0.50  no         1.000      0.5000  ls",
    ]
    assert to_markdown(frame[["method", "n", "mean"]]).split("\n") == [
        "| method | n | mean |",
        "| --- | ---: | ---: |",
        "| ls | 8 | 92.21 |",
        "| a\\|b | 10 | - |",
    ]
    assert to_text(frame.head(0)).startswith("method  n  mean")


def test_a_table_that_is_too_wide_stays_one():
    """Its numbers stand under their headers, whatever the words before them."""
    frame = pd.DataFrame(
        {
            "task": ["rotten_tomatoes", "rotten_tomatoes", "sst5"],
            "method": ["ls", "kd [lr 3e-05, finetune 2e-05; alpha 0.5; tau 2]", "ls"],
            "mean_difference": [1.0, 2.0, np.nan],
            "p_holm": [0.0078, 0.5, 0.25],
            "verdict": ["better", "undecided", ""],
        }
    )
    assert to_text(frame, 40).split("\n") == [
        "method       mean_  p_holm  verdict",
        "        difference",
        "------  ----------  ------  ---------",
        "rotten_tomatoes",
        "ls            1.00  0.0078  better",
        "kd [lr 3e-05, finetune 2e-05; alpha 0.5;",
        "  tau 2]",
        "              2.00    0.50  undecided",
        "sst5",
        "ls               -    0.25",
    ]
    wide = to_text(frame)
    assert to_text(frame, max(map(len, wide.split("\n")))) == wide and len(wide.split("\n")) == 5
    for columns in (["task", "method"], ["verdict", "p_holm", "mean_difference"], ["p_holm"]):
        assert len(to_text(frame[columns], 5).split("\n")) >= 5, "no room at all"


FRAME = pd.DataFrame({"a": ["x"], "setting": [""], "low": [-np.inf], "n": [1]})
SECTIONS = [
    Section("verdicts", "Verdicts", ("ls is better",), brief=True),
    Section("brief", "In short", (), FRAME, ("a", "n"), brief=True),
    Section("details", "Details", ("one line", "another"), FRAME),
    Section("hidden", "Hidden", ("for programs",), FRAME, for_people=False),
    Section("empty", "Empty", (), FRAME.head(0), brief=True),
]


def test_a_terminal_sees_the_brief_sections_unless_it_asks_for_all():
    short = as_text(SECTIONS, verbose=False)
    assert short == "ls is better\na  n\n-  -\nx  1"
    whole = as_text(SECTIONS)
    assert whole.startswith("Verdicts\nls is better\n\nIn short\na  n") and "Details\none line\nanother\na " in whole
    assert "Hidden" not in whole and "for programs" not in whole and "Empty" not in whole
    assert as_text([]) == as_text([], verbose=False) == ""


def test_many_lines_are_counted_in_short():
    many = Section("notes", "Notes", tuple(f"line {i}" for i in range(MOST_LINES + 3)), brief=True)
    short = as_text([many], verbose=False).splitlines()
    assert len(short) == MOST_LINES and short[-1] == "and 4 more lines like these"
    assert as_text([many]).count("line ") == MOST_LINES + 3
    just = Section("notes", "Notes", many.text[:MOST_LINES], brief=True)
    assert len(as_text([just], verbose=False).splitlines()) == MOST_LINES


def test_markdown_has_every_section_for_people():
    text = as_markdown(SECTIONS, "Does it help?")
    assert text.startswith("# Does it help?\n\n## Verdicts\n\nls is better\n\n## In short\n\n| a | n |")
    assert "## Details\n\n- one line\n- another\n\n| a | low | n |" in text and "Hidden" not in text


def test_json_has_every_section_and_no_infinity():
    frame = pd.DataFrame(
        {
            "low": [-np.inf],
            "high": [np.inf],
            "mean": [np.nan],
            "n": [np.int64(8)],
            "look": pd.array([pd.NA], "Int64"),
            "word": [None],
            "both": [(1.5, np.inf)],
            "yes": [np.bool_(True)],
        }
    )
    text = as_json([*SECTIONS, Section("rows", "Rows", frame=frame)], {"margin": 0.5})
    assert "Infinity" not in text and "NaN" not in text
    found = json.loads(text)
    assert found["rows"] == [
        {"low": None, "high": None, "mean": None, "n": 8, "look": None, "word": None, "both": [1.5, None], "yes": True}
    ]
    assert found["parameters"] == {"margin": 0.5} and found["text"]["details"] == ["one line", "another"]
    assert found["hidden"] == [{"a": "x", "setting": "", "low": None, "n": 1}] and found["empty"] == []


def test_a_column_without_a_value_is_not_shown():
    frame = pd.DataFrame({"a": ["x"], "setting": [""], "b": [None], "c": [1]})
    assert list(Section("s", "S", frame=frame).shown().columns) == ["a", "c"]
    assert Section("s", "S", frame=frame.head(0)).shown() is None


def test_a_name_that_looks_like_a_formula_is_none_in_csv():
    frame = pd.DataFrame({"method": ["=kd", "-inf", "+1", "@x"], "mean": [-1.0, 2.0, 3.0, -np.inf]})
    rows = to_csv(frame).splitlines()
    assert rows[1:] == ["'=kd,-1.0", "-inf,2.0", "+1,3.0", "'@x,-inf"]
    assert [plain_text(cell) for cell in ("'=kd", "'@x", "'quoted'")] == ["=kd", "@x", "'quoted'"]
