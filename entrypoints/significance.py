"""Does a method differ from fine-tuning? Paired runs, exact tests, verdicts: `mlflow run . -e significance`."""

from entrypoints.command import command
from labelreg.parameter import Value


def main(given: dict[str, Value]) -> None:
    from labelreg.answers import answering

    answering.significance(given)


if __name__ == "__main__":
    command("significance", main, __doc__)
