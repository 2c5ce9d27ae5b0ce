"""What is trained where not all weights are: a LoRA adapter (Hu et al. 2021) and the head, or the head alone. By peft.

peft puts the adapter into the layers of the model that it is given, so that what is trained, evaluated and averaged
stays transformers' own class, with all that `classifier.build` made of it; the PeftModel around it writes the files.
All other weights are frozen: they stand in no snapshot, no checkpoint and no stored model.
"""

import copy
import gc
import importlib.util
import json
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from labelreg.errors import UserError
from labelreg.settings import FULL, LORA, Settings

CONFIGURATION, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"  # peft's names
NO_LAYER = "dummy-target-modules"  # peft's word for an adapter that has no layer: the head alone
NAME = "default"  # peft's, of the one adapter that a model has


@dataclass(frozen=True)
class Adapter:
    """What peft is asked for. `targets`: ends of names of linear layers; empty: all. Rank 0: the head alone."""

    rank: int = 0
    alpha: int = 1
    dropout: float = 0.0
    targets: tuple[str, ...] = ()


def of(settings: Settings) -> Adapter | None:
    """The adapter of a run; None where all weights are trained."""
    if settings.tuning in (None, FULL):
        return None
    if settings.tuning != LORA:
        return Adapter()
    rank, alpha, dropout = int(settings.lora_r or 0), int(settings.lora_alpha or 0), float(settings.lora_dropout or 0)
    return Adapter(rank, alpha, dropout, tuple(settings.lora_targets or ()))


def check(settings: Settings) -> None:
    """Raises UserError where peft is needed and missing."""
    if of(settings) and importlib.util.find_spec("peft") is None:
        raise UserError(
            f"tuning={settings.tuning} needs the package peft, which is not installed: `make setup` (or pip install "
            f"peft, in the version of conda.yaml), or give tuning={FULL}"
        )


def attach(name: str, model: Any, adapter: Adapter, seed: int, new: Collection[str]) -> None:
    """Freeze `model`, and put the adapter into it; `seed` fixes the adapter, whatever was drawn before it.

    The model is changed in place. Its head (all that is not part of the base model) is trained as it is.

    Args:
        new: modules of the base model that the checkpoint does not have: they were drawn, and are trained too.

    Raises:
        UserError: there is no linear layer, or none of such a name.
    """
    from peft import LoraConfig

    gc.collect()  # a PeftModel and its model hold each other: an earlier run's go now, or memory grows run by run
    head = [*(child for child, _ in model.named_children() if child != model.base_model_prefix), *new]
    head = [each for each in head if any(True for _ in model.get_submodule(each).parameters())]
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=max(1, adapter.rank),
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=targets(name, model, adapter.targets, new) if adapter.rank else NO_LAYER,
        modules_to_save=head,
    )
    torch.manual_seed(seed)
    _put_into(model, config)


def _put_into(model: Any, config: Any) -> None:
    from peft import get_peft_model

    with warnings.catch_warnings(action="ignore"):  # of what the two libraries call in each other, and of Conv1D
        # in a list: the PeftModel holds the model, and is no part of it
        model.adapter = [get_peft_model(model, config)]


def targets(name: str, model: Any, wanted: Collection[str], new: Collection[str]) -> list[str]:
    """Names of the linear layers of the base model, those whose names end as is `wanted`; an outline of it will do.

    Raises:
        UserError: there is none, or an end that no name has.
    """
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layers

    body, drawn = f"{model.base_model_prefix}.", tuple(f"{each}." for each in new)
    modules = [each for each, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)]
    linear = [each for each in modules if each.startswith(body) and not each.startswith(drawn)]
    if not linear:
        raise UserError(f"tuning={LORA}: model {name} has no linear layer for an adapter; give tuning=head or {FULL}")
    found: dict[str, None] = {}
    for end in wanted:
        ended = [each for each in linear if f".{each}".endswith(f".{end}")]
        if not ended:
            there = ", ".join(sorted({each.rpartition(".")[2] for each in linear}))
            raise UserError(f"lora_targets={end}: model {name} has no linear layer of that name; it has {there}")
        found |= dict.fromkeys(ended)
    return list(found) if wanted else linear


# what is trained, of any model


def trained(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights that training changes, by name: the state without what is frozen."""
    every = model.named_parameters(remove_duplicate=False)
    frozen = {name for name, parameter in every if not parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def put(model: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a model weights that `trained` gave; what is frozen stays.

    Raises:
        RuntimeError: they are of another model.
    """
    strange = weights.keys() ^ trained(model).keys()
    if strange:
        raise RuntimeError(f"weights of another model: {sorted(strange)[0]} ({len(strange)} differ)")
    model.load_state_dict(dict(weights), strict=False)


def parameters(model: torch.nn.Module) -> int:
    """How many numbers are trained."""
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


def megabytes(model: torch.nn.Module) -> float:
    """What the weights of a stored model take, in MB: of a tuned one the adapter and the head."""
    found = {value.data_ptr(): value for value in trained(model).values()}  # tied ones are stored once
    return sum(value.numel() * value.element_size() for value in found.values()) / 1e6


# in files


def base_of(folder: Path) -> str | None:
    """What the weights of a stored adapter were put into; None of any other folder."""
    try:
        return str(json.loads((folder / CONFIGURATION).read_text(encoding="utf-8"))["base_model_name_or_path"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return "a base model that its adapter_config.json does not name"


def save(model: Any, base: str, whole: int | None, layers: tuple[int, ...], folder: Path) -> None:
    """Write the adapter and the head as peft does, and config.json of the model that they are put into.

    Args:
        base: what peft looks that model up by.
        whole: how many layers it has, where `layers` are those that are kept: peft makes the choice again.
    """
    wrapped, config = model.adapter[0], copy.deepcopy(model.config)
    about = wrapped.peft_config[NAME]
    about.base_model_name_or_path = base
    about.layer_replication = [[index, index + 1] for index in layers] or None
    wrapped.save_pretrained(folder, save_embedding_layers=False)  # they are frozen, and the hub need not be asked
    (folder / CARD).unlink(missing_ok=True)  # peft's is empty; `promote` writes one
    config.architectures = [type(model).__name__]
    if whole is not None:
        config.num_hidden_layers = whole
    config.save_pretrained(folder)


def restore(model: Any, folder: Path) -> None:
    """Put what `save` wrote into the model that it was made of, for evaluation.

    Raises:
        UserError: the weights are not those of the adapter: some are missing, strange or of another shape.
    """
    from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict

    config = LoraConfig.from_pretrained(str(folder))
    config.layer_replication = None  # `registry.load` has chosen already
    _put_into(model, config)
    weights = load_file(folder / WEIGHTS)
    own = get_peft_model_state_dict(model.adapter[0], save_embedding_layers=False)
    found, expected = ({(key, value.shape) for key, value in each.items()} for each in (weights, own))
    strange = found ^ expected
    if strange:
        raise UserError(
            f"{folder / WEIGHTS} is damaged: its names and shapes are not those of the adapter in {CONFIGURATION} "
            f"({min(key for key, _ in strange)})"
        )
    set_peft_model_state_dict(model.adapter[0], weights)
