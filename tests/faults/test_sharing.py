"""Two users of one machine share a cache and a store; where one may not read what the other wrote, a line says so."""

import os
import stat
import subprocess
import sys

import pytest
from running import ROOT, finish, python, refused

pytest_plugins = ["running"]

OTHER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture
def other(tiny_models, tiny_file, store) -> list[str]:
    """How a command is run as another user, who may reach the folders that both have, and a folder of his own."""
    seen = subprocess.run([*OTHER, sys.executable, "-c", "import torch, labelreg"], cwd=ROOT, capture_output=True)
    if os.getuid() or seen.returncode:
        pytest.skip("no other user can be had here")
    for path in [*tiny_models.rglob("*"), tiny_models, store, *store.parents]:
        if path.stat().st_uid == os.getuid() and len(path.parts) > 2:
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
    return OTHER


def with_umask(umask: str, command: list[str]) -> list[str]:
    return ["sh", "-c", f'umask {umask}; exec "$@"', "sh", *command]


def written(folder) -> dict[str, str]:
    """The rights of all that is in the cache, the store and its artifacts."""
    paths = [*folder.glob("cache/**/*"), *folder.glob("mlruns/**/*"), folder / "cache", *folder.glob("*.db")]
    return {str(path.relative_to(folder)): stat.filemode(path.stat().st_mode) for path in paths}


def test_everything_follows_the_umask_and_another_user_goes_on_with_it(other, tiny, store, monkeypatch):
    (store / "mlflow.db").unlink()  # made anew
    monkeypatch.setenv("HOME", str(store / "home"))
    (store / "home").mkdir(mode=0o777)
    (store / "home").chmod(0o777)
    store.chmod(0o777)
    given = {name: value for name, value in tiny.items() if name != "model"}
    first = python("train_student", **given, model="bert-small", method="selfkd", save_model="true")
    said = finish(with_umask("000", first), store)
    assert said.status == 0, said
    found = written(store)
    assert {mode[1:] for path, mode in found.items() if mode[0] == "d"} == {"rwxrwxrwx"}, found
    assert {mode for path, mode in found.items() if mode[0] == "-"} == {"-rw-rw-rw-"}, found
    for kind in ("cache/prepared", "cache/logits", "artifacts/logits", "artifacts/model", "mlflow.db"):
        assert any(kind in path for path in found), (kind, found)
    second = python("train_student", **given, model="bert-small", method="selfkd", seed=43)
    said = finish(with_umask("000", [*other, *second]), store)
    assert said.status == 0, said
    prepared = [path for path in found if path.startswith("cache/prepared/")]
    assert prepared == [path for path in written(store) if path.startswith("cache/prepared/")], "prepared once"


def test_what_another_user_keeps_for_himself_is_told(other, tiny, store, monkeypatch):
    monkeypatch.setenv("HOME", "/nonexistent")
    cache = store / "cache"
    (cache / "prepared").mkdir(parents=True)
    cache.chmod(0o700)
    (store / "mlflow.db").chmod(0o666)
    store.chmod(0o777)
    said = finish([*other, *python("train_student", **tiny)], store)
    refused(said, str(cache), "ermission denied")
