"""Train a teacher and store its logits: `mlflow run . -e train_teacher -P task=sst5 -P model=minilm`."""

from entrypoints.command import command
from labelreg.parameters import Value


def main(given: dict[str, Value]) -> None:
    """Train, log, and say how students find it. Without `model`, the teacher of the recipe's student."""
    from entrypoints import job
    from labelreg import models, recipes, tracking
    from labelreg.errors import UserError

    if given["method"] != "finetune":
        raise UserError(f"method={given['method']}: a teacher is trained with finetune")
    if "model" not in given:
        student = recipes.resolve(given)
        given["model"] = given.get("teacher_model") or models.teacher_of(str(student["model"]), str(student["task"]))
    settings = job.settings_of(given, "teacher")
    for line in job.ignored(given):
        print(line, flush=True)
    tracking.connect()
    done = job.run(job.Job(settings, given, "teacher"))
    print(f"teacher {settings['model']}: {done.split} score {done.score:.2f}; students take it with", flush=True)
    print(f"  method=kd teacher_run_id={done.run_id}", flush=True)
    if done.one_class:
        print(job.not_learnt(done, settings), flush=True)


if __name__ == "__main__":
    command("train_teacher", main, __doc__)
