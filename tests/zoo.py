"""Small random checkpoints of many architectures, each with its tokenizer's files, as a model_root holds them.

A pytest plugin: `pytest_plugins = ["zoo"]` gives a test module the fixture `zoo`.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import FILLERS, WORDS

SIZE, POSITIONS = 16, 40
TEXTS = [" ".join(FILLERS), *(" ".join(words) for words in WORDS.values()), "größe 映画 здорово"] * 3
COMMON = {
    "hidden_size": SIZE,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.3,  # large enough that what should not depend on a neighbour would be seen to
}
GROUPED = COMMON | {"num_key_value_heads": 1, "head_dim": 8}
LOCAL = {"local_attention": 8, "global_attn_every_n_layers": 2}
SEQ2SEQ = {
    "d_model": SIZE, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "init_std": 0.3,
    "max_position_embeddings": POSITIONS,
}  # fmt: skip
# tokenizer, and what the configuration has beside `vocab_size` and the tokenizer's pad and eos
ARCHITECTURES: dict[str, tuple[str, dict]] = {
    "bert": ("wordpiece", COMMON),
    "distilbert": ("wordpiece", {"dim": SIZE, "hidden_dim": 32, "n_layers": 2, "n_heads": 2,
                                 "max_position_embeddings": POSITIONS, "initializer_range": 0.3}),
    "electra": ("wordpiece", COMMON | {"embedding_size": 8}),
    "mpnet": ("mpnet", COMMON),
    "roberta": ("roberta", COMMON | {"type_vocab_size": 1}),
    "xlm-roberta": ("xlm-roberta", COMMON | {"type_vocab_size": 1}),
    "camembert": ("camembert", COMMON | {"type_vocab_size": 1}),
    "deberta-v2": ("deberta-v2", COMMON | {"relative_attention": True, "position_buckets": 8,
                                           "norm_rel_ebd": "layer_norm", "share_att_key": True,
                                           "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0,
                                           "position_biased_input": False}),
    "modernbert": ("bpe", COMMON | LOCAL | {"initializer_cutoff_factor": 2.0}),
    "modernbert-decoder": ("bpe", COMMON | LOCAL),
    "eurobert": ("bpe", GROUPED),
    "gpt2": ("gpt2", {"n_embd": SIZE, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS, "initializer_range": 0.3}),
    "gemma": ("gemma", GROUPED),
    "gemma2": ("gemma", GROUPED | {"sliding_window": 8, "query_pre_attn_scalar": 8}),
    "gemma3_text": ("gemma", GROUPED | {"sliding_window": 8, "query_pre_attn_scalar": 8}),
    "qwen2": ("qwen", GROUPED),
    "qwen3": ("qwen", GROUPED),
    "llama": ("llama", GROUPED),
    "mistral": ("llama", GROUPED | {"sliding_window": 8}),
    "smollm3": ("bpe", GROUPED),
    "olmo2": ("bpe", GROUPED),
    "phi3": ("gemma", GROUPED | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    "t5": ("t5", {"d_model": SIZE, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "initializer_factor": 3.0,
                  "decoder_start_token_id": 0}),
    "bart": ("roberta", SEQ2SEQ),
    "mbart": ("mbart", SEQ2SEQ | {"scale_embedding": True}),
    "biogpt": ("biogpt", COMMON),
    "xlnet": ("xlnet", {"d_model": SIZE, "n_layer": 2, "n_head": 2, "d_inner": 32, "initializer_range": 0.3}),
}  # fmt: skip


def byte_pairs(specials: list[str]) -> tuple[dict, list]:
    """The vocabulary and the merges of a byte-level tokenizer, special tokens first."""
    from tokenizers import ByteLevelBPETokenizer

    pairs = ByteLevelBPETokenizer()
    pairs.train_from_iterator(TEXTS, vocab_size=300 + len(specials), special_tokens=specials, show_progress=False)
    return _parts(pairs)


def characters(specials: list[str]) -> tuple[dict, list]:
    """The same of one that knows words by their leading mark, as Llama's and Gemma's."""
    from tokenizers import SentencePieceBPETokenizer

    pairs = SentencePieceBPETokenizer()
    pairs.train_from_iterator(TEXTS, vocab_size=120, special_tokens=specials, show_progress=False)
    return _parts(pairs)


def _parts(pairs) -> tuple[dict, list]:
    import json

    model = json.loads(pairs.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def pieces(specials: list[str]) -> list[tuple[str, float]]:
    """Pieces with their scores, as sentencepiece's unigram model has them, special tokens first."""
    import json

    from tokenizers import SentencePieceUnigramTokenizer

    found = SentencePieceUnigramTokenizer()
    found.train_from_iterator(TEXTS, vocab_size=90, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    own = [tuple(piece) for piece in json.loads(found.to_str())["model"]["vocab"] if piece[0] not in specials]
    return [(special, 0.0) for special in specials] + own


def _words(specials: list[str]) -> dict[str, int]:
    from tokenizers import BertWordPieceTokenizer

    found = BertWordPieceTokenizer()
    found.train_from_iterator(TEXTS, min_frequency=1, special_tokens=specials, show_progress=False)
    return found.get_vocab()


def generic(specials: dict[str, str], begins: str, ends: str):
    """A tokenizer of no family's class, as many checkpoints have it: tokenizer.json says all."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary, merges = byte_pairs(list(dict.fromkeys(specials.values())))
    inner = Tokenizer(models.BPE(vocabulary, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    marks = [(mark, vocabulary[mark]) for mark in (begins, ends) if mark]
    single, pair = f"{begins} $A {ends}".strip(), f"{begins} $A {ends} $B:1 {ends}:1".strip()
    inner.post_processor = processors.TemplateProcessing(single, pair if ends else f"{begins} $A $B:1", marks)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **specials)


def _tokenizers() -> dict[str, Callable]:
    import transformers as t

    classic = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    marks = {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "eos_token": "[SEP]",
    }
    old = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}

    def of_pairs(kind, made, **more):
        return kind(vocab=made[0], merges=made[1], **more)

    return {
        "wordpiece": lambda: t.BertTokenizer(vocab=_words(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])),
        "mpnet": lambda: t.MPNetTokenizer(vocab=_words(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"])),
        "roberta": lambda: of_pairs(t.RobertaTokenizer, byte_pairs(classic)),
        "gpt2": lambda: of_pairs(t.GPT2Tokenizer, byte_pairs(["<|endoftext|>"])),
        "qwen": lambda: of_pairs(t.Qwen2Tokenizer, byte_pairs(["<|endoftext|>", "<|im_end|>"])),
        "bpe": lambda: generic(marks, "[CLS]", "[SEP]"),
        "biogpt": lambda: generic(old, "</s>", ""),  # its own class needs sacremoses
        "xlm-roberta": lambda: t.XLMRobertaTokenizer(vocab=pieces(["<s>", "<pad>", "</s>", "<unk>"])),
        "camembert": lambda: t.CamembertTokenizer(vocab=pieces(["<s>", "<pad>", "</s>", "<unk>"])),
        "deberta-v2": lambda: t.DebertaV2Tokenizer(vocab=pieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])),
        "mbart": lambda: t.MBartTokenizer(vocab=pieces(["<s>", "<pad>", "</s>", "<unk>"]), src_lang="en_XX"),
        "t5": lambda: t.T5Tokenizer(vocab=pieces(["<pad>", "</s>", "<unk>"]), extra_ids=5),
        "xlnet": lambda: t.XLNetTokenizer(vocab=pieces(["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"])),
        "gemma": lambda: of_pairs(t.GemmaTokenizer, characters(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])),
        "llama": lambda: of_pairs(t.LlamaTokenizer, characters(["<unk>", "<s>", "</s>"])),
    }


def build(folder: Path, model_type: str, kind: str, options: dict, seed: int = 0, auto: str = "AutoModel") -> Path:
    """Write a checkpoint (of the bare model, or with the head of pre-training: `auto`), and its tokenizer."""
    import torch
    import transformers
    from transformers import AutoConfig

    tokenizer = _tokenizers()[kind]()
    marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "eos", "bos")}
    marks = {name: value for name, value in marks.items() if value is not None}
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer) + 3, **marks | options)
    torch.manual_seed(seed)
    getattr(transformers, auto).from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def zoo(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of an architecture's checkpoint, `zoo/NAME` under a model_root; built when first asked for."""
    import torch

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("zoo_root")

    def of(name: str) -> Path:
        folder = root / "zoo" / name
        return folder if folder.is_dir() else build(folder, name, *ARCHITECTURES[name])

    return of
