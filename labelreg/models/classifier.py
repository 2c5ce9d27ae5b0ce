"""A checkpoint of text as a classifier: what its head is, how it bears padding, how many tokens it takes.

transformers has more than a hundred sequence classifiers, which read the first token, the last one, the last
that is not the padding's id, the last end mark or the mean. What a model bears is found by asking the model
(`_fit`), not by its name.
"""

import copy
import inspect
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor

from labelreg.errors import UserError
from labelreg.output import words_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import SequenceClassifierOutput

    class TextClassifier(PreTrainedModel):
        """One of transformers' sequence classifiers, with what `_fit` found out about it."""

        reads_types: bool
        padding_side: str


AGREES = 1e-3  # of the largest logit; a neighbour that matters changes far more, rounding a thousandth of it


@contextmanager
def told(name: str, path: Path) -> Iterator[None]:
    """What the library refuses becomes one line: it raises a dozen types."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = words_of(error)
        raise UserError(f"model {name}: {path} cannot be loaded ({said})") from None


def build(
    name: str,
    path: Path,
    classes: tuple[str, ...],
    init: str,
    seed: int,
    head: str,
    layers: tuple[int, ...],
    pad_id: Callable[[], int],
) -> "TextClassifier":
    """A classifier, float32; `seed` fixes all that is drawn.

    The head is all that is not part of the base model. With head=new it is drawn whatever the checkpoint
    holds; with head=checkpoint its rows are brought into the order of `classes`.

    Args:
        layers: of the encoder, those that are kept (none: all).
        pad_id: gives the padding's id in the checkpoint's tokenizer.

    Raises:
        UserError: damaged, of another shape, no classifier, or one whose logits depend on the batch.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()  # "newly initialised: classifier" is what fine-tuning means
    logging.disable_progress_bar()
    config = configuration(name, path)
    own = own_classes(name, path, classes, init) if head == "checkpoint" else classes
    config.num_labels = len(classes)
    config.problem_type = None  # a checkpoint of several labels or of a score would have its saved copy read as one
    _name(config, own)
    text = config.get_text_config()
    padding = getattr(text, "pad_token_id", None)
    if padding is None or not 0 <= padding < getattr(text, "vocab_size", padding + 1):  # Llama's had -1
        text.pad_token_id = pad_id()
    with told(name, path):
        outline = skeleton(config)
    dropped = set() if init == "random" or head == "checkpoint" else head_in(path, outline)
    torch.manual_seed(seed)
    if init == "random":
        if layers:
            config.num_hidden_layers = len(layers)
        with told(name, path):
            model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).float()
    else:
        model = _pretrained(name, path, config, dropped)
    if layers and init == "pretrained":
        encoder = model.base_model.encoder
        encoder.layer = torch.nn.ModuleList(encoder.layer[index] for index in layers)
        model.config.num_hidden_layers = len(layers)
    if head == "checkpoint":
        _reorder(model, own, classes)
        order = ", ".join(f"{index}={label}" for index, label in enumerate(own))
        print(f"model {name}: the checkpoint's own head, its classes {order} by name", flush=True)
    with told(name, path):
        return _fit(name, model, pad_id)


