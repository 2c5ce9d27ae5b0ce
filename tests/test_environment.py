"""The pinned environment: one place decides the versions, what is made of it agrees, and the tests run in it."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import pins

ROOT = Path(__file__).parent.parent
FOUND = pins.groups((ROOT / "conda.yaml").read_text())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {name: pins.packages((ROOT / "requirements" / f"{name}.txt").read_text()) for name in pins.locks(FOUND)}


def of_the_environment() -> list[str]:
    """The pins that conda and MLflow read: what YAML makes of the file."""
    dependencies = yaml.safe_load((ROOT / "conda.yaml").read_text())["dependencies"]
    return next(item["pip"] for item in dependencies if isinstance(item, dict))


def version_of(entry: str) -> str:
    return re.match(r"[\w.\[\]-]+==([\w.]+)", entry)[1]


def test_the_tests_run_in_the_environment_that_conda_yaml_pins():
    for pin in of_the_environment():
        name, version = pin.split("==")
        assert importlib.metadata.version(name).split("+")[0] == version, pin


def test_conda_yaml_is_read_as_mlflow_reads_it():
    assert FOUND[pins.PROJECT] + FOUND[pins.TESTS] == of_the_environment()
    assert all(FOUND.values()), "a group without a pin"


def test_pyproject_has_the_same_pins():
    assert {pins.PROJECT: PYPROJECT["project"]["dependencies"]} | PYPROJECT["dependency-groups"] == FOUND


def test_pins_are_written_into_an_empty_pyproject():
    empty = re.sub(r'= \[\n(    ".*==.*",\n)+\]', "= []", (ROOT / "pyproject.toml").read_text())
    assert "torch" not in empty
    assert pins.lists(empty, FOUND) == (ROOT / "pyproject.toml").read_text()


def test_the_locks_are_made_of_these_pins():
    assert pins.stale(FOUND) == []
    changed = FOUND | {pins.TESTS: [*FOUND[pins.TESTS], "black==1.0"]}
    assert pins.stale(changed) == [pins.ENVIRONMENT]
    for name, wanted in pins.locks(FOUND).items():
        for pin in wanted:
            package, version = pin.split("==")
            there = {*LOCKS[pins.ENVIRONMENT], *LOCKS[name]}
            entries = [entry for known, entry in there if known == canonicalize_name(package)]
            assert [version_of(entry) for entry in entries] == [version]


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_file_has_a_hash_and_no_registry_is_named(name):
    assert all("--hash=sha256:" in entry for _, entry in LOCKS[name])
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert not re.search(r"://|^-|file:", text, re.MULTILINE)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_the_lock_has_what_its_packages_need_whatever_the_python(python):
    """As far as the packages that are installed here say what they need."""
    on = {"python_version": python, "python_full_version": f"{python}.1", "extra": ""}
    locked = {
        name: Requirement(re.split(r" \\\\?$", entry.splitlines()[0])[0]) for name, entry in LOCKS[pins.ENVIRONMENT]
    }
    there = {name for name, each in locked.items() if each.marker is None or each.marker.evaluate(on)}
    assert {"torch", "numpy", "scipy", "mlflow"} <= there
    installed = {canonicalize_name(each.name): each for each in importlib.metadata.distributions()}
    known = [installed[name] for name in there & installed.keys() if installed[name].version in locked[name].specifier]
    assert len(known) > 50
    for each in known:
        for needed in map(Requirement, each.requires or []):
            if needed.marker is None or needed.marker.evaluate(on):
                assert canonicalize_name(needed.name) in there, f"{each.name} needs {needed}"


def test_make_asks_for_the_python_versions_of_pyproject():
    low, high = re.search(
        r"\((3, \d+)\) <= sys.version_info.*<= \((3, \d+)\)", (ROOT / "Makefile").read_text()
    ).groups()
    low, high = (tuple(int(part) for part in each.split(",")) for each in (low, high))
    assert PYPROJECT["project"]["requires-python"] == f">={low[0]}.{low[1]},<{high[0]}.{high[1] + 1}"


def test_no_pin_is_written_twice():
    made = {"conda.yaml", "pyproject.toml", *(f"requirements/{name}.txt" for name in LOCKS)}
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    twice = [
        (file, pin)
        for file in set(files) - made
        if not file.startswith("docs/")
        for pin in sum(FOUND.values(), [])
        if pin in (ROOT / file).read_text(errors="ignore")
    ]
    assert not twice


def test_the_package_has_its_data_and_its_types(tmp_path):
    """`pip install .`: each file of the two packages that git knows, what it needs, and nothing else."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("labelreg-*.whl")
    with zipfile.ZipFile(wheel) as built:
        inside = {name for name in built.namelist() if ".dist-info/" not in name}
        about = next(built.read(name).decode() for name in built.namelist() if name.endswith("METADATA"))
    known = subprocess.run(["git", "ls-files", "labelreg", "analysis"], cwd=ROOT, capture_output=True, check=True)
    assert inside == set(known.stdout.decode().split())
    assert {"labelreg/py.typed", "analysis/py.typed", "labelreg/recipes/search.yaml"} <= inside
    assert sorted(re.findall("^Requires-Dist: (.*)$", about, re.M)) == sorted(
        pin.lower() for pin in FOUND[pins.PROJECT]
    )
