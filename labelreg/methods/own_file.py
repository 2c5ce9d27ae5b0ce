"""A method of one's own, without a change of the package: `method=mine.py:loss`.

    def loss(logits, labels, teacher, epoch, weight=0.1):
        "The first line is its title."
        return torch.nn.functional.cross_entropy(logits, labels) + ...

logits [batch, classes] as the model gives them (bf16 under autocast), labels [batch], the teacher's logits [batch,
classes], the epoch from 1; its parameters are keywords with a default: -P weight=0.2, in recipes, in searches. The
third argument's name says what it learns from: `teacher`, `finetune` (its own fine-tuned twin's logits), or any other
name, such as `_`, for nothing. The digest of the file counts in the fingerprint. A command has the content that the
file had when it began, its workers too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from labelreg.errors import UserError, unknown
from labelreg.methods.method import Method, Own, own, torch
from labelreg.output import one_line
from labelreg.parameter import Parameter, convert, joined

if TYPE_CHECKING:
    from torch import Tensor

MARK = ".py:"
# by the name of each where it lies, the digest of what it held when the command began, and how a command names its
# file, in JSON: worker processes inherit it, tasks of a Ray cluster are sent it
PLACES = "LABELREG_METHOD_FILES"
PROJECT = Path(__file__).parents[2]  # where `mlflow run .` is called
MODULE = "labelreg_own_"  # its name as a module, with the digest behind it
FILE = "method_file"  # its digest, a parameter of the method
SETTINGS = "method_settings"  # all of its parameters in one, as a run logs them
GIVEN = 4  # logits, labels, teacher, epoch
LIST = Parameter("list", "")
KINDS: dict[type, str] = {bool: "flag", int: "number", float: "number", str: "text"}
SHAPES = "(logits, labels, teacher, epoch, and parameters with defaults)"


def load(text: str, held: dict[str, Method]) -> tuple[str, Method]:
    """The method that FILE.py:FUNCTION names, and its name: without the folder. Worker processes know it by that.

    Args:
        held: methods by name; the same file's is not loaded again, and a parameter of another's name is that.

    Raises:
        UserError: no such file or function, a file that cannot be run, a function of another form, a file that has
            changed since the command began, or another one of its name.
    """
    place, _, function = text.rpartition(":")
    name, places = f"{Path(place).name}:{function}", _places()
    given = Path(place).expanduser().absolute()
    first, begun, _ = places.get(name, (str(given), "", ""))
    path = first if text == name else str(given)
    if begun and path == first and name in held and held[name].defaults[FILE] == begun:  # whatever it holds by now
        return name, held[name]
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"method={text}: {path}: {error.strerror}") from None
    digest = hashlib.sha256(content).hexdigest()[:16]
    if begun and digest != begun and path != first:  # of two methods with one name, one would be run for both
        raise UserError(f"method={text}: {first} is another file of this name; rename one of the two")
    if begun and digest != begun:  # names and fingerprints were made of what it held then
        told = "the same command begins again with what it holds now"
        raise UserError(f"method={text}: {path} has changed since this command began; {told}")
    if not begun:
        told = str(given.relative_to(PROJECT) if given.is_relative_to(PROJECT) else given)
        os.environ[PLACES] = json.dumps(places | {name: (path, digest, told)})
    if name in held and held[name].defaults[FILE] == digest:
        return name, held[name]
    others = (each for other, each in held.items() if MARK not in other)
    known = {key: parameter for each in others for key, parameter in each.parameters.items()}
    module = _run(text, Path(path), content, digest)
    found = {name: each for name, each in vars(module).items() if inspect.isfunction(each)}
    if function not in found:
        raise unknown(f"function of {Path(path).name}", function, found)
    loss = found[function]
    parameters, defaults = _parameters(text, loss, known)
    source = list(inspect.signature(loss).parameters)[GIVEN - 2]

    def anew() -> Callable[..., Tensor]:  # a list at the top of the file is empty again: a worker has many runs
        return _bound(name, vars(_run(text, Path(path), content, digest))[function])

    file = own("text", "digest of the file of a method of one's own", needed=False)
    return name, Method(
        title=(inspect.getdoc(loss) or name).partition("\n")[0],
        loss=_bound(name, loss),
        parameters=parameters | {FILE: file},
        needs=source if source in ("teacher", "finetune") else None,
        defaults=defaults | {FILE: digest},
        complete=lambda own, epochs: {**own, FILE: digest},
        anew=anew,
    )


def inherited() -> list[str]:
    """The names of the methods that a process above has loaded, whose files a worker process knows."""
    return [*_places()]


def place_of(name: str) -> str:
    """FILE.py:FUNCTION of a method of one's own that is loaded, as a command names it: from the project's folder, where
    it lies in that."""
    return f"{_places()[name][2]}:{name.rpartition(':')[2]}"


def may_be(name: str) -> bool:
    """Whether there may be a method of one's own of this name: of a file that is loaded, where it has the function."""
    file, _, function = name.partition(MARK)
    begun = {digest for other, (_, digest, _) in _places().items() if other.startswith(f"{file}{MARK}")}
    loaded = [sys.modules.get(f"{MODULE}{digest}") for digest in begun]
    return not loaded or any(each is None or inspect.isfunction(getattr(each, function, None)) for each in loaded)


