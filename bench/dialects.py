"""Other conventions of KD, label smoothing and TF-reg, as this project's: the formulas and table of docs/methods.md.

Every loss here is h H(q, p) + s KL(r, p), perhaps plus a constant: (h + s) times this project's with alpha = s/(h + s).
h + s is a factor of the whole loss: of SGD's learning rate, and nearly nothing to AdamW with clipped gradients.
tests/test_dialects.py checks each against an independent transcription, in value and gradient.
"""

from dataclasses import dataclass
from math import exp

CLASSES = (2, 3, 5, 64, 100)


@dataclass(frozen=True)
class Here:
    """This project's parameters for another's, and what its loss must be multiplied by to be the other's."""

    alpha: float
    factor: float


def of_weights(hard: float, soft: float) -> Here:
    return Here(soft / (hard + soft), hard + soft)


# KD: (1 - alpha) H(q, p) + alpha KL(t_tau, p_tau) here


def kd_of_hinton(alpha: float, tau: float) -> Here:
    """Hinton et al. 2015: (1 - alpha) H(q, p) + alpha tau^2 KL; here also tau_squared=true with the same alpha."""
    return of_weights(1 - alpha, alpha * tau**2)


def kd_of_torchdistill(alpha: float, tau: float) -> Here:
    """torchdistill: alpha H(q, p) + (1 - alpha) tau^2 KL, alpha weighs the label; 0: the KL alone, without tau^2."""
    return Here(1.0, 1.0) if alpha == 0 else of_weights(alpha, (1 - alpha) * tau**2)


def kd_of_textbrewer(kd_loss_weight: float, hard_label_weight: float) -> Here:
    """TextBrewer: hard_label_weight H(q, p) + kd_loss_weight H(t_tau, p_tau): no tau^2, and t's entropy on top."""
    return of_weights(hard_label_weight, kd_loss_weight)


def kd_of_yuan(alpha: float, tau: float, classes: int) -> Here:
    """Yuan et al. 2020: (1 - alpha) H(q, p) + alpha tau^2 KL/K; here also tau_squared=true, kl_mean=true."""
    return of_weights(1 - alpha, alpha * tau**2 / classes)


# Label smoothing: H((1 - alpha) q + alpha/K, p) here, in torch's and the Trainer's label_smoothing


def ls_of_trainer(label_smoothing_factor: float) -> float:
    """The Trainer's (1 - e) H(q, p) + e H(1/K, p), torch's label_smoothing and torchdistill's CrossEntropyLoss."""
    return label_smoothing_factor


def ls_of_yuan(alpha: float, classes: int) -> float:
    """Yuan et al.: 1 - alpha on the true class, alpha/(K - 1) on each other."""
    return alpha * classes / (classes - 1)


# TF-reg: (1 - alpha) H(q, p) + alpha KL(r_tau, p_tau) here, r = a on the true class


def tfreg_of_yuan(alpha: float, classes: int, multiplier: float) -> Here:
    """Yuan et al.'s code: (1 - alpha) H(q, p) + alpha multiplier KL(softmax(r / tau), p)/K; here tfreg_target=code."""
    return of_weights(1 - alpha, alpha * multiplier / classes)


def ls_of_tfreg(alpha: float, a: float, classes: int) -> float:
    """TF-reg at tau = 1 is label smoothing with this alpha."""
    return alpha * classes * (1 - a) / (classes - 1)


def ls_of_published_tfreg(alpha: float, a: float, tau: float, classes: int) -> float:
    """tfreg_target=code is label smoothing with this alpha, at any tau."""
    true, other = exp(a / tau), exp((1 - a) / (classes - 1) / tau)
    return alpha * classes * other / (true + (classes - 1) * other)


ROWS = (  # the other's convention and values, and what they are here for K classes
    ("KD: Hinton, alpha 0.9, tau 4", "kd alpha", lambda k: kd_of_hinton(0.9, 4).alpha),
    ("KD: torchdistill, alpha 0.5, temperature 4", "kd alpha", lambda k: kd_of_torchdistill(0.5, 4).alpha),
    ("KD: TextBrewer, kd_loss_weight 1, hard_label_weight 1", "kd alpha", lambda k: kd_of_textbrewer(1, 1).alpha),
    ("KD: Yuan et al., alpha 0.95, temperature 20", "kd alpha", lambda k: kd_of_yuan(0.95, 20, k).alpha),
    ("LS: Trainer, label_smoothing_factor 0.1", "ls alpha", lambda k: ls_of_trainer(0.1)),
    ("LS: Yuan et al., alpha 0.1", "ls alpha", lambda k: ls_of_yuan(0.1, k)),
    ("TF-reg: Yuan et al.'s code, alpha 0.1, multiplier 1", "tfreg alpha", lambda k: tfreg_of_yuan(0.1, k, 1).alpha),
    ("TF-reg here, alpha 0.5, a 0.95, tau 1", "ls alpha", lambda k: ls_of_tfreg(0.5, 0.95, k)),
    (
        "TF-reg here, alpha 0.5, a 0.99, tau 20, tfreg_target=code",
        "ls alpha",
        lambda k: ls_of_published_tfreg(0.5, 0.99, 20, k),
    ),
)


def table() -> list[str]:
    """The conversions for some numbers of classes, in Markdown."""
    lines = ["| there | here | " + " | ".join(f"K = {k}" for k in CLASSES) + " |", "|---|---|" + "---:|" * len(CLASSES)]
    return lines + [
        f"| {there} | {here} | " + " | ".join(f"{of(k):.4f}" for k in CLASSES) + " |" for there, here, of in ROWS
    ]
