"""conda.yaml's pins, written to where pip and uv read them: `make lock`.

conda.yaml is what `mlflow run` builds its environment of, so the versions are decided there. From it are made the lists
of pyproject.toml, and one lock file a group in requirements/: every package that a group brings, with its hashes, for
all systems and Python versions (uv's universal resolution). A lock names no registry: which one is asked is the user's.
"""

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = "environment"  # of the lock of what conda.yaml installs: the project and its tests
PROJECT, TESTS = "dependencies", "dev"
GROUP = re.compile(r"^ *# group (\w+):")
PIN = re.compile(r"^ *(?:# )?- ([\w.-]+==[\w.]+)(?: #|$)")


def groups(conda: str) -> dict[str, list[str]]:
    """The pins of conda.yaml's text, by group: `dependencies` is what stands before the first group's heading."""
    found: dict[str, list[str]] = {PROJECT: []}
    name = PROJECT
    for line in conda.splitlines():
        if heading := GROUP.match(line):
            name = heading[1]
            found[name] = []
        elif pin := PIN.match(line):
            found[name].append(pin[1])
    return found


def locks(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Which pins each lock file is made of: those of the environment in one, each other group in its own."""
    others = {name: pins for name, pins in found.items() if name not in (PROJECT, TESTS)}
    return {ENVIRONMENT: found[PROJECT] + found[TESTS]} | others


def lists(pyproject: str, found: dict[str, list[str]]) -> str:
    """pyproject.toml's text with the pins in its lists."""
    for name, pins in found.items():
        items = "".join(f'    "{pin}",\n' for pin in pins)
        pyproject, written = re.subn(rf"^{name} = \[.*?\]$", f"{name} = [\n{items}]", pyproject, flags=re.M | re.S)
        if written != 1:
            raise SystemExit(f"pyproject.toml: {written} lists are named {name}; one is needed")
    return pyproject


def heading(pins: list[str]) -> str:
    """A lock's first line, by which a test sees that it was made of these pins."""
    digest = hashlib.sha256("\n".join(pins).encode()).hexdigest()
    return f"# made by `make lock` of the pins of conda.yaml with the sha256 {digest[:16]}; do not edit\n"


def packages(lock: str) -> list[tuple[str, str]]:
    """A lock's entries, each with its package's name: the pin and, on the lines that follow, its hashes.

    A package has two where the Python versions need different ones.
    """
    entries = re.findall(r"^[A-Za-z0-9].*(?:\n[ \t].*)*", lock, flags=re.M)
    return [(re.split(r"[=\[ ]", entry)[0], entry) for entry in entries]


def resolve(pins: list[str], within: Path | None) -> str:
    """The lock of these pins; with `within`, what they bring beyond that lock, in versions that agree with it."""
    lowest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    command = ["uv", "pip", "compile", "--quiet", "--no-config", "--universal", "--generate-hashes", "--no-header"]
    command += ["--no-annotate", "--fork-strategy", "fewest", "--python-version", re.findall(r"[\d.]+", lowest)[0], "-"]
    if within:
        command += ["--constraint", str(within)]
    made = subprocess.run(command, input="\n".join(pins), text=True, stdout=subprocess.PIPE, check=True).stdout
    there = {name for name, _ in packages(within.read_text())} if within else set()
    return "".join(f"{entry}\n" for name, entry in packages(made) if name not in there)


def stale(found: dict[str, list[str]]) -> list[str]:
    """The locks that were made of other pins than conda.yaml's."""
    made = {name: (ROOT / "requirements" / f"{name}.txt").read_text() for name in locks(found)}
    return [name for name, pins in locks(found).items() if not made[name].startswith(heading(pins))]


def main() -> int:
    found = groups((ROOT / "conda.yaml").read_text())
    if "--check" in sys.argv:
        if old := stale(found):
            print(f"conda.yaml has other pins than requirements/{old[0]}.txt was made of: make lock", file=sys.stderr)
        return 2 if old else 0
    pyproject = ROOT / "pyproject.toml"
    pyproject.write_text(lists(pyproject.read_text(), found))
    within = None
    for name, pins in locks(found).items():
        file = ROOT / "requirements" / f"{name}.txt"
        file.write_text(heading(pins) + resolve(pins, within))
        within = within or file
    return 0


if __name__ == "__main__":
    sys.exit(main())
