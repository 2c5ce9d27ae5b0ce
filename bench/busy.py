"""An epoch on a machine that is not idle: beside busy loops, one thread and two, and the Trainer as it comes.

minilm-3l on the first 512 training sentences of SST-5 (bench/engine's), batch 32. OpenMP's threads spin at every
barrier while another waits for a processor; labelreg's entrances set GOMP_SPINCOUNT before torch is loaded, and
"spinning" leaves it out. `python -m bench.busy`; the machine must be idle otherwise.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from analysis.present.render import to_markdown
from entrypoints.command import SPINS

LOOPS, THREADS = (0, 1, 2, 4, 6), (1, 2)
VARIANTS = {"labelreg": {"GOMP_SPINCOUNT": SPINS}, "spinning": {}, "Trainer": {}}


def one(name: str, threads: int) -> dict[str, float]:
    """Wall and processor seconds of an epoch."""
    import torch

    torch.set_num_threads(threads)
    from bench import engine

    engine.SETTINGS |= {"model": "minilm-3l"}
    if name == "Trainer":
        began = time.process_time()
        seconds = engine.rival(engine.GROUPED, "minilm-3l")["seconds"][engine.GROUPED]
        return {"wall": seconds, "processor": time.process_time() - began}
    from labelreg import places, training
    from labelreg.models import registry

    data, settings, machine = engine.prepared(method="finetune", threads=threads)
    model = registry.load("minilm-3l", data.classes, "pretrained", 42, places.roots(settings))
    began = time.process_time()
    seconds = next(training.train(model, data, settings, machine)).epoch_seconds
    return {"wall": seconds, "processor": time.process_time() - began}


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """So many processes that do nothing but take processor time."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loops", type=int, nargs="+", default=LOOPS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print("\n" + json.dumps(one(given.one, given.threads)))
        return
    import pandas as pd

    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    rows = []
    for loops in given.loops:
        with busy(loops):
            for threads in THREADS:
                row: dict[str, float | str] = {"busy loops": loops, "threads": threads}
                found: dict[str, list[dict[str, float]]] = {name: [] for name in given.variants}
                for _ in range(given.rounds):  # in turn: the machine's own speed changes by the hour
                    for name, epochs in found.items():
                        environment = {key: v for key, v in os.environ.items() if key != "GOMP_SPINCOUNT"}
                        environment |= VARIANTS[name] | {"OMP_NUM_THREADS": str(threads)}
                        command = [sys.executable, "-m", "bench.busy", "--one", name, "--threads", str(threads)]
                        ended = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
                        epochs.append(json.loads(ended.stdout.splitlines()[-1]))
                for name, epochs in found.items():
                    walls = [each["wall"] for each in epochs]
                    row[f"{name}, s"] = statistics.median(walls)
                    row[f"{name}, from to"] = f"{min(walls):.2f} to {max(walls):.2f}"
                    row[f"{name}, processor s"] = statistics.median(each["processor"] for each in epochs)
                rows.append(row)
                print(row, file=sys.stderr, flush=True)
    print(to_markdown(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
