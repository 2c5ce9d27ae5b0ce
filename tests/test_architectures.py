"""What is scored is what is saved, for small random models of many architectures, through the project's own loading."""

import csv
import json
import random
from dataclasses import replace

import conftest
import pytest
import torch
from conftest import FILLERS, WORDS
from torch.testing import assert_close
from zoo import ARCHITECTURES, POSITIONS, build

from labelreg import places, recipes, training
from labelreg.data import batching, corpus
from labelreg.errors import UserError
from labelreg.models import adapter, classifier, registry
from labelreg.settings import Machine, Settings
from labelreg.store import checkpoint

pytest_plugins = ["zoo"]
SETTINGS = Settings(
    task="r", seed=0, max_length=24, lr=1e-2, batch_size=8, epochs=1, weight_decay=0.0, warmup_ratio=0.0,
    optimizer="adamw", selection="last", checkpoint_seconds=0,
)  # fmt: skip
MACHINE = Machine(precision="fp32", compile="off", threads=1, device="cpu")
CLASSES = tuple(WORDS)


def examples(count: int) -> list[tuple[str, str, str]]:
    chance, rows = random.Random(0), []
    for row in range(count):
        label = list(WORDS)[row % 3]
        texts = [
            " ".join(chance.choices(FILLERS, k=chance.randint(1, 9)) + chance.sample(WORDS[label], 1)) for _ in "ab"
        ]
        rows.append((*texts, label))
    return rows


ROWS = examples(36)


@pytest.fixture
def prepared(zoo, tmp_path):
    """Settings, data and roots of a run of an architecture."""

    def of(name: str, rows=ROWS, paired=False, **more):
        path = tmp_path / "r.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("text", "other", "label"), *rows])
        folder = zoo(name)
        settings = replace(SETTINGS, model=f"zoo/{name}", train_file=str(path), **more)
        settings = replace(settings, text_pair_column="other") if paired else settings
        where = places.Roots(None, folder.parent.parent, tmp_path / "cache")
        return settings, corpus.prepare(settings, where), where

    return of


def load(settings, data, where, **more):
    return registry.load(settings.model, data.classes, settings.init, settings.seed, where, **more)


@torch.inference_mode()
def alone(model, split):
    """Logits of every example without a neighbour and without padding."""
    model.eval()
    return torch.cat(
        [model(**split.inputs(torch.tensor([i]), int(split.lengths[i]))).logits for i in range(len(split))]
    )


