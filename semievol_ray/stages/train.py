"""Train: D_L and everything accepted so far -> examples -> a fine-tuned adapter of M_base, on Ray Train.

Invariant: every fine-tuning starts from M_base; the step commits only after its saved adapter was re-opened, checked.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from semievol_ray import schema, storage
from semievol_ray.alignment import check_aligned
from semievol_ray.core.selection import Decision
from semievol_ray.engines import checkpoints
from semievol_ray.engines.adapters import adapter_digest, verify_adapter
from semievol_ray.engines.finetune import FinetuneSpec, identity_of, read_examples
from semievol_ray.events import LineReader
from semievol_ray.records import parsed
from semievol_ray.runs import Step
from semievol_ray.stages.cluster import map_parts
from semievol_ray.stages.pools import ids_of
from semievol_ray.stages.raytrain import fit

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Accepted:
    """One round's pool, selection and number."""

    pool: Step
    selection: Step
    round: int


@dataclass(frozen=True)
class Learned:
    """What a fine-tuning learns from: D_L, rows that people labeled meanwhile, and the rounds' accepted rows.

    An accepted row that a person labeled counts as theirs.
    """

    labeled: Step
    annotations: tuple[Step, ...] = ()
    accepted: tuple[Accepted, ...] = ()

    def parts(self) -> list[str]:
        """Names of the parts of EXAMPLES: the labeled parts, the annotated ones, then each round's pool parts."""
        names = [f"labeled-{part}" for part in self.labeled.parts]
        names += [f"annotated-{i:04d}-{part}" for i, step in enumerate(self.annotations) for part in step.parts]
        return names + [f"round-{a.round:04d}-{part}" for a in self.accepted for part in a.pool.parts]


def write_examples(
    step: Step, learned: Learned, pseudo_weight: float, on_part: Callable[[], None] = lambda: None
) -> None:
    """Commit EXAMPLES: gold rows with weight 1, accepted rows with `pseudo_weight`."""
    people = ids_of(learned.annotations)
    for _ in map_parts(
        _write_examples, step.missing_parts(), step=step, learned=learned, people=people, weight=pseudo_weight
    ):
        on_part()


def train(
    spec: FinetuneSpec,
    num_workers: int,
    cpus: float,
    gpus: float,
    on_step: Callable[[dict[str, Any]], None],
    on_silence: Callable[[float], None],
) -> tuple[dict[str, float], str]:
    """Fine-tune on Ray Train, from the last checkpoint on; metrics and the digest of the adapter saved in `spec.out`.

    `on_step` gets the lines of the loss curve as they come, each step's once, `on_silence` the seconds since the last
    whenever another `speed.stall_seconds` are over without one. The checkpoints stay, for whoever commits what was
    learned to delete. Raises RunStopped when it fails or stops before its end, ConfigError when the checkpoints are of
    another fine-tuning, AdapterError when the saved adapter is not usable, RunInUseError when another driver has the
    run.
    """
    spec.require_claim()
    if checkpoints.latest(spec.checkpoints, identity_of(spec)) is None:
        storage.remove_lines(spec.curve)
    with _followed(spec.curve, _once_a_step(on_step), on_silence, spec.speed.stall_seconds):
        metrics = fit(spec, num_workers, cpus, gpus)
    metrics |= {k: float(v) for k, v in verify_adapter(spec.out).items()}
    digest = adapter_digest(spec.out)
    spec.require_claim()  # else what lies there may be another driver's
    return metrics, digest


def _once_a_step(on_step: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Steps that were done again after a worker's end stand twice in the curve; they are told of once."""
    last = 0

    def tell(line: dict[str, Any]) -> None:
        nonlocal last
        if line["step"] > last:
            last = line["step"]
            on_step(line)

    return tell


def train_scripted(spec: FinetuneSpec) -> tuple[dict[str, float], str]:
    """The scripted engine's fine-tuning: same inputs and outputs, in milliseconds."""
    from semievol_ray.engines import scripted

    metrics = scripted.finetune(read_examples(spec.examples), spec.out)
    return metrics | {k: float(v) for k, v in verify_adapter(spec.out).items()}, adapter_digest(spec.out)


@contextmanager
def _followed(
    path: str, on_line: Callable[[dict[str, Any]], None], on_silence: Callable[[float], None], patience: float
) -> Iterator[None]:
    """Hands the JSON lines another process appends to a file to `on_line`, from a thread, until the block ends.

    Each time `patience` seconds pass without a line `on_silence` is told of the seconds since the last one.
    """
    ended = threading.Event()

    def follow() -> None:
        reader, heard, told = LineReader(path), time.monotonic(), 0
        while True:
            last = ended.is_set()
            for line in parsed(reader.new()):
                on_line(line)
                heard, told = time.monotonic(), 0
            if last:
                return
            silent = time.monotonic() - heard
            if silent >= patience * (told + 1):
                told += 1
                on_silence(silent)
            ended.wait(POLL_SECONDS * (10 if storage.is_remote(path) else 1))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=10)


def _write_examples(
    item: dict[str, Any], step: Step, learned: Learned, people: frozenset[str], weight: float
) -> dict[str, Any]:
    kind, number, part = _origin(item["part"])
    match kind:
        case "labeled":
            examples = _gold(learned.labeled, part, 0)
        case "annotated":
            examples = _gold(learned.annotations[number], part, 0)
        case _:
            of_round = next(a for a in learned.accepted if a.round == number)
            examples = [e for e in _pseudo_labelled(of_round, part, weight) if e["id"] not in people]
    step.commit_part(item["part"], pa.Table.from_pylist(examples, schema=schema.EXAMPLES))
    return {"rows": len(examples)}


def _origin(name: str) -> tuple[str, int, str]:
    """What a part of EXAMPLES is made from: labeled-PART, annotated-NNNN-PART or round-NNNN-PART."""
    kind, rest = name.split("-", 1)
    if kind == "labeled":
        return kind, 0, rest
    number, part = rest.split("-", 1)
    return kind, int(number), part


def _gold(labeled: Step, part: str, number: int) -> list[dict[str, Any]]:
    rows = labeled.read_part(part, schema.LABELED).to_pylist()
    return [{**row, "source": "gold", "weight": 1.0, "round": number, "confidence": None} for row in rows]


def _pseudo_labelled(accepted: Accepted, part: str, weight: float) -> list[dict[str, Any]]:
    rows = accepted.pool.read_part(part, schema.UNLABELED)
    selected = accepted.selection.read_part(part, schema.SELECTION)
    check_aligned(part, (accepted.pool, rows), (accepted.selection, selected))
    same = {"source": "pseudo", "weight": weight, "round": accepted.round}
    return [
        {**row, **same, "answer": s["label"], "confidence": s["confidence"]}
        for row, s in zip(rows.to_pylist(), selected.to_pylist(), strict=True)
        if s["decision"] == Decision.ACCEPTED.value
    ]
