"""The arrows between rooms (docs/architecture.md): no circles, hidden ones included, and what each room may know."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("analysis", "entrypoints", "labelreg")
FORBIDDEN = {  # room -> what nothing in it may import, at the top or inside a function
    "analysis": ("torch", "transformers", "mlflow", "optuna", "entrypoints"),
    "labelreg.data": ("mlflow", "optuna", "labelreg.store", "labelreg.methods", "labelreg.training"),
    "labelreg.models": ("mlflow", "optuna", "labelreg.store", "labelreg.data", "labelreg.methods"),
    "labelreg.store": ("optuna", "labelreg.data", "labelreg.models", "labelreg.methods", "analysis"),
    "labelreg.training": ("mlflow", "optuna", "labelreg.studies", "labelreg.workers"),
    "labelreg": ("entrypoints",),
}


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """All that a file imports, wherever it does, but not what is for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in inner if name in known} | ({str(node.module)} if inner - set(known) else set())
    return found


KNOWN = modules()
GRAPH = {name: imported(path, KNOWN) - {name} for name, path in KNOWN.items()}


def test_no_module_waits_for_itself():
    ours = {name: {other for other in others if other in KNOWN} for name, others in GRAPH.items()}
    assert len(list(TopologicalSorter(ours).static_order())) == len(KNOWN)


def test_the_store_alone_talks_to_mlflow():
    users = {name for name, others in GRAPH.items() if any(other.split(".")[0] == "mlflow" for other in others)}
    assert users and all(name.startswith("labelreg.store") for name in users), users


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_knows_what_it_may(room):
    inside = {name: others for name, others in GRAPH.items() if name == room or name.startswith(f"{room}.")}
    assert inside
    for name, others in inside.items():
        for other in others:
            below = [bad for bad in FORBIDDEN[room] if other == bad or other.startswith(f"{bad}.")]
            assert not below, f"{name} imports {other}"


def test_the_analysis_knows_of_labelreg_what_needs_no_torch():
    ours = {other for name, others in GRAPH.items() if name.startswith("analysis") for other in others}
    known = {other for other in ours if other.startswith("labelreg") and not other.startswith("labelreg.methods.")}
    assert known <= {"labelreg.errors", "labelreg.methods", "labelreg.settings"}


@pytest.mark.parametrize("module", ["labelreg.answers.answering", "entrypoints.command", "labelreg.methods"])
def test_answers_need_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_entrance_is_thin():
    for path in (ROOT / "entrypoints").glob("*.py"):
        if path.name != "command.py":
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 40, path.name
