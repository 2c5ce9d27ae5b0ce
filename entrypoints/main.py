"""The question in small: every method with paired seeds, then the verdicts. `mlflow run .`"""

from entrypoints import study
from entrypoints.command import command
from labelreg.parameter import Value
from labelreg.settings import DEMO

# what the demo has of its own is made for its data and its time
OWN_FILE: dict[str, Value] = {"settings": "default", "models": ["minilm-3l"]}


def main(given: dict[str, Value]) -> int:
    """The study of the recipe, the demo's unless another one is named."""
    if given["recipe"] == DEMO and given.get("train_file"):
        given = OWN_FILE | given
    return study.main(given)


if __name__ == "__main__":
    command("main", main, __doc__)
