"""What the order of demonstrations costs and saves: nearest last, as the product shows them, against an order by text.

`python -m benchmarks.generate_order [--rows N] [--quick] [--out FILE]`: greedy drafts of the same rows with the same
demonstrations in both orders, right or wrong by row, and the share of prompt tokens that the prefix cache held.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import generate
from benchmarks.environment import commit, environment
from benchmarks.generate_arms import raw
from benchmarks.generate_plan import Answers, Messages, Pass, Plan, load, save
from benchmarks.scale_child import Phase, noted_in
from benchmarks.scale_watch import measured
from semievol_ray.core.metrics import paired_difference

ORDERS = ("nearest last", "nearest last, side by side", "by text, side by side")
"""As shown and in the rows' own order; with rows that begin alike side by side; and with an order that begins alike."""


def by_text(messages: Messages) -> Messages:
    """A conversation with its demonstrations in the order of their texts, whichever row they stand in."""
    head = messages[:1] if messages[0].role == "system" else ()
    pairs = sorted(zip(*[iter(messages[len(head) : -1])] * 2, strict=True), key=lambda pair: pair[0].content)
    return (*head, *(turn for pair in pairs for turn in pair), messages[-1])


def ordered(plan: Plan, order: str) -> tuple[Plan, list[int]]:
    """The plan with one greedy pass in an order of rows and demonstrations, and the row that stands at each place."""
    first = plan.passes[0]
    messages = tuple(map(by_text, first.messages)) if order.startswith("by text") else first.messages
    ids = plan.ids_of(messages)
    rows = (
        sorted(range(len(ids)), key=lambda i: _beginning(messages[i])) if "side by side" in order else range(len(ids))
    )
    places = list(rows)
    asked = Pass(
        first.name, False, 0.0, first.max_tokens, tuple(messages[i] for i in places), tuple(ids[i] for i in places)
    )
    return replace(plan, passes=(asked,), rows=tuple(plan.rows[i] for i in places)), places


def main(arguments: Sequence[str] | None = None) -> int:
    """Draft in every order, print the table, write the result file."""
    options = _options(arguments)
    folder = Path(tempfile.mkdtemp(prefix="generate-order-"))
    try:
        plan = generate.prepared(options, "W1", folder)
        metrics = _metrics(plan, {order: _drafted(plan, order, folder / str(n)) for n, order in enumerate(ORDERS)})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(f"{name:<64} {value:>9.4f}" for name, value in metrics.items()))
    if options.out:
        result = {
            "bench": "generate_order", "command": f"python -m benchmarks.generate_order --rows {options.rows}",
            "commit": commit(), "environment": environment(), "repeats": 1, "metrics": metrics, "targets": {},
        }  # fmt: skip
        Path(options.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def work(settings: dict[str, Any], phase: Phase) -> None:
    """In a process of its own: the drafts of one plan, without justifications."""
    save(raw(load(Path(settings["plan"])), phase, reflect=False), Path(settings["out"]))


def _drafted(plan: Plan, order: str, folder: Path) -> tuple[Answers, list[str]]:
    """What an engine of its own answered, and the texts in the order of the plan's rows."""
    mine, places = ordered(plan, order)
    folder.mkdir(parents=True)
    save(mine, folder / "plan")
    settings = {"plan": str(folder / "plan"), "out": str(folder / "out")}
    measured("order", settings, folder, module="benchmarks.generate_order")
    made: Answers = load(folder / "out")
    texts = made.drafts[mine.passes[0].name]
    return made, [texts[places.index(i)] for i in range(len(places))]


def _metrics(plan: Plan, drafted: dict[str, tuple[Answers, list[str]]]) -> dict[str, float]:
    task, found = plan.task(), {}
    right = {}
    for order, (made, texts) in drafted.items():
        read = [task.parse(text, row["options"]) for text, row in zip(texts, plan.rows, strict=True)]
        pairs = zip(read, plan.gold, strict=True)
        right[order] = np.array([r is not None and task.equal(r.answer, gold) for r, gold in pairs], np.bool_)
        found[f"{order}: accuracy"] = float(right[order].mean())
        found[f"{order}: hit rate"] = (made.found or 0) / (made.looked_up or 1)
    gain = paired_difference(right[ORDERS[2]], right[ORDERS[1]])
    for end, value in {"": gain.value, ", 95% from": gain.low, ", 95% to": gain.high}.items():
        found[f"accuracy by text - nearest last{end}"] = value
    return {"rows": float(len(plan.rows)), **found}


def _beginning(messages: Messages) -> list[str]:
    return [turn.content for turn in messages[:-1]]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generate_order", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rows", type=int, help="rows to draft in each order (default: 500)")
    parser.add_argument("--quick", action="store_true", help="24 rows")
    parser.add_argument("--out", help="write the figures to this file as JSON")
    asked = parser.parse_args(arguments)
    rows = asked.rows or (24 if asked.quick else 500)
    options = generate.options_of(["--rows", str(rows)])
    options.out = asked.out
    return options


if __name__ == "__main__":
    if sys.argv[1:2] == ["order"]:
        phases = noted_in(sys.argv[3])
        with phases("all"):
            work(json.loads(sys.argv[2]), phases)
        sys.exit(0)
    sys.exit(main())
