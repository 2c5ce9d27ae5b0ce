"""THE MATHEMATICS: every method owns its loss, its own parameters, its needs, its phases, and what it keeps.

`paper`: the six of Kobyzev et al. 2023. `logits`: what needs the student's logits alone. `teachers`: other ways to
learn from a teacher. `epochs`: what learns from the model itself. `method`: what a method is.
"""

from labelreg.errors import UserError, unknown
from labelreg.methods import own_file
from labelreg.methods.epochs import EPOCHS
from labelreg.methods.logits import LOGITS
from labelreg.methods.method import Memory, Method
from labelreg.methods.paper import PAPER, mean_of
from labelreg.methods.teachers import TEACHERS
from labelreg.parameter import Parameter

__all__ = [
    "AVERAGES",
    "METHODS",
    "PAPER",
    "Memory",
    "Method",
    "inherit",
    "label",
    "mean_of",
    "named",
    "own_parameters",
    "parted",
    "unknown_method",
]

METHODS = {**PAPER, **LOGITS, **EPOCHS, **TEACHERS}
AVERAGES = ("ema", "swa")  # of weights; in studies and answers they stand behind a method's name: finetune+swa


def label(method: str, average: object) -> str:
    """A method's name with that of its average, where it has one."""
    return f"{method}+{average}" if average in AVERAGES else method


def parted(label: str) -> tuple[str, str]:
    """The method and the average (or none) that `label` made a name of."""
    method, _, average = label.rpartition("+")
    return (method, average) if average in AVERAGES else (label, "none")


def named(text: str) -> str:
    """The name that METHODS has for what a user calls a method: FILE.py:FUNCTION is loaded, once for each content.

    Raises:
        UserError: such a function is not there, or no method.
    """
    if own_file.MARK not in text:
        return text
    name, method = own_file.load(text, METHODS)
    METHODS[name] = method
    return name


def unknown_method(text: str) -> UserError:
    """The error for a method that there is none of, with the one that is called like it: label_smoothing is ls."""
    titles = {method.title.lower().replace(" ", "_"): name for name, method in METHODS.items()}
    return unknown("method", text, METHODS, titles)


def inherit() -> None:
    """Load what the process above has loaded: a recipe may name a method that this process's run does not have.

    Raises:
        UserError: as `named`.
    """
    for name in own_file.inherited():
        if name not in METHODS:
            named(name)


def own_parameters() -> dict[str, Parameter]:
    """The parameters of all methods, by name."""
    return {name: known for method in METHODS.values() for name, known in method.parameters.items()}
