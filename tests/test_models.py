"""Checkpoints by name: three families through one loading code, and the two short cuts against plain models."""

import pickle
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from labelreg import places, whole
from labelreg.errors import UserError
from labelreg.models import classifier, registry
from labelreg.settings import Folders

CLASSES = ("bad", "good", "so so")
FAMILIES = {"bert-small": "bert", "distilroberta": "roberta", "distilgpt2": "gpt2"}
TEXTS = ["a fine film", "dull", "the plot is flat and the cast cold with one bright scene", "so so"]
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of the packaged MiniLM


@pytest.fixture
def load(tiny_roots):
    def loaded(name, init="pretrained", seed=0, roots=tiny_roots, **more):
        return registry.load(str(name), CLASSES, init, seed, roots, **more)

    return loaded


@pytest.fixture
def encode(tiny_roots):
    """TEXTS (and perhaps second texts) as padded inputs of a model."""

    def encoded(name, texts=TEXTS, pairs=None):
        tokenizer = registry.tokenizer(registry.checkpoint(str(name), tiny_roots))
        return dict(tokenizer(texts, pairs, padding=True, return_tensors="pt"))

    return encoded


def logits(model, inputs):
    with torch.inference_mode():
        return model.eval()(**inputs).logits


def plain_twin(model):
    """The library's own model with the same weights, without labelreg's short cuts."""
    from transformers import AutoModelForSequenceClassification

    twin = AutoModelForSequenceClassification.from_config(model.config)
    twin.load_state_dict(model.state_dict())
    return twin


def same_weights(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# names and folders


@pytest.mark.parametrize("name", [name for name, model in registry.MODELS.items() if model.hub_id])  # test_vision.py
def test_every_registered_name_loads(name, load, encode):
    for init in ("pretrained", "random"):
        model = load(name, init)
        assert model.training
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert model.config.id2label == dict(enumerate(CLASSES))
        assert logits(model, encode(name)).shape == (4, 3)


def test_teachers_are_the_papers():
    """Tables 1 to 7: RoBERTa-large (RoBERTa-base on FewRel), BERT-large and GPT-2."""
    found = {
        name: registry.teacher_of(name, "cola") for name in ("distilroberta", "bert-small", "distilgpt2", "minilm-3l")
    }
    assert found == {
        "distilroberta": "roberta-large",
        "bert-small": "bert-large",
        "distilgpt2": "gpt2",
        "minilm-3l": "minilm",
    }
    assert (
        registry.teacher_of("distilroberta", "fewrel")
        == registry.teacher_of("distilroberta", "fewrel_val")
        == "roberta-base"
    )
    none = "model {} has no teacher of its own: give teacher_model=NAME"
    mistakes = {name: none.format(name) for name in ("gpt2", "someone/model")}
    for name, expected in {**mistakes, "minilm-31": "unknown model 'minilm-31'; did you mean 'minilm-3l'"}.items():
        with pytest.raises(UserError, match=expected):
            registry.teacher_of(name, "cola")
    assert [registry.teacher_of("resnet18", task) for task in ("cifar100", "digits")] == ["resnet50", "resnet18"]


def test_a_hub_id_and_a_folder_are_names_too(load, tiny_models):
    named = load("bert-small")
    assert same_weights(named, load("google/bert_uncased_L-4_H-512_A-8"))
    assert same_weights(
        named, load(tiny_models / "google/bert_uncased_L-4_H-512_A-8", roots=places.Roots(None, None, None))
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("distilrobertta", "unknown model 'distilrobertta'; did you mean 'distilroberta'.*Known: bert-large, "),
        ("nobody/nothing", "model nobody/nothing: not under .*model_root.* not to be had .*give model_root=FOLDER"),
        ("no such/../id!", "model no such/../id!: no such folder"),
    ],
)
def test_a_name_that_is_nowhere(name, expected, tiny_roots):
    with pytest.raises(UserError, match=expected) as refused:
        registry.checkpoint(name, tiny_roots)
    assert "\n" not in str(refused.value)


