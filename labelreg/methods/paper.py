"""The mathematics: every method of the paper is fine-tuning towards a smoothed label (figure 2).

    q'(x) = (1 - alpha) q(x) + alpha r(x)                       equations 2, 3, 5, 6
    loss  = (1 - alpha) H(q, p) + alpha D_KL(r_tau, p_tau)      equation 1, when tau != 1

q is the one-hot label, p the student's softmax, and r is what tells the methods apart. At tau = 1
both lines have the same gradient. Followed: Kobyzev et al. 2023, sections 2.1-2.2, and Jafari et
al. 2021 for Annealing KD. Left out: Hinton's factor tau^2, which equation 1 does not have (`tau_squared` puts it in).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labelreg.errors import UserError
from labelreg.methods.method import ALPHA, TAU, F, Method, Own, own, torch
from labelreg.parameter import ALWAYS, MOST

if TYPE_CHECKING:
    from torch import Tensor

A = own(
    "number",
    "tfreg: probability of the true class in r(x)",
    counts=ALWAYS,
    low=0,
    high=1,
    open_low=True,
    open_high=True,
)
TFREG_TARGET = own(
    "text",
    "tfreg: r at tau by the paper's equations, or by Yuan et al.'s code",
    "paper",
    choices=("paper", "code"),
    usual="paper",
)
PHASE1_EPOCHS = own(
    "integer", "akd: epochs of phase I, default round(2/3 epochs)", counts=ALWAYS, needed=False, low=1, high=MOST
)
TAU_SQUARED = own(
    "flag", "kd: Hinton's factor tau^2 before the KL, which equation 1 does not have", False, usual=False, silent=True
)
KL_MEAN = own(
    "flag", "kd: the KL over the number of classes, as torch's reduction='mean' has it", False, usual=False, silent=True
)
TEACHERS_MEAN = own(
    "text",
    "kd: of several teachers, the mean of their probabilities at tau, or of their logits",
    "probabilities",
    choices=("probabilities", "logits"),
    usual="probabilities",
    silent=True,
)
PHASE1_SHARE = 2 / 3  # table 11: 20 of 30 epochs


def uniform(labels: Tensor, classes: int) -> Tensor:
    """log r of label smoothing, equation 3: 1/K for every class."""
    return torch.full((len(labels), classes), -math.log(classes), device=labels.device)


def peaked(labels: Tensor, classes: int, a: float) -> Tensor:
    """log r of TF-reg, equation 4: `a` on the true class; K = 3, a = 0.9, class 1: (0.05, 0.9, 0.05)."""
    r = torch.full((len(labels), classes), (1 - a) / (classes - 1), device=labels.device)
    return r.scatter(1, labels[:, None], a).log()  # logarithms, as r_tau = softmax(log r / tau)


def peaked_as_published(labels: Tensor, tau: float, classes: int, a: float) -> Tensor:
    """log r of the code that Yuan et al. 2020 published for TF-reg: softmax(p^d / tau), of the *probabilities* p^d.

    There p^d is the r of equation 4, and the loss is (1 - alpha) H(q, p) + alpha D_KL(r, p) with the student's
    p *untempered*: figure 2 with this r and no temperature. The paper's equations divide the logits of both by tau:
    softmax(log p^d / tau) against p_tau. With K = 100, a = 0.99 and tau = 20 the published r is 0.0105 on the true
    class and 0.00999 elsewhere, so it is label smoothing in all but name, while equation 1 gives 0.0157 and 0.0099 at a
    gradient of one twentieth.
    """
    return F.log_softmax(peaked(labels, classes, a).exp() / tau, dim=1)


def smoothed_loss(
    logits: Tensor, labels: Tensor, log_r: Tensor | None, alpha: float, tau: float, factor: float = 1
) -> Tensor:
    """The loss of figure 2, a scalar in float32. logits, log_r [batch, classes]; labels [batch]; `factor` of the KL."""
    logits = logits.float()  # bf16 has 8 bits: its log-softmax would lose what alpha r(x) adds
    q = F.one_hot(labels, logits.shape[1]).float()
    if log_r is None:
        return F.cross_entropy(logits, q)
    if tau == 1 and factor == 1:
        return F.cross_entropy(logits, (1 - alpha) * q + alpha * log_r.exp())
    log_r_tau, log_p_tau = F.log_softmax(log_r / tau, dim=1), F.log_softmax(logits / tau, dim=1)
    # batchmean is the mean over examples, as equation 1 has it; mean would divide by the classes too
    kl = F.kl_div(log_p_tau, log_r_tau, reduction="batchmean", log_target=True)
    return (1 - alpha) * F.cross_entropy(logits, q) + alpha * factor * kl


# The losses: (logits, labels, teacher's logits or None, epoch from 1, the method's own parameters) -> scalar


def plain(logits: Tensor, labels: Tensor, teacher: Tensor | None, epoch: int) -> Tensor:
    """H(q, p), cross-entropy: equation 1 with alpha = 0.

    Source: Kobyzev et al. 2023.
    """
    return smoothed_loss(logits, labels, None, alpha=0, tau=1)


def smoothing(logits: Tensor, labels: Tensor, teacher: Tensor | None, epoch: int, alpha: float) -> Tensor:
    """H((1 - alpha) q + alpha/K, p), equation 3.

    Source: Szegedy et al. 2016.
    Published code: Yuan et al.'s puts alpha/(K - 1) on the false classes, which is equation 3 with alpha K/(K - 1): 0.1
    there is 0.101 here for K = 100.
    Trap: alpha is the weight of 1/K, so the true class keeps 1 - alpha (K - 1)/K, not 1 - alpha.
    """
    return smoothed_loss(logits, labels, uniform(labels, logits.shape[1]), alpha, tau=1)


def tfreg(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    epoch: int,
    alpha: float,
    tau: float,
    a: float,
    tfreg_target: str,
) -> Tensor:
    """(1 - alpha) H(q, p) + alpha KL(r_tau, p_tau) with r = a on the true class, (1 - a)/(K - 1) on the others
    (equations 4 and 5).

    Source: Yuan et al. 2020.
    Published code: softmax(r / tau) against the untempered p (tfreg_target=code), the KL divided by K and multiplied
    by a `multiplier`.
    Trap: at tau = 20 the published r is label smoothing in all but name.
    """
    if tfreg_target == "code":
        return smoothed_loss(logits, labels, peaked_as_published(labels, tau, logits.shape[1], a), alpha, tau=1)
    return smoothed_loss(logits, labels, peaked(labels, logits.shape[1], a), alpha, tau)


def distilling(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor,
    epoch: int,
    alpha: float,
    tau: float,
    tau_squared: bool = False,
    kl_mean: bool = False,
    teachers_mean: str = "probabilities",
) -> Tensor:
    """(1 - alpha) H(q, p) + alpha KL(t_tau, p_tau), equations 2 and 6: r is the teacher's softmax t.

    Source: Hinton et al. 2015; Kobyzev et al. 2023.
    Published code: much of it has tau^2 before the KL (Hinton et al. 2015), and some divides it by K, which
    torch's reduction="mean" does (Yuan et al. 2020): kd's tau_squared and kl_mean; docs/methods.md converts.
    Trap: without tau^2 the teacher's share of the gradient falls as 1/tau^2; with kl_mean as 1/K.
    """
    factor = (tau**2 if tau_squared else 1) / (logits.shape[1] if kl_mean else 1)
    return smoothed_loss(logits, labels, F.log_softmax(teacher.float(), dim=1), alpha, tau, factor)


def mean_of(teachers: Sequence[Tensor], own: Own) -> Tensor:
    """One teacher's logits that stand for several [examples, classes].

    Their softmax at tau is the mean of the teachers' (the arithmetic mean, `probabilities`), or that of the mean of
    their logits (the geometric mean). Source: Hinton et al. 2015, section 5; TextBrewer takes the logits' mean.
    """
    if len(teachers) == 1:
        return teachers[0]
    tau, stacked = own.get("tau", 1), torch.stack([each.float() for each in teachers])
    if own.get("teachers_mean", "probabilities") == "logits":
        return stacked.mean(dim=0)
    return tau * (F.log_softmax(stacked / tau, dim=2).logsumexp(dim=0) - math.log(len(teachers)))


def annealing(logits: Tensor, labels: Tensor, teacher: Tensor, epoch: int, tau: float, phase1_epochs: int) -> Tensor:
    """Phase I: mean (z - Phi(T) z_teacher)^2, T falling from tau to 1; phase II: H(q, p).

    Source: Jafari et al. 2021.
    Trap: both phases need an epoch; tau is the largest temperature, not that of a softmax.
    """
    if epoch > phase1_epochs:
        return plain(logits, labels, None, epoch)
    factor = annealing_factor(epoch, phase1_epochs, tau)
    return F.mse_loss(logits.float(), factor * teacher.float())


def annealing_factor(epoch: int, epochs: int, tau_max: float) -> float:
    """Phi(T) = 1 - (T - 1)/tau_max in epoch 1..epochs of phase I, T falling linearly from tau_max to 1."""
    temperature = 1.0 if epochs == 1 else tau_max - (tau_max - 1) * (epoch - 1) / (epochs - 1)
    return 1 - (temperature - 1) / tau_max


def with_phase1(own: Own, epochs: int) -> Own:
    """Annealing KD's parameters with phase1_epochs.

    Raises:
        UserError: one of the phases would have no epoch, or a temperature below the 1 to which it falls.
    """
    if own.get("tau") is not None and own["tau"] < 1:
        raise UserError(f"tau={own['tau']:g}: akd's temperature falls from it to 1; allowed is a number of at least 1")
    first = own.get("phase1_epochs") or max(1, round(PHASE1_SHARE * epochs))
    if not 1 <= first < epochs:
        raise UserError(f"phase1_epochs={first} of epochs={epochs}: both phases of akd need an epoch")
    return {**own, "phase1_epochs": first}


PAPER = {
    "finetune": Method("plain fine-tuning", plain),
    "ls": Method("label smoothing", smoothing, {"alpha": ALPHA}),
    "tfreg": Method("TF-reg", tfreg, {"alpha": ALPHA, "tau": TAU, "a": A, "tfreg_target": TFREG_TARGET}),
    "selfkd": Method("Self-KD", distilling, {"alpha": ALPHA, "tau": TAU}, needs="finetune"),
    "kd": Method(
        "knowledge distillation",
        distilling,
        {
            "alpha": ALPHA,
            "tau": TAU,
            "tau_squared": TAU_SQUARED,
            "kl_mean": KL_MEAN,
            "teachers_mean": TEACHERS_MEAN,
        },
        needs="teacher",
    ),
    "akd": Method(
        "Annealing KD",
        annealing,
        {"tau": TAU, "phase1_epochs": PHASE1_EPOCHS},
        needs="teacher",
        complete=with_phase1,
        phases=lambda epochs, own: (own["phase1_epochs"], epochs - own["phase1_epochs"]),
    ),
}
