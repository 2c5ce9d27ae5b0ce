"""The paper's tables and figure 1 from runs, its numbers beside them: `mlflow run . -e tables`."""

from entrypoints.command import command
from labelreg.parameter import Value


def main(given: dict[str, Value]) -> None:
    from labelreg.answers import pages

    pages.make_tables(given)


if __name__ == "__main__":
    command("tables", main, __doc__)
