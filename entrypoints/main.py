"""The question in small: every method with paired seeds, then the verdicts. `mlflow run .`"""

from entrypoints import study
from entrypoints.command import command
from labelreg.parameters import Value

DEFAULT_STUDY = "smoke"


def main(given: dict[str, Value]) -> int:
    """The study of the recipe, the demo's unless another one is named."""
    return study.main({"recipe": DEFAULT_STUDY} | given)


if __name__ == "__main__":
    command("main", main, __doc__)
