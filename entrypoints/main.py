"""The question in small: every method with paired seeds, then the verdicts. `mlflow run .`"""

from entrypoints import study
from entrypoints.command import command
from labelreg.parameter import Value

DEFAULT_STUDY, DEFAULT_SETTINGS = "smoke", "default"


def main(given: dict[str, Value]) -> int:
    """The study of the recipe, the demo's unless another one is named."""
    own = {"recipe": DEFAULT_STUDY}
    if given.get("train_file"):  # the demo's settings are made for the demo's data
        own["settings"] = DEFAULT_SETTINGS
    return study.main(given if given.get("recipe") else own | given)


if __name__ == "__main__":
    command("main", main, __doc__)
