"""GLUE test predictions to the server and back: `mlflow run . -e submission`, then `-P scores=server.csv`."""

from entrypoints.command import command
from labelreg.parameter import Value


def main(given: dict[str, Value]) -> None:
    from labelreg.answers import submission

    submission.submit(given)


if __name__ == "__main__":
    command("submission", main, __doc__)