def gradients(model, split):
    """Of every parameter, after one batch with padding."""
    batch = torch.arange(8)
    found = model.eval()(**split.inputs(batch, int(split.lengths[batch].max()))).logits
    torch.nn.functional.cross_entropy(found, split.labels[batch]).backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def reloaded(folder, texts, pairs):
    """Logits by plain transformers: all texts in one batch, padded by the tokenizer that was saved."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    coded = tokenizer(texts, pairs, padding=True, truncation=True, max_length=SETTINGS.max_length, return_tensors="pt")
    with torch.inference_mode():
        return model(**coded).logits


@pytest.mark.parametrize("paired", [False, True], ids=["single", "pairs"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_scored_is_what_is_saved(name, paired, prepared, tmp_path):
    settings, data, where = prepared(name, paired=paired)
    split = data.splits["train"]
    whole, small = load(settings, data, where), load(settings, data, where)

    registry.compact(small, data)
    table, few = whole.get_input_embeddings(), small.get_input_embeddings()
    assert len(few.weight) < len(table.weight)
    assert type(few) is type(table)
    first = training.predict(whole, split, MACHINE)
    assert torch.equal(training.predict(small, split, MACHINE), first)
    expected, found = gradients(whole, split), gradients(small, split)
    assert expected.keys() == found.keys()
    for key, value in found.items():
        assert_close(value, expected[key][few.used] if value.shape != expected[key].shape else expected[key])

    assert first.std(0).min() > 0.01  # it tells the texts apart
    exact = {"atol": 1e-4 * first.abs().max(), "rtol": 0}
    assert_close(alone(whole, split), first, **exact)
    wide = split.inputs(torch.arange(5), int(split.lengths[:5].max()) + 7)
    with torch.inference_mode():
        assert_close(whole(**wide).logits, first[:5], **exact)

    model = load(settings, data, where)
    (tmp_path / "kept").mkdir()
    *_, report = training.train(model, data, settings, MACHINE, keep=tmp_path / "kept")
    assert checkpoint.load(tmp_path / "kept"), "of T5 and BART too, whose one table has three names"
    outcome = training.conclude(model, data, report, settings, MACHINE, ["train", "dev", "test"])
    assert not torch.allclose(outcome.logits["train"], first, **exact)
    registry.save(model, settings.model, tmp_path / "saved", where)
    for name, logits in outcome.logits.items():
        rows = [ROWS[i] for i in data.splits[name].idx.tolist()]
        again = reloaded(tmp_path / "saved", [row[0] for row in rows], [row[1] for row in rows] if paired else None)
        assert_close(again.softmax(1), logits.softmax(1), atol=1e-4, rtol=0)


UNBOUND = {"t5", "xlnet", "deberta-v2"}  # relative positions
FROM_PADDING = {"roberta", "xlm-roberta", "camembert", "mpnet"}  # positions are counted from the padding's row


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_runs_at_exactly_the_length_that_it_takes(name, prepared, zoo):
    takes = None if name in UNBOUND else POSITIONS - 2 * (name in FROM_PADDING)
    assert classifier.positions(name, zoo(name)) == takes
    longest = takes or 3 * POSITIONS
    long = (" ".join(FILLERS * 20), " ".join(FILLERS * 9), "good")
    settings, data, where = prepared(name, [long, *ROWS], paired=True, max_length=longest)
    lengths = torch.cat([split.lengths for split in data.splits.values()])
    assert lengths.max() == longest
    model = load(settings, data, where)
    for split in data.splits.values():
        assert torch.isfinite(training.predict(model, split, MACHINE)).all()
    if takes:
        with pytest.raises(UserError, match=f"max_length={takes + 1}: the model takes at most {takes} tokens"):
            prepared(name, max_length=takes + 1)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("fnet", {}, "fnet has no attention mask, so a text's class would depend on the other texts of its batch"),
        ("convbert", {"embedding_size": 16, "head_ratio": 1}, "depend on the other texts of its batch, .*convbert"),
        ("mamba", {}, "transformers has no sequence classifier for mamba"),
    ],
)
def test_a_model_whose_class_depends_on_the_batch_is_refused(name, options, said, tmp_path):
    common = ARCHITECTURES["bert"][1] if name != "mamba" else {"hidden_size": 16, "num_hidden_layers": 1}
    build(tmp_path / "root/zoo" / name, name, "wordpiece", common | options)
    with pytest.raises(UserError, match=said) as refused:
        registry.load(f"zoo/{name}", CLASSES, "pretrained", 0, places.Roots(None, tmp_path / "root", tmp_path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["bart", "mbart", "t5"])
@pytest.mark.parametrize("paired", [False, True], ids=["single", "pairs"])
def test_texts_with_unlike_numbers_of_end_marks(name, paired, prepared):
    """A head that reads the last end mark, of texts that hold the mark themselves."""
    texts = ["the film </s> is fine", "dull", "</s> a </s> b </s>", "warm", " ".join(FILLERS * 3)]
    rows = [(texts[i % 5], texts[(i + 1) % 5], label) for i, (_, _, label) in enumerate(ROWS)]
    settings, data, where = prepared(name, rows, paired)
    split = data.splits["train"]
    model = load(settings, data, where)
    eos = split.ids == model.config.eos_token_id
    marks = torch.tensor([int(eos[a:b].sum()) for a, b in zip(split.offsets[:-1], split.offsets[1:], strict=True)])
    assert len(marks.unique()) > 1
    assert_close(training.predict(model, split, MACHINE), alone(model, split), atol=1e-3, rtol=0)
    *_, report = training.train(model, data, settings, MACHINE)
    assert report.train_loss > 0


def test_an_encoder_decoder_without_end_marks_is_told(prepared, zoo):
    """Its tokenizer adds none."""
    folder = zoo("bart")
    settings, data, where = prepared("bart")
    model = load(settings, data, where)
    assert folder.is_dir()
    with pytest.raises(UserError, match="head reads the last end mark .token id 2., and its tokenizer sets none"):
        model(input_ids=torch.tensor([[5, 6]]), attention_mask=torch.ones(1, 2, dtype=torch.long))


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_a_real_token_that_is_the_paddings(name, prepared):
    """GPT-2 and Llama pad with their end-of-text token; a text may hold it."""
    mark = "<|endoftext|>" if name != "llama" else "</s>"
    rows = [(f"{a} {mark} b" if i % 2 else f"{a} {mark}", b, label) for i, (a, b, label) in enumerate(ROWS)]
    settings, data, where = prepared(name, rows)
    split = data.splits["train"]
    assert (split.ids == split.pad_id).sum() > 20
    assert (split.ids[split.offsets[1:] - 1] == split.pad_id).any()  # the last real one, too
    model = load(settings, data, where)
    assert model.config.pad_token_id == split.pad_id
    assert_close(training.predict(model, split, MACHINE), alone(model, split), atol=1e-4, rtol=0)


def test_the_padding_of_the_tokenizer_is_the_heads(tmp_path, prepared):
    """Llama-2's config.json has pad_token_id 0, and its tokenizer has no pad token: the last padding was read."""
    settings, data, where = prepared("llama")
    options = ARCHITECTURES["llama"][1] | {"pad_token_id": 0}
    build(where.model / "zoo/llama-2", "llama", "llama", options)
    model = registry.load("zoo/llama-2", data.classes, "pretrained", 0, where)
    split = data.splits["train"]
    assert split.pad_id == 2
    assert_close(training.predict(model, split, MACHINE), alone(model, split), atol=1e-4, rtol=0)


