"""The benches are run by hand; here only that each of them still finds what it measures."""

import importlib
from pathlib import Path

import pytest

MODULES = sorted(path.stem for path in (Path(__file__).parents[1] / "bench").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("module", MODULES)
def test_a_bench_can_be_loaded(module):
    assert importlib.import_module(f"bench.{module}").__doc__
