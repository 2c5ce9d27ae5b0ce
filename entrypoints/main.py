"""The question in small: every method with paired seeds, then the verdicts. `mlflow run .`"""

from entrypoints import study
from entrypoints.command import command
from labelreg.parameter import Value
from labelreg.settings import DEMO

DEFAULT_SETTINGS = "default"


def main(given: dict[str, Value]) -> int:
    """The study of the recipe, the demo's unless another one is named."""
    if given["recipe"] == DEMO and given.get("train_file"):  # the demo's settings are made for the demo's data
        given = {"settings": DEFAULT_SETTINGS} | given
    return study.main(given)


if __name__ == "__main__":
    command("main", main, __doc__)
