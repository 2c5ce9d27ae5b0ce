"""A stored model as a function of raw texts or images: what MLflow loads from `model/` (a pyfunc's loader_module).

The examples go the way that those of training went: the same cutting, decoding, padding and batches.
"""

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from labelreg import metrics, places, training
from labelreg.data import image_files, images, text
from labelreg.data.batching import UNLABELLED
from labelreg.data.prepared import PreparedTask
from labelreg.errors import UserError
from labelreg.models import adapter, registry, vision
from labelreg.settings import Folders, Machine, Settings

FACTS = "labelreg.json"  # beside the weights: what else a prediction depends on
BASE = "base"  # in FACTS, of an adapter: what it is put into
CLASS = "class"
EXAMPLE = "a text such as those that are to be classified"  # nobody's own: a store has no raw texts
# what this module and those below it import, and what the tokenizers of transformers need
NEEDS = (
    *("mlflow", "torch", "torchvision", "transformers", "safetensors", "sentencepiece", "numpy", "pandas", "pyarrow"),
    *("scikit-learn", "scipy", "joblib", "tqdm", "pillow"),
)


@dataclass(frozen=True)
class Kind:
    """How a stored model is called: MLflow's type of each column that it reads, the columns that it gives, an example.

    `loader` is the module whose _load_pyfunc reads the folder, `code` the packages that it needs.
    """

    inputs: Mapping[str, str]
    outputs: Sequence[str]  # the class, then the probability of each
    example: pd.DataFrame
    requirements: Sequence[str]
    loader: str = __name__
    code: tuple[Path, ...] = (Path(__file__).parent, Path(__file__).parents[1] / "analysis")


def kind(known: Mapping[str, Any]) -> Kind:
    """How the model with these `facts` is called."""
    reads, columns = "string" if "max_length" in known else "binary", known["columns"]
    row = EXAMPLE if reads == "string" else image_files.grey(known["side"])
    # a build such as +cpu is the choice of whoever installs it
    names = (*NEEDS, *known.get(BASE, {}).get("packages", ()))
    pinned = [f"{name}=={version(name).partition('+')[0]}" for name in names]
    inputs = dict.fromkeys(columns, reads)
    return Kind(inputs, _answers(known), pd.DataFrame({name: [row] for name in columns}), pinned)


def facts(data: PreparedTask, settings: Settings, roots: places.Roots) -> dict[str, Any]:
    """What a prediction depends on beside the weights, as JSON."""
    found: dict[str, Any] = {"task": data.task, "classes": list(data.classes), "columns": list(data.columns)}
    split = data.splits["train"]
    if isinstance(split, images.Images):
        moments = {"mean": split.mean.tolist(), "deviation": split.deviation.tolist()}
        return found | moments | {"side": split.pixels.shape[-1], "size": split.size}
    if adapter.of(settings):
        carried = registry.MODELS[settings.model].package if settings.model in registry.MODELS else None
        base = {"model": registry.anywhere(settings.model), "digest": registry.base_digest(settings.model, roots)}
        found[BASE] = base | {"packages": ["peft", *filter(None, [carried])]}
    return found | {"max_length": settings.max_length}


def write(folder: Path, known: Mapping[str, Any], model: Any, name: str, roots: places.Roots) -> None:
    """Write all that `_load_pyfunc` reads; `name` is what the model was loaded from."""
    registry.save(model, name, folder, roots)
    (folder / FACTS).write_text(json.dumps(known, indent=1), encoding="utf-8")


def _answers(known: Mapping[str, Any]) -> list[str]:
    """The columns of an answer: the class, and the probability of each, as predictions/*.parquet names them."""
    return [CLASS, *(f"p_{name}" for name in known["classes"])]


@dataclass(frozen=True)
class Served:
    """A loaded model, its tokenizer (of text), and its FACTS."""

    model: Any
    tokenizer: Any
    known: dict[str, Any]

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns `class` and `p_CLASS` of each class, a row for each of `rows`.

        Raises:
            UserError: a row without a text, or whose image cannot be read.
        """
        names = _answers(self.known)
        if rows.empty:
            return pd.DataFrame(columns=names)
        split = self._texts(rows) if self.tokenizer else self._images(rows)
        logits = training.predict(self.model, split, Machine("fp32", "off", 1, ""))
        probabilities = metrics.softmax(logits.numpy())
        table = pd.DataFrame(probabilities, columns=names[1:], index=rows.index)
        classes = np.array(self.known["classes"], dtype=object)
        table.insert(0, CLASS, classes[probabilities.argmax(axis=1)])
        return table

    def _texts(self, rows: pd.DataFrame) -> Any:
        columns, frame = self.known["columns"], pd.DataFrame()
        for name, column in zip(("text", "text_pair"), columns, strict=False):
            frame[name] = list(rows[column])
            for row, value in enumerate(frame[name], 1):
                if (
                    not isinstance(value, str) or not value.strip() and name == "text"
                ):  # some second questions are empty
                    raise UserError(f"row {row} has no text in column {column!r}")
        split = text.unlabelled(frame, self.tokenizer, self.known["max_length"])
        if not split.lengths.all():
            raise UserError(f"the tokenizer makes no token of row {int(split.lengths.argmin()) + 1}")
        return split

    def _images(self, rows: pd.DataFrame) -> images.Images:
        column, side = self.known["columns"][0], self.known["side"]
        for row, content in enumerate(rows[column], 1):
            if isinstance(content, str):  # of a CSV, or of JSON in another shape, which MLflow leaves as it is
                raise UserError(
                    f"row {row} has a text in column {column!r}, not the bytes of an image: send them as base64 in "
                    "dataframe_records or dataframe_split (JSON)"
                )
        pixels = [
            image_files.decoded(content, f"row {row}", self.known["task"], side)[0]
            for row, content in enumerate(rows[column], 1)
        ]
        return images.Images(
            pixels=torch.from_numpy(np.stack(pixels)),
            labels=torch.full((len(rows),), UNLABELLED),
            idx=torch.arange(len(rows)),
            mean=torch.tensor(self.known["mean"]),
            deviation=torch.tensor(self.known["deviation"]),
            fingerprint="",
            size=self.known["size"],
            augment="none",
        )


def _load_pyfunc(path: str) -> Served:
    """What MLflow calls with the folder of the model."""
    folder = Path(path).resolve()
    known = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    if vision.network(str(folder)):
        return Served(vision.saved(folder), None, known)
    roots, classes = places.Roots(None, None, folder, download=False), tuple(known["classes"])
    model: Any
    with contextlib.redirect_stdout(sys.stderr):  # `mlflow models predict` prints its answer, and nothing else
        if base := known.get(BASE):  # it lies where any model is looked for: a package, LABELREG_MODEL_ROOT, the hub
            model = registry.load_adapter(folder, base["model"], base["digest"], classes, places.roots(Folders()))
        else:
            model = registry.load(str(folder), classes, "pretrained", 0, roots, head="checkpoint")
    return Served(model.eval(), registry.tokenizer(folder), known)
