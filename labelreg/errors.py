"""The ways in which a run or a study can end badly without being a defect of labelreg."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A user's mistake: one line that says what was given and what is allowed (exit status 2)."""


class DivergedError(RuntimeError):
    """The loss is no longer finite: the run is marked FAILED (exit status 3)."""


class StoreLostError(RuntimeError):
    """The tracking store was away for too long: what runs ends as interrupted (exit status 130), and goes on later."""


class IncompleteError(RuntimeError):
    """Runs of a study failed, all others are done: its run is marked FAILED (exit status 4)."""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> UserError:
    """The error for a name that is not in a list, with the nearest name that is."""
    names = sorted(allowed)
    nearest = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.4)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    return UserError(f"unknown {kind} {given!r}{hint} Known: {', '.join(names)}")
