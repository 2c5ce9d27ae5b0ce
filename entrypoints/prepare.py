"""Load, split and tokenise a task, and say what is in it: `mlflow run . -e prepare -P task=sst5`."""

from entrypoints.command import command
from labelreg.parameter import Value


def main(given: dict[str, Value]) -> None:
    """Prepare (cached for the runs that follow) and log sizes, classes and digest; or clean the cache."""
    from labelreg import preparing

    preparing.prepare(given)


if __name__ == "__main__":
    command("prepare", main, __doc__)