def _places() -> dict[str, tuple[str, str, str]]:
    """Where each lies, the digest of what it held when the command began, how a command names its file; by its name."""
    return {name: (each[0], each[1], each[2]) for name, each in json.loads(os.environ.get(PLACES, "{}")).items()}


def _run(text: str, path: Path, content: bytes, digest: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{MODULE}{digest}", path)
    assert spec  # its name ends with .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for what a name in quotes means
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing is left beside the user's file
    try:
        exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))  # what the digest is of
    except (Exception, SystemExit) as error:  # a script may end with sys.exit(main())
        raise UserError(f"method={text}: {path.name} does not run: {_told(error, path)}") from None
    finally:
        sys.dont_write_bytecode = before
    return module


def _parameters(
    text: str, loss: Callable[..., Tensor], known: dict[str, Parameter]
) -> tuple[dict[str, Parameter], dict[str, Any]]:
    """Its parameters, and its own defaults of those that other methods have too."""
    arguments = list(inspect.signature(loss).parameters.values())
    plain = all(each.kind == each.POSITIONAL_OR_KEYWORD for each in arguments[:GIVEN])
    if len(arguments) < GIVEN or not plain or any(each.default is not each.empty for each in arguments[:GIVEN]):
        raise UserError(f"method={text}: its form is {inspect.signature(loss)}; allowed is {SHAPES}")
    parameters, defaults = {}, {}
    for each in arguments[GIVEN:]:
        kind = KINDS.get(type(each.default))
        if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY) or kind is None:
            raise UserError(f"method={text}: {each} needs a default that is a number, true or false, or a text")
        if each.name in known:
            parameters[each.name], defaults[each.name] = known[each.name], each.default
        else:
            parameters[each.name] = own(kind, f"{Path(text).name}: its parameter", each.default)
    return parameters, defaults


def _bound(name: str, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The loss as it is called. A default that is an int (k=2) says that the parameter is one where its value is whole:
    torch takes no topk(k=2.0), and a search may draw 0.5 all the same."""
    arguments = inspect.signature(loss).parameters.items()
    return partial(_called, name, loss, frozenset(key for key, each in arguments if type(each.default) is int))


def _called(
    name: str,
    loss: Callable[..., Tensor],
    whole: Collection[str],
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    epoch: int,
    /,  # its parameters may have any name, such as loss
    **own: Any,
) -> Tensor:
    own = {key: each for key, each in own.items() if key != FILE}
    own |= {key: int(own[key]) for key in whole if isinstance(own[key], float) and own[key].is_integer()}
    try:
        value = loss(logits, labels, teacher, epoch, **own)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"method={name}: {_told(error, Path(inspect.getfile(loss)))}") from None
    if not isinstance(value, torch.Tensor) or value.ndim or not value.requires_grad and logits.requires_grad:
        shape = f"a tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise UserError(f"method={name}: gives {shape}; allowed is a scalar tensor that depends on the logits")
    return value


def _told(error: BaseException, path: Path) -> str:
    """An error in one line, with the line of the file where it arose."""
    trace, line = error.__traceback__, getattr(error, "lineno", None)
    while trace:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == str(path) else line
        trace = trace.tb_next
    return one_line(f"{type(error).__name__}: {error}") + (f" (line {line})" if line else "")


def with_folder(method: str, places: Iterable[str]) -> str:
    """A method, perhaps with its average, as a command names it: one's own by its place, where it is one of these."""
    known = {Path(place).name: place for place in places}  # two folders may have a file of one name
    found = next((name for name in known if method == name or method.startswith(f"{name}+")), "")
    return known[found] + method.removeprefix(found) if found else method


def as_given(name: str, text: str, logged: Iterable) -> str:
    """`method` or `methods` of runs as a command takes them: one's own by its place, where runs have logged it (each as
    a list); of others None or NaN."""
    places = [place for each in logged if isinstance(each, str) for place in convert(name, LIST, each)]
    if name == "method":
        return with_folder(text, places)
    return joined(with_folder(each, places) for each in convert(name, LIST, text)) if places else text


def told(own: Own) -> str:
    """All parameters of a method of one's own as one text, which `heard` reads."""
    return joined(f"{name}={value}" for name, value in own.items())


def heard(text: str) -> dict[str, str]:
    """The parameters in a run's `method_settings`, but for the file's digest."""
    pairs = (each.partition("=") for each in convert(SETTINGS, Parameter("list", ""), text))
    return {name: value for name, _, value in pairs if name != FILE}


def trial(method: Method, own: Own, classes: int, bf16: bool) -> None:
    """Call the loss of one's own on drawn logits, and its gradient: a mistake is told before anything is trained.

    Args:
        bf16: whether the run's logits are so, too.

    Raises:
        UserError: it fails, or gives something else than a loss.
    """
    if FILE not in method.parameters:
        return
    chance = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, classes, generator=chance) for _ in range(2))
    labels, loss = torch.randint(classes, (4,), generator=chance), method.loss_of(own)
    for logits in (student, student.bfloat16())[: 1 + bf16]:
        value = loss(logits.requires_grad_(), labels, teacher if method.needs else None, 1)
        try:
            torch.autograd.grad(value, logits)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of a function with a backward of its own, too
            raise UserError(f"method {method.title}: its gradient fails: {one_line(str(error))}") from None
