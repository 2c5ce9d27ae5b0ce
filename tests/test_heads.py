"""The head of a fine-tuned checkpoint: new by default, its own by the names of its classes; and what does not fit."""

import json
import shutil

import pytest
import torch
from running import call, refused, succeed
from torch.testing import assert_close

from labelreg import places
from labelreg.errors import UserError
from labelreg.models import registry
from labelreg.settings import Folders
from labelreg.store import tracking

pytest_plugins = ["running"]
CLASSES = ("neg", "pos")
INPUTS = {"input_ids": torch.tensor([[2, 7, 9, 11, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
HEADS = {"bert-small": "classifier.weight", "distilroberta": "classifier.out_proj.weight", "distilgpt2": "score.weight"}


@pytest.fixture(params=HEADS)
def tuned(request, tiny_models, tmp_path):
    """A fine-tuned checkpoint whose classes stand the other way round: 0 is pos, 1 is neg."""
    return fine_tuned(request.param, tiny_models, tmp_path / "tuned")


def fine_tuned(name, tiny_models, folder, labels=("pos", "neg")):
    from transformers import AutoModelForSequenceClassification

    source = tiny_models / registry.MODELS[name].hub_id
    shutil.copytree(source, folder)
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=len(labels), id2label=dict(enumerate(labels)), pad_token_id=0,
        label2id={label: index for index, label in enumerate(labels)},
    )  # fmt: skip
    with torch.no_grad():
        for key, value in model.named_parameters():
            if not key.startswith(model.base_model_prefix):
                value.normal_()
    model.save_pretrained(folder)
    return folder


def load(folder, roots, seed=0, **more):
    return registry.load(str(folder), CLASSES, "pretrained", seed, roots, **more)


@torch.inference_mode()
def logits(model):
    return model.eval()(**INPUTS).logits


def test_a_head_is_new_and_drawn_from_the_seed(tuned, tiny_roots):
    """To the last bit as from a checkpoint that has none."""
    from safetensors.torch import load_file, save_file

    weights = load_file(tuned / "model.safetensors")
    first, again, other = (load(tuned, tiny_roots, seed) for seed in (0, 0, 1))
    body = f"{first.base_model_prefix}."
    heads = [key for key in first.state_dict() if not key.startswith(body)]
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
        if key not in heads and "pooler" not in key:
            assert torch.equal(value, weights[key])
    assert not torch.equal(logits(first), logits(other))
    without = shutil.copytree(tuned, tuned.parent / "without")
    save_file({k: v for k, v in weights.items() if k not in heads}, without / "model.safetensors", {"format": "pt"})
    assert torch.equal(logits(load(without, tiny_roots)), logits(first))


def test_a_checkpoints_own_head_is_mapped_by_names(tuned, tiny_roots, capsys):
    from transformers import AutoModelForSequenceClassification

    plain = AutoModelForSequenceClassification.from_pretrained(tuned)
    models_own = load(tuned, tiny_roots, head="checkpoint")
    assert f"model {tuned}: the checkpoint's own head, its classes 0=pos, 1=neg by name" in capsys.readouterr().out
    assert models_own.config.id2label == {0: "neg", 1: "pos"}
    assert_close(logits(models_own), logits(plain).flip(1), atol=1e-6, rtol=1e-5)


def test_classes_that_do_not_match(tuned, tiny_roots):
    with pytest.raises(UserError, match="the classes of model .*tuned are pos, neg, those of the task bad, good"):
        registry.load(str(tuned), ("bad", "good"), "pretrained", 0, tiny_roots, head="checkpoint")
    with pytest.raises(UserError, match="head=checkpoint: with init=random there is no checkpoint"):
        registry.load(str(tuned), CLASSES, "random", 0, tiny_roots, head="checkpoint")
    bare = registry.checkpoint("bert-small", tiny_roots)
    with pytest.raises(UserError, match="head=checkpoint: model bert-small has no head of its own"):
        registry.load("bert-small", CLASSES, "pretrained", 0, tiny_roots, head="checkpoint")
    assert bare.is_dir()


def test_another_number_of_classes_is_no_obstacle(tiny_models, tiny_roots, tmp_path):
    folder = fine_tuned("bert-small", tiny_models, tmp_path / "five", tuple("abcde"))
    assert logits(load(folder, tiny_roots)).shape == (1, 2)


def test_a_fine_tuned_checkpoint_has_another_fingerprint_than_before(tiny_models, tiny_roots, tmp_path):
    """Earlier runs took its head over; of a bare one nothing changed."""
    folder = fine_tuned("bert-small", tiny_models, tmp_path / "tuned")
    assert registry._since(folder, "pretrained") == " 2"
    assert registry._since(folder, "random") == ""
    for name in HEADS:
        assert registry._since(registry.checkpoint(name, tiny_roots), "pretrained") == ""
    assert registry._since(registry.checkpoint("minilm-3l", places.roots(Folders())), "pretrained") == ""


@pytest.fixture
def own(tiny_models, tmp_path):
    """Parameters of a short run on a file with the classes neg and pos."""
    path = tmp_path / "r.csv"
    words = {"pos": "a fine film", "neg": "a dull plot"}
    path.write_text("text,label\n" + "".join(f"{words[label]} {i % 7},{label}\n" for i in range(30) for label in words))
    return {
        "train_file": path, "epochs": 1, "max_length": 12, "lr": 1e-4, "batch_size": 16, "threads": 1,
        "precision": "fp32", "model_root": tiny_models,
    }  # fmt: skip


def test_the_choice_is_a_parameter_of_the_run(own, tiny_models, tmp_path):
    folder = fine_tuned("bert-small", tiny_models, tmp_path / "tuned")
    new = succeed("train_student", model=folder, **own)
    taken = succeed("train_student", model=folder, head="checkpoint", **own)
    assert "the checkpoint's own head, its classes 0=pos, 1=neg by name" in taken.out
    assert "own head" not in new.out
    runs = tracking.find(tracking.tagged({tracking.KIND: "student"}))
    assert {run.data.params.get("head") for run in runs} == {None, "checkpoint"}
    assert len({run.data.tags[tracking.FINGERPRINT] for run in runs}) == 2


def test_names_that_do_not_match_leave_no_run(own, tiny_models, tmp_path):
    folder = fine_tuned("bert-small", tiny_models, tmp_path / "tuned", ("LABEL_0", "LABEL_1"))
    refused(call("train_student", model=folder, head="checkpoint", **own), "LABEL_0, LABEL_1", "neg, pos", "head=new")
    several = own | {"head": "checkpoint", "jobs": 1}
    study = {"recipe": "smoke", "models": folder, "inits": "pretrained", "methods": "finetune,ls"}
    for ended in (call("study", **several, **study), call("tune", **several, model=folder, method="ls")):
        assert ended.status == 2 and "LABEL_0, LABEL_1" in ended.err.splitlines()[-1], ended
    assert not tracking.find("")


def test_weights_of_another_vocabulary(own, tiny_models, tmp_path):
    """config.json and weights do not agree; or the tokenizer gives ids that the model has no row for."""
    folder = shutil.copytree(tiny_models / registry.MODELS["bert-small"].hub_id, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    rows = config["vocab_size"]
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows + 7}))
    ended = call("train_student", model=folder, **own)
    refused(ended, "word_embeddings.weight is", f"({rows}, 32) in the weights and ({rows + 7}, 32) by config.json")
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 20}))
    refused(call("train_student", model=folder, **own), "gives the token id", "vocab_size 20", "not of one model")


