"""Length-bucketed batches of a tokenised split: index tensors, and the model's inputs that they name."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

UNLABELLED = -1
REST = "rest"  # the split of what max_train_examples leaves unused
WINDOW = 50  # batches sorted by length together: 2-4% padding on GLUE at batch 32


def generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """An independent stream of chance for (seed, epoch, purpose), the same for every method."""
    # no generator is carried from epoch to epoch: a run that goes on from a checkpoint draws what it would have drawn
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
        # stable, as equal lengths would else lie in an order of the machine's
        batches += window[lengths[window].argsort(stable=True)].split(batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=chance)]


def sorted_batches(lengths: Tensor, batch_size: int) -> list[Tensor]:
    """Batches in order of length, for evaluation."""
    return list(lengths.argsort(stable=True).split(batch_size))


def padding_share(lengths: Tensor, batches: list[Tensor]) -> float:
    """Share of the tokens in the padded batches that are padding."""
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    return 1 - int(lengths.sum()) / padded


@dataclass(frozen=True, kw_only=True)
class Split(ABC):
    """A prepared split, whatever its examples are made of.

    `labels`, `idx` [examples]: -1 where there is no label; the number of each in its source. `fingerprint` is of the
    examples, whatever the model. `group` [examples]: the number of what each belongs to, where that was asked for.
    """

    labels: Tensor
    idx: Tensor
    fingerprint: str
    group: Tensor | None = None
    unit: ClassVar[str]  # what `lengths` counts
    moved: ClassVar[tuple[str, ...]]  # the tensors that training needs on its device

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def lengths(self) -> Tensor:
        """Units of each example [examples]; a batch costs its longest."""

    @property
    def labelled(self) -> bool:
        return bool((self.labels != UNLABELLED).all())

    def to(self, device: torch.device) -> Self:
        """The same split on a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in self.moved})

    def of_epoch(self, seed: int, epoch: int) -> Self:
        """The split as this epoch of training sees it; what is drawn for that is the same for every method."""
        return self

    @abstractmethod
    def inputs(self, batch: Tensor, width: int) -> dict[str, Tensor]:
        """The model's inputs for the examples `batch` [batch], the longest of `width` units."""


@dataclass(frozen=True, kw_only=True)
class Tokens(Split):
    """One tokenised split: examples end to end in flat tensors.

    `ids`, `types` [tokens] int32 and int8; `offsets` [examples + 1].
    """

    ids: Tensor
    types: Tensor
    offsets: Tensor
    pad_id: int
    unit: ClassVar[str] = "tokens"
    moved: ClassVar[tuple[str, ...]] = ("ids", "types", "offsets", "labels")

    @property
    def lengths(self) -> Tensor:
        return self.offsets.diff()

    @cached_property
    def paired(self) -> bool:
        """Whether any example has a second text that the tokenizer marks."""
        return bool(self.types.any())

    def inputs(self, batch: Tensor, width: int) -> dict[str, Tensor]:
        """The model's inputs for one batch, padded to `width` on the right: [batch, width] each.

        Token types are passed only where a split has a second text; RoBERTa and GPT-2 have none.
        """
        start, stop = self.offsets[batch], self.offsets[batch + 1]
        at = start[:, None] + torch.arange(width, device=start.device)
        real = at < stop[:, None]
        at = at.clamp_(max=len(self.ids) - 1)  # behind the last example there is nothing; `real` hides what is read
        tensors = {"input_ids": torch.where(real, self.ids[at], self.pad_id).long(), "attention_mask": real.long()}
        if self.paired:
            tensors["token_type_ids"] = torch.where(real, self.types[at], 0).long()
        return tensors
