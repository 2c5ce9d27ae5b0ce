"""Where data sets, checkpoints and copies lie: folders that a parameter or the environment names."""

import os
from dataclasses import dataclass
from pathlib import Path

from labelreg.errors import UserError, refusal
from labelreg.settings import Folders


@dataclass(frozen=True)
class Roots:
    """Where data sets and checkpoints are read (None: the hub) and where copies are kept.

    Without `download`, what is not on this machine already is not to be had (and nothing is written).
    """

    data: Path | None
    model: Path | None
    cache: Path
    download: bool = True


def roots(folders: Folders) -> Roots:
    """The folders of a run, from parameters or LABELREG_* variables."""
    named = folders.cache_root or os.environ.get("LABELREG_CACHE_ROOT")
    return Roots(
        _folder(folders.data_root, "LABELREG_DATA_ROOT"),
        _folder(folders.model_root, "LABELREG_MODEL_ROOT"),
        Path(os.path.expanduser(str(named))).resolve() if named else Path("~/.cache/labelreg").expanduser(),
    )


def _folder(value: str | None, variable: str) -> Path | None:
    """A root folder from a parameter or an environment variable; it must exist.

    Raises:
        UserError: it does not exist.
    """
    name = value or os.environ.get(variable)
    if not name:
        return None
    said = f"{variable.removeprefix('LABELREG_').lower()}={name}"
    try:
        path = Path(os.path.expanduser(name)).resolve()
        os.listdir(path)
    except (FileNotFoundError, NotADirectoryError, RuntimeError):  # RuntimeError: no such home, links in a circle
        raise UserError(f"{said}: no such folder") from None
    except OSError as error:
        raise UserError(f"{said}: {refusal(error)}") from None
    return path
