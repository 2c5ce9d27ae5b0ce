"""What all tests share: an environment of their own, checkpoints in the hub's layout, a labelled file."""

import csv
import os
import random
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

HUB = os.environ.get("LABELREG_DATA_ROOT")  # read before `isolated` takes it away
SCRATCH = tempfile.TemporaryDirectory(prefix="labelreg-tests-")  # for what libraries cache; gone at the end
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the hub; read when the libraries are imported
set_hypothesis_home_dir(SCRATCH.name)
settings.register_profile("labelreg", deadline=None, database=None)
settings.load_profile("labelreg")

WORDS = {
    "good": "fine warm bright funny moving clever".split(),
    "bad": "dull cold flat stale clumsy empty".split(),
    "so so": "plain usual average middling mixed common".split(),
}
# architectures of the models since the paper, by a part of their hub ids
SINCE = {"ModernBERT": "modernbert", "ettin": "modernbert", "deberta-v3": "deberta-v2", "xlm-roberta": "xlm-roberta"}
SINCE |= {"Qwen3": "qwen3"}
FILLERS = "a the film story and cast it is with plot scene one".split()


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """Caches, runs and what is written beside them go to this test's folder; the caller's environment stays out."""
    monkeypatch.chdir(tmp_path)  # MLflow's own place for artifacts is `mlruns` of the folder in which one is
    for name in ("DATA_ROOT", "MODEL_ROOT"):
        monkeypatch.delenv(f"LABELREG_{name}", raising=False)
    for name in ("RUN_ID", "EXPERIMENT_ID", "EXPERIMENT_NAME"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)  # 80 in the processes of pytest-xdist: lines would break there alone
    monkeypatch.setenv("LABELREG_CACHE_ROOT", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(sys, "path", sys.path.copy())  # MLflow puts the code of a model that it loads first


@pytest.fixture
def hub() -> Path:
    """A folder with real data sets."""
    if not HUB:
        pytest.skip("set LABELREG_DATA_ROOT to a folder laid out like the hub")
    return Path(HUB).resolve()


@pytest.fixture
def tiny_file(tmp_path) -> Path:
    """A CSV of 60 rows, text and label, whose three classes have words of their own."""
    path, chance = tmp_path / "reviews.csv", random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        write = csv.writer(file)
        write.writerow(["text", "label"])
        for row in range(60):
            label = list(WORDS)[row % 3]
            words = chance.choices(FILLERS, k=chance.randint(2, 12)) + chance.sample(WORDS[label], 2)
            write.writerow([" ".join(chance.sample(words, len(words))), label])
    return path


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> Path:
    """A model_root with a small random checkpoint under each hub id of the registry."""
    import torch
    import zoo  # which has WORDS of this file
    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaForMaskedLM

    from labelreg.models.registry import MODELS

    torch.set_num_threads(1)  # more are slower on matrices of this size
    root = tmp_path_factory.mktemp("model_root")
    tokenizers = _tokenizers(tmp_path_factory.mktemp("tokenizers"))
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "max_position_embeddings": 132}
    every = sorted({model.hub_id for model in MODELS.values() if model.hub_id})
    since = {hub_id: kind for hub_id in every for part, kind in SINCE.items() if part in hub_id}
    for seed, (hub_id, kind) in enumerate(since.items()):
        tokenizer, options = zoo.ARCHITECTURES[kind]
        as_left = "AutoModelForCausalLM" if kind == "qwen3" else "AutoModelForMaskedLM"  # by pre-training
        zoo.build(root / hub_id, kind, tokenizer, options | {"max_position_embeddings": 132}, seed, as_left)
    for seed, hub_id in enumerate(hub_id for hub_id in every if hub_id not in since):
        torch.manual_seed(seed)
        family = "gpt2" if "gpt2" in hub_id else "roberta" if "roberta" in hub_id else "bert"
        vocabulary = {"vocab_size": len(tokenizers[family])}
        if family == "gpt2":
            sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 132}
            model = GPT2LMHeadModel(GPT2Config(**vocabulary, **sizes, bos_token_id=0, eos_token_id=0))
        elif family == "roberta":
            model = RobertaForMaskedLM(RobertaConfig(**vocabulary, **small, num_hidden_layers=2, type_vocab_size=1))
        else:
            layers = 6 if "MiniLM" in hub_id else 2  # minilm-3l takes every second of six
            model = BertForMaskedLM(BertConfig(**vocabulary, **small, num_hidden_layers=layers))
        model.save_pretrained(root / hub_id)
        tokenizers[family].save_pretrained(root / hub_id)
    return root


def _tokenizers(folder: Path) -> dict:
    """A tokenizer of each family, trained on the words of `tiny_file` with the ids that the family gives."""
    from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
    from transformers import BertTokenizer, GPT2Tokenizer, RobertaTokenizer

    texts = [" ".join(FILLERS), *(" ".join(words) for words in WORDS.values()), "größe 映画 здорово"]
    pieces = BertWordPieceTokenizer()
    pieces.train_from_iterator(texts, min_frequency=1, show_progress=False)
    found = {"bert": BertTokenizer(vocab=pieces.get_vocab())}
    specials = {"roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "gpt2": ["<|endoftext|>"]}
    for family, kind in (("roberta", RobertaTokenizer), ("gpt2", GPT2Tokenizer)):
        pairs = ByteLevelBPETokenizer()
        pairs.train_from_iterator(texts * 2, vocab_size=380, special_tokens=specials[family], show_progress=False)
        pairs.save_model(str(folder), family)
        found[family] = kind(str(folder / f"{family}-vocab.json"), str(folder / f"{family}-merges.txt"))
    return found


@pytest.fixture
def tiny_roots(tiny_models, tmp_path):
    """Checkpoints from `tiny_models`, no data sets, and a cache of this test's own."""
    from labelreg.places import Roots

    return Roots(None, tiny_models, tmp_path / "cache")


@pytest.fixture
def prepare(tiny_roots):
    """corpus.prepare with settings that a test need not repeat; `roots` replaces `tiny_roots`."""
    from labelreg.data import corpus
    from labelreg.settings import Settings

    def prepared(roots=tiny_roots, **settings):
        if "train_file" in settings:
            settings.setdefault("task", Path(settings["train_file"]).stem)
        return corpus.prepare(Settings(**{"model": "bert-small", "max_length": 32, "seed": 0} | settings), roots)

    return prepared


@pytest.fixture
def refused(prepare, tmp_path):
    """Asserts that a preparation is a user's mistake, told in one line, and that it leaves nothing behind."""
    from labelreg.errors import UserError

    def refuses(expected, **settings):
        before = list(tmp_path.glob("cache/prepared/*"))
        with pytest.raises(UserError, match=expected) as error:
            prepare(**settings)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 500
        assert list(tmp_path.glob("cache/prepared/*")) == before

    return refuses
