"""THE MATHEMATICS: every method owns its loss, its own parameters, its needs, its phases, and what it keeps.

`paper`: the six of Kobyzev et al. 2023. `logits`: what needs the student's logits alone. `teachers`: other ways to
learn from a teacher. `epochs`: what learns from the model itself. `method`: what a method is.
"""

from labelreg.methods.epochs import EPOCHS
from labelreg.methods.logits import LOGITS
from labelreg.methods.method import Loss, Memory, Method, Own, own
from labelreg.methods.paper import (
    PAPER,
    annealing_factor,
    mean_of,
    peaked,
    peaked_as_published,
    plain,
    smoothed_loss,
    uniform,
)
from labelreg.methods.teachers import TEACHERS
from labelreg.parameter import Parameter

__all__ = [
    "Loss",
    "METHODS",
    "Memory",
    "Method",
    "Own",
    "PAPER",
    "annealing_factor",
    "mean_of",
    "own",
    "own_parameters",
    "peaked",
    "peaked_as_published",
    "plain",
    "smoothed_loss",
    "uniform",
]

METHODS = {**PAPER, **LOGITS, **EPOCHS, **TEACHERS}


def own_parameters() -> dict[str, Parameter]:
    """The parameters of all methods, by name."""
    return {name: known for method in METHODS.values() for name, known in method.parameters.items()}
