"""The mean of the weights that a run passes through, beside the weights that it trains.

ema: an exponential moving average, a <- decay a + (1 - decay) w after each step. swa: the plain mean of the weights
after each step, at a constant learning rate (Izmailov et al. 2018; Lu, Kobyzev et al. 2022 for fine-tuned language
models). Both begin at `average_start` (swa after the warm-up at the earliest), with the weights after that step. What
is evaluated, selected and stored is the average; what is trained on stays as it is. Statistics of batch normalisation
are averaged too; what is frozen is not.
"""

import torch
from torch import Tensor, nn

from labelreg.models import adapter
from labelreg.settings import Settings

COUNT = "count"


class Average:
    """`state`: the averaged tensors by name and how many were averaged; nothing before the start."""

    def __init__(self, settings: Settings, start: int, rate: float):
        """start: the first step (from 0) after which weights are averaged; rate: swa's from there on."""
        self.kind, self.decay, self.start, self._rate = settings.average, settings.ema_decay, start, rate
        self.state: dict[str, Tensor] = {}
        self.trained: dict[str, Tensor] = {}  # what is trained on, while the model shows the average

    def rate(self, step: int, usual: float) -> float:
        """The learning rate of a step (from 0) whose schedule has `usual`."""
        return self._rate if self.kind == "swa" and step >= self.start else usual

    @torch.no_grad()
    def add(self, model: nn.Module, step: int) -> None:
        """The model has taken a step (from 0)."""
        if self.kind not in ("ema", "swa") or step < self.start:
            return
        now = {name: value for name, value in adapter.trained(model).items() if value.is_floating_point()}
        if not self.state:
            self.state = {name: value.clone() for name, value in now.items()} | {COUNT: torch.tensor(1)}
            return
        self.state[COUNT] += 1
        share = 1 / int(self.state[COUNT]) if self.kind == "swa" else 1 - float(self.decay or 0)
        torch._foreach_lerp_([self.state[name] for name in now], list(now.values()), share)

    def show(self, model: nn.Module) -> None:
        """Give the model the average, where there is one, until `hide`."""
        if self.state:
            self.trained = {name: value.clone() for name, value in adapter.trained(model).items()}
            model.load_state_dict({name: value for name, value in self.state.items() if name != COUNT}, strict=False)

    def hide(self, model: nn.Module) -> None:
        """Give the model back what is trained on."""
        if self.trained:
            adapter.put(model, self.trained)
            self.trained = {}
