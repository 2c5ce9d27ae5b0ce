"""Is pruning worth its name? The same trials with and without it: epochs spent, best dev score, wall time.

Label smoothing on a small part of SST-5, minilm-3l, one thread. The sampler is random and seeded, so that both
searches draw the same settings. The goal: at most 0.45 of the epochs, for a best dev score within one standard
deviation over seeds (of the unpruned search's winner, trained with other seeds).
`python -m bench.search`; needs LABELREG_DATA_ROOT or the hub.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from labelreg import places, recipes, training
from labelreg.data import corpus
from labelreg.models import registry
from labelreg.settings import Machine, with_defaults
from labelreg.tuning import search, search_report

GIVEN = {"task": "sst5", "model": "minilm-3l", "method": "ls", "max_length": 24}
SPACE = {  # appendix D's, with rates from which minilm-3l learns and alphas around table 9's for label smoothing
    "batch_size": [8, 16, 32, 64],
    "lr": [1e-4, 2e-4, 3e-4, 5e-4],
    "alpha": [0.05, 0.1, 0.2, 0.4],
}
GOAL_EPOCHS = 0.45


def trainer(given: dict, data: corpus.PreparedTask):
    """What search.run_trial asks for: real training, stopped where the search says so."""

    def train(draw: search.Draw, stop: search.Stop) -> float:
        settings = recipes.resolve(given | draw.params)
        machine = Machine("fp32", "off", threads=1, device=training.device().type)
        model = registry.load(settings.model, data.classes, "pretrained", settings.seed, places.roots(settings))
        for report in training.train(model, data, settings, machine):
            if stop(report.epoch, report.dev["score"], report.epoch == settings.epochs):
                break
        return report.best.dev["score"]

    return train


def timed(asked: search.Search, train) -> dict:
    """A search from nothing to its end."""
    began = time.perf_counter()
    study = search.open_study(asked)
    while search.run_trial(study, asked, train):
        pass
    best = search.best(study)[0]
    return {
        "epochs": search_report.epochs_spent(study),
        "best": best.value,
        "params": best.params,
        "pruned": sum(trial.state.name == "PRUNED" for trial in study.trials),
        "seconds": time.perf_counter() - began,
        "drawn": [trial.params for trial in study.trials],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--seeds", default="42,549,1237,230,805", help="for the deviation over seeds")
    parser.add_argument("--out", help="write the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    given = GIVEN | {"epochs": options.epochs, "max_train_examples": options.examples, "threads": 1}
    given = with_defaults("tune", given)
    settings = recipes.resolve(given)
    data = corpus.prepare(settings, places.roots(settings))
    train = trainer(given, data)
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {given}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/search.db"
        pruned = search.Search("pruned", url, SPACE, options.trials, int(given["seed"]), "random")
        whole = replace(pruned, name="whole", min_resource=options.epochs + 1)
        found = {each.name: timed(each, train) for each in (pruned, whole)}
    assert found["pruned"].pop("drawn") == found["whole"].pop("drawn"), "both searches draw the same settings"
    scores = [
        trainer(given | {"seed": int(seed)}, data)(search.Draw(0, found["whole"]["params"]), lambda *_: False)
        for seed in options.seeds.split(",")
    ]
    deviation = statistics.stdev(scores)
    for name, figures in found.items():
        print(
            f"{name:6} {options.trials} trials, {figures['pruned']} pruned: {figures['epochs']} epochs in "
            f"{figures['seconds']:.0f} s, best dev score {figures['best']:.2f} with {figures['params']}",
            flush=True,
        )
    share = found["pruned"]["epochs"] / found["whole"]["epochs"]
    lost = found["whole"]["best"] - found["pruned"]["best"]
    print(f"epochs: {share:.2f} of the unpruned (goal {GOAL_EPOCHS})", flush=True)
    print(f"best dev score: {lost:.2f} lower; sd over seeds {deviation:.2f} (goal: at most one sd)", flush=True)
    if options.out:
        results = found | {"share": share, "lost": lost, "deviation": deviation, "seeds": scores}
        Path(options.out).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
