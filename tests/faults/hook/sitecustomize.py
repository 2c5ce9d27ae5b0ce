"""Python imports this first in a process whose PYTHONPATH has this folder: it injects one fault (see injector.py)."""

import importlib.util
import os
import signal
import sys
import time

WHERE, MARK = os.environ.get("LABELREG_TEST_FAULT", ""), os.environ.get("LABELREG_TEST_FAULT_MARK", "")


def _strike(action: str) -> None:
    try:
        os.close(os.open(MARK, os.O_CREAT | os.O_EXCL))  # once, over all processes of a command
    except FileExistsError:
        return
    if action.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, action))
        time.sleep(0.01)  # a handler of Python's runs here
    elif action.isdigit():
        raise OSError(int(action), os.strerror(int(action)))


def _arm(module: object, path: str, when: str, count: int, action: str) -> None:
    *owners, name = path.split(".")
    for owner in owners:
        module = getattr(module, owner)
    real, seen = getattr(module, name), [0]

    def struck(*args, **kwargs):
        seen[0] += 1
        if when == "after":
            result = real(*args, **kwargs)
        if seen[0] == count:
            _strike(action)
        return result if when == "after" else real(*args, **kwargs)

    setattr(module, name, staticmethod(struck) if isinstance(vars(module).get(name), staticmethod) else struck)


class _Finder:
    """Arms a module when it is imported."""

    def __init__(self, module: str, *how):
        self.module, self.how = module, how

    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module) -> None:
            load(module)
            _arm(module, *self.how)

        spec.loader.exec_module = exec_module
        return spec


if WHERE and not os.path.exists(MARK):
    _when, _place, _count, _action = WHERE.split()
    _module, _, _path = _place.partition(":")
    _how = (_path, _when, int(_count), _action)
    if _module in sys.modules:
        _arm(sys.modules[_module], *_how)
    else:
        sys.meta_path.insert(0, _Finder(_module, *_how))
