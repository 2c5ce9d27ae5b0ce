"""Teacher logits: computed once, stored with what they belong to, verified whenever they are read."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from labelreg import whole
from labelreg.data.prepared import PreparedTask
from labelreg.errors import UserError
from labelreg.output import words_of
from labelreg.whole import checksum


def save(folder: Path, logits: Mapping[str, Tensor], data: PreparedTask, fingerprint: str) -> None:
    """Write `<split>.safetensors` for every split, each complete or not at all.

    Args:
        logits: by split, in the split's order [examples, classes].
        fingerprint: of the run whose logits these are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split, values in logits.items():
        about = {
            "examples": data.splits[split].fingerprint,
            "classes": json.dumps(data.classes),
            "teacher": fingerprint,
            "checksum": checksum({"logits": values}),
        }
        with whole.file(folder / f"{split}.safetensors") as temporary:
            save_file({"logits": values.contiguous()}, temporary, metadata=about)


def load(path: Path, data: PreparedTask, split: str, whose: str) -> Tensor:
    """Logits of a split [examples, classes], float32, proven to belong to its examples.

    Args:
        whose: the run, as the error message names it.

    Raises:
        UserError: damaged, other classes, another number of examples, other examples, or not finite.
    """
    try:
        with safe_open(path, "pt") as file:
            about, logits = file.metadata() or {}, file.get_tensor("logits")
        classes = tuple(json.loads(about.get("classes", "[]")))
        if about.get("checksum", "") not in ("", checksum({"logits": logits})):  # earlier ones have none
            raise ValueError("its checksum is another")
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"logits of {whose} ({split}): the file is damaged or missing ({words_of(error)}); "
            "restore it, or delete that run (`mlflow runs delete --run-id ...`): the same command then trains another"
        ) from None
    examples = len(data.splits[split])
    if classes != data.classes:
        raise UserError(
            f"logits of {whose}: its classes are {', '.join(classes)}; here they are {', '.join(data.classes)}"
        )
    if tuple(logits.shape) != (examples, len(data.classes)):
        raise UserError(
            f"logits of {whose} ({split}): shape {tuple(logits.shape)}; here it must be "
            f"({examples}, {len(data.classes)}) (max_train_examples, split_seed or the data differ)"
        )
    if about.get("examples") != data.splits[split].fingerprint:
        raise UserError(
            f"logits of {whose} ({split}): they belong to other examples (fingerprint {about.get('examples')}, "
            f"here {data.splits[split].fingerprint})"
        )
    if not torch.isfinite(logits).all():
        raise UserError(f"logits of {whose} ({split}): not all are finite")
    return logits.float()