def test_token_types_reach_only_a_model_that_has_a_table_of_them(prepared, zoo, tmp_path):
    """GPT-2 would take the marks for words; tokenizers of no family's class give them."""
    settings, _, where = prepared("gpt2", paired=True)
    folder = build(where.model / "zoo/gpt2-generic", "gpt2", "bpe", ARCHITECTURES["gpt2"][1])
    file = folder / "tokenizer_config.json"
    names = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | names))
    settings = replace(settings, model="zoo/gpt2-generic")
    data = corpus.prepare(settings, where)
    split = data.splits["train"]
    assert split.paired
    model = load(settings, data, where)
    inputs = split.inputs(torch.arange(4), 24)
    with torch.inference_mode():
        expected = model.eval()(**{key: value for key, value in inputs.items() if key != "token_type_ids"}).logits
        assert torch.equal(model(**inputs).logits, expected)
    registry.save(model, settings.model, tmp_path / "saved", where)
    rows = [ROWS[i] for i in split.idx[:4].tolist()]
    again = reloaded(tmp_path / "saved", [row[0] for row in rows], [row[1] for row in rows])
    assert_close(again, expected, atol=1e-5, rtol=0)


def test_the_class_of_a_text_does_not_depend_on_the_order_of_batches(prepared):
    """XLNet's head reads the last position."""
    settings, data, where = prepared("xlnet")
    split, model = data.splits["train"], load(settings, data, where).eval()
    assert model.padding_side == "left"
    first = training.predict(model, split, MACHINE).argmax(1)
    for seed in range(3):
        for batch in batching.epoch_batches(split.lengths, 5, seed, 1):
            with torch.inference_mode():
                found = model(**split.inputs(batch, int(split.lengths[batch].max()))).logits
            assert torch.equal(found.argmax(1), first[batch])


