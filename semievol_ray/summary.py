"""The table at the end of a run: what the method gained, what its pseudo-labels were worth, where the time went.

Invariant: every figure is read from committed steps, so the table can be made again from the directory alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semievol_ray import tables
from semievol_ray.core.metrics import Interval, paired_difference
from semievol_ray.runs import Step, read_events, read_manifest, read_steps
from semievol_ray.sessions import engine_sessions, of_the_run
from semievol_ray.stages.evaluate import asked, correctness
from semievol_ray.starts import Starts, engine_starts, starts_shown

UNTOUCHED, LABELS_ONLY, IMPORTED, SEMIEVOL = "untouched model", "labels only", "imported adapter", "SemiEvol"


@dataclass(frozen=True)
class Accuracy:
    """One model's accuracy on the test split."""

    model: str
    accuracy: Interval
    num_rows: int
    num_unreadable: int


@dataclass(frozen=True)
class PseudoLabels:
    """A round's pseudo-labels; precisions are None without any gold answer; `coverage` is the share accepted."""

    round: int
    precision_before: float | None
    precision_after: float | None
    coverage: float
    num_accepted: int
    num_rows: int


@dataclass(frozen=True)
class Summary:
    """A run's results; `gain` is accuracy(SemiEvol) - accuracy(`first`, see `first_model`), None without both."""

    name: str
    root: str
    first: str
    accuracies: tuple[Accuracy, ...]
    gain: Interval | None
    pseudo_labels: tuple[PseudoLabels, ...]
    seconds: Mapping[str, float]
    starts: Starts | None = None


def summarise(root: str) -> Summary:
    """The results in a run directory, of the steps that are committed. Raises UserError when the folder is none."""
    manifest = read_manifest(root)
    records = dict(read_steps(root))
    done = {name: record["committed"] for name, record in records.items() if record.get("committed")}
    first = first_model(records, manifest["config"])
    evaluated = _evaluated(done, first, manifest.get("final", {}).get("round"))
    gain = None
    if {first, SEMIEVOL} <= set(evaluated):
        steps = [_step(root, evaluated[model]) for model in (SEMIEVOL, first)]
        gain = paired_difference(correctness(steps[0]), correctness(steps[1]), asked(steps[0]))
    return Summary(
        name=str(manifest["name"]),
        root=root,
        first=first,
        accuracies=tuple(_accuracy(model, done[name]["metrics"]) for model, name in evaluated.items()),
        gain=gain,
        pseudo_labels=tuple(_pseudo_labels(name, c) for name, c in sorted(done.items()) if _is_selection(name)),
        seconds=_seconds(root, done),
        starts=engine_starts(read_events(root)),
    )


def first_model(records: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]) -> str:
    """What the rounds begin with: the labels alone, an adapter made elsewhere, or M_base (`method.warm_up: false`).

    records: step.json by the names of steps. Until there is an M_warm the configuration says what it will be.
    """
    method, record = config.get("method") or {}, records.get("rounds/0000/train")
    if record is None:
        is_imported = bool(method.get("warm_adapter"))
        return UNTOUCHED if method.get("warm_up") is False else IMPORTED if is_imported else LABELS_ONLY
    return IMPORTED if record["settings"].get("imported") else LABELS_ONLY


def render(found: Summary) -> str:
    """The summary as text that fits 80 columns."""
    blocks = [_accuracy_table(found), _pseudo_label_table(found), _time_table(found), f"run: {found.root}"]
    return "\n\n".join(block for block in blocks if block)


def _accuracy_table(found: Summary) -> str:
    if not found.accuracies:
        return "No test split is configured, so no accuracy is known."
    rows = [
        (a.model, tables.percent(a.accuracy.value), tables.interval(a.accuracy.low, a.accuracy.high),
         tables.count(a.num_rows), tables.count(a.num_unreadable))
        for a in found.accuracies
    ]  # fmt: skip
    lines = tables.table(("test split", "accuracy", "95% interval", "rows", "unreadable"), rows)
    return f"{lines}\n{_gain_line(found.gain, found.first)}" if found.gain else lines


