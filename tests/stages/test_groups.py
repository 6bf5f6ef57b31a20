"""What a group's session and pool are made for: the parts that are missing."""

from collections.abc import Callable

import pyarrow as pa
import pytest

from semievol_ray import schema
from semievol_ray.placement import Node, Replicas, Resources
from semievol_ray.runs import Step
from semievol_ray.stages import groups
from semievol_ray.stages.answer import Asked, drafts_of
from semievol_ray.stages.context import Context
from semievol_ray.stages.jobs import Session


def test_pool_has_the_engines_that_missing_parts_fill_and_expects_parts_of_their_size(
    step_of: Callable[..., Step],
    shown: Step,
    context_of: Callable[..., Context],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[tuple[Session, Replicas]] = []
    monkeypatch.setattr(groups, "run_session", lambda session, replicas, *_: made.append((session, replicas)))
    rows = [{"id": f"r{i}", "question": f"thing {i}", "num_copies": 1} for i in range(31)]
    pool = step_of("data/unlabeled", schema.UNLABELED, rows[:1], *[rows[i : i + 3] for i in range(1, 31, 3)])
    context = context_of(method={"collaborators": [{}]}, speed={"engine_kwargs": {"max_num_seqs": 6}})
    context.resources = Resources((Node(32, 8),) * 4)
    wanted = drafts_of(context, Asked("rounds/0001", pool, shown, None), None)
    groups.run_group(context, "round-1", wanted)
    _commit(wanted[0].job.step, pool, pool.parts[:7])
    groups.run_group(context, "round-1", wanted)
    (session, replicas), (_, resumed) = made
    assert session.part_rows == 3  # though the first part has one row
    assert replicas.num == 3  # 11 parts, of which an engine holds 5 at once
    assert resumed.num == 1


def _commit(step: Step, pool: Step, parts: tuple[str, ...]) -> None:
    nothing = {"num_tokens": 0, "num_prompt_tokens": 0, "num_demonstrations": 0}
    for part in parts:
        ids = pool.read_part(part, schema.UNLABELED).column("id").to_pylist()
        drafts = [dict.fromkeys(schema.DRAFTS.names) | nothing | {"id": row} for row in ids]
        step.commit_part(part, pa.Table.from_pylist(drafts, schema=schema.DRAFTS))
