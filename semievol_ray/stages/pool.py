"""The unlabeled pool, cut by tasks: chunks are read, one task decides which rows stay, and parts are cut of those.

Invariant: nothing that grows with the rows is in the driver, which knows chunks, parts and counts. `data/read` and
`data/kept` stand only until the pool is committed; a kill at any point costs the chunks and parts in flight.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from semievol_ray.errors import DataError
from semievol_ray.runs import Step
from semievol_ray.stages import chunks
from semievol_ray.stages.chunks import Chunks
from semievol_ray.stages.cluster import map_parts
from semievol_ray.stages.counting import facts_of
from semievol_ray.stages.cutter import Cutter, ids_in, inputs_of, part_rows, told
from semievol_ray.stages.poolread import Pool, cut_chunk, owners, read_chunk
from semievol_ray.stages.ranges import Piece
from semievol_ray.stages.reading import no_rows, reading_note
from semievol_ray.stages.scaffold import remove, resumed
from semievol_ray.stages.sources import file_sizes
from semievol_ray.stages.verdict import decide

READ, KEPT, ROWS, GOLD = "data/read", "data/kept", "data/unlabeled", "data/gold"
SMALL_BYTES = 4 << 20
"""Files up to this size, some 20,000 short rows, are read in this process: sooner done than tasks are started."""


def cut_pool(cutter: Cutter, above: dict[str, Step]) -> tuple[Step, Step]:
    """The committed steps of the pool's rows and of their gold answers."""
    source = cutter.config.data.unlabeled
    settings, inputs = cutter.settings(source.sample), inputs_of(source.path, above)
    rows, gold = cutter.done(ROWS, settings, inputs), cutter.done(GOLD, settings, inputs)
    if not (rows and gold):
        try:
            rows, gold = _Pooling(cutter, above, settings, inputs).cut()
        except DataError:
            _clear(cutter)  # once it is mended the file is another one
            raise
    _clear(cutter)
    return rows, gold


def _clear(cutter: Cutter) -> None:
    for name in (KEPT, READ):
        remove(cutter.run, name)


class _Pooling:
    """One pool being cut."""

    def __init__(
        self, cutter: Cutter, above: dict[str, Step], settings: dict[str, Any], inputs: dict[str, str]
    ) -> None:
        self.cutter, self.above, self.settings, self.inputs = cutter, above, settings, inputs
        self.source = cutter.config.data.unlabeled
        self.sizes = file_sizes(self.source.path)
        self.is_small = sum(self.sizes.values()) <= SMALL_BYTES

    def cut(self) -> tuple[Step, Step]:
        """Read, decide, cut: each a step that goes on where a kill left it."""
        read = self._read()
        pool = self._decided(read)
        rows, gold = (
            self.cutter.run.step(name, settings=self.settings, inputs=self.inputs, parts=pool.parts)
            for name in (ROWS, GOLD)
        )
        counts = {name: self._verdict(pool.kept)[name] for name in ("read", "duplicates", "in_higher_split")}
        missing = owners(pool, [*rows.missing_parts(), *gold.missing_parts()])
        self._follow("cutting the pool", missing, cut_chunk, pool=pool, rows=rows, gold=gold)
        for step in (rows, gold):
            self._commit(step, counts)
        return rows, gold

    def _commit(self, step: Step, counts: Mapping[str, object]) -> None:
        means, num = self.cutter.means, len(step.parts)
        with nullcontext() if self.is_small else means.follow(f"reading back {step.name}", num, "parts") as bar:
            on_part = bar.advance if bar else lambda: None
            self.cutter.run.commit(step, counts, measure=lambda step: facts_of(step, means.start, on_part))

    def _read(self) -> Step:
        if note := reading_note(self.source.path, self.cutter.task):
            self.cutter.means.say(note)
        settings, inputs = self.cutter.settings(None), {"file": self.inputs["file"]}
        cut = self._begun_chunks(settings, inputs) or chunks.chunks_of(self.sizes, self._mapped)
        noted = {name: [vars(piece) for piece in pieces] for name, pieces in cut.items()}
        step = self.cutter.run.step(READ, settings=settings, inputs=inputs, parts=list(cut), numerics={"chunks": noted})
        missing = step.missing_parts()
        self._follow(
            "reading the pool",
            missing,
            read_chunk,
            step=step,
            files=tuple(self.sizes),
            chunks=cut,
            task=self.cutter.task,
        )
        self.cutter.run.commit(step, {})
        if not step.num_rows():
            raise no_rows(self.source.path)
        return step

    def _decided(self, read: Step) -> Pool:
        inputs = {"read": read.digest(), **{name: step.digest() for name, step in self.above.items()}}
        resumed(self.cutter.run, KEPT, self.settings, inputs)
        kept = self.cutter.run.step(KEPT, settings=self.settings, inputs=inputs, parts=read.parts)
        if not kept.committed():
            self._decide(read, kept)
        found = self._verdict(kept)
        for line in told(self.source.path, found["mapped"], found["replaced"], found["example"]):
            self.cutter.means.say(line)
        if not sum(found["num_kept"]):
            raise DataError(f"{self.source.path}: every row also stands in the labeled or test split; no pool is left.")
        return Pool(read, kept, tuple(found["num_kept"]), int(found["part_rows"]))

    def _decide(self, read: Step, kept: Step) -> None:
        config, taken = self.cutter.config, tuple(ids_in(self.above.values()))
        sample = self.source.sample
        (row,) = self._mapped(decide, ["all"], read=read, kept=kept, taken=taken, sample=sample, seed=config.seed)
        verdict = json.loads(row["verdict"])
        size = part_rows(config.speed.part_rows, sum(verdict["num_kept"]))
        self.cutter.run.commit(kept, {**verdict, "part_rows": size})

    def _verdict(self, kept: Step) -> dict[str, Any]:
        return dict((kept.committed() or {})["metrics"])

    def _begun_chunks(self, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> Chunks:
        """The chunks that reading was begun with; none where it was not, or with other rows."""
        record = resumed(self.cutter.run, READ, settings, inputs) or {"numerics": {}}
        noted = record["numerics"].get("chunks", {})
        return {part: tuple(Piece(**piece) for piece in pieces) for part, pieces in noted.items()}

    def _follow(self, what: str, parts: Sequence[str], function: Any, **constants: Any) -> None:
        if not parts:
            return
        if self.is_small:
            for _ in self._mapped(function, parts, **constants):
                pass
            return
        with self.cutter.means.follow(what, len(parts), "chunks") as bar:
            for _ in self._mapped(function, parts, **constants):
                bar.advance(1)

    def _mapped(self, function: Any, parts: Sequence[str], **constants: Any) -> Iterable[Mapping[str, Any]]:
        if self.is_small:
            return [function({"part": part}, **constants) for part in parts]
        if parts:
            self.cutter.means.start()
        return map_parts(function, parts, **constants)
