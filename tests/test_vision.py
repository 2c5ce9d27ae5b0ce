"""Image classifiers: stems, seeds, ImageNet weights from files, what cannot be used, and what is saved."""

import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torchvision.models import get_model

from labelreg.errors import UserError
from labelreg.models import registry, vision
from labelreg.models.registry import MODELS
from labelreg.models.weights import file_digest
from labelreg.places import Roots

CLASSES = ("cat", "dog", "owl")
FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "mobilenet_v2": "mobilenet_v2-b0353104.pth",
    "shufflenet_v2": "shufflenetv2_x1-5666bf0f80.pth",
}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and a cache of torchvision of the test's own; the folder of its checkpoints."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def load(tmp_path, offline):
    (tmp_path / "weights").mkdir()

    def loaded(name="resnet18", init="pretrained", seed=0, stem="cifar", classes=CLASSES):
        where = Roots(None, tmp_path / "weights", tmp_path / "cache")
        return registry.load(name, classes, init, seed, where, stem)

    return loaded


def stored(path, name="resnet18", **more):
    """Random weights as torchvision publishes ImageNet's: a pickled state dict of 1,000 classes."""
    torch.manual_seed(77)
    weights = get_model(vision.NETWORKS[name].architecture, weights=None).state_dict()
    torch.save(weights | more, path)
    return weights


@pytest.mark.parametrize("name", vision.NETWORKS)
def test_every_network_reads_small_images(name, load):
    """The stem for small images neither strides nor pools: its first map is as large as the image."""
    model = load(name, init="random").eval()
    maps = []
    first = model.body.get_submodule(vision.NETWORKS[name].stem)
    first.register_forward_hook(lambda module, inputs, output: maps.append(output.shape[-1]))
    assert (first.kernel_size, first.stride, first.padding) == ((3, 3), (1, 1), (1, 1))
    assert not any(isinstance(module, torch.nn.MaxPool2d) for module in model.modules())
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 16, 16)).logits.shape == (2, 3)
    assert maps == [16]
    assert MODELS[name].teacher in (None, *vision.NETWORKS)


def test_the_imagenet_stem_is_torchvisions_own(load):
    model, own = load(init="random", stem="imagenet", classes=tuple("abc")), get_model("resnet18", num_classes=3)
    assert {k: v.shape for k, v in model.body.state_dict().items()} == {k: v.shape for k, v in own.state_dict().items()}
    assert isinstance(model.body.maxpool, torch.nn.MaxPool2d)


def test_a_seed_is_a_start_and_both_inits_draw_the_same(load, tmp_path):
    stored(tmp_path / "weights" / FILES["resnet18"])
    one, two, other = load(init="random"), load(init="random"), load(init="random", seed=1)
    pretrained = load()
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    assert not torch.equal(one.body.fc.weight, other.body.fc.weight)
    assert torch.equal(one.body.fc.weight, pretrained.body.fc.weight)
    assert torch.equal(one.body.conv1.weight, pretrained.body.conv1.weight)
    assert not torch.equal(one.body.layer1[0].conv1.weight, pretrained.body.layer1[0].conv1.weight)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_all_weights_that_fit_are_taken(name, stem, load, tmp_path):
    weights, network = stored(tmp_path / "weights" / FILES[name], name), vision.NETWORKS[name]
    found = load(name, stem=stem).body.state_dict()
    for key, value in found.items():
        anew = key.startswith(f"{network.head}.")
        anew |= stem == "cifar" and key == f"{network.stem}.weight" and value.shape != weights[key].shape
        assert (value.shape == weights[key].shape and torch.equal(value, weights[key])) != anew, key


def test_a_pth_is_converted_once_and_its_digest_recorded(load, tmp_path, capsys):
    path = tmp_path / "weights" / FILES["resnet18"]
    weights = stored(path)
    digest = file_digest(path)
    load()
    assert f"converting {path.name} (sha256 {digest}) to safetensors" in capsys.readouterr().out
    load()
    assert "converting" not in capsys.readouterr().out
    (copy,) = (tmp_path / "cache" / "converted").glob("*/model.safetensors")
    with safe_open(copy, "pt") as file:
        assert file.metadata()["source_sha256"] == digest
    assert torch.equal(load_file(copy)["fc.weight"], weights["fc.weight"])


def test_where_weights_are_looked_for(load, offline, tmp_path):
    """model_root first, under torchvision's name or the model's; then torchvision's cache."""
    cached = stored(offline / FILES["resnet18"])
    assert torch.equal(load().body.layer1[0].conv1.weight, cached["layer1.0.conv1.weight"])
    own = {key: value + 1 for key, value in cached.items()}
    torch.save(own, tmp_path / "weights" / "resnet18.pth")
    assert torch.equal(load().body.layer1[0].conv1.weight, own["layer1.0.conv1.weight"])


def test_the_weights_are_in_the_digest(load, tmp_path):
    where = Roots(None, tmp_path / "weights", tmp_path / "cache")
    weights = stored(tmp_path / "weights" / "resnet18.pth")
    first, scratch = (registry.weights_digest("resnet18", init, where) for init in ("pretrained", "random"))
    torch.save(weights | {"fc.bias": weights["fc.bias"] + 1}, tmp_path / "weights" / "resnet18.pth")
    assert len({first, scratch, registry.weights_digest("resnet18", "pretrained", where)}) == 3
    assert scratch == registry.weights_digest("resnet18", "random", where)


def test_without_weights_and_network_there_is_one_clear_line(load, offline):
    told = r"resnet18-f37072fd.pth is not under .*init=random .a study: inits=random"
    with pytest.raises(UserError, match=told) as error:
        load()
    assert "\n" not in str(error.value)
    assert not list(offline.iterdir())


class Hostile:
    def __reduce__(self):
        return os.system, ("touch /tmp/should-not-be-there",)


@pytest.mark.parametrize("damage", ["truncated", "text", "hostile", "another", "empty"])
def test_a_file_that_cannot_be_used_is_one_line(damage, load, tmp_path):
    path, expected = tmp_path / "weights" / "resnet18.pth", "is not a plain checkpoint"
    if damage == "truncated":
        stored(path)
        path.write_bytes(path.read_bytes()[:100_000])
    elif damage == "text":
        path.write_text("not weights")
    elif damage == "hostile":
        stored(path, extra=Hostile())
    elif damage == "empty":
        torch.save({}, path)
        expected = "is no resnet18: bn1.weight is None, here"
    else:
        stored(path, "shufflenet_v2")
        expected = "is no resnet18: bn1.weight is None, here"
    with pytest.raises(UserError, match=expected) as error:
        load()
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_what_was_saved_can_be_loaded(load, tmp_path):
    model = load(init="random").eval()
    registry.save(model, "resnet18", tmp_path / "saved", Roots(None, None, tmp_path / "cache"))
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"model.safetensors", "config.json"}
    again = load(str(tmp_path / "saved"), seed=9).eval()
    assert torch.equal(again.body.conv1.weight, model.body.conv1.weight)
    assert not torch.equal(again.body.fc.weight, model.body.fc.weight), "a head is drawn from the seed, always"
    plain = get_model("resnet18", num_classes=3)  # torchvision's names; only the stem is another
    plain.conv1 = torch.nn.Conv2d(3, 64, 3, bias=False)
    plain.load_state_dict(load_file(tmp_path / "saved" / "model.safetensors"))
    other = load(str(tmp_path / "saved"), classes=("x", "y"), seed=9)
    assert other.body.fc.weight.shape == (2, 512)
    assert torch.equal(other.body.conv1.weight, model.body.conv1.weight)