# adapters


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_adapter_of_any_architecture_is_scored_as_it_is_saved(name, prepared, zoo, tmp_path):
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    settings, data, where = prepared(name, tuning="lora", lora_r=4, lora_alpha=8, lora_dropout=0.1, lr=0.05)
    model = load(settings, data, where, adapter=adapter.of(settings))
    start, frozen = training.snapshot(model), model.state_dict()
    frozen = {key: value.clone() for key, value in frozen.items() if key not in start}
    registry.compact(model, data)
    assert model.state_dict().keys() == start.keys() | frozen.keys(), "a frozen table stays whole"
    split, head = data.splits["test"], of_the_head(model)
    *_, report = training.train(model, data, settings, MACHINE)
    outcome = training.conclude(model, data, report, settings, MACHINE, ["test"])
    for key, value in model.state_dict().items():
        assert key in start or torch.equal(value, frozen[key]), key
        assert key not in start or not torch.equal(value, start[key]) or not value.any(), key
    assert head and all(f"{key}.modules_to_save.default" in " ".join(start) for key in head)
    assert_close(alone(model, split), outcome.logits["test"], atol=1e-4 * outcome.logits["test"].abs().max(), rtol=0)

    folder = tmp_path / "saved"
    registry.save(model, settings.model, folder, where)
    assert [path.name for path in folder.glob("*.safetensors")] == [adapter.WEIGHTS]
    digest = registry.base_digest(settings.model, where)
    again = registry.load_adapter(folder, settings.model, digest, data.classes, where)
    assert torch.equal(training.predict(again, split, MACHINE), outcome.logits["test"])
    if model.padding_side == "right":  # the tokenizer's files say which
        base = AutoModelForSequenceClassification.from_pretrained(zoo(name), config=AutoConfig.from_pretrained(folder))
        plain = PeftModel.from_pretrained(base, folder).eval()
        texts = [ROWS[i][0] for i in split.idx.tolist()]
        cut = {"padding": True, "truncation": True, "max_length": SETTINGS.max_length}
        coded = AutoTokenizer.from_pretrained(folder)(texts, **cut, return_tensors="pt")
        with torch.inference_mode():
            found = plain(**coded).logits
        assert_close(found.softmax(1), outcome.logits["test"].softmax(1), atol=1e-4, rtol=0)


def of_the_head(model):
    """Modules that are no part of the base model and have weights."""
    children = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    return [name for name in children if name != model.base_model_prefix]


# names of models since the paper

SINCE = [name for name, known in registry.MODELS.items() if any(part in known.hub_id for part in conftest.SINCE)]
LAST = ("qwen3-0.6b", "qwen3-1.7b")  # decoders, which read the last token


@pytest.mark.parametrize("name", SINCE)
def test_a_model_since_the_paper_reads_what_its_head_needs(name, tiny_roots, prepare, tiny_file):
    data = prepare(train_file=str(tiny_file), model=name)
    model = registry.load(name, data.classes, "pretrained", 0, tiny_roots)
    split = data.splits["train"]
    assert model.padding_side == "right" and not model.reads_types
    assert_close(alone(model, split), training.predict(model, split, MACHINE), atol=1e-4, rtol=1e-4)
    inputs = split.inputs(torch.arange(1), int(split.lengths[0]))
    first, last = ({key: value.clone() for key, value in inputs.items()} for _ in "ab")
    first["input_ids"][0, 0] += 1
    last["input_ids"][0, -1] += 1
    with torch.inference_mode():
        whole, begun, ended = (model.eval()(**each).logits for each in (inputs, first, last))
    assert not torch.allclose(whole, begun) and not torch.allclose(whole, ended)
    if name in LAST:  # what stands behind a token does not reach it: the logits are the last one's
        longer = {key: torch.cat([value, value[:, -1:]], 1) for key, value in inputs.items()}  # masked it is not
        longer["input_ids"][0, -1] = split.pad_id  # by which the head knows the last token
        with torch.inference_mode():
            assert_close(model(**longer).logits, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name in SINCE if registry.MODELS[name].teacher])
def test_a_student_since_the_paper_has_a_teacher_of_its_family_and_rates(name):
    teacher = registry.teacher_of(name, "sst5")
    assert registry.MODELS[teacher].hub_id.split("/")[0] == registry.MODELS[name].hub_id.split("/")[0]
    student = recipes.resolve({"recipe": "modern", "model": name, "method": "kd"})
    theirs = recipes.resolve({"recipe": "modern", "model": teacher}, "teacher")
    assert 0 < theirs.lr <= student.lr
    assert student.epochs and theirs.epochs
