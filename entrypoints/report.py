"""One HTML page that answers the question: verdicts, pictures, tables, methods section. `mlflow run . -e report`"""

from entrypoints.command import command
from labelreg.parameter import Value


def main(given: dict[str, Value]) -> None:
    from labelreg.answers import pages

    pages.make_page(given)


if __name__ == "__main__":
    command("report", main, __doc__)
