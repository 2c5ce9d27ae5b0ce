"""The examples of a run, of text or of images, cached on disk by fingerprint."""

from pathlib import Path

from labelreg import places
from labelreg.data import files, image_folder, images, text
from labelreg.data.prepared import PreparedTask
from labelreg.data.tasks import FILES, TASKS, Task, made_of, own_path
from labelreg.errors import UserError, unknown
from labelreg.models import registry
from labelreg.settings import Files, Settings, of

COLUMNS = [name for name in of(Files) if name not in FILES]


def prepare(settings: Settings, roots: places.Roots) -> PreparedTask:
    """The examples of a run, ready for its model; read from the cache when nothing has changed.

    Raises:
        UserError: anything wrong with the task, the files or the labels, in one line.
    """
    check_files(settings)
    kind = made_of(settings.task, settings.train_file)
    registry.check_reads(settings.model, settings.task, kind)
    if kind == "images":
        return images.prepare(settings, roots)
    return text.prepare(settings, task_of(settings), roots)


def labelled_rows(settings: Settings) -> dict[str, int]:
    """How many rows each split of the user's own file of text has whose labels are all known; of anything else none.

    Raises:
        UserError: as `prepare`.
    """
    if not settings.train_file or made_of(settings.task, settings.train_file) != "text":
        return {}
    check_files(settings)
    return text.labelled_rows(settings, task_of(settings))


def cached(settings: Settings, roots: places.Roots) -> Path:
    """The folder that keeps the examples of a run once they are prepared.

    Raises:
        UserError: as `prepare`, before anything is read.
    """
    if made_of(settings.task, settings.train_file) == "images":
        return images.place(settings, roots)[-1]
    return text.place(settings, task_of(settings), roots)[-1]


def task_of(settings: Settings) -> Task:
    """The task that the settings name: registered, of the hub, or the user's own file.

    Raises:
        UserError: an unknown name, or columns or files given for a task that has its own.
    """
    name = settings.task
    alone = [key for key in ("dev_file", "test_file") if getattr(settings, key) and not settings.train_file]
    if alone:
        raise UserError(f"{alone[0]}={getattr(settings, alone[0])}: it goes with train_file")
    columns = {key: getattr(settings, key) for key in COLUMNS}
    if name in TASKS and not settings.train_file:
        given = [key for key, value in columns.items() if value]
        if given:
            raise UserError(
                f"{given[0]}={columns[given[0]]}: the columns of task {name} are fixed; it goes with train_file"
            )
        return TASKS[name]
    if settings.train_file or "/" in name:  # any data set of the hub with the usual columns
        return Task(
            "file" if settings.train_file else name,
            columns["text_column"] or "text",
            columns["text_pair_column"],
            columns["label_column"] or "label",
            split_by="split_seed",
            group=columns["group_column"],
        )
    mistake = unknown("task", name, TASKS)
    raise UserError(f"{mistake}; a task of your own file needs train_file=FILE")


def check_files(settings: Settings) -> None:
    """Raises UserError when one of the user's own files of text is missing or may not be read, or his folder of images
    has none: before a model of images is looked for, as what lies there may be tables."""
    if not settings.train_file:
        return
    if made_of(settings.task, settings.train_file) == "images":
        image_folder.check(own_path(settings.train_file), settings.task)
    else:
        for file in (getattr(settings, key) for key in FILES if getattr(settings, key)):
            files.check(own_path(file))
