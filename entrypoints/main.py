"""The question in small: three methods with paired seeds, then the verdicts. `mlflow run .`"""

from entrypoints import study
from entrypoints.command import command
from labelreg.parameter import Value
from labelreg.settings import DEMO

# what the demo has of its own is made for its data and its time
OWN_FILE: dict[str, Value] = {"settings": "default", "models": ["minilm-3l"]}
OWN_FOLDER = OWN_FILE | {"models": ["resnet18"]}  # as default.yaml has it for images


def main(given: dict[str, Value]) -> int:
    """The study of the recipe, the demo's unless another one is named."""
    if given["recipe"] == DEMO and given.get("train_file"):
        from labelreg.data.tasks import made_of

        given = (OWN_FOLDER if made_of(None, str(given["train_file"])) == "images" else OWN_FILE) | given
    return study.main(given)


if __name__ == "__main__":
    command("main", main, __doc__)
