"""A checkpoint that exists only as .bin: many processes at once, kills, damage, and two models with equal weights."""

import shutil
import signal
import sys
from pathlib import Path

import pytest
from injector import strike
from running import finish, together

from labelreg.models import registry
from labelreg.places import Roots

pytest_plugins = ["running"]

CALLS = """
import sys
from pathlib import Path
from labelreg import places
from labelreg.models import registry
where = places.Roots(None, None, Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    for model in sys.argv[3:]:
        tokenizer = registry.tokenizer(registry.checkpoint(model, where))
        print(model, registry.weights_digest(model, "pretrained", where), len(tokenizer))
"""


@pytest.fixture
def binary(tiny_models, tmp_path) -> Path:
    """A model whose weights are a pickle."""
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "binary"
    shutil.copytree(tiny_models / registry.MODELS["bert-small"].hub_id, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def twin(binary) -> Path:
    """Another model with the same weights."""
    shutil.copytree(binary, binary.with_name("twin"))
    config = binary.with_name("twin") / "config.json"
    config.write_text(config.read_text().replace('"hidden_dropout_prob": 0.1', '"hidden_dropout_prob": 0.25'))
    assert config.read_text() != (binary / "config.json").read_text()
    return binary.with_name("twin")


def test_many_processes_see_one_model_each_time(binary, twin, isolated, tmp_path):
    command = [sys.executable, "-c", CALLS, str(tmp_path / "cache"), "100", str(binary), str(twin)]
    said = together({name: command for name in ("first", "second", "third")}, tmp_path)
    assert {each.status for each in said.values()} == {0}, said
    lines = [line for each in said.values() for line in each.out.splitlines() if "converting" not in line]
    assert len(lines) == 600
    assert len(set(lines)) == 2, "one fingerprint and one tokenizer for each of the two models"
    assert len({line.split()[1] for line in lines}) == 2, "equal weights are not yet the same model"


def test_a_kill_leaves_no_half_of_a_copy(binary, isolated, tmp_path):
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", CALLS, str(cache), "1", str(binary)]
    assert strike(command, tmp_path, "labelreg.whole:settle", "SIGKILL").status == -signal.SIGKILL
    assert {path.name[:3] for path in cache.glob("converted/*")} == {"tmp"}
    undisturbed = [sys.executable, "-c", CALLS, str(tmp_path / "other"), "1", str(binary)]
    said = [finish(each, tmp_path).out.splitlines()[-1] for each in (command, undisturbed)]
    assert said[0] == said[1]


def damaged(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    else:
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "empty", "flipped"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "files.sha256"])
def test_a_damaged_copy_is_made_anew(name, how, binary, tmp_path, capsys):
    where = Roots(None, None, tmp_path / "cache")
    copy = registry.checkpoint(str(binary), where)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    capsys.readouterr()
    damaged(copy / name, how)
    assert registry.checkpoint(str(binary), where) == copy
    assert "again, as the copy is damaged, to safetensors" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert not list(copy.parent.glob("tmp*"))
