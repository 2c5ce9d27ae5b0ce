"""What a method is: its loss, its own parameters, whose logits it needs, and what it keeps from epoch to epoch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labelreg.parameter import ALWAYS, UNUSUAL, Parameter, Value

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:  # torch takes a second to import, and `significance` needs the methods' names and parameters alone

    class _Later:
        """Stands for a module until one of its names is asked for."""

        def __init__(self, module: str):
            self.module = module

        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module(self.module), name)

    torch, F = _Later("torch"), _Later("torch.nn.functional")

Loss = Callable[["Tensor", "Tensor", "Tensor | None", int], "Tensor"]  # (logits, labels, teacher, epoch) -> scalar
Own = Mapping[str, Any]  # a method's parameters, by name


def own(
    kind: str, help: str, default: Any = None, counts: str = UNUSUAL, needed: bool = True, **facts: Any
) -> Parameter:
    """A parameter of methods. `counts`: it stands in every fingerprint, or (of methods to come) where it is used."""
    return Parameter(kind, help, default, counts=counts, recipe=True, needed=needed, **facts)


ALPHA = own("number", "weight of the smoothing distribution r(x)", counts=ALWAYS, low=0, high=1)
TAU = own("number", "temperature; akd: the maximum temperature", counts=ALWAYS, low=0, open_low=True)


class Memory:
    """What a run learns from beside the labels, and what its method keeps from epoch to epoch; here, nothing.

    `state`: all of it as tensors by name, which a checkpoint holds. It is replaced as a whole when a run goes on.
    `passes`: over the training set after an epoch that another follows.
    """

    passes = 0

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def rows(self, index: Tensor, labels: Tensor) -> Tensor | None:
        """What the loss gets as `teacher` for a batch [batch, classes]; `index`, `labels` [batch]."""
        return None

    def see(self, index: Tensor, labels: Tensor, logits: Tensor) -> None:
        """A batch has been computed; logits [batch, classes] without their graph."""

    def turn(self, predict: Callable[[], Tensor]) -> None:
        """An epoch has ended and another follows; `predict`: the training set's logits [examples, classes]."""


class Teacher(Memory):
    """The logits of a run that was trained before [examples, classes]; they are no state of this one."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = logits

    def rows(self, index: Tensor, labels: Tensor) -> Tensor:
        return self.logits[index]


@dataclass(frozen=True)
class Core:
    """The part of a loss without which a method is another: (logits, labels, teacher, its parameters) -> scalar."""

    name: str
    loss: Callable[[Tensor, Tensor, Tensor, Own], Tensor]
    left: str  # what the method is without it


@dataclass(frozen=True)
class Method:
    """A method: its loss, its own parameters, and whose logits it needs (None, teacher, finetune).

    `defaults`: of parameters that it shares with others, its own. `complete` checks the parameters against the epochs,
    and adds what follows from them. `phases` are the epochs of each phase; a phase has an optimiser and a
    learning-rate schedule of its own. `memory`: (its parameters, classes) -> what it keeps. `passes`: forward passes of
    a step; the logits of a second one are given to the loss in the teacher's place. `core`: what may have no gradient.
    `anew`: makes the loss for one run, where what its file keeps must reach no other.
    """

    title: str
    loss: Callable[..., Tensor]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    needs: str | None = None
    defaults: Mapping[str, Value] = field(default_factory=dict)
    complete: Callable[[Own, int], Own] = lambda own, epochs: own
    phases: Callable[[int, Own], tuple[int, ...]] = lambda epochs, own: (epochs,)
    memory: Callable[[Own, int], Memory] = lambda own, classes: Memory()
    passes: Callable[[Own], int] = lambda own: 1
    core: Core | None = None
    anew: Callable[[], Callable[..., Tensor]] | None = None

    def loss_of(self, own: Own) -> Loss:
        """The loss of a run, with the method's parameters filled in."""
        loss = self.anew() if self.anew else self.loss
        return lambda logits, labels, teacher, epoch: loss(logits, labels, teacher, epoch, **own)

    def memory_of(self, own: Own, classes: int, teacher: Tensor | None) -> Memory:
        """What a run learns from: a teacher's logits [examples, classes], or what the method keeps itself."""
        return Teacher(teacher) if self.needs and teacher is not None else self.memory(own, classes)


def with_epochs(own: Own, epochs: int) -> Own:
    """The parameters of a method whose loss depends on how many epochs there are."""
    return {**own, "epochs": epochs}
