"""docs/methods.md says what the methods say of themselves, and nothing by hand that could be derived."""

import pytest

from bench import dialects, methods
from labelreg.methods import METHODS, own_parameters


def test_the_page_is_what_the_methods_say():
    text = methods.PAGE.read_text(encoding="utf-8")
    assert methods.page(text) == text, "python -m bench.methods"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_its_formula_its_source_and_its_trap(name):
    found = methods.said(METHODS[name])
    assert len(found["formula"]) > 5 and found["Source"]
    assert name == "finetune" or found["Trap"]


def test_every_method_has_a_measured_cost():
    assert set(methods.costs()) == set(METHODS), "python -m bench.methods --measure"


def test_every_parameter_stands_in_the_page():
    text = methods.PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in own_parameters())
    assert all(f"| {there} |" in text for there, _, _ in dialects.ROWS)
