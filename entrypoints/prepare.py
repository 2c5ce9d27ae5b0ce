"""Load, split and tokenise a task, and say what is in it: `mlflow run . -e prepare -P task=sst5`."""

from entrypoints.command import command
from labelreg.parameter import Value

LOGGED = "task model split_seed max_length image_size max_train_examples train_file dev_file test_file".split()


def main(given: dict[str, Value]) -> None:
    """Prepare (cached for the runs that follow) and log sizes, classes and digest; or clean the cache."""
    from labelreg import places, recipes
    from labelreg.data import corpus, prepared
    from labelreg.store import cleaning, tracking, views

    if given["clean"] != "false":
        return cleaning.carry_out(given)
    settings = recipes.resolve(given)
    tracking.connect()
    data = corpus.prepare(settings, places.roots(settings))
    prepared.tell(prepared.lines(data))
    with tracking.open_run("prepare", f"prepare {data.task}") as run:
        run.params({name: settings.value(name) for name in LOGGED}, {tracking.DATA: data.digest})
        run.data(data.task, data.digest, str(settings.train_file or data.task))
        for split, examples in data.splits.items():
            units, longest = int(examples.lengths.sum()), int(examples.lengths.max())
            run.metrics({f"{split}/examples": len(examples), f"{split}/{examples.unit}": units})
            size = f"{examples.unit} mean {units / len(examples):.1f}, longest {longest}"
            print(f"{split}: {len(examples)} examples, {size}")
    print(f"{data.task}: classes {', '.join(data.classes)}; metric {data.metric}; digest {data.digest}")
    views.tell_run(run.run_id)


if __name__ == "__main__":
    command("prepare", main, __doc__)
