"""The entry points, one line each: `python -m entrypoints`."""

import importlib
import sys

from labelreg.errors import USER_ERROR
from labelreg.settings import ENTRY_POINTS


def main() -> int:
    """Print what there is to run, and how."""
    if sys.argv[1:]:
        names = ", ".join(ENTRY_POINTS)
        print(f"error: python -m entrypoints.NAME runs an entry point; NAME is one of {names}", file=sys.stderr)
        return USER_ERROR
    width = max(map(len, ENTRY_POINTS))
    for name in ENTRY_POINTS:
        print(f"{name:<{width}}  {importlib.import_module(f'entrypoints.{name}').__doc__}")
    print("\nthe parameters of one: python -m entrypoints.NAME --help")
    return 0


if __name__ == "__main__":
    sys.exit(main())
