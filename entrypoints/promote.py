"""From verdict to model: registers the model that the evidence supports: `mlflow run . -e promote -P name=reviews`."""

from entrypoints.command import command
from labelreg.parameter import Value


def main(given: dict[str, Value]) -> None:
    from labelreg.answers import promoting

    promoting.promote(given)


if __name__ == "__main__":
    command("promote", main, __doc__)
