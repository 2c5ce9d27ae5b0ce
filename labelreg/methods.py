"""The mathematics: every method of the paper is fine-tuning towards a smoothed label (figure 2).

    q'(x) = (1 - alpha) q(x) + alpha r(x)                       equations 2, 3, 5, 6
    loss  = (1 - alpha) H(q, p) + alpha D_KL(r_tau, p_tau)      equation 1, when tau != 1

q is the one-hot label, p the student's softmax, and r is what tells the methods apart. At tau = 1
both lines have the same gradient. Followed: Kobyzev et al. 2023, sections 2.1-2.2, and Jafari et
al. 2021 for Annealing KD. Left out: Hinton's factor tau^2, which equation 1 does not have.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (logits, labels, teacher logits) -> scalar


def uniform(labels: Tensor, teacher: Tensor | None, classes: int, a: float | None) -> Tensor:
    """log r of label smoothing, equation 3: 1/K for every class."""
    return torch.full((len(labels), classes), -math.log(classes), device=labels.device)


def peaked(labels: Tensor, teacher: Tensor | None, classes: int, a: float) -> Tensor:
    """log r of TF-reg, equation 4: `a` on the true class; K = 3, a = 0.9, class 1: (0.05, 0.9, 0.05)."""
    r = torch.full((len(labels), classes), (1 - a) / (classes - 1), device=labels.device)
    return r.scatter(1, labels[:, None], a).log()


def peaked_as_published(labels: Tensor, tau: float, classes: int, a: float) -> Tensor:
    """log r of the code that Yuan et al. 2020 published for TF-reg: softmax(p^d / tau), of the *probabilities* p^d.

    There p^d is the r of equation 4, and the loss is (1 - alpha) H(q, p) + alpha D_KL(r, p) with the student's
    p *untempered*: figure 2 with this r and no temperature. The paper's equations divide the logits of both by tau:
    softmax(log p^d / tau) against p_tau. With K = 100, a = 0.99 and tau = 20 the published r is 0.0105 on the true
    class and 0.00999 elsewhere, so it is label smoothing in all but name, while equation 1 gives 0.0157 and 0.0099 at a
    gradient of one twentieth.
    """
    return F.log_softmax(peaked(labels, None, classes, a).exp() / tau, dim=1)


def taught(labels: Tensor, teacher: Tensor, classes: int, a: float | None) -> Tensor:
    """log r of KD and Self-KD, equations 2 and 6: the teacher's softmax, from its logits [batch, classes]."""
    return F.log_softmax(teacher.float(), dim=1)


@dataclass(frozen=True)
class Method:
    """A method: its r(x), the parameters it reads, and whose logits it needs (None, teacher, finetune).

    Label smoothing is equation 3, alpha/K on every class; Yuan et al.'s code puts alpha/(K - 1) on the false ones,
    which is equation 3 with alpha K/(K - 1): 0.1 there is 0.101 here for K = 100.
    """

    title: str
    parameters: tuple[str, ...] = ()
    log_r: Callable[..., Tensor] | None = None
    needs: str | None = None


METHODS = {
    "finetune": Method("plain fine-tuning"),
    "ls": Method("label smoothing", ("alpha",), uniform),
    "tfreg": Method("TF-reg", ("alpha", "tau", "a", "tfreg_target"), peaked),
    "selfkd": Method("Self-KD", ("alpha", "tau"), taught, needs="finetune"),
    "kd": Method("knowledge distillation", ("alpha", "tau"), taught, needs="teacher"),
    "akd": Method("Annealing KD", ("tau", "phase1_epochs"), needs="teacher"),
}


def smoothed_loss(logits: Tensor, labels: Tensor, log_r: Tensor | None, alpha: float, tau: float) -> Tensor:
    """The loss of figure 2, a scalar in float32. logits, log_r [batch, classes]; labels [batch]."""
    logits = logits.float()
    q = F.one_hot(labels, logits.shape[1]).float()
    if log_r is None:
        return F.cross_entropy(logits, q)
    if tau == 1:
        return F.cross_entropy(logits, (1 - alpha) * q + alpha * log_r.exp())
    log_r_tau, log_p_tau = F.log_softmax(log_r / tau, dim=1), F.log_softmax(logits / tau, dim=1)
    kl = F.kl_div(log_p_tau, log_r_tau, reduction="batchmean", log_target=True)
    return (1 - alpha) * F.cross_entropy(logits, q) + alpha * kl


def annealing_factor(epoch: int, epochs: int, tau_max: float) -> float:
    """Phi(T) = 1 - (T - 1)/tau_max in epoch 1..epochs of phase I, T falling linearly from tau_max to 1."""
    temperature = 1.0 if epochs == 1 else tau_max - (tau_max - 1) * (epoch - 1) / (epochs - 1)
    return 1 - (temperature - 1) / tau_max


def phases(method: str, epochs: int, phase1_epochs: int | None = None) -> tuple[int, ...]:
    """Epochs of each phase; a phase has an optimiser and a learning-rate schedule of its own."""
    return (phase1_epochs, epochs - phase1_epochs) if method == "akd" else (epochs,)


def loss_of(
    method: str,
    epoch: int,
    alpha: float = 0.0,
    tau: float = 1.0,
    a: float | None = None,
    phase1_epochs: int = 0,
    tfreg_target: str = "paper",
) -> Loss:
    """The loss that `method` minimises in `epoch` (from 1); tfreg_target: paper, or code (peaked_as_published)."""
    if method == "akd" and epoch <= phase1_epochs:
        factor = annealing_factor(epoch, phase1_epochs, tau)
        return lambda logits, labels, teacher: F.mse_loss(logits.float(), factor * teacher.float())
    log_r = METHODS[method].log_r
    if tfreg_target == "code":

        def published(logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
            return smoothed_loss(logits, labels, peaked_as_published(labels, tau, logits.shape[1], a), alpha, tau=1)

        return published

    def loss(logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        r = log_r and log_r(labels, teacher, logits.shape[1], a)
        return smoothed_loss(logits, labels, r, alpha, tau)

    return loss
