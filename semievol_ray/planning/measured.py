"""What a pilot's run tells of the cost of each kind of step: from its events, its bars and its files.

Invariant: only the pilot's own folder is read; a step that the pilot did not do has no rate.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import fmean, stdev
from typing import Any

from semievol_ray import storage
from semievol_ray.config import RunConfig
from semievol_ray.core.planning import ZERO, Rate, Span, around
from semievol_ray.core.saturation import Piece, while_full
from semievol_ray.core.workload import ANSWERS, EMBEDDED, kind_of
from semievol_ray.engines.batches import num_steps
from semievol_ray.listing import read_listing
from semievol_ray.placement import Resources, place_embedding
from semievol_ray.planning.stopwatch import Lap
from semievol_ray.runs import read_events, read_steps
from semievol_ray.sessions import engine_sessions, of_the_run

LEAST_SPREAD, START_SPREAD = 0.10, 0.3
"""The least share by which engines' paces, and the times of things that happen once, are taken to vary."""
Event = Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """Rates by step of the pilot, what each of its sessions took once, and what the run took besides its units.

    `accepted` is the share of the pool that its selection accepted.
    """

    rates: Mapping[str, Rate]
    starts: Mapping[str, Span]
    once: Span
    accepted: float


def measured(root: str, config: RunConfig, laps: Mapping[str, Lap], resources: Resources) -> Measured:
    """The rates of a finished pilot on `resources`; `config` is the pilot's own, `laps` are its bars."""
    records = {name: record for name, record in read_steps(root) if record.get("committed")}
    events, files = read_events(root), storage.sizes(root)
    sessions = sessions_of(events)
    rates = {name: _plain(name, record, records, config, laps) for name, record in records.items()}
    embedded = [name for name in rates if kind_of(name) in EMBEDDED]
    rates |= {name: _on_one(rates[name], records[name], resources) for name in embedded}
    for session in sessions:
        rates |= session.rates(records)
    rates = {name: _with_files(name, rate, _rows_of_parts(root, name), files) for name, rate in rates.items()}
    starts = {session.name: session.start for session in sessions}
    spent = sum(s.seconds for s in sessions) + sum(
        r["committed"]["seconds"] for n, r in records.items() if kind_of(n) not in ANSWERS
    )
    whole = driven_seconds(events)
    accepted = records["rounds/0001/select"]["committed"]["metrics"]["coverage"]
    return Measured(rates, starts, around(max(0.0, whole - spent), START_SPREAD), float(accepted))


def driven_seconds(events: Sequence[Event]) -> float:
    """Seconds in which a driver was at work on the run itself: from each start to its last event."""
    total, began, last = 0.0, 0.0, 0.0
    for event in of_the_run(events):
        if event["kind"] == "run_started":
            total += last - began
            began = _time(event)
        last = _time(event)
    return total + last - began


@dataclass(frozen=True)
class Session:
    """One session of the pilot: when it began and ended, and the reports of its parts."""

    name: str
    began: float
    ended: float
    reports: tuple[Event, ...]

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def start(self) -> Span:
        """What it takes besides its parts: until the first is begun, and after the last was committed."""
        if not self.reports:
            return around(self.seconds, START_SPREAD)
        pieces = [p for pieces in self.calls().values() for p in pieces]
        first, last = min(p.began for p in pieces), max(p.ended for p in pieces)
        ramp = fmean(p.ended - p.began for p in pieces) / 2  # the last parts run out while others have ended
        return around(max(0.0, first - self.began) + max(0.0, self.ended - last) + ramp, START_SPREAD)

    def calls(self) -> dict[tuple[str, str], list[Piece]]:
        """(replica, call) -> its pieces; the jobs of one part are one call."""
        told: defaultdict[tuple[str, str], list[Event]] = defaultdict(list)
        for r in self.reports:
            told[r["replica"], f"{_source(r['step'])}/{r['part']}"].append(r)
        return {key: _pieces(key[1], reports) for key, reports in told.items()}

    def rates(self, records: Mapping[str, Event]) -> dict[str, Rate]:
        """The rate on one replica of every step that it answered."""
        by_replica: defaultdict[str, list[Piece]] = defaultdict(list)
        for (replica, _), pieces in self.calls().items():
            by_replica[replica] += pieces
        paces = [while_full(pieces).row_seconds for pieces in by_replica.values()]
        return {step: _answered(step, paces, self.reports, records) for step in _steps(self.reports)}


def _pieces(call: str, reports: Sequence[Event]) -> list[Piece]:
    """When the steps of one call were worked on: reports come together at its end, and the justification is last."""
    end = max(map(_time, reports))
    last = max((r["seconds"] for r in reports if kind_of(r["step"]) == "justify"), default=0.0)
    ends = [end if kind_of(r["step"]) == "justify" else end - last for r in reports]
    return [Piece(r["step"], call, r["num_rows"], at - r["seconds"], at) for r, at in zip(reports, ends, strict=True)]