def configuration(name: str, path: Path) -> "PreTrainedConfig":
    """The configuration of a checkpoint that transformers has a sequence classifier for.

    Raises:
        UserError: it cannot be read, or there is none.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as HAVE_ONE

    check_code(name, path, path / "config.json")
    with told(name, path):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(
            f"model {name}: transformers has no sequence classifier for {config.model_type} ({path}); "
            f"it has one for {', '.join(sorted(HAVE_ONE))}"
        )
    if config._attn_implementation not in (None, "eager", "sdpa"):  # flash-attn's: on some GPUs alone
        config._attn_implementation = None  # the library's choice: torch's, where the model has it
    return config


def check_code(name: str, path: Path, file: Path) -> None:
    """Raises UserError where a file of a checkpoint asks for Python code of its own that the library would run.

    A checkpoint may name such code although the library has the architecture too: then the library's is taken.
    """
    from transformers import CONFIG_MAPPING

    try:
        asked = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # told where it is read
    code = asked.get("auto_map") if isinstance(asked, dict) else None
    known = str(asked.get("model_type", asked.get("tokenizer_class", ""))) if code else ""
    if code and known not in CONFIG_MAPPING and not _has_tokenizer(known):
        raise UserError(
            f"model {name}: {file.name} asks for code that comes with the checkpoint (auto_map, {path}), and such code "
            "is never run; choose a model whose architecture is transformers' own"
        )


def _has_tokenizer(name: str) -> bool:
    import transformers

    return any(hasattr(transformers, each) for each in (name, f"{name}Fast") if each)


def skeleton(config: "PreTrainedConfig") -> "PreTrainedModel":
    """The model without memory for its weights: names and shapes."""
    from transformers import AutoModelForSequenceClassification

    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)


def head_in(path: Path, model: "PreTrainedModel") -> set[str]:
    """Names of the head's weights that a checkpoint holds."""
    return {name for name in model.state_dict() if not name.startswith(_body(model))} & stored(path).keys()


def stored(path: Path) -> dict[str, Path]:
    """The file of each weight of a checkpoint, by its name.

    Raises:
        UserError: a damaged file.
    """
    files: dict[str, Path] = {}
    for file in sorted(path.glob("*.safetensors")):
        with told(path.name, file), safe_open(file, "pt") as opened:
            files |= dict.fromkeys(opened.keys(), file)
    return files


def own_classes(name: str, path: Path, classes: tuple[str, ...], init: str) -> tuple[str, ...]:
    """The classes of a checkpoint's own head, in its order.

    Raises:
        UserError: it has no head, or one for other classes.
    """
    if init == "random":
        raise UserError("head=checkpoint: with init=random there is no checkpoint; choose head=new")
    config = configuration(name, path)
    model = skeleton(config)
    needed = {key for key in model.state_dict() if not key.startswith(_body(model))}
    if needed - head_in(path, model):
        raise UserError(f"head=checkpoint: model {name} has no head of its own ({path}); choose head=new")
    names: Any = config.id2label
    own = tuple(str(names[index]) for index in range(config.num_labels or 0))
    if sorted(own) != sorted(classes):
        raise UserError(
            f"head=checkpoint: the classes of model {name} are {', '.join(own)}, those of the task "
            f"{', '.join(classes)}; choose head=new"
        )
    return own


_NUMBERED = re.compile(r"\.[0-9]+\.")


def _name(config: "PreTrainedConfig", classes: tuple[str, ...]) -> None:
    config.id2label = dict(enumerate(classes))
    config.label2id = {label: index for index, label in enumerate(classes)}


def drawn(model: "PreTrainedModel", path: Path) -> list[str]:
    """The modules of the base model that a checkpoint does not hold, and that were drawn: a pooler, or none."""
    pooler = getattr(model.base_model, "pooler", None)
    there = any(".pooler." in f".{key}" for key in stored(path))
    return [] if there or not isinstance(pooler, torch.nn.Module) else [f"{_body(model)}pooler"]


def _body(model: "PreTrainedModel") -> str:
    return f"{model.base_model_prefix}."


