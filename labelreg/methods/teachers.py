"""Other ways to learn from a teacher's logits than the KL of KD."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from labelreg.methods.logits import one_against_rest
from labelreg.methods.method import TAU, Core, F, Method, Own, own
from labelreg.methods.paper import plain
from labelreg.parameter import MOST

if TYPE_CHECKING:
    from torch import Tensor

DKD_ALPHA = own("number", "dkd: weight of TCKD, the true class against the rest", 1, low=0)
DKD_BETA = own("number", "dkd: weight of NCKD, the other classes among themselves", 8, low=0)
DKD_WARMUP = own(
    "integer",
    "dkd: epochs in which its weight rises; default round(epochs/12), the paper's 20 of 240",
    needed=False,
    low=0,
    high=MOST,
)
WARMUP_SHARE = 20 / 240
DIST_BETA = own("number", "dist: weight of the correlation within examples (rows)", 2, low=0)
DIST_GAMMA = own("number", "dist: weight of the correlation within classes (columns)", 2, low=0)
CE_WEIGHT = own("number", "lskd: weight of cross-entropy", 0.1, low=0)
KD_WEIGHT = own("number", "lskd: weight of the KL", 9, low=0)
LSKD_STD = own(
    "text",
    "lskd: standard deviation over K (the paper) or K - 1 (published code)",
    "population",
    choices=("population", "sample"),
    usual="population",
)


def kl(log_p: Tensor, log_t: Tensor) -> Tensor:
    """KL(t, p), a mean over the batch, of log-probabilities [batch, classes]."""
    return F.kl_div(log_p, log_t, reduction="batchmean", log_target=True)


def decoupled(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor,
    epoch: int,
    tau: float,
    dkd_alpha: float,
    dkd_beta: float,
    dkd_warmup: int,
) -> Tensor:
    """H(q, p) + w tau^2 (alpha TCKD + beta NCKD): the KL of true class against rest, and that among the others.

    Source: Zhao et al. 2022 (CVPR), as its code; w = min(epoch / dkd_warmup, 1).
    Published code: the warm-up is 20 epochs of 240. Here it is that share unless dkd_warmup gives the epochs.
    Trap: K = 2 leaves NCKD one class, whose probability is 1: its gradient is exactly 0. A warm-up of 20 epochs never
    ends in 3.
    """
    weight = min(epoch / dkd_warmup, 1) if dkd_warmup else 1.0
    mine, others = one_against_rest(logits.float() / tau, labels)
    theirs, their_others = one_against_rest(teacher.float() / tau, labels)
    tckd = kl(mine, theirs)
    nckd = kl(F.log_softmax(others, dim=1), F.log_softmax(their_others, dim=1))
    added = dkd_alpha * tckd + dkd_beta * nckd
    return plain(logits, labels, None, epoch) + weight * tau**2 * added


def with_warmup(own: Own, epochs: int) -> Own:
    """DKD's parameters with dkd_warmup."""
    given = own.get("dkd_warmup")
    return {**own, "dkd_warmup": round(WARMUP_SHARE * epochs) if given is None else given}


def correlating(
    logits: Tensor, labels: Tensor, teacher: Tensor, epoch: int, tau: float, dist_beta: float, dist_gamma: float
) -> Tensor:
    """H(q, p) + beta (1 - mean correlation of the rows of p_tau and t_tau) + gamma (1 - that of the columns).

    Source: Huang et al. 2022 (NeurIPS).
    Published code: multiplies both by tau^2, which is another beta and gamma; on CIFAR-100 it has tau = 4.
    Trap: a column is a class over the batch, so the batch size is part of the method. K = 2: two numbers that sum to 1
    correlate with 1 or -1 whatever they are: the rows have no gradient.
    """
    p, t = F.softmax(logits.float() / tau, dim=1), F.softmax(teacher.float() / tau, dim=1)
    rows, columns = correlation(p, t).mean(), correlation(p.T, t.T).mean()
    return plain(logits, labels, None, epoch) + dist_beta * (1 - rows) + dist_gamma * (1 - columns)


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's, row by row [rows]; 0 where a row of one is constant."""
    x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=1, keepdim=True)
    return F.cosine_similarity(x, y, dim=1)


def standardised(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor,
    epoch: int,
    tau: float,
    ce_weight: float,
    kd_weight: float,
    lskd_std: str,
) -> Tensor:
    """ce_weight H(q, p) + kd_weight tau^2 KL of the softmaxes of standardised logits / tau.

    Each example's logits have mean 0 and standard deviation 1, the teacher's and the student's.

    Source: Sun et al. 2024 (CVPR): base temperature 2, kd_weight 9, ce_weight 0.1.
    Published code: the standard deviation of a sample, over K - 1 (lskd_std=sample).
    Trap: K = 2: standardised logits are (1, -1) or (-1, 1) whatever they were: the KL has no gradient, and what is
    left is a tenth of cross-entropy. Finetune is ce_weight=1, kd_weight=0.
    """
    z, t = (standardise(each, lskd_std) / tau for each in (logits, teacher))
    return ce_weight * plain(logits, labels, None, epoch) + kd_weight * tau**2 * kl(
        F.log_softmax(z, dim=1), F.log_softmax(t, dim=1)
    )


def standardise(z: Tensor, std: str) -> Tensor:
    """Each row with mean 0 and standard deviation 1 [batch, classes]; a constant row is 0, with a gradient of 0."""
    z = z.float()
    over = z.shape[1] - (std == "sample")
    return math.sqrt(over) * F.normalize(z - z.mean(dim=1, keepdim=True), dim=1, eps=1e-7)


def _nckd(logits: Tensor, labels: Tensor, teacher: Tensor, own: Own) -> Tensor:
    mine, theirs = (F.log_softmax(one_against_rest(z.float(), labels)[1], dim=1) for z in (logits, teacher))
    return kl(mine, theirs)


def _rows(logits: Tensor, labels: Tensor, teacher: Tensor, own: Own) -> Tensor:
    return -correlation(F.softmax(logits.float(), dim=1), F.softmax(teacher.float(), dim=1)).mean()


def _standardised_kl(logits: Tensor, labels: Tensor, teacher: Tensor, own: Own) -> Tensor:
    mine, theirs = (F.log_softmax(standardise(z, own["lskd_std"]), dim=1) for z in (logits, teacher))
    return kl(mine, theirs)


TEACHERS = {
    "dkd": Method(
        "decoupled KD",
        decoupled,
        {"tau": TAU, "dkd_alpha": DKD_ALPHA, "dkd_beta": DKD_BETA, "dkd_warmup": DKD_WARMUP},
        needs="teacher",
        defaults={"tau": 4},
        complete=with_warmup,
        core=Core("NCKD (the KL among the false classes)", _nckd, "kd on one bit, at other weights"),
    ),
    "dist": Method(
        "DIST",
        correlating,
        {"tau": TAU, "dist_beta": DIST_BETA, "dist_gamma": DIST_GAMMA},
        needs="teacher",
        defaults={"tau": 1},
        core=Core("the correlation of its rows", _rows, "the correlation over the batch alone"),
    ),
    "lskd": Method(
        "KD of standardised logits",
        standardised,
        {"tau": TAU, "ce_weight": CE_WEIGHT, "kd_weight": KD_WEIGHT, "lskd_std": LSKD_STD},
        needs="teacher",
        defaults={"tau": 2},
        core=Core("the KL of standardised logits", _standardised_kl, "cross-entropy times ce_weight"),
    ),
}