def _answered(
    step: str, paces: Sequence[Mapping[str, float]], reports: Sequence[Event], records: Mapping[str, Event]
) -> Rate:
    mine = [r for r in reports if r["step"] == step and r["num_rows"]]
    rows, metrics = sum(r["num_rows"] for r in mine), records[step]["committed"]["metrics"]
    largest = max((r["num_rows"] for r in mine), default=0)
    seconds = fmean(pace[step] for pace in paces if step in pace)
    return Rate(
        fixed_seconds=ZERO,
        seconds=around(seconds, _spread([r["seconds"] for r in mine if r["num_rows"] == largest])),
        prompt_tokens=metrics["num_prompt_tokens"] / max(rows, 1),
        tokens=metrics["num_tokens"] / max(rows, 1),
        token_price=metrics.get("cost", 0.0) / max(rows, 1),
    )


def _plain(name: str, record: Event, records: Mapping[str, Event], config: RunConfig, laps: Mapping[str, Lap]) -> Rate:
    """A step that no session answers: what it took once, and for each row (or optimizer step) as its bar went."""
    seconds, lap = record["committed"]["seconds"], laps.get(_bar(name))
    amount = _amount(name, records, config)
    each = lap.unit_seconds * lap.marks[-1][1] / max(amount, 1) if lap and lap.unit_seconds else None
    if each is None:  # nothing tells what of it grows: at best nothing, at worst all of it
        return Rate(Span(0.0, seconds, seconds), Span(0.0, 0.0, seconds / max(amount, 1)))
    return Rate(around(max(0.0, seconds - each * amount), START_SPREAD), around(each, LEAST_SPREAD))


def _on_one(rate: Rate, record: Event, resources: Resources) -> Rate:
    """The rate on one embedder of a step that as many did as its parts were placed on."""
    return replace(rate, seconds=rate.seconds.times(place_embedding(resources, len(record["parts"])).num))


def _amount(name: str, records: Mapping[str, Event], config: RunConfig) -> int:
    """What takes the time of a step: optimizer steps, the rows of all splits, or its own rows."""
    rows = {of: int(record["committed"]["num_rows"]) for of, record in records.items()}
    if kind_of(name) == "train":
        folder = name.removesuffix("/train") if name.startswith("rounds/") else "rounds/0000"
        return num_steps(config.train, rows[f"{folder}/examples"])
    if kind_of(name) == "near_duplicates":
        return sum(rows.get(f"data/{split}", 0) for split in ("labeled", "unlabeled", "test"))
    return rows[name]


def _bar(step: str) -> str:
    """The name of the bar that a step shows."""
    names = step.split("/")
    if step.endswith("/train"):
        return step.replace("rounds/", "round ").replace("/", " ")
    if names[-1] == "retrieve":
        return f"round-{int(names[1])} {'dev/' if 'dev' in names else ''}retrieve"
    if names[-1] == "select" and "dev" not in names:
        return f"round-{int(names[1])} select"
    return {"data/near_duplicates": "near duplicates"}.get(step, step)


def _with_files(name: str, rate: Rate, rows: Mapping[str, int], files: Mapping[str, int]) -> Rate:
    """The rate with the bytes and files that its step left; what lies beside its parts is what it leaves once."""
    own = {path.removeprefix(f"{name}/"): size for path, size in files.items() if path.startswith(f"{name}/")}
    own = {path: size for path, size in own.items() if path.count("/") < 2 or path.startswith("attempts")}
    parts = {path: size for path, size in own.items() if path.endswith(".parquet") and "/" not in path}
    noted = [path for path in own if path.startswith("attempts/")]
    num = max(1, len(parts))
    return replace(
        rate,
        row_bytes=_row_bytes(parts, rows),
        fixed_bytes=float(sum(own.values()) - sum(parts.values())),
        part_files=1 + len(noted) / num,
        fixed_files=float(len(own) - len(parts) - len(noted)),
    )


def _rows_of_parts(root: str, name: str) -> dict[str, int]:
    return {part: facts.num_rows for part, facts in read_listing(f"{root}/{name}").items()}


def _row_bytes(parts: Mapping[str, int], rows: Mapping[str, int]) -> float:
    """Bytes of a row in the fullest parts: what every part has once weighs more in the last, shorter one."""
    fullest = [path for path in parts if rows.get(path.removesuffix(".parquet")) == max(rows.values(), default=0)]
    num_rows = sum(rows[path.removesuffix(".parquet")] for path in fullest)
    return sum(parts[path] for path in fullest) / num_rows if num_rows else 0.0


def sessions_of(events: Sequence[Event]) -> list[Session]:
    """The sessions that came to their own end, in order."""
    return [
        Session(of.name, _seconds(of.began), _seconds(str(of.ended)), tuple(of.reports))
        for of in engine_sessions(events)
        if of.is_whole
    ]


def _steps(reports: Sequence[Event]) -> list[str]:
    return list(dict.fromkeys(r["step"] for r in reports))


def _source(step: str) -> str:
    """Which rows a step answers: those of one part are one call."""
    kind = kind_of(step)
    return kind if kind in ("evaluate", "validation") else "dev" if "dev" in step.split("/") else "pool"


def _spread(values: Sequence[float]) -> float:
    """The share by which a pace may be off: twice its standard error, and LEAST_SPREAD at least."""
    if len(values) < 2:
        return 3 * LEAST_SPREAD
    return max(LEAST_SPREAD, 2 * stdev(values) / math.sqrt(len(values)) / fmean(values)) if fmean(values) else 0.0


def _time(event: Event) -> float:
    return _seconds(event["time"])


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
