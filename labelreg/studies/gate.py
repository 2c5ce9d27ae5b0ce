"""The gate of a study: one whose plan can decide nothing is refused before its first run, with cheap ways out."""

import math
from collections.abc import Mapping

from analysis.plan_check import Gate
from labelreg.errors import UserError
from labelreg.parameter import Value
from labelreg.studies import interim, outlook, plan

FEWEST = 3  # seeds of a pilot: a spread of fewer differences says next to nothing
MOST_SEEDS = 1000  # that are proposed


def pilot(given: Mapping[str, Value], design: plan.Design, seen: outlook.Outlook) -> dict[tuple, float]:
    """The spread of the differences among finished runs of the same cells and other seeds, by (task, model, init).

    The plan's own seeds have none: a study that goes on is not stopped by what it has found.
    """
    others = sorted(seen.seeds - set(design.plan["seeds"]))
    if len(others) < FEWEST:
        return {}
    asked = dict(given) | {"seeds": others, "looks": None, "until": "all", "allow_tuned_seeds": True}
    if asked.get("teacher_seeds", "one") != "one":
        asked["teacher_seeds"] = "each"
    there = outlook.look(plan.design_of(asked).steps)
    return interim.spreads({name: found.info.run_id for name, found in there.finished.items()})


def undecidable(design: plan.Design, seen: outlook.Outlook, spreads: Mapping[tuple, float]) -> str:
    """One line where no comparison of the plan can be decided, why, and what would be cheapest; else nothing."""
    gates = {place: plan.gate_of(design, seen, place, spreads.get(place)) for place in plan.families(design.plan)}
    gates = {place: each for place, each in gates.items() if each.methods}
    if not gates or any(map(_can, gates.values())):
        return ""
    place, first = min(gates.items(), key=lambda item: item[1].seeds_for_margin or math.inf)
    where = " ".join(place) + (f" and {len(gates) - 1} more" if len(gates) > 1 else "")
    if not (first.can_differ or first.can_equal):
        why = f"{where}: no data of {first.seeds} seeds could show a difference or that there is none"
    else:
        needed = first.seeds_for_margin or "more than 100"
        why = (
            f"{where}: differences of other seeds have sd {first.spread:.2f}, of which an effect of the margin "
            f"({first.margin:g} points) takes {needed} seeds, not {first.seeds}"
        )
    return (
        f"study {design.name} can decide nothing ({why}); what would: {', or '.join(_ways(design, seen, place, first))}"
    )


def _can(gate: Gate) -> bool:
    """Whether a family may come to a verdict: by its number of seeds, and by the spread where it is known."""
    enough = gate.spread is None or (gate.seeds_for_margin or math.inf) <= gate.seeds
    return (gate.can_differ or gate.can_equal) and enough


def _ways(design: plan.Design, seen: outlook.Outlook, place: tuple, first: Gate) -> list[str]:
    """What would decide, cheapest first."""
    ways = []
    if first.spread is not None and first.detectable is not None:
        own = next(each for step, each in seen.settings.items() if each.task == place[0])
        if own.max_train_examples and own.rest != "on" and place[0] not in seen.rest:
            ways.append("rest=on (more test examples)")
        ways.append(f"margin={math.ceil(100 * first.detectable * first.spread) / 100:g}")
        seeds = first.seeds_for_margin
    else:
        more = range(first.seeds + 1, MOST_SEEDS)
        seeds = next((n for n in more if plan.gate_of(design, seen, place, None, n).can_differ), None)
    return [*ways, f"{seeds} seeds"] if seeds else ways or ["fewer methods"]


def check(
    given: Mapping[str, Value], design: plan.Design, seen: outlook.Outlook, spreads: Mapping[tuple, float]
) -> None:
    """Refuse a plan that can decide nothing, unless that is accepted or no run is left to do.

    Raises:
        UserError: with the line of `undecidable`.
    """
    if given.get("accept_undecidable") or len(seen.finished) == len(design.steps):
        return
    if line := undecidable(design, seen, spreads):
        raise UserError(f"{line}; accept_undecidable=true runs it all the same")
