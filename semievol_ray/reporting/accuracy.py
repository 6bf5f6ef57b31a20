"""The headline: how many test questions each model answers right, and what the pseudo-labels gained.

Invariant: an accuracy never stands without its interval.
"""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from semievol_ray import summary, tables
from semievol_ray.core.metrics import Interval
from semievol_ray.reporting import charts, page
from semievol_ray.reporting.charts import Estimate
from semievol_ray.reporting.facts import Facts
from semievol_ray.reporting.page import Section

_HEADER = ("model", "accuracy", "95% interval", "rows", "unreadable")
_NO_TEST = "No test split is configured (data.test), so no accuracy is known."
_NOT_YET = "No model has been evaluated on the test split yet. Running the same command again goes on from here."


def verdict(facts: Facts) -> Markup:
    """The result in a sentence."""
    found = _accuracies(facts)
    if not found:
        return Markup('<p class="verdict">{}</p>').format(_reason(facts))
    *_, (model, last) = found.items()
    said = Markup("{} answers <b>{}</b> of the test questions right").format(
        _SUBJECT.get(model, model), _percent(last.value)
    )
    if facts.summary.gain:
        said += Markup(": {} against {}").format(_gain(facts.summary.gain), _AGAINST[facts.summary.first])
    return Markup('<p class="verdict">{}.</p>').format(said)


def section(facts: Facts) -> Section:
    """Accuracy of the untouched model, of what the rounds began with and of each round: chart and table."""
    found = _accuracies(facts)
    if not found:
        return Section("accuracy", "Accuracy", page.absent(_reason(facts)))
    estimates = [Estimate(model, value, model != summary.SEMIEVOL) for model, value in found.items()]
    first = facts.summary.first
    before = found.get(first)
    chart = charts.dot_whiskers(
        "accuracy-chart", "Accuracy on the test split, with 95% intervals", estimates, before.value if before else None
    )
    rows = [_row(model, facts.metrics(step) or {}) for model, step in facts.evaluated().items()]
    numbers = page.table("Test split", _HEADER, rows)
    gain = facts.summary.gain
    told = _gain_note(gain, first) if gain else page.absent(_no_gain(found, first))
    figure = page.figure(chart, f"{_CAPTION} {_AGAINST[first]}.")
    return Section("accuracy", "Accuracy", page.joined([figure, numbers, told, _validation(facts)]))


_SUBJECT = {
    summary.UNTOUCHED: "The untouched model",
    summary.LABELS_ONLY: "The model tuned on labels only",
    summary.IMPORTED: "The imported adapter",
}
_AGAINST = {
    summary.UNTOUCHED: "the untouched model",
    summary.LABELS_ONLY: "labels only",
    summary.IMPORTED: "the imported adapter",
}
_CAPTION = (
    "Greedy answers without demonstrations. A dot is the accuracy, its line the 95% bootstrap interval; the dotted "
    "line is"
)


def _validation(facts: Facts) -> Markup:
    """Accuracies on the validation fold, which stop the rounds and choose among them."""
    names = sorted(name for name in facts.steps if name.startswith("rounds/") and name.endswith("/validation"))
    states = {name: int(name.split("/")[1]) for name in names}
    rows = [
        _row(f"after round {number}" if number else facts.summary.first, m)
        for name, number in states.items()
        if (m := facts.metrics(name))
    ]
    return page.table("Validation fold, which stops the rounds", _HEADER, rows) if rows else Markup("")


def _accuracies(facts: Facts) -> dict[str, Interval]:
    found = {model: facts.metrics(step) or {} for model, step in facts.evaluated().items()}
    return {model: Interval(m["accuracy"], m["accuracy_low"], m["accuracy_high"]) for model, m in found.items()}


def _row(model: str, m: Mapping[str, Any]) -> list[str]:
    interval = tables.interval(m["accuracy_low"], m["accuracy_high"])
    return [model, _percent(m["accuracy"]), interval, tables.count(m["num_rows"]), tables.count(m["num_unreadable"])]


def _percent(share: float) -> str:
    return tables.percent(share)


def _gain(gain: Interval) -> Markup:
    points, low, high = (f"{100 * value:+.1f}".replace("-", "−") for value in (gain.value, gain.low, gain.high))
    unsure = ", which includes 0" if gain.low <= 0 <= gain.high else ""
    return Markup("<b>{} points</b> (95% interval {} to {}{})").format(points, low, high, unsure)


def _gain_note(gain: Interval, first: str) -> Markup:
    said = Markup("SemiEvol − {}: {}, by a paired bootstrap over the same questions.")
    return page.paragraph(said.format(first, _gain(gain)))


def _no_gain(found: Mapping[str, Interval], first: str) -> str:
    missing = first if first not in found else "SemiEvol"
    return f"The gain over {_AGAINST[first]} is not known: {missing} is not evaluated in this run yet."


def _reason(facts: Facts) -> str:
    return _NOT_YET if (facts.config.get("data") or {}).get("test") else _NO_TEST
