"""Batches as properties: every example once, chance from the seed alone, little padding, nothing lost."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labelreg import places
from labelreg.data.batching import WINDOW, epoch_batches, generator, padding_share, sorted_batches
from labelreg.models import registry

lengths_ = st.lists(st.integers(1, 512), min_size=1, max_size=400).map(torch.tensor)
sizes = st.integers(1, 40)
seeds = st.integers(0, 2**31)


@given(lengths=lengths_, batch_size=sizes, seed=seeds, epoch=st.integers(1, 30))
def test_every_example_exactly_once(lengths, batch_size, seed, epoch):
    for batches in (epoch_batches(lengths, batch_size, seed, epoch), sorted_batches(lengths, batch_size)):
        assert torch.cat(batches).sort().values.tolist() == list(range(len(lengths)))
        assert sum(len(batch) < batch_size for batch in batches) <= 1
        assert len(batches) == -(-len(lengths) // batch_size)


@given(lengths=lengths_, batch_size=sizes, seed=seeds)
def test_padding_is_bounded_by_the_spread_of_each_window(lengths, batch_size, seed):
    """Sorted batches telescope: a window is padded by at most batch_size times (longest - shortest)."""
    batches = epoch_batches(lengths, batch_size, seed, 1)
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    windows = -(-len(lengths) // (WINDOW * batch_size))
    assert padded - int(lengths.sum()) <= windows * batch_size * int(lengths.max() - lengths.min())
    assert padding_share(lengths, batches) == pytest.approx(1 - int(lengths.sum()) / padded)


@given(lengths=lengths_, batch_size=sizes, seed=seeds)
def test_evaluation_goes_by_length(lengths, batch_size, seed):
    ordered = lengths[torch.cat(sorted_batches(lengths, batch_size))]
    assert (ordered.diff() >= 0).all()


def test_padding_by_hand():
    lengths = torch.tensor([1, 3, 4, 4])
    assert padding_share(lengths, [torch.tensor([0, 1]), torch.tensor([2, 3])]) == pytest.approx(2 / 14)
    assert padding_share(lengths, [torch.tensor([0, 2]), torch.tensor([1, 3])]) == pytest.approx(4 / 16)


@pytest.fixture(scope="module")
def lengths():
    return torch.randint(3, 80, (3000,), generator=torch.Generator().manual_seed(0))


def as_lists(batches):
    return [batch.tolist() for batch in batches]


def test_a_seed_gives_one_order(lengths):
    torch.manual_seed(1)
    first = as_lists(epoch_batches(lengths, 32, 7, 2))
    torch.manual_seed(2)  # the library's own chance has no say
    assert as_lists(epoch_batches(lengths, 32, 7, 2)) == first


def test_seeds_and_epochs_give_different_orders(lengths):
    orders = {str(as_lists(epoch_batches(lengths, 32, seed, epoch))) for seed in (0, 1, 42) for epoch in (1, 2, 3)}
    assert len(orders) == 9


def test_batches_of_an_epoch_are_others_in_the_next(lengths):
    """Not only their order is new: who meets whom is."""
    first, second = ({frozenset(b) for b in as_lists(epoch_batches(lengths, 32, 0, epoch))} for epoch in (1, 2))
    assert not first & second


def test_lengths_are_not_trained_in_order(lengths):
    means = torch.stack([lengths[batch].float().mean() for batch in epoch_batches(lengths, 32, 0, 1)])
    position = torch.arange(len(means)).float()
    assert abs(torch.corrcoef(torch.stack([position, means]))[0, 1]) < 0.3


def test_streams_of_chance_are_independent():
    cells = [(seed, epoch, use) for seed in range(20) for epoch in range(1, 31) for use in ("order", "dropout")]
    assert len({generator(*cell).initial_seed() for cell in cells}) == len(cells)


PAIRS = [("a fine film", "it is"), ("dull", "the plot is flat and the cast cold"), ("so so scene", "usual"), ("a", "a")]


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("model", ["bert-small", "distilroberta", "distilgpt2"])
def test_padded_inputs_decode_to_the_examples(model, paired, prepare, tiny_roots, tmp_path):
    rows = [f"{text},{pair},{number % 2}" for number, (text, pair) in enumerate(PAIRS * 4)]
    path = tmp_path / "pairs.csv"
    path.write_text("text,other,label\n" + "\n".join(rows))
    own = {"text_pair_column": "other"} if paired else {}
    split = prepare(model=model, train_file=path, **own).splits["train"]
    tokenizer = registry.tokenizer(registry.checkpoint(model, tiny_roots))
    batch = torch.arange(len(split)).flip(0)[:7]
    width = int(split.lengths[batch].max()) + 2
    tensors = split.inputs(batch, width)

    assert {tuple(tensor.shape) for tensor in tensors.values()} == {(len(batch), width)}
    assert ("token_type_ids" in tensors) == (paired and model == "bert-small")
    assert (tensors["input_ids"][tensors["attention_mask"] == 0] == tokenizer.pad_token_id).all()
    for row, (ids, mask) in enumerate(zip(tensors["input_ids"], tensors["attention_mask"], strict=True)):
        text, pair = PAIRS[int(split.idx[batch[row]]) % 4]
        assert mask.diff().le(0).all()  # padded on the right only
        coded = tokenizer(text, pair if paired else None)
        assert ids[mask == 1].tolist() == coded["input_ids"]
        if "token_type_ids" in tensors:
            assert tensors["token_type_ids"][row].tolist() == coded["token_type_ids"] + [0] * int((mask == 0).sum())
        assert tokenizer.decode(ids[mask == 1], skip_special_tokens=True).startswith(text)


@pytest.mark.parametrize("task", ["sst5", "cola", "rte", "mrpc"])
def test_real_tasks_are_padded_by_at_most_5_percent(task, hub, prepare, tmp_path):
    roots = places.Roots(hub, None, tmp_path / "cache")
    lengths = prepare(roots, task=task, model="minilm", max_length=128).splits["train"].lengths
    assert len(lengths) == {"sst5": 8544, "cola": 8551, "rte": 2490, "mrpc": 3668}[task]
    for epoch in (1, 2):
        assert padding_share(lengths, epoch_batches(lengths, 32, 42, epoch)) <= 0.05
