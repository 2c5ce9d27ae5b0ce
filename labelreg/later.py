"""Modules that are imported when something in them is first asked for: `significance` reads the names of methods and
their parameters, and needs no torch, whose import takes a second."""

import importlib
from typing import Any


class Later:
    """Stands for a module until one of its names is asked for."""

    def __init__(self, module: str):
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._module), name)