def changed(tiny_models, folder, file="config.json", name="bert-small", **more):
    """A copy of a checkpoint with other values in one of its files."""
    shutil.copytree(tiny_models / registry.MODELS[name].hub_id, folder)
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | more))
    return folder


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_a_checkpoint_for_several_labels_or_a_score_is_saved_as_a_classifier(kind, tiny_models, tiny_roots, tmp_path):
    """The library's pipeline would give sigmoids, or bare logits, for the probabilities that are stored."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    folder = changed(tiny_models, tmp_path / "tuned", problem_type=kind)
    model = load(folder, tiny_roots)
    registry.save(model, str(folder), tmp_path / "saved", tiny_roots)
    parts = AutoModelForSequenceClassification, AutoTokenizer
    again, tokenizer = (each.from_pretrained(tmp_path / "saved") for each in parts)
    found = pipeline("text-classification", again, tokenizer=tokenizer, top_k=None)(["a fine film"])[0]
    with torch.inference_mode():
        expected = model.eval()(**tokenizer("a fine film", return_tensors="pt")).logits.softmax(1)[0]
    scores = {each["label"]: each["score"] for each in found}
    assert_close(torch.tensor([scores[name] for name in CLASSES]), expected, atol=1e-5, rtol=0)


def test_a_causal_bert_is_saved_as_it_is_scored(tiny_models, tiny_roots, tmp_path):
    """A text alone needs no mask of its own; its first token sees nothing but itself all the same."""
    from transformers import AutoModelForSequenceClassification

    folder = changed(tiny_models, tmp_path / "causal", is_decoder=True)
    model = load(folder, tiny_roots)
    registry.save(model, str(folder), tmp_path / "saved", tiny_roots)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert_close(logits(model), logits(again), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["bert-small", "distilgpt2"])
def test_a_pad_token_that_the_model_has_no_row_for(name, own, tiny_models, tmp_path):
    """As in Llama's tokenizers with a pad token added, and weights that were not resized."""
    from transformers import AutoTokenizer

    folder = shutil.copytree(tiny_models / registry.MODELS[name].hub_id, tmp_path / "padded")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[ADDED]"})
    tokenizer.save_pretrained(folder)
    refused(call("train_student", model=folder, **own), f"gives the token id {len(tokenizer) - 1}", "not of one model")