def test_a_registered_model_that_is_nowhere(tmp_path):
    with pytest.raises(UserError, match="model distilbert/distilroberta-base: not to be had"):
        registry.checkpoint("distilroberta", places.Roots(None, None, tmp_path))


@pytest.fixture
def copy(tiny_models, tmp_path):
    """A copy of the small BERT's checkpoint, to be damaged."""
    return shutil.copytree(tiny_models / "google/bert_uncased_L-4_H-512_A-8", tmp_path / "own model")


def refused(path, roots, expected):
    with pytest.raises(UserError, match=expected) as error:
        registry.load(str(path), CLASSES, "pretrained", 0, roots)
    assert "\n" not in str(error.value)


def test_a_folder_without_weights(copy, tiny_roots):
    (copy / "model.safetensors").unlink()
    refused(copy, tiny_roots, "own model has neither model.safetensors nor pytorch_model.bin")


def test_a_folder_without_a_configuration(copy, tiny_roots):
    (copy / "config.json").unlink()
    refused(copy, tiny_roots, "own model has no config.json")


def test_a_folder_without_a_tokenizer(copy):
    for name in registry.TOKENIZER_FILES:
        (copy / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match="own model: no tokenizer") as error:
        registry.tokenizer(copy)
    assert "\n" not in str(error.value)


def test_half_a_weights_file(copy, tiny_roots):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(copy, tiny_roots, "model .*own model.* cannot be loaded")
    with pytest.raises(UserError, match="^model own model: .*own model/model.safetensors cannot be loaded"):
        registry.weights_digest(str(copy), "pretrained", tiny_roots)


def test_a_configuration_that_is_no_json(copy, tiny_roots):
    (copy / "config.json").write_text("{")
    refused(copy, tiny_roots, "own model cannot be loaded .*config.json")


# checkpoints that exist only as .bin


def as_binary(folder):
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder / "pytorch_model.bin"


def test_a_binary_checkpoint_is_converted_once(copy, load, tiny_roots, capsys):
    before = load(copy)
    binary = as_binary(copy)
    after = load(copy)
    digest, said = whole.file_digest(binary), capsys.readouterr().out
    converted = registry.checkpoint(str(copy), tiny_roots)
    assert f"model {copy}: converting pytorch_model.bin (sha256 {digest})" in said
    assert str(converted) in said
    assert converted.is_relative_to(tiny_roots.cache)
    assert same_weights(before, after)
    assert registry.tokenizer(converted).get_vocab() == registry.tokenizer(copy).get_vocab()
    assert not list(copy.glob("*.safetensors"))  # what is the user's stays as it is
    load(copy)
    assert capsys.readouterr().out == ""


def test_a_binary_checkpoint_under_model_root(copy, tiny_roots, load, tmp_path):
    before = load(copy)
    as_binary(copy)
    shutil.copytree(copy, tmp_path / "root/owner/name")
    assert same_weights(before, load("owner/name", roots=replace(tiny_roots, model=tmp_path / "root")))


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("content", [pickle.dumps({"weight": Evil()}, 2), b"half a download"], ids=["evil", "half"])
def test_a_binary_checkpoint_is_never_executed(content, copy, tiny_roots, capsys):
    as_binary(copy).write_bytes(content)
    refused(copy, tiny_roots, "own model/pytorch_model.bin is not a plain checkpoint")
    assert "executed" not in capsys.readouterr().out
    refused(copy, tiny_roots, "own model/pytorch_model.bin is not a plain checkpoint")  # the second time too


def test_a_checkpoint_of_another_architecture(copy, tiny_models, tiny_roots):
    """The library alone would draw the weights that it does not find, and call that pre-trained."""
    shutil.copyfile(tiny_models / "distilbert/distilroberta-base/model.safetensors", copy / "model.safetensors")
    refused(copy, tiny_roots, "own model has no weights for bert.embeddings.LayerNorm.bias .[0-9]+ are missing")


