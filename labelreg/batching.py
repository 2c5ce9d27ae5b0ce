"""Length-bucketed batches of a tokenised split: index tensors, and the padded tensors that they name."""

import torch
from torch import Tensor

from labelreg.corpus import Tokens

WINDOW = 50  # batches sorted by length together: 2-4% padding on GLUE at batch 32 (docs/choices.md)


def generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """An independent stream of chance for (seed, epoch, purpose), the same for every method."""
    mixed = (seed * 1_000_003 + epoch) * 1_000_003 + sum(map(ord, purpose))
    return torch.Generator().manual_seed(mixed % 2**63)


def epoch_batches(lengths: Tensor, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """The batches of one epoch as index tensors: every example exactly once.

    The examples are shuffled, cut into windows of 50 batches, sorted by length within a window and
    cut into batches, whose order is then shuffled over the epoch. Against plain shuffling this changes
    one thing: an example meets examples of like length in its batch. Which batch comes when, and which
    examples share a window, is chance. Only one batch of an epoch can be smaller than batch_size.

    Args:
        lengths: tokens of each example [examples], on the CPU.
    """
    chance = generator(seed, epoch, "order")
    order = torch.randperm(len(lengths), generator=chance)
    batches: list[Tensor] = []
    for window in order.split(WINDOW * batch_size):
        batches += window[lengths[window].argsort(stable=True)].split(batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=chance)]


def sorted_batches(lengths: Tensor, batch_size: int) -> list[Tensor]:
    """Batches in order of length, for evaluation."""
    return list(lengths.argsort(stable=True).split(batch_size))


def padding_share(lengths: Tensor, batches: list[Tensor]) -> float:
    """Share of the tokens in the padded batches that are padding."""
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    return 1 - int(lengths.sum()) / padded


def inputs(split: Tokens, batch: Tensor, width: int) -> dict[str, Tensor]:
    """The model's inputs for one batch, padded to `width` on the right: [batch, width] each.

    Token types are passed only where a split has a second text; RoBERTa and GPT-2 have none.
    """
    start, stop = split.offsets[batch], split.offsets[batch + 1]
    at = start[:, None] + torch.arange(width, device=start.device)
    real = at < stop[:, None]
    at = at.clamp_(max=len(split.ids) - 1)
    tensors = {"input_ids": torch.where(real, split.ids[at], split.pad_id).long(), "attention_mask": real.long()}
    if split.paired:
        tensors["token_type_ids"] = torch.where(real, split.types[at], 0).long()
    return tensors
