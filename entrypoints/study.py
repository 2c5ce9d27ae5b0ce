"""Every run of a recipe, none of them twice, then the verdicts: `mlflow run . -e study -P recipe=table8`."""

from entrypoints.command import command
from labelreg.parameter import Value


def main(given: dict[str, Value]) -> int:
    from labelreg.studies import study

    return study.carry_out(given)


if __name__ == "__main__":
    command("study", main, __doc__)
