"""How every row of a run's pool stands: its last decision, label, vote and answers, part by part.

Invariant: a row stands as the last round that answered it left it; memory holds one part, whatever the run's size.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from semievol_ray import schema
from semievol_ray.alignment import check_covers
from semievol_ray.configfile import parse
from semievol_ray.core.selection import Decision
from semievol_ray.errors import UserError
from semievol_ray.runs import Step, read_manifest, read_steps
from semievol_ray.tasks import Task

Which = Literal["accepted", "rejected", "all"]
Row = dict[str, Any]
_SELECTED = re.compile(r"rounds/\d+/select")


@dataclass(frozen=True)
class Round:
    """The committed selection of one round, and what it was made from."""

    number: int
    justified: Step
    selection: Step


@dataclass(frozen=True)
class Outcomes:
    """What rows are read from: the pool, the selected rounds in order, and ids that people labeled since."""

    name: str
    task: Task
    collaborators: tuple[str, ...]
    pool: Step
    rounds: tuple[Round, ...]
    annotated: frozenset[str]


def open_outcomes(root: str) -> Outcomes:
    """What a run has to export. Raises UserError when the folder is no run or no round is selected yet."""
    manifest = read_manifest(root)
    config = parse(manifest["config"], f"{root}/manifest.json")
    done = {name: record for name, record in read_steps(root) if record.get("committed")}
    folders = sorted(name.rpartition("/")[0] for name in done if _SELECTED.fullmatch(name))
    if not folders:
        raise UserError(
            f"no round of {root} is selected yet, so no row has a decision to export. `semievol status {root}` shows "
            "how far the run is; `semievol run` with its configuration goes on."
        )
    steps = {name: Step(f"{root}/{name}", name, tuple(record["parts"])) for name, record in done.items()}
    rounds = [Round(int(f.split("/")[1]), steps[f"{f}/justify"], steps[f"{f}/select"]) for f in folders]
    people = [step for name, step in steps.items() if name.startswith("data/annotations-")]
    return Outcomes(
        name=str(manifest["name"]),
        task=config.resolve_task(),
        collaborators=tuple(c.name for c in config.method.collaborators),
        pool=steps["data/unlabeled"],
        rounds=tuple(rounds),
        annotated=frozenset(
            i for s in people for p in s.parts for i in s.read_part(p, schema.LABELED)["id"].to_pylist()
        ),
    )


def rows_by_part(outcomes: Outcomes, which: Which) -> Iterator[list[Row]]:
    """The rows of each part of the pool, in order, under fixed names: question, options, group, label and so on."""
    digests = {r.number: {"run": outcomes.name, "select": r.selection.digest(), "justify": r.justified.digest()}
               for r in outcomes.rounds}  # fmt: skip
    for part in outcomes.pool.parts:
        latest: dict[str, Row] = {}
        for of_round in outcomes.rounds:
            latest |= _decided(outcomes, of_round, part, digests[of_round.number])
        pool = outcomes.pool.read_part(part, schema.UNLABELED).to_pylist()
        rows = [{**row, **latest[row["id"]]} for row in pool if row["id"] in latest]
        yield [row for row in rows if _wanted(row, which, outcomes.annotated)]


def _wanted(row: Row, which: Which, annotated: frozenset[str]) -> bool:
    accepted = bool(row["decision"] == Decision.ACCEPTED.value)
    match which:
        case "accepted":
            return accepted
        case "rejected":
            return not accepted and row["id"] not in annotated
        case "all":
            return True


def _decided(outcomes: Outcomes, of_round: Round, part: str, provenance: Mapping[str, str]) -> dict[str, Row]:
    """id -> what one round made of the row; a round that answered only the rejected has no others."""
    if part not in of_round.selection.parts:
        return {}
    selected = of_round.selection.read_part(part, schema.SELECTION)
    answered = of_round.justified.read_part(part, schema.JUSTIFIED)
    check_covers(part, (of_round.selection, selected), (of_round.justified, answered))
    justified = {row["id"]: row for row in answered.to_pylist()}
    return {
        row["id"]: {
            **{key: row[key] for key in ("label", "confidence", "decision", "reason")},
            "round": of_round.number,
            **{key: justified[row["id"]][key] for key in ("vote", "vote_share", "label_source")},
            "answers": dict(zip(outcomes.collaborators, justified[row["id"]]["answers"], strict=True)),
            "source": "pseudo",
            "provenance": dict(provenance),
        }
        for row in selected.to_pylist()
    }