def _pretrained(name: str, path: Path, config: "PreTrainedConfig", dropped: set[str]) -> "TextClassifier":
    """The checkpoint's weights, without those that are to be drawn."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    known: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING  # its own types have gaps
    weights = None  # the library reads them itself
    if dropped:
        weights = {}
        for key, file in stored(path).items():
            if key not in dropped:
                with told(name, path), safe_open(file, "pt") as opened:
                    weights[key] = opened.get_tensor(key)
    with told(name, path):
        model, report = known[type(config)].from_pretrained(
            None if dropped else path,
            state_dict=weights,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are told below
            output_loading_info=True,
        )
    for key, shape, expected in sorted(report["mismatched_keys"]):
        raise UserError(
            f"model {name}: {key} is {tuple(shape)} in the weights and {tuple(expected)} by config.json ({path})"
        )
    missing = sorted(key for key in report["missing_keys"] if key.startswith(_body(model)) and ".pooler." not in key)
    if missing:  # the library would draw them at random
        raise UserError(f"model {name}: {path} has no weights for {missing[0]} ({len(missing)} are missing)")
    # heads of before have no number in their names
    unused = sorted(key for key in report["unexpected_keys"] if _NUMBERED.search(key))
    if unused:
        said = f"{len(unused)} weights of layers that config.json does not have are not used"
        print(f"model {name}: {said} ({unused[0]}, ...)", flush=True)
    return model


def _reorder(model: "PreTrainedModel", own: tuple[str, ...], classes: tuple[str, ...]) -> None:
    """Bring the rows of a head for the classes `own` into the order of `classes`."""
    wider = copy.deepcopy(model.config)
    wider.num_labels = len(own) + 1
    shapes = {key: value.shape for key, value in skeleton(wider).state_dict().items()}
    order = torch.tensor([own.index(label) for label in classes])
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.shape != shapes[key]:  # it has a row for each class
                value.copy_(value[order].clone())
    _name(model.config, classes)


# how a model bears padding


def _fit(name: str, model: "TextClassifier", pad_id: Callable[[], int]) -> "TextClassifier":
    """The model, so made that its logits do not depend on padding; asked with two short rows of its vocabulary.

    `padding_side` and `reads_types` tell what `models.save` writes down for others.
    """
    config = model.config.get_text_config()
    if "attention_mask" not in inspect.signature(type(model).forward).parameters:
        raise UserError(f"model {name}: {config.model_type} has no attention mask, so a text's class would depend on "
                        "the other texts of its batch")  # fmt: skip
    model.reads_types, model.padding_side = _reads_types(model), "right"
    if not model.reads_types:
        model.register_forward_pre_hook(_without_types, with_kwargs=True)
    if model.config.is_encoder_decoder and getattr(config, "eos_token_id", None) is not None:
        model.forward = partial(_by_marks, model.forward, config.eos_token_id)
    ordinary = _ordinary(config)
    if not model.config.is_encoder_decoder and _bears(name, model, ordinary, ordinary[-1]):
        return model  # whatever pads
    if not model.config.is_encoder_decoder:  # its head looks for the padding's id
        config.pad_token_id = pad_id()
    if not _bears(name, model, ordinary, pad_id()):
        model.padding_side = "left"
        model.register_forward_pre_hook(_padded_left, with_kwargs=True)
    if model.padding_side == "left" and not _bears(name, model, ordinary, pad_id()):
        raise UserError(f"model {name}: a text's class would depend on the other texts of its batch, whichever side is "
                        f"padded ({config.model_type})")  # fmt: skip
    return model


def _reads_types(model: torch.nn.Module) -> bool:
    """Whether a model has a table of its own for first and second texts (GPT-2 would take the marks for words)."""
    tables = [p for key, p in model.named_parameters() if "token_type" in key or "seg_embed" in key]
    return any(table.shape[0] > 1 for table in tables)


def _ordinary(config: "PreTrainedConfig") -> list[int]:
    """Ids that mean nothing to the configuration, at most 14."""
    special = {value for key, value in config.to_dict().items() if key.endswith("_token_id") and isinstance(value, int)}
    return [i for i in range(min(config.vocab_size, 100)) if i not in special][-14:]


@torch.inference_mode()
def _bears(name: str, model: "PreTrainedModel", ordinary: list[int], pad: int) -> bool:
    """Whether two rows of unlike length have the same logits together and alone."""
    eos = getattr(model.config.get_text_config(), "eos_token_id", None)
    ends = [eos] if isinstance(eos, int) and model.config.is_encoder_decoder else []
    rows = [torch.tensor([*ordinary[:count], *ends]) for count in (4, len(ordinary) - 1)]
    width, was_training = max(map(len, rows)), model.training
    model.eval()
    alone = torch.cat([model(input_ids=row[None], attention_mask=torch.ones_like(row)[None]).logits for row in rows])
    if not alone.isfinite().all():
        raise UserError(f"model {name}: its logits are no finite numbers: the weights are damaged")
    padded = torch.stack([torch.nn.functional.pad(row, (0, width - len(row)), value=pad) for row in rows])
    mask = torch.stack([torch.nn.functional.pad(torch.ones_like(row), (0, width - len(row))) for row in rows])
    together = model(input_ids=padded, attention_mask=mask).logits
    model.train(was_training)
    return bool((together - alone).abs().max() <= AGREES * alone.abs().max())


def _without_types(model: torch.nn.Module, args: tuple, inputs: dict) -> tuple[tuple, dict]:
    """The inputs of a model that has no table for first and second texts."""
    return args, {key: value for key, value in inputs.items() if key != "token_type_ids"}


def _padded_left(model: torch.nn.Module, args: tuple, inputs: dict) -> tuple[tuple, dict]:
    """The inputs with each row turned round, so that its padding stands before it."""
    mask = inputs["attention_mask"]
    trailing = (mask.flip(1).cumsum(1) == 0).sum(1, keepdim=True)
    at = (torch.arange(mask.shape[1], device=mask.device) - trailing) % mask.shape[1]
    return args, {key: value.gather(1, at) for key, value in inputs.items()}


def _by_marks(forward: Callable[..., Any], eos: int, input_ids: Tensor, **inputs: Tensor) -> "SequenceClassifierOutput":
    """`forward` of a model whose head reads the last end mark, for rows with unlike numbers of them.

    The library demands the same number in each row of a batch: rows are taken together that have it.
    """
    from transformers.modeling_outputs import SequenceClassifierOutput

    marks = input_ids.eq(eos).sum(1)
    if not marks.all():
        raise UserError(f"the model's head reads the last end mark (token id {eos}), and its tokenizer sets none")
    numbers = marks.unique().tolist()
    if len(numbers) == 1:
        return forward(input_ids=input_ids, **inputs)
    groups = [(marks == number).nonzero().squeeze(1) for number in numbers]
    parts = [forward(input_ids=input_ids[g], **{key: value[g] for key, value in inputs.items()}).logits for g in groups]
    return SequenceClassifierOutput(logits=torch.cat(parts)[torch.cat(groups).argsort()])


# one layer computed for less


class FirstTokenLayer(torch.nn.Module):
    """The last encoder layer of BERT or RoBERTa, computed for the first token alone.

    Their classifiers read nothing else, so the result is the same; for minilm-3l this spares 28% of the
    matrix products. The submodules keep their names, and with them the names of the weights.
    """

    attention: Any  # BERT's and RoBERTa's have no class in common
    intermediate: Any
    output: Any

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.attention, self.intermediate, self.output = layer.attention, layer.intermediate, layer.output

    def forward(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, *_: Any, **__: Any
    ) -> torch.Tensor:
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


# what a model takes


def positions(name: str, path: Path) -> int | None:
    """The tokens that a model has positions for; None where they are relative and without a bound."""
    config = configuration(name, path)
    text = config.get_text_config()
    count = getattr(text, "max_position_embeddings", None)
    if not isinstance(count, int) or count <= 0:  # T5, XLNet, Bloom
        return None
    if getattr(text, "relative_attention", False) and not getattr(text, "position_biased_input", True):  # DeBERTa
        return None
    with told(name, path):
        model = skeleton(config)
    words = embedding(model)
    for table in model.modules():  # RoBERTa's kind: a row of the table is the padding's, positions are counted from it
        padding, weight = getattr(table, "padding_idx", None), getattr(table, "weight", None)
        if table is not words and padding is not None and weight is not None and len(weight) == count:
            return count - padding - 1
    return count


def rows(name: str, path: Path) -> int | None:
    """The number of token ids that a model has rows for; None where it has no table of them."""
    config = configuration(name, path)
    with told(name, path):
        words = embedding(skeleton(config))
    return len(words.weight) if isinstance(words, torch.nn.Embedding) else None


def embedding(model: Any) -> torch.nn.Module | None:
    """What makes vectors of token ids, where a model has one."""
    try:
        return model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