def _gain_line(gain: Interval, first: str) -> str:
    points, low, high = (100 * value for value in (gain.value, gain.low, gain.high))
    note = ", which includes 0" if low <= 0 <= high else ""
    return f"SemiEvol - {first}: {points:+.1f} points\n  (paired 95% interval {low:+.1f} to {high:+.1f}{note})"


def _pseudo_label_table(found: Summary) -> str:
    header = ("pseudo-labels", "precision before", "after selection", "accepted", "of rows", "coverage")
    rows = [
        (f"round {p.round}", tables.percent(p.precision_before), tables.percent(p.precision_after),
         tables.count(p.num_accepted), tables.count(p.num_rows), tables.percent(p.coverage))
        for p in found.pseudo_labels
    ]  # fmt: skip
    if not rows:
        return ""
    unknown = all(p.precision_before is None for p in found.pseudo_labels)
    return tables.table(header, rows) + "\nNo gold answer is known, so no precision either." * unknown


def _time_table(found: Summary) -> str:
    rows = [(name, tables.seconds(value)) for name, value in found.seconds.items()]
    table = tables.table(("step", "time"), [*rows, ("together", tables.seconds(sum(found.seconds.values())))])
    return f"{table}\nof which engine starts: {starts_shown(found.starts)}" if found.starts else table


def _evaluated(done: Mapping[str, Any], first: str, final: int | None) -> dict[str, str]:
    """Which evaluation step stands for which model; SemiEvol's is that of the round that the run handed over."""
    rounds = sorted(name for name in done if name.startswith("rounds/") and name.endswith("/evaluate"))
    later = [name for name in rounds if name != "rounds/0000/evaluate"]
    chosen = f"rounds/{final:04d}/evaluate" if final is not None else later[-1] if later else ""
    others = {f"after round {int(name.split('/')[1])}": name for name in later if name != chosen}
    began = {} if first == UNTOUCHED else {first: "rounds/0000/evaluate"}
    models = {UNTOUCHED: "base/evaluate", **began, **others, SEMIEVOL: chosen}
    return {model: name for model, name in models.items() if name in done}


def _accuracy(model: str, metrics: Mapping[str, Any]) -> Accuracy:
    value = Interval(metrics["accuracy"], metrics["accuracy_low"], metrics["accuracy_high"])
    return Accuracy(model, value, metrics["num_rows"], metrics["num_unreadable"])


def _is_selection(name: str) -> bool:
    return name.startswith("rounds/") and name.endswith("/select") and "/dev/" not in name


def _pseudo_labels(name: str, committed: Mapping[str, Any]) -> PseudoLabels:
    metrics = committed["metrics"]
    accepted = next(row["rows"] for row in metrics["decisions"] if row["decision"] == "accepted")
    return PseudoLabels(
        round=int(name.split("/")[1]),
        precision_before=metrics["precision_all"],
        precision_after=metrics["precision_accepted"],
        coverage=metrics["coverage"],
        num_accepted=accepted,
        num_rows=committed["num_rows"],
    )


def _step(root: str, name: str) -> Step:
    path = f"{root}/{name}"
    return Step(path, name, tuple(Step(path, name, ()).record()["parts"]))


def _seconds(root: str, done: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of every step in the order of commits; steps that shared an engine stand together as its session.

    What commands did with the run after it is left out.
    """
    events = list(of_the_run(read_events(root)))
    sessions = [session for session in engine_sessions(events) if session.ended]
    answered = {job for session in sessions for job in session.jobs}
    took = [(str(session.ended), f"{session.name} engine", session.seconds) for session in sessions]
    commits = {e["step"]: e["time"] for e in events if e["kind"] == "step_committed" and e["step"] in done}
    took += [(at, step, done[step]["seconds"]) for step, at in commits.items() if step not in answered]
    spent: dict[str, float] = {}
    for _, name, seconds in sorted(took):
        spent[name] = spent.get(name, 0.0) + seconds
    return spent
