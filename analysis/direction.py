"""Which way a metric counts: by its exact name, or by what the user says. An unknown name is said to be one."""

from collections.abc import Collection, Iterable

from analysis import unknown

LOWER = frozenset(  # the last part of a name; pieces of a name say nothing: neg_log_loss, brier_skill_score
    "nll ece mce brier loss train_loss eval_loss val_loss test_loss log_loss cross_entropy kl_divergence perplexity "
    "error error_rate mse rmse mae wer cer train_runtime training_cost train_seconds teacher_seconds peak_memory_mb "
    "padding_share".split()
)
HIGHER = frozenset("score accuracy f1 matthews tokens_per_second images_per_second".split())


def lower_is_better(metric: str, said: Collection[str] = ()) -> bool:
    """Whether a smaller value of this metric is the better one; `said`: names that are, whole or their last part."""
    return metric in said or _last(metric) in said or _last(metric).lower() in LOWER


def check(said: Collection[str], metrics: Collection[str]) -> None:
    """Raises AnalysisError for a name of lower_is_better that is none of the metrics."""
    known = {*metrics, *map(_last, metrics)}
    for name in said:
        if name not in known:
            raise unknown("lower_is_better", name, sorted(metrics))


def lines(metrics: Iterable[tuple[str, bool]]) -> list[str]:
    """A sentence for each (metric, whether its sign is turned) that is turned, or whose name says nothing."""
    said = []
    for metric, turned in dict.fromkeys(metrics):
        if turned:
            said.append(f"{metric}: lower is better; the sign of differences is turned, so that above 0 is better")
        elif _last(metric).lower() not in HIGHER:
            said.append(f"{metric}: not a known name, taken as higher is better; lower_is_better={metric} turns it")
    return said


def _last(metric: str) -> str:
    return metric.rpartition("/")[2]
