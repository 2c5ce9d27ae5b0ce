"""Train one student with one method: `mlflow run . -e train_student -P method=ls`."""

from dataclasses import replace

from entrypoints.command import command
from labelreg.parameter import Value


def main(given: dict[str, Value]) -> None:
    """Train, log, and say where the result is."""
    from labelreg import job, one_run
    from labelreg.store import tracking, views

    settings = job.settings_of(given)
    print("".join(f"{line}\n" for line in job.ignored(settings, given)), end="", flush=True)
    tracking.connect()
    if settings.save_model == "auto":  # it runs on its own
        settings = replace(settings, save_model="true")
    done = one_run.carry_out(job.Job(settings, given))
    print(f"{settings.method}: {done.split} score {done.score:.2f} (run {done.run_id})", flush=True)
    if line := one_run.classes_line(done, settings):
        print(line, flush=True)
    views.tell("seeds", tracking.current_experiment())


if __name__ == "__main__":
    command("train_student", main, __doc__)
