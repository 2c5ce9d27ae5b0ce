"""Exported scores back into a store, so that their study goes on: `mlflow run . -e restore -P csv=scores.csv`."""

from entrypoints.command import command
from labelreg.parameter import Value


def main(given: dict[str, Value]) -> None:
    from labelreg.answers import restoring

    restoring.restore(given)


if __name__ == "__main__":
    command("restore", main, __doc__)