def test_the_old_names_of_layer_norms_are_understood(copy, load):
    """google-bert/bert-large-uncased has gamma and beta."""
    from safetensors.torch import load_file, save_file

    chance, weights = torch.Generator().manual_seed(0), load_file(copy / "model.safetensors")
    weights = {key: value + 0.1 * torch.randn(value.shape, generator=chance) for key, value in weights.items()}
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {next((k.replace(new, o) for new, o in old.items() if new in k), k): v for k, v in weights.items()}
    assert renamed.keys() != weights.keys()
    save_file(renamed, copy / "model.safetensors", {"format": "pt"})
    loaded = load(copy).state_dict()
    assert all(torch.equal(loaded[key], weights[key]) for key in loaded if key in weights)


def test_half_precision_checkpoints_are_trained_in_float32(copy, load):
    from safetensors.torch import load_file, save_file

    weights = {name: value.half() for name, value in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert {parameter.dtype for parameter in load(copy).parameters()} == {torch.float32}


# what a seed fixes


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_a_seed_fixes_all_that_is_drawn(name, init, load):
    torch.manual_seed(1)
    first = load(name, init, seed=0)  # 0 is a seed
    torch.manual_seed(2)
    assert same_weights(first, load(name, init, seed=0))
    other = load(name, init, seed=8).state_dict()
    differing = {key for key, value in first.state_dict().items() if not torch.equal(value, other[key])}
    heads = [key for key in differing if key.startswith(("classifier", "score")) or "pooler" in key]
    assert heads
    assert (set(heads) == differing) == (init == "pretrained")


@pytest.mark.parametrize("name", FAMILIES)
def test_pretrained_weights_are_the_checkpoints(name, load, tiny_models):
    from safetensors.torch import load_file

    stored = load_file(tiny_models / registry.MODELS[name].hub_id / "model.safetensors")
    weights = load(name).state_dict()
    shared = [key for key in weights if key in stored]
    assert len(shared) > 20
    assert all(torch.equal(weights[key], stored[key]) for key in shared)
    assert not torch.equal(load(name, "random").state_dict()[shared[0]], stored[shared[0]])


@pytest.mark.parametrize("name", FAMILIES)
def test_random_is_the_librarys_own_initialisation(name, load):
    for key, value in load(name, "random").state_dict().items():
        if key.endswith("bias"):
            assert not value.any()
        elif "norm" in key.lower() or ".ln_" in key:
            assert (value == 1).all()
        elif value.numel() > 2000:
            scaled = 0.01 if name == "distilgpt2" and "c_proj" in key else 0.02  # by 1/sqrt(2 layers), Radford 2019
            assert value.std().item() == pytest.approx(scaled, rel=0.1)


# the families


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_do_not_depend_on_padding(name, load, encode):
    """GPT-2 above all: it reads the last token that is no padding, and has no pad token of its own."""
    model = load(name)
    together = logits(model, encode(name))
    alone = torch.cat([logits(model, encode(name, [text])) for text in TEXTS])
    assert_close(together, alone, atol=1e-5, rtol=1e-5)
    wide = {key: torch.nn.functional.pad(value, (0, 9), value=model.config.pad_token_id if key == "input_ids" else 0)
            for key, value in encode(name).items()}  # fmt: skip
    assert_close(logits(model, wide), together, atol=1e-5, rtol=1e-5)


def test_gpt2_pads_with_its_end_of_text_and_keeps_its_layers(load, tiny_roots):
    tokenizer = registry.tokenizer(registry.checkpoint("gpt2", tiny_roots))
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
    assert not any(isinstance(module, classifier.FirstTokenLayer) for module in load("gpt2").modules())
    assert load("gpt2").config.pad_token_id == load("gpt2", "random").config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize("name", [*FAMILIES, "minilm-3l"])
def test_what_is_saved_is_loaded(name, load, encode, tiny_roots, tmp_path):
    model = load(name, seed=3)
    model.save_pretrained(tmp_path / "saved")
    registry.tokenizer(registry.checkpoint(name, tiny_roots)).save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("*.bin"))
    again = load(tmp_path / "saved", seed=4, head="checkpoint")  # it is read, not drawn
    assert torch.equal(logits(model, encode(name)), logits(again, encode(tmp_path / "saved")))


