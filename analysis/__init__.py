"""Statistics on a table of runs: pairing, tests, verdicts. Never torch; of labelreg settings, methods, errors alone."""

from collections.abc import Iterable
from difflib import get_close_matches


class AnalysisError(ValueError):
    """A user's mistake, told in one line: what was given, what is allowed, the nearest valid name."""

    exit_status = 2  # as of labelreg's UserError


def unknown(what: str, given: object, allowed: Iterable[object]) -> AnalysisError:
    """The error for a name that is not one of `allowed`."""
    names = [str(name) for name in allowed]
    nearest = get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f"; nearest: {nearest[0]}" if nearest else ""
    return AnalysisError(f"{what} {str(given)!r} is unknown{hint}; there are: {', '.join(names) or 'none'}")
