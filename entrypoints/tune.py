"""Search for good settings as in appendix D: `mlflow run . -e tune -P task=sst5`."""

from entrypoints.command import command
from labelreg.parameter import Value


def main(given: dict[str, Value]) -> None:
    from labelreg.tuning import tune

    tune.carry_out(given)


if __name__ == "__main__":
    command("tune", main, __doc__)
