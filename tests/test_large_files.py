"""What makes large files bearable changes no token: texts are shortened, rows are taken in parts."""

import csv
import random

import pytest
import torch
from conftest import FILLERS, WORDS
from zoo import ARCHITECTURES

from labelreg.data import text
from labelreg.models import registry

pytest_plugins = ["zoo"]

ODD = ["größe", "映画", "здорово", "\u200b", "...", "\t", "a\u0301", "x" * 120, "½", "\U0001f600", "<s>", "[SEP]", ""]


def long_texts() -> list[str]:
    """Texts of some thousand characters: words, scripts, marks that make no tokens, runs of spaces, no spaces."""
    chance = random.Random(0)
    words = [*FILLERS, *(word for own in WORDS.values() for word in own), *ODD]
    spaced = [" ".join(chance.choices(words, k=250)) for _ in range(4)]
    runs = ["".join(word + " " * chance.randint(1, 4) for word in chance.choices(words, k=250)) for _ in range(4)]
    return [*spaced, *runs, "映画" * 600, "\u200b \u200b " * 300 + "good film " * 200, "good" + "\n" * 1100 + "film"]


@pytest.mark.parametrize("name", {kind: name for name, (kind, _) in ARCHITECTURES.items()}.values())
def test_a_shortened_text_has_the_tokens_of_the_whole_one(zoo, name):
    tokenizer, shorter = registry.tokenizer(zoo(name)), 0
    given = {"truncation": True, "max_length": 16, "return_token_type_ids": True, "verbose": False}
    texts = long_texts()
    for whole in texts:
        short = text.shortened(whole, tokenizer, 16)
        assert whole.startswith(short)
        shorter += len(short) < len(whole)
        assert tokenizer(short, **given) == tokenizer(whole, **given)
        assert tokenizer(*text.shortened_pair(whole, "good", tokenizer, 16), **given) == tokenizer(
            whole, "good", **given
        )
    assert shorter >= 8, "else this test compares a text with itself"
    # short ones, as the library keeps each piece of the one with each of the other
    one, other = texts[0][:1400], texts[1][:1200]
    for pair in ((one, other), (other, one)):
        short = text.shortened_pair(*pair, tokenizer, 16)
        assert sum(map(len, short)) < sum(map(len, pair))
        assert tokenizer(*short, **given) == tokenizer(*pair, **given)


def test_parts_are_put_together_as_the_whole(prepare, tmp_path, monkeypatch):
    path, chance = tmp_path / "pairs.csv", random.Random(1)
    with path.open("w", newline="", encoding="utf-8") as file:
        write = csv.writer(file)
        write.writerow(["text", "text_pair", "label"])
        for row in range(90):
            write.writerow([*(" ".join(chance.choices(FILLERS, k=chance.randint(1, 60))) for _ in "ab"), row % 3])
    whole = prepare(train_file=path)
    monkeypatch.setattr(text, "PART", 7)
    monkeypatch.setattr(text, "FORMAT", -1)  # another folder of the cache
    parts = prepare(train_file=path)
    assert parts.digest == whole.digest
    assert parts.remarks == whole.remarks
    assert any("max_length=32 cuts" in remark for remark in whole.remarks)
    for split, tokens in whole.splits.items():
        for name in ("ids", "types", "offsets", "labels", "idx"):
            assert torch.equal(getattr(parts.splits[split], name), getattr(tokens, name)), (split, name)
            assert getattr(parts.splits[split], name).dtype == getattr(tokens, name).dtype
