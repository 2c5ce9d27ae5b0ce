"""What the entry point `prepare` does: a task loaded, split, tokenised and described; or the cache cleaned."""

from pathlib import Path

from labelreg import places, recipes
from labelreg.data import corpus, prepared
from labelreg.parameter import Value
from labelreg.settings import Folders, facet
from labelreg.store import cleaning, records, tracking


def prepare(given: dict[str, Value]) -> None:
    """Prepare (cached for the runs that follow) and log sizes, classes and digest."""
    if given["clean"] != "false":
        return _clean(places.roots(facet(Folders, given)).cache, str(given["clean"]))
    settings = recipes.resolve(given)
    tracking.connect()
    data = corpus.prepare(settings, places.roots(settings))
    prepared.say(data)
    with tracking.open_run("prepare", f"prepare {data.task}") as run:
        names = "task model split_seed max_length image_size max_train_examples train_file dev_file test_file".split()
        run.params({name: settings.value(name) for name in names}, {tracking.DATA: data.digest})
        run.data(data.task, data.digest, str(settings.train_file or data.task))
        for split, examples in data.splits.items():
            units, longest = int(examples.lengths.sum()), int(examples.lengths.max())
            run.metrics({f"{split}/examples": len(examples), f"{split}/{examples.unit}": units})
            size = f"{examples.unit} mean {units / len(examples):.1f}, longest {longest}"
            print(f"{split}: {len(examples)} examples, {size}")
    print(f"{data.task}: classes {', '.join(data.classes)}; metric {data.metric}; digest {data.digest}")


def _clean(cache: Path, how: str) -> None:
    """Name what the cache holds, biggest first, and remove what no unfinished run needs, or only say so."""
    tracking.connect()
    with tracking.open_run("clean", f"clean {cache}") as run:
        run.params({"clean": how})
        found = sorted(cleaning.clean(cache, records.status, how == "true"), key=lambda item: -item.size)
        verb = "removed" if how == "true" else "to remove"
        for goes, word in ((False, "kept"), (True, verb)):
            items = [item for item in found if item.goes is goes]
            for item in items:
                print(f"{word}: {item.size / 1e6:10.3f} MB  {item.path.relative_to(cache)} ({item.why})")
            size = sum(item.size for item in items)
            print(f"{word}: {size / 1e6:.3f} MB in {len(items)} of {cache}", flush=True)
            run.metrics({f"clean/{'bytes' if goes else 'kept_bytes'}": size})
