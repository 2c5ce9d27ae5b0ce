"""Train a teacher and store its logits: `mlflow run . -e train_teacher -P task=sst5 -P model=minilm`."""

from entrypoints.command import command
from labelreg.errors import UserError
from labelreg.parameter import Value


def main(given: dict[str, Value]) -> None:
    """Train, log, and say how students find it. Without `model`, the teacher of the recipe's student."""
    from labelreg import job, one_run, recipes
    from labelreg.models import registry
    from labelreg.store import tracking, views

    if given["method"] != "finetune":
        raise UserError(f"method={given['method']}: a teacher is trained with finetune")
    if "model" not in given:
        student = recipes.resolve(given)
        given["model"] = given.pop("teacher_model", None) or registry.teacher_of(student.model, student.task)
    settings = job.settings_of(given, "teacher")
    print("".join(f"{line}\n" for line in job.ignored(settings, given)), end="", flush=True)
    tracking.connect()
    done = one_run.carry_out(job.Job(settings, given, "teacher"))
    print(f"teacher {settings.model}: {done.split} score {done.score:.2f}; students take it with", flush=True)
    print(f"  method=kd teacher_run_id={done.run_id}", flush=True)
    if line := one_run.classes_line(done, settings):
        print(line, flush=True)
    views.tell_run(done.run_id)


if __name__ == "__main__":
    command("train_teacher", main, __doc__)
