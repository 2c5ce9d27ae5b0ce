"""The executor on a real Ray cluster of two nodes on this machine, one of which is lost in the middle."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from running import CHILD, ROOT, call, measured, new_store, refused, runs, succeed, wait_for

from labelreg import recipes
from labelreg.store import checkpoint

pytest_plugins = ["running"]

EPOCHS = 40


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of a head and a second node, one CPU each; its processes and files are gone afterwards."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "40")  # for a busy machine
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "240000")
    for name, value in CHILD.items():  # nodes inherit it
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONPATH")  # nodes have the code that is sent to them, and no other
    import ray
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # short: it holds Unix sockets
        monkeypatch.setenv("RAY_TMPDIR", folder)
        made = Cluster()
        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        node |= {"no_monitor": True, "include_log_monitor": False}
        try:
            add_node(made, node)
            monkeypatch.setenv("RAY_ADDRESS", made.address)
            made.second = add_node(made, node)
            yield made
        finally:
            ray.shutdown()
            made.shutdown()
            wait_for(lambda: not processes(folder), "the end of all of Ray's processes")


def add_node(cluster, node: dict):
    """A node gives up when its agent takes more than 15 s to start, as on a busy machine."""
    for _ in range(4):
        with contextlib.suppress(Exception):
            return cluster.add_node(**node, **ports())
    return cluster.add_node(**node, **ports())


def ports() -> dict[str, int]:
    """Free ports for a node's agents: it need not wait for them to name their own."""
    found = {}
    for name in ("metrics_agent_port", "dashboard_agent_listen_port", "runtime_env_agent_port", "metrics_export_port"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            found[name] = free.getsockname()[1]
    return found


def processes(words: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = path.joinpath("cmdline").read_text().replace("\0", " ")
            if words in line and int(path.name) != os.getpid():
                found.append(line)
    return found


def epochs_kept(cache: Path) -> list[int]:
    """The epoch of each checkpoint that exists now."""
    found = [checkpoint.load(path) for path in (cache / "checkpoints").glob("*")]
    return [each[1]["epoch"] for each in found if each]


@pytest.mark.slow
def test_a_node_is_lost_and_every_run_ends_once_with_the_results_of_the_local_executor(
    cluster, tiny, store, empty_store, settings_file, monkeypatch
):
    names = ("train_file", "model_root", "max_length")
    lists = {"models": "bert-small", "inits": "pretrained", "methods": "finetune,selfkd", "seeds": "1,2"}
    settings = settings_file(lr=1e-3, batch_size=4, epochs=EPOCHS)
    given = {name: tiny[name] for name in names} | lists | {"settings": settings, "checkpoint_seconds": 0}
    seen = {}

    def lose_a_node():
        wait_for(lambda: sum(epoch >= 2 for epoch in epochs_kept(store / "cache")) == 2, "two runs under way")
        seen["epochs"] = epochs_kept(store / "cache")
        cluster.remove_node(cluster.second, allow_graceful=False)
        seen["runs"] = {path.read_text() for path in (store / "cache" / "checkpoints").glob("*/run_id")}

    thread = threading.Thread(target=lose_a_node)
    thread.start()
    ended = succeed("main", **given, executor="ray")
    thread.join()
    assert "4 runs, 2 at a time" in ended.out, ended
    assert max(seen["epochs"]) < EPOCHS, "both were under way"
    on_ray = {(run.data.params["method"], run.data.params["seed"]): run for run in runs("student")}
    assert len(on_ray) == len(runs("student")) == 4, "each run once"
    assert {run.info.status for run in on_ray.values()} == {"FINISHED"}
    assert seen["runs"] <= {run.info.run_id for run in on_ray.values()}, "the lost one went on under its own id"
    assert len(seen["runs"]) == 2
    results = {cell: measured(run) for cell, run in on_ray.items()}

    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(empty_store, store / "local"))
    monkeypatch.setenv("LABELREG_CACHE_ROOT", str(store / "local" / "cache"))
    succeed("main", **given, jobs=1)
    assert {(r.data.params["method"], r.data.params["seed"]): measured(r) for r in runs("student")} == results


@pytest.mark.parametrize(
    "address, words",
    [
        ("ray://127.0.0.1:9", "no Ray cluster answers at ray://127.0.0.1:9"),
        ("10.0.0.1:6379", "allowed is auto, local or ray://HOST:PORT"),
        ("auto", "ray_address=auto: "),
    ],
)
def test_an_address_without_a_cluster_is_refused_before_anything_starts(tiny, monkeypatch, address, words):
    monkeypatch.setenv("RAY_TMPDIR", str(tiny["train_file"].parent))  # no cluster of the machine is seen,
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", list)  # nor one that another test is ending now
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    given = {name: tiny[name] for name in ("train_file", "model_root")}
    refused(call("main", **given, executor="ray", ray_address=address), words)
    assert not runs()


def test_ray_is_not_imported_unless_asked_for():
    program = (
        "import sys, entrypoints.main; from labelreg import settings; from labelreg.workers import executors; "
        "executors.check([], 1, settings.Workers()); "
        "sys.exit('ray' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=os.environ | CHILD, check=False)
    assert ended.returncode == 0


def test_the_code_that_is_sent_knows_the_users_own_recipe(tmp_path, monkeypatch):
    """A recipe by a relative path, which extends one by an absolute path: neither exists on the other machine."""
    from labelreg.workers import ray_tasks

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("base.yaml").write_text("{kind: settings, extends: default, rules: [{set: {lr: 0.123}}]}")
    Path("mine.yml").write_text(
        f"{{kind: settings, extends: {tmp_path}/here/base.yaml, rules: [{{set: {{epochs: 7}}}}]}}"
    )
    expected = recipes.rules("mine.yml")
    sent = tmp_path / "sent"
    sent.mkdir()
    ray_tasks.send_code(sent, ["mine.yml", "default"])
    (tmp_path / "here").rename(tmp_path / "gone")
    program = "import json, sys; from labelreg import recipes; print(recipes.__file__, recipes.rules('mine.yml'))"
    environment = os.environ | CHILD | {"PYTHONPATH": str(sent)}
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=sent, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert said == f"{sent}/labelreg/recipes/__init__.py {expected}\n"
    assert {path.name for path in sent.iterdir()} == {"analysis", "entrypoints", "labelreg"}
