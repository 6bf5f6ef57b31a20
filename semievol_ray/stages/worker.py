"""The actor of a session: answers parts with its engine and commits them, those under suspicion row by row.

Invariant: an attempt is noted once a part, before its work; a part commits whole or not at all.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

from semievol_ray import logs
from semievol_ray.stages import ledger, notices
from semievol_ray.stages.answering import Asker, Load
from semievol_ray.stages.curfew import Curfew
from semievol_ray.stages.gate import Gate
from semievol_ray.stages.heartbeat import Rows
from semievol_ray.stages.isolation import SUSPECT_PART, plan, refusing, with_error
from semievol_ray.stages.jobs import COLUMNS, Job, PartReport, Session, answered, sliced, source_of
from semievol_ray.stages.justify import JustifyJob
from semievol_ray.stages.life import Life
from semievol_ray.stages.patience import Patience

NUM_SAMPLES = 3
Answer = Callable[[Job, Asker], Awaitable[pa.Table]]


class EngineWorker:
    """Hosts the session's engine and commits parts. `patience` None: in a process that nobody watches, for tests."""

    def __init__(self, session: Session, patience: Patience | None = None) -> None:
        import ray

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        context = ray.get_runtime_context()
        self._session, self._gate, self._load = session, Gate(), Load()
        self._curfew = Curfew(session.deadline)
        self._life = Life(session, context.get_actor_id() or "", context.get_node_id(), patience)
        if patience is not None:
            logs.in_worker()
        run_name = session.jobs[0].step.root.rpartition("/")[2]
        self._log = logs.bound(__name__, run=run_name, session=session.name, replica=self._life.replica)

    async def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        part, jobs = str(batch["part"][0]), [self._session.jobs[int(i)] for i in batch["jobs"][0]]
        await self._life.admitted()
        kind = "+".join(sorted(type(job).__name__ for job in jobs))
        reports = await self._curfew.kept(kind, lambda: self._done(part, jobs))
        return {"reports": [[asdict(report) for report in reports or ()]]}

    async def _done(self, part: str, jobs: Sequence[Job]) -> list[PartReport]:
        """Commit a part of every job; those that an actor committed before it died are only reported."""
        book = jobs[0].step
        if all(job.step.has_part(part) for job in jobs):
            return await self._done_whole(part, jobs)
        made = ledger.tries(book, part)
        if ledger.suspicion(made, None, book.fence) >= SUSPECT_PART:
            reports = await self._done_apart(part, jobs)
        else:
            async with self._gate.shared():
                await self._life.admitted()
                with self._life.mortal(), self._attempt(jobs[0], part, None):
                    reports = await self._done_whole(part, jobs)
        return [replace(report, attempt=len(made) + 1) for report in reports]

    async def _done_whole(self, part: str, jobs: Sequence[Job]) -> list[PartReport]:
        async def answer(job: Job, asker: Asker) -> pa.Table:
            return await answered(job, part, asker)

        first = [self._commit(job, part, answer) for job in jobs if not isinstance(job, JustifyJob)]
        reports = list(await asyncio.gather(*first))
        return reports + [await self._commit(job, part, answer) for job in jobs if isinstance(job, JustifyJob)]

    async def _done_apart(self, part: str, jobs: Sequence[Job]) -> list[PartReport]:
        """With the engine to itself, so that its end tells of nothing else."""

        async def answer(job: Job, asker: Asker) -> pa.Table:
            return await self._answered_apart(job, part, jobs[0], asker)

        async with self._gate.alone():
            await self._life.admitted()
            with self._life.mortal():
                return [await self._commit(job, part, answer) for job in jobs]

    async def _answered_apart(self, job: Job, part: str, first: Job, asker: Asker) -> pa.Table:
        """The output for one part, span by span; rows that ended their engine alone, twice, are not asked again."""
        made, fence = ledger.tries(first.step, part), first.step.fence
        spans, given_up = plan(source_of(job).num_rows((part,)), lambda rows: ledger.suspicion(made, rows, fence))
        tables: dict[Rows, pa.Table] = {}
        for row in given_up:
            rows = (row, row + 1)
            seen = ledger.last_seen(made, rows)
            table = await answered(sliced(job, rows), part, refusing(asker))
            tables[rows] = with_error(table, f"this row ended its engine twice: {seen}")
        for rows in spans:
            with self._attempt(first, part, rows):
                tables[rows] = await answered(sliced(job, rows), part, asker)
            notices.tell(self._life.board, notices.ROWS_DONE)
        return pa.concat_tables([tables[rows] for rows in sorted(tables)])

    @contextmanager
    def _attempt(self, first: Job, part: str, rows: Rows | None) -> Iterator[None]:
        """An attempt, noted in the ledger of the first job's step, in hand while the block runs."""
        source = source_of(first).part_path(part)
        who = {"replica": self._life.replica, "node": self._life.node}
        ticket = ledger.begin(first.step, part, source, rows, **who)
        self._life.pulse.hold(ticket)
        try:
            yield  # no `finally`: of an attempt that failed the end is noted by who sees it
        except asyncio.CancelledError:  # by the deadline, which is nobody's fault
            ledger.end(ticket, "left")
            self._life.pulse.drop(ticket)
            raise
        if rows is not None:
            ledger.end(ticket, "done")
        self._life.pulse.drop(ticket)

    async def _commit(self, job: Job, part: str, answer: Answer) -> PartReport:
        """Answer and commit a part; one that another actor committed first is read back."""
        began, seen, columns = time.monotonic(), list[int](), COLUMNS[type(job)]
        if job.step.has_part(part):
            table = job.step.read_part(part, columns)
        else:
            table = await answer(job, self._asker(seen))
            if not job.step.commit_part(part, table):
                table = job.step.read_part(part, columns)
        seconds = round(time.monotonic() - began, 3)
        told = {"step": job.step.name, "part": part, "num_rows": table.num_rows, "seconds": seconds}
        self._log.info("part committed", extra={"about": told})
        return self._report(job, part, table, seconds, float(statistics.median(seen or [0])))

    def _asker(self, seen: list[int]) -> Asker:
        session, engine = self._session, self._life.engine
        assert engine is not None
        return Asker(engine, session.task, session.spec.max_model_len, session.template_date, self._load, seen)

    def _report(self, job: Job, part: str, table: pa.Table, seconds: float, outstanding: float) -> PartReport:
        errors = [e for e in table.column("error").to_pylist() if e is not None]
        read = zip(table.column("text").to_pylist(), table.column("answer").to_pylist(), strict=True)
        unreadable = [text for text, answer in read if text is not None and answer is None]
        looked_up, found = self._life.prefixes.taken()
        return PartReport(
            step=job.step.name,
            part=part,
            replica=self._life.replica,
            node=self._life.node,
            num_rows=table.num_rows,
            num_errors=len(errors),
            num_tokens=sum(table.column("num_tokens").to_pylist()),
            num_prompt_tokens=sum(table.column("num_prompt_tokens").to_pylist()),
            seconds=seconds,
            median_outstanding=outstanding,
            first_error=errors[0] if errors else None,
            num_unreadable=len(unreadable),
            unreadable=unreadable[:NUM_SAMPLES],
            num_looked_up=looked_up,
            num_found=found,
            start_seconds=self._life.start_seconds,
        )
