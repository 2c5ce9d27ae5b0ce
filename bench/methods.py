"""The page of the methods: what each says of itself, what an epoch of each costs, and other projects' conventions.

`python -m bench.methods` writes docs/methods.md between its marks anew; with --measure it first times an epoch of every
method (minilm-3l on 256 sentences of SST-5, batch 32, one thread, seconds of the processor, so that other work beside
does not count, rounds in turn, the least) and keeps that in results/methods.csv.
"""

import argparse
import csv
import inspect
import re
import sys
import time
from pathlib import Path
from unittest import mock

from bench import dialects
from labelreg.methods import METHODS, Memory, Method
from labelreg.methods.degenerate import LEAST, share

ROOT = Path(__file__).parents[1]
PAGE, COSTS = ROOT / "docs" / "methods.md", ROOT / "results" / "methods.csv"
PARTS = ("table", "notes", "degenerate", "dialects")
EXAMPLES, BATCH, ROUNDS = 256, 32, 3
COUNTS = (2, 3, 5, 64)


def said(method: Method) -> dict[str, str]:
    """The parts of a loss's docstring: formula (its first paragraph), Source, Published code, Trap."""
    text = inspect.getdoc(method.loss) or ""
    paragraphs = [" ".join(each.split()) for each in re.split(r"\n\s*\n|\n(?=(?:Source|Published code|Trap): )", text)]
    found = {"formula": paragraphs[0]}
    for each in paragraphs[1:]:
        name, colon, rest = each.partition(": ")
        if colon and name in ("Source", "Published code", "Trap"):
            found[name] = rest
        else:
            found["formula"] += f" {each}"
    return found


def costs() -> dict[str, float]:
    """An epoch's seconds over finetune's, by method, where it was measured."""
    if not COSTS.is_file():
        return {}
    with COSTS.open(encoding="utf-8") as file:
        seconds = {row["method"]: float(row["seconds"]) for row in csv.DictReader(file)}
    return {name: value / seconds["finetune"] for name, value in seconds.items()}


def parameters(method: Method) -> str:
    shown = []
    for name, each in method.parameters.items():
        value = method.defaults.get(name, each.default)
        shown.append(
            f"`{name}`" if value is None else f"`{name}` {str(value).lower() if value in (True, False) else value}"
        )
    return ", ".join(shown)


def table() -> list[str]:
    cost = costs()
    lines = [
        "| name | method | learns from | parameters and defaults | passes | an epoch / finetune's |",
        "|---|---|---|---|---:|---:|",
    ]
    for name, method in METHODS.items():
        own = {key: method.defaults.get(key, each.default) for key, each in method.parameters.items()}
        memory = method.memory(own, 2)
        source = {"teacher": "a teacher", "finetune": "its fine-tuned twin"}.get(method.needs or "")
        source = source or (
            "its last epoch" if type(memory) is not Memory else "a second pass" if method.passes(own) > 1 else "labels"
        )
        passes = f"{method.passes(own)}" + (f" + {memory.passes} without gradient" if memory.passes else "")
        ratio = f"{cost[name]:.2f}" if name in cost else "-"
        lines.append(f"| `{name}` | {method.title} | {source} | {parameters(method)} | {passes} | {ratio} |")
    return lines


def notes() -> list[str]:
    lines = []
    for name, method in METHODS.items():
        found = said(method)
        lines += [f"**`{name}`** {found.pop('formula')}", ""]
        lines += [f"- {part}: {text}" for part, text in found.items()] + [""]
    return lines


def degenerate() -> list[str]:
    lines = [
        "| method | what makes it | " + " | ".join(f"K = {k}" for k in COUNTS) + " |",
        "|---|---|" + "---:|" * len(COUNTS),
    ]
    for name, method in METHODS.items():
        if method.core:
            own = {key: each.default for key, each in method.parameters.items()}
            shares = [share(method, own, k) for k in COUNTS]
            shown = [f"{each:.2f}" if each > LEAST else "0" if each < 1e-12 else f"{each:.0e}" for each in shares]
            lines.append(f"| `{name}` | {method.core.name} | {' | '.join(shown)} |")
    return lines


def mark(part: str) -> str:
    return f"<!-- {part}: by python -m bench.methods -->"


def page(text: str) -> str:
    """The page with its parts anew."""
    made = {"table": table(), "notes": notes(), "degenerate": degenerate(), "dialects": dialects.table()}
    for part in PARTS:
        begin, end = mark(part), mark(f"end of {part}")
        before, found, rest = text.partition(begin)
        _, there, after = rest.partition(end)
        assert found and there, f"the page has no marks of {part}"
        text = before + "\n".join([begin, "", *made[part], "", end]).replace("\n\n\n", "\n\n") + after
    return text


def measure(rounds: int) -> None:
    """Time an epoch of every method, in another order each round, each on a new model."""
    import torch

    from labelreg import places, recipes, training
    from labelreg.data import corpus
    from labelreg.models import registry
    from labelreg.settings import with_defaults

    def epoch(name: str) -> training.EpochReport:
        given = {"method": name, "task": "sst5", "max_train_examples": EXAMPLES, "batch_size": BATCH, "epochs": 2}
        settings = recipes.resolve(with_defaults("train_student", given | {"threads": 1}))
        where = places.roots(settings)
        data = corpus.prepare(settings, where)
        chance = torch.Generator().manual_seed(0)
        teacher = torch.randn(EXAMPLES, len(data.classes), generator=chance) if METHODS[name].needs else None
        model = registry.load(settings.model, data.classes, "pretrained", 42, where)
        machine = training.machine_of(settings, EXAMPLES)
        with mock.patch.object(time, "perf_counter", time.process_time):  # what the loop asks
            return next(training.train(model, data, settings, machine, teacher))

    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    names = list(METHODS)
    epoch("finetune")  # the first one of a process is slower
    for turn in range(rounds):
        for name in names[turn * 5 % len(names) :] + names[: turn * 5 % len(names)]:
            report = epoch(name)
            seconds[name].append(report.epoch_seconds)
            print(f"{name}: {report.epoch_seconds:.2f} s", file=sys.stderr, flush=True)
    with COSTS.open("w", newline="", encoding="utf-8") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["method", "seconds", "rounds"])
        write.writerows([name, f"{min(each):.3f}", rounds] for name, each in seconds.items())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    if options.measure:
        measure(options.rounds)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
