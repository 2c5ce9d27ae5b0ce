"""Image classifiers of torchvision: architecture, stem for small images, ImageNet weights from a file.

Followed for the stem: Yuan et al. 2020, whose CIFAR networks begin with a 3x3 convolution of stride 1 and no pooling.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from labelreg.errors import UserError
from labelreg.models.weights import converted
from labelreg.output import words_of
from labelreg.whole import file_digest

if TYPE_CHECKING:
    from labelreg.places import Roots


@dataclass(frozen=True)
class Network:
    """torchvision's name of an architecture, and where its first convolution and its classifier are."""

    architecture: str
    stem: str
    head: str


NETWORKS = {
    "resnet18": Network("resnet18", "conv1", "fc"),
    "resnet50": Network("resnet50", "conv1", "fc"),
    "mobilenet_v2": Network("mobilenet_v2", "features.0.0", "classifier.1"),
    "shufflenet_v2": Network("shufflenet_v2_x1_0", "conv1.0", "fc"),
}


class Output(NamedTuple):
    """What a forward pass gives: logits [batch, classes]."""

    logits: Tensor


class Classifier(torch.nn.Module):
    """A network of torchvision behind the interface that the engine knows.

    `config` (network, classes, stem) is what `load` needs to read the saved weights again.
    """

    def __init__(self, body: torch.nn.Module, config: dict):
        super().__init__()
        self.body, self.config = body, config

    def forward(self, pixel_values: Tensor) -> Output:
        """pixel_values [batch, 3, side, side], normalised -> logits [batch, classes]."""
        return Output(self.body(pixel_values))

    def save_pretrained(self, folder: Path) -> None:
        """Write model.safetensors (torchvision's names) and config.json."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.contiguous() for name, value in self.body.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(self.config, indent=1), encoding="utf-8")


def network(name: str) -> str | None:
    """The network that a model's name means: itself, or that of a folder which `save_pretrained` wrote."""
    if name in NETWORKS:
        return name
    config = Path(name) / "config.json"
    try:
        named = json.loads(config.read_text(encoding="utf-8")).get("network") if config.is_file() else None
    except (ValueError, AttributeError):
        return None
    return named if named in NETWORKS else None


def drops(name: str) -> bool:
    """Whether a network has dropout."""
    from torchvision.models import get_model

    with torch.device("meta"):
        body = get_model(NETWORKS[str(network(name))].architecture, weights=None)
    return any(isinstance(each, torch.nn.Dropout) and each.p > 0 for each in body.modules())


def checkpoint(name: str, roots: "Roots") -> Path:
    """The safetensors file of pre-trained weights: a saved folder's own, else torchvision's of ImageNet.

    The latter are looked for in model_root, as torchvision names the file (resnet18-f37072fd.pth) or as
    NAME.safetensors or NAME.pth, then in torchvision's cache; then they are downloaded into that cache.

    Args:
        roots: places.Roots.

    Raises:
        UserError: in no place, or the file is damaged.
    """
    if name not in NETWORKS:
        return Path(name) / "model.safetensors"
    from torchvision.models import get_model_weights

    url = get_model_weights(NETWORKS[name].architecture).IMAGENET1K_V1.url
    usual, cache = url.rpartition("/")[2], Path(torch.hub.get_dir()) / "checkpoints"
    places = [roots.model / file for file in (f"{name}.safetensors", usual, f"{name}.pth")] if roots.model else []
    weights = next((path for path in [*places, cache / usual] if path.is_file()), None)
    if weights is None:
        weights = cache / usual
        try:
            if not roots.download:
                raise FileNotFoundError(weights)
            cache.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(weights), hash_prefix=usual.rpartition("-")[2][:8], progress=False)
        except Exception as error:  # urllib's types, OSError, RuntimeError for a wrong hash
            raise UserError(
                f"model {name}: {usual} is not under {roots.model or 'model_root (not given)'}, not in {cache} and "
                f"not to be had from torchvision ({type(error).__name__}); give model_root=FOLDER with it, or "
                "init=random (a study: inits=random)"
            ) from None
    return (
        weights
        if weights.suffix == ".safetensors"
        else converted(name, weights, roots.cache, roots.download) / "model.safetensors"
    )


def load(name: str, classes: tuple[str, ...], init: str, seed: int, roots: "Roots", stem: str) -> Classifier:
    """An image classifier, float32, channels_last, in training mode; `seed` fixes all that is drawn.

    Both initialisations draw the same numbers; `init=pretrained` then puts the weights over them, all but the
    head and a stem of another shape.

    Args:
        stem: cifar (3x3, stride 1, no pooling, for small images) or imagenet (torchvision's own).
        roots: places.Roots.

    Raises:
        UserError: weights that are not to be had, damaged, or of another architecture.
    """
    known = str(network(name))
    torch.manual_seed(seed)
    body = _body(NETWORKS[known], len(classes), stem)
    config = {"network": known, "classes": list(classes), "stem": stem}
    if init == "pretrained":
        _put(name, body, config, checkpoint(name, roots))
    return Classifier(body, config).to(memory_format=torch.channels_last).train()


def saved(folder: Path) -> Classifier:
    """The classifier that `save_pretrained` wrote, its head and all, for evaluation."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    body = _body(NETWORKS[config["network"]], len(config["classes"]), config["stem"])
    body.load_state_dict(load_file(folder / "model.safetensors"))
    return Classifier(body, config).to(memory_format=torch.channels_last).eval()


def _body(known: Network, classes: int, stem: str) -> torch.nn.Module:
    from torchvision.models import get_model

    body = get_model(known.architecture, weights=None, num_classes=classes)
    if stem == "cifar":
        old = body.get_submodule(known.stem)
        new = torch.nn.Conv2d(3, old.out_channels, 3, stride=1, padding=1, bias=False)
        torch.nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
        parent, _, child = known.stem.rpartition(".")
        setattr(body.get_submodule(parent), child, new)
        if hasattr(body, "maxpool"):
            body.maxpool = torch.nn.Identity()
    return body


def _put(name: str, body: torch.nn.Module, config: dict, path: Path) -> None:
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"model {name}: {path} cannot be loaded ({words_of(error)})") from None
    known, wanted = NETWORKS[config["network"]], body.state_dict()
    head = (f"{known.head}.weight", f"{known.head}.bias")  # always new, as a text classifier's is
    anew = {*head, *(key for key in (f"{known.stem}.weight",) if _shape(weights, key) != _shape(wanted, key))}
    strange = [key for key in wanted if key not in anew and _shape(weights, key) != _shape(wanted, key)]
    if strange:
        raise UserError(
            f"model {name}: {path} is no {known.architecture}: {strange[0]} is {_shape(weights, strange[0])}, "
            f"here {_shape(wanted, strange[0])} ({len(strange)} differ)"
        )
    body.load_state_dict({key: weights[key] for key in wanted if key not in anew}, strict=False)


def _shape(tensors: dict[str, Tensor], key: str) -> tuple | None:
    return tuple(tensors[key].shape) if key in tensors else None


def weights_digest(name: str, init: str, roots: "Roots") -> str:
    """What the start of training depends on beside the settings: the network, and its weights when pre-trained."""
    start = file_digest(checkpoint(name, roots)) if init == "pretrained" else init
    own_head = " new head" if name not in NETWORKS and init == "pretrained" else ""  # earlier runs kept the folder's
    return f"{network(name)} {start}{own_head}"
