"""A session: one engine group in a Ray Data actor pool answers parts until none of its jobs has one missing.

Invariant: Ray Data carries part names and small reports, never rows; an actor commits each part itself.
"""

from collections.abc import Callable
from typing import Any

from semievol_ray.engines.ladder import default_max_num_seqs
from semievol_ray.placement import Replicas
from semievol_ray.stages.beside import Overtaking
from semievol_ray.stages.cluster import streamed
from semievol_ray.stages.draft import DraftJob
from semievol_ray.stages.jobs import PartReport, Session, missing
from semievol_ray.stages.notices import board_of
from semievol_ray.stages.patience import Patience
from semievol_ray.stages.supervision import Heard, Supervisor
from semievol_ray.stages.worker import EngineWorker

FULL_POOL = 0.75
"""The share of its slots that a pool has in use when it is to grow, while parts wait and the cluster has room."""


def run_session(
    session: Session,
    replicas: Replicas,
    on_report: Callable[[PartReport], None],
    on_stats: Callable[[str], None],
    heard: Heard,
    patience: Patience,
) -> None:
    """Do every missing part; `on_report` is called in the driver as parts commit, `on_stats` once at the end.

    `heard` is told from a thread when engines end. Raises what `on_report` raises (which ends the session), and
    RunStopped when engines end again and again without a part in between.
    """
    work = missing(session)
    if not work:
        return
    items = [{"part": name.rsplit("/", 1)[1], "jobs": jobs} for name, jobs in work.items()]
    rows = _dataset(session, replicas, patience, items)
    board = board_of(session)
    with Supervisor(session.name, board, replicas.num, patience.stall_seconds, heard) as supervisor:
        for row in streamed(rows):
            for report in row["reports"]:
                supervisor.part_came()
                on_report(PartReport(**report))
    on_stats(rows.stats())


def _dataset(session: Session, replicas: Replicas, patience: Patience, items: list[dict[str, Any]]) -> Any:
    """The work as a Ray dataset. Ray Data restarts an actor whose process ended and gives its parts out again.

    That holds for a process that ends in the actor's constructor too (Ray 2.60); an exception in there would end the
    job, so that EngineWorker keeps it for the first part to raise.
    """
    import ray
    from ray.data.context import AutoscalingConfig

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        EngineWorker,
        fn_constructor_args=(session, patience),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=replicas.min_num,
            max_size=replicas.max_num,
            initial_size=replicas.num,
            max_concurrent_calls_per_actor=in_flight(session),
            max_tasks_in_flight_per_actor=in_flight(session),
        ),
        num_cpus=replicas.cpus_each,
        num_gpus=replicas.gpus_each,
        runtime_env=dict(replicas.runtime_env) or None,
    )
    # An actor has no more parts than it works on, so that the pool's use ends at 1; Ray grows it from 1.75 on.
    rows.context.autoscaling_config = AutoscalingConfig(actor_pool_util_upscaling_threshold=FULL_POOL)
    callbacks: Any = [Overtaking]  # which need not be Ray's own class
    rows.context.custom_execution_callback_classes = callbacks
    return rows


def in_flight(session: Session) -> int:
    """Parts one actor works on at once, enough for 2 x max_num_seqs requests."""
    spec = session.spec
    max_num_seqs = int(spec.speed.get("max_num_seqs", default_max_num_seqs(spec.kind, on_gpu=spec.on_gpu)))
    max_num_seqs = spec.endpoint.max_concurrency if spec.endpoint else max_num_seqs
    num_drafts = sum(isinstance(job, DraftJob) for job in session.jobs)
    return max(2, -(-2 * max_num_seqs // (session.part_rows * max(num_drafts, 1))) + 1)