# short cuts


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("name", ["bert-small", "distilroberta", "minilm-3l"])
def test_the_first_tokens_layer_equals_the_whole_layer(name, paired, load, encode):
    fast = load(name).eval()
    assert isinstance(fast.base_model.encoder.layer[-1], classifier.FirstTokenLayer)
    plain = plain_twin(fast).eval()
    labels = torch.tensor([0, 1, 2, 1])
    for texts in (TEXTS, ["a fine film"] * 4):  # with padding, and without any
        inputs = encode(name, texts, TEXTS[::-1] if paired else None)
        gradients = []
        for model in (fast, plain):
            model.zero_grad()
            found = model(**inputs).logits
            torch.nn.functional.cross_entropy(found, labels).backward()
            gradients.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
            gradients[-1]["logits"] = found.detach()
        assert gradients[0].keys() == gradients[1].keys()
        for key in gradients[0]:
            assert_close(gradients[0][key], gradients[1][key], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("part", ["attention.self.dropout", "attention.output.dropout", "output.dropout"])
def test_the_first_tokens_layer_drops_out_in_training_alone(part, load, encode):
    model, inputs = load("bert-small"), encode("bert-small")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.base_model.encoder.layer[-1].get_submodule(part).p = 0.5
    training, evaluated = ([model.train(mode)(**inputs).logits for _ in range(2)] for mode in (True, False))
    assert not torch.equal(*training)
    assert torch.equal(*evaluated)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_compact_embedding_trains_as_the_whole_table(name, decay, load, encode):
    inputs = encode(name)
    split = SimpleNamespace(ids=inputs["input_ids"].flatten(), pad_id=load(name).config.pad_token_id)
    data = SimpleNamespace(splits={"train": split})
    used = registry.used_tokens(data, ["train"])
    labels = torch.tensor([0, 1, 2, 1])
    whole, small = load(name).eval(), load(name).eval()
    before = small.get_input_embeddings().weight.detach().clone()
    registry.compact(small, data)
    assert small.get_input_embeddings().weight.shape == (len(used), before.shape[1])
    for model in (whole, small):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=decay)
        for _ in range(4):
            torch.nn.functional.cross_entropy(model(**inputs).logits, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_close(logits(small, inputs), logits(whole, inputs), atol=1e-5, rtol=1e-4)

    registry.expand(small)
    after = small.get_input_embeddings().weight.detach()
    others = torch.ones(len(before), dtype=torch.bool).index_fill(0, used, False)
    assert torch.equal(after[others], before[others])
    assert (
        (
            after[inputs["input_ids"][inputs["attention_mask"] == 1]]
            != before[inputs["input_ids"][inputs["attention_mask"] == 1]]
        )
        .any(dim=1)
        .all()
    )
    assert_close(after[used], whole.get_input_embeddings().weight.detach()[used], atol=1e-5, rtol=1e-4)
    assert_close(logits(small, inputs), logits(whole, inputs), atol=1e-5, rtol=1e-4)
    assert small.state_dict().keys() == whole.state_dict().keys()


# MiniLM


@pytest.mark.parametrize("packaged", [False, True])
def test_minilm_3l_is_every_second_layer_of_minilm(packaged, load, tiny_roots):
    roots = places.Roots(None, None, tiny_roots.cache) if packaged else tiny_roots
    six, three = (load(name, roots=roots) for name in ("minilm", "minilm-3l"))
    assert len(three.base_model.encoder.layer) == three.config.num_hidden_layers == 3
    for mine, theirs in zip(three.base_model.encoder.layer, (1, 3, 5), strict=True):
        assert same_weights(mine, six.base_model.encoder.layer[theirs])
    assert same_weights(three.base_model.embeddings, six.base_model.embeddings)
    random = load("minilm-3l", "random", roots=roots)
    assert len(random.base_model.encoder.layer) == 3
    assert random.config.hidden_size == six.config.hidden_size == (384 if packaged else 32)


def test_the_packaged_minilm_is_the_one_that_the_design_names(tmp_path):
    folder = registry.checkpoint("minilm", places.Roots(None, None, tmp_path))
    assert whole.file_digest(folder / "model.safetensors") == SHA256
    assert registry.checkpoint("minilm-3l", places.Roots(None, None, tmp_path)) == folder


# what a run depends on


@pytest.mark.parametrize(("name", "longest"), [("bert-small", 132), ("distilroberta", 130), ("distilgpt2", 132)])
def test_a_model_takes_as_many_tokens_as_it_has_positions(name, longest, load, tiny_roots):
    """RoBERTa counts its positions from 2."""
    path = registry.checkpoint(name, tiny_roots)
    registry.check_length(path, longest)
    assert logits(load(name), {"input_ids": torch.full((1, longest), 7)}).isfinite().all()
    with pytest.raises(UserError, match=f"max_length={longest + 1}: the model takes at most {longest} tokens"):
        registry.check_length(path, longest + 1)
    with pytest.raises((IndexError, RuntimeError)):  # what the check spares the user
        logits(load(name), {"input_ids": torch.full((1, longest + 1), 7)})


def test_a_weights_digest_is_of_what_training_starts_from(copy, tiny_roots):
    def digest(name, init="pretrained"):
        return registry.weights_digest(str(name), init, tiny_roots)

    first, drawn = digest(copy), digest(copy, "random")
    assert len(first) == 32
    assert first == digest("bert-small")
    assert len({first, drawn, digest("distilroberta"), digest("minilm"), digest("minilm-3l")}) == 5
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert digest(copy) != first
    assert digest(copy, "random") == drawn


def test_a_base_digest_is_of_all_but_the_tokenizer(copy, tiny_roots):
    first = registry.base_digest(str(copy), tiny_roots)
    assert first == registry.base_digest("bert-small", tiny_roots)
    assert len({first, *(registry.base_digest(name, tiny_roots) for name in ("minilm", "minilm-3l"))}) == 3
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + " ")
    assert registry.base_digest(str(copy), tiny_roots) == first
    for file in ("config.json", "model.safetensors"):
        before = registry.base_digest(str(copy), tiny_roots)
        (copy / file).write_bytes((copy / file).read_bytes() + b" ")
        assert registry.base_digest(str(copy), tiny_roots) != before


def test_a_tokenizer_digest_is_of_what_cuts_text(copy):
    first = registry.tokenizer_digest(copy)
    (copy / "README.md").write_text("words")
    assert registry.tokenizer_digest(copy) == first
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + " ")
    assert registry.tokenizer_digest(copy) != first


def test_roots_come_from_parameters_then_variables(tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    variables = [f"LABELREG_{kind}_ROOT" for kind in ("DATA", "MODEL", "CACHE")]
    for name in variables:
        monkeypatch.setenv(name, str(two))
    given = {f"{kind}_root": str(one) for kind in ("data", "model", "cache")}
    assert places.roots(Folders(**given)) == places.Roots(one, one, one)
    assert places.roots(Folders()) == places.Roots(two, two, two)
    for name in variables:
        monkeypatch.delenv(name)
    assert places.roots(Folders()).data is places.roots(Folders()).model is None
    with pytest.raises(UserError, match="model_root=.*no such folder"):
        places.roots(Folders(model_root=str(tmp_path / "none")))
