"""Methods that learn from the model itself: from its last epoch, or from a second pass with other dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from labelreg.methods.method import ALPHA, F, Memory, Method, own, torch, with_epochs
from labelreg.methods.paper import plain, smoothed_loss
from labelreg.methods.teachers import kl

if TYPE_CHECKING:
    from torch import Tensor

OLS_FREEZE = own(
    "number",
    "ols: a class's row stays once its largest entry is this, while any of it is right (birds and cars: 0.88)",
    low=0,
    high=1,
    needed=False,
)
PSKD_FROM = own(
    "text",
    "pskd: predictions of a pass after the epoch (the paper), or as they were made in training (published code)",
    "pass",
    choices=("pass", "training"),
    usual="pass",
)
RDROP_ALPHA = own("number", "rdrop: weight of the two passes' KL", 0.5, low=0)


# Online label smoothing


def online(
    logits: Tensor, labels: Tensor, teacher: Tensor, epoch: int, alpha: float, ols_freeze: float | None = None
) -> Tensor:
    """(1 - alpha) H(q, p) + alpha H(S_y, p): S_y is the mean softmax of y's rightly classified examples, last epoch.

    In the first epoch, and for a class of which none was right, S_y is 1/K.

    Source: Zhang et al. 2021 (IEEE TIP), alpha 0.5.
    Published code: for CIFAR S is 0 in the first epoch (half of cross-entropy); for fine-grained tasks both weights
    are 1, which is twice this loss, and a row stays once its largest entry is 0.88 (ols_freeze=0.88).
    Trap: predictions are those made in training, with dropout, by weights that change within the epoch.
    """
    return smoothed_loss(logits, labels, teacher.log(), alpha, tau=1)


class ClassMeans(Memory):
    """S [classes, classes], and of the epoch under way sums [classes, classes] and counts [classes] for the next."""

    def __init__(self, classes: int, freeze: float | None):
        super().__init__()
        self.freeze = freeze
        self.state = {"soft": torch.full((classes, classes), 1 / classes)}
        self._clear(self.state["soft"])

    def _clear(self, like: Tensor) -> None:
        self.sums, self.counts = torch.zeros_like(like), torch.zeros_like(like[0])

    def rows(self, index: Tensor, labels: Tensor) -> Tensor:
        self._move(labels.device)
        return self.state["soft"][labels]

    def see(self, index: Tensor, labels: Tensor, logits: Tensor) -> None:
        right = (logits.argmax(dim=1) == labels).float()
        self.sums.index_add_(0, labels, right[:, None] * F.softmax(logits.float(), dim=1))
        self.counts.index_add_(0, labels, right)

    def turn(self, predict: Callable[[], Tensor]) -> None:
        soft, classes = self.state["soft"], len(self.counts)
        means = self.sums / self.counts.clamp(min=1)[:, None]
        new = torch.where(self.counts[:, None] > 0, means, 1 / classes)
        if self.freeze is not None:
            new = torch.where((self.counts[:, None] > 0) & (soft.amax(dim=1, keepdim=True) >= self.freeze), soft, new)
        self.state = {"soft": new}
        self._clear(new)

    def _move(self, device: torch.device) -> None:
        if self.state["soft"].device != device:
            self.state = {name: value.to(device) for name, value in self.state.items()}
            self.sums, self.counts = self.sums.to(device), self.counts.to(device)


# Progressive self-distillation


def progressive(
    logits: Tensor, labels: Tensor, teacher: Tensor | None, epoch: int, alpha: float, epochs: int, pskd_from: str
) -> Tensor:
    """H((1 - alpha_e) q + alpha_e p', p): p' is the model's prediction after the last epoch, alpha_e = alpha e/E.

    The first epoch, which has no last one, is cross-entropy.

    Source: Kim et al. 2021 (ICCV), alpha 0.8.
    Published code: p' as it was predicted in training (pskd_from=training), which costs no pass, but has dropout and
    augmentation, and weights that are up to an epoch older.
    Trap: one pass over the training set per epoch; it is counted in cost/train_seconds and cost/passes.
    """
    if teacher is None:
        return plain(logits, labels, None, epoch)
    return smoothed_loss(logits, labels, F.log_softmax(teacher.float(), dim=1), alpha * epoch / epochs, tau=1)


class LastEpoch(Memory):
    """The last epoch's logits on the training set [examples, classes]; none in the first."""

    def __init__(self, training: bool):
        super().__init__()
        self.training, self.passes = training, 0 if training else 1
        self.seen: list[tuple[Tensor, Tensor]] = []

    def rows(self, index: Tensor, labels: Tensor) -> Tensor | None:
        if not self.state:
            return None
        if self.state["logits"].device != index.device:
            self.state = {"logits": self.state["logits"].to(index.device)}
        return self.state["logits"][index]

    def see(self, index: Tensor, labels: Tensor, logits: Tensor) -> None:
        if self.training:
            self.seen.append((index, logits.float()))

    def turn(self, predict: Callable[[], Tensor]) -> None:
        if not self.training:
            self.state = {"logits": predict()}
            return
        index, logits = (torch.cat(each) for each in zip(*self.seen, strict=True))
        self.state, self.seen = {"logits": torch.empty_like(logits).index_copy_(0, index, logits)}, []


# R-Drop


def twice(logits: Tensor, labels: Tensor, teacher: Tensor | None, epoch: int, rdrop_alpha: float) -> Tensor:
    """(H(q, p1) + H(q, p2))/2 + alpha (KL(p1, p2) + KL(p2, p1))/2: p1 and p2 are two passes with their own dropout.

    Source: Liang et al. 2021 (NeurIPS), whose cross-entropies are summed: its alpha is twice this one, its loss twice.
    Published code: for RoBERTa as the paper, alpha 1 (here 0.5); for BERT the KL is summed over the batch, so that its
    weight grows with the batch size, and multiplied by 0.5; the README's has the mean of the two cross-entropies.
    Trap: two forward passes per step, counted. alpha = 0 takes one, and is finetune.
    """
    if teacher is None:
        return plain(logits, labels, None, epoch)
    one, two = (F.log_softmax(z.float(), dim=1) for z in (logits, teacher))
    hard = (plain(logits, labels, None, epoch) + plain(teacher, labels, None, epoch)) / 2
    return hard + rdrop_alpha * (kl(one, two) + kl(two, one)) / 2


EPOCHS = {
    "ols": Method(
        "online label smoothing",
        online,
        {"alpha": ALPHA, "ols_freeze": OLS_FREEZE},
        defaults={"alpha": 0.5},
        memory=lambda own, classes: ClassMeans(classes, own.get("ols_freeze")),
    ),
    "pskd": Method(
        "progressive self-KD",
        progressive,
        {"alpha": ALPHA, "pskd_from": PSKD_FROM},
        defaults={"alpha": 0.8},
        complete=with_epochs,
        memory=lambda own, classes: LastEpoch(own["pskd_from"] == "training"),
    ),
    "rdrop": Method("R-Drop", twice, {"rdrop_alpha": RDROP_ALPHA}, passes=lambda own: 2 if own["rdrop_alpha"] else 1),
}
