"""Train one student with one method: `mlflow run . -e train_student -P method=ls`."""

from entrypoints.command import command
from labelreg.parameters import Value


def main(given: dict[str, Value]) -> None:
    """Train, log, and say where the result is."""
    from entrypoints import job
    from labelreg import tracking

    settings = job.settings_of(given)
    for line in job.ignored(given):
        print(line, flush=True)
    tracking.connect()
    if settings["save_model"] == "auto":  # it runs on its own
        settings["save_model"] = "true"
    done = job.run(job.Job(settings, given))
    print(f"{settings['method']}: {done.split} score {done.score:.2f} (run {done.run_id})", flush=True)
    if done.one_class:
        print(job.not_learnt(done, settings), flush=True)


if __name__ == "__main__":
    command("train_student", main, __doc__)