def test_damaged_weights_are_told_as_such(tiny_models, tiny_roots, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = changed(tiny_models, tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {key: value * float("nan") for key, value in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UserError, match="its logits are no finite numbers: the weights are damaged"):
        load(folder, tiny_roots)


def test_a_configuration_that_is_a_list(own, tiny_models, tmp_path):
    folder = changed(tiny_models, tmp_path / "list")
    (folder / "config.json").write_text("[]")
    refused(call("train_student", model=folder, **own), "config.json is no JSON object")


@pytest.mark.parametrize("place", ["nowhere", "file.bin", "a/b/c"])
def test_a_folder_of_a_model_that_is_not_there(place, own, tmp_path):
    (tmp_path / "file.bin").touch()
    model = tmp_path / place if place != "a/b/c" else place
    refused(call("train_student", model=model, **own), f"model {model}: no such folder")


def test_a_tokenizer_without_pad_and_eos(tiny_models, tmp_path):
    folder = shutil.copytree(tiny_models / registry.MODELS["distilgpt2"].hub_id, tmp_path / "bare")
    file = folder / "tokenizer_config.json"
    marks = dict.fromkeys(("pad_token", "eos_token", "bos_token"))
    file.write_text(json.dumps(json.loads(file.read_text()) | marks | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(UserError, match="the tokenizer has no pad token and no eos token") as error:
        registry.tokenizer(folder)
    assert "\n" not in str(error.value)


def test_truncation_and_padding_inside_a_tokenizers_file_have_no_say(own, prepare, tiny_models, tmp_path):
    """sentence-transformers saves them."""
    folder = shutil.copytree(tiny_models / registry.MODELS["bert-small"].hub_id, tmp_path / "padded")
    file = folder / "tokenizer.json"
    inner = json.loads(file.read_text())
    inner["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    inner["padding"] = {
        "strategy": {"Fixed": 30}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "[PAD]",
    }  # fmt: skip
    file.write_text(json.dumps(inner))
    of = {"train_file": own["train_file"], "max_length": 12}
    expected, found = prepare(model="bert-small", **of), prepare(model=str(folder), **of)
    assert torch.equal(found.splits["train"].ids, expected.splits["train"].ids)


def test_a_text_without_a_token(prepare, tiny_models, tmp_path):
    """A tokenizer that adds no marks and drops what it does not know."""
    folder = shutil.copytree(tiny_models / registry.MODELS["bert-small"].hub_id, tmp_path / "none")
    file = folder / "tokenizer.json"
    inner = json.loads(file.read_text())
    inner["post_processor"] = None
    file.write_text(json.dumps(inner))
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}))
    path = tmp_path / "r.csv"
    path.write_text("text,label\n" + "a fine film,pos\na dull plot,neg\n" * 15 + "\u200b\u200d,neg\n")
    with pytest.raises(UserError, match="the tokenizer makes no token of text 30 "):
        prepare(model=str(folder), train_file=path)


def test_a_sentencepiece_model_alone(own, tmp_path):
    """DeBERTa-v3's files: spm.model and a tokenizer_config.json, no tokenizer.json."""
    import sentencepiece
    from transformers import AutoConfig, AutoModel

    folder, text = tmp_path / "deberta", tmp_path / "text"
    text.write_text("a fine film\na dull plot\nthe story is warm and bright 0 1 2 3 4 5 6\n" * 20)
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "spm"), vocab_size=33, pad_id=0, unk_id=3, bos_id=1, eos_id=2,
        pad_piece="[PAD]", unk_piece="[UNK]", bos_piece="[CLS]", eos_piece="[SEP]", minloglevel=2,
    )  # fmt: skip
    (folder / "spm.vocab").unlink()
    marks = {"tokenizer_class": "DebertaV2Tokenizer", "vocab_type": "spm", "do_lower_case": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(marks))
    config = AutoConfig.for_model(
        "deberta-v2", vocab_size=48, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=0,
    )  # fmt: skip
    AutoModel.from_config(config).save_pretrained(folder)
    spoken = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    ids = registry.tokenizer(folder)("a fine film")["input_ids"]
    assert [1, *spoken.encode("a fine film"), 2] == ids
    assert "score" in succeed("train_student", model=folder, **own).out


def test_layers_that_the_configuration_does_not_have_are_said(tiny_models, tiny_roots, tmp_path, capsys):
    load(changed(tiny_models, tmp_path / "short", num_hidden_layers=1), tiny_roots)
    assert "16 weights of layers that config.json does not have are not used" in capsys.readouterr().out
    load(tiny_models / registry.MODELS["bert-small"].hub_id, tiny_roots)
    assert not capsys.readouterr().out, "a head for words is no news"
