"""The pinned environment: one place, and the one that the tests run in."""

import importlib.metadata
import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent


def pins() -> list[str]:
    dependencies = yaml.safe_load((ROOT / "conda.yaml").read_text())["dependencies"]
    return next(item["pip"] for item in dependencies if isinstance(item, dict))


def test_the_tests_run_in_the_environment_that_conda_yaml_pins():
    for pin in pins():
        name, version = pin.split("==")
        assert importlib.metadata.version(name).split("+")[0] == version, pin


def test_make_extracts_every_pin_and_nothing_else():
    rule = re.search(r"^\t(sed .*) > ", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1)
    command = rule.replace("$$", "$").replace("$<", "conda.yaml")
    lines = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert [line.split(" #")[0].strip() for line in lines] == pins()


def test_no_pin_is_written_twice():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    twice = [
        (file, pin)
        for file in files
        if file != "conda.yaml" and not file.startswith("docs/")
        for pin in pins()
        if pin in (ROOT / file).read_text(errors="ignore")
    ]
    assert not twice
