"""Fixtures of many tests: a small labels task in files, and one whole scripted run of it, made once a session."""

import asyncio
import csv
import logging
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from s3server import S3Server

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a suite that was started in the background hands the ignored Ctrl-C on to the commands that it interrupts
    signal.signal(signal.SIGINT, signal.default_int_handler)

KINDS = ("plant", "animal", "artifact")
TASK = {"name": "kinds", "kind": "labels", "labels": list(KINDS), "instruction": "Say what kind of thing it is."}
TOO_LONG = "a very " + "very " * 200 + "long thing [plant]"


@dataclass(frozen=True)
class ScriptedRun:
    """A finished run: its folder, and the configuration file it was made from."""

    root: Path
    config: Path


def write_rows(path: Path, questions: Sequence[str], *, answers: bool) -> None:
    """A csv file of questions such as `oak 7 [plant]`, whose answer stands in the brackets."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer"] if answers else ["question"])
        for question in questions:
            answer = question.rpartition("[")[2].rstrip("]")
            writer.writerow([question, answer] if answers else [question])


def questions(num: int, stem: str) -> list[str]:
    """`num` different questions; `stem` keeps those of one split apart from another's."""
    return [f"the {stem} number {i} [{KINDS[i % len(KINDS)]}]" for i in range(num)]


def write_config(folder: Path, **changes: object) -> Path:
    """Data files and run.yaml of a scripted run in `folder`; `changes` replace keys of the configuration."""
    write_rows(folder / "labeled.csv", questions(24, "labeled"), answers=True)
    write_rows(folder / "unlabeled.csv", questions(64, "pool"), answers=True)
    write_rows(folder / "test.csv", questions(32, "test"), answers=True)
    config = {
        "name": "scripted",
        "task": TASK,
        "data": {split: f"{split}.csv" for split in ("labeled", "unlabeled", "test")},
        "model": "scripted",
        "method": {"embedder": "hash"},
        "numerics": {"engine": "scripted", "max_model_len": 1024},
        **changes,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    """The configuration of a scripted run that was not made yet, its data files beside it."""
    return write_config(tmp_path)


@pytest.fixture(scope="session")
def small_ray() -> Iterator[None]:
    """One small cluster for every run in this process."""
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _system_config={"metrics_report_interval_ms": 1000},  # 10 s else, which a test of metrics would wait
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def scripted_run(tmp_path_factory: pytest.TempPathFactory, small_ray: None) -> ScriptedRun:  # noqa: ARG001
    """A finished run with one question too long for the engine. It is shared: copy it before changing anything."""
    from semievol_ray import configfile, driver
    from semievol_ray.progress import Progress

    folder = tmp_path_factory.mktemp("scripted")
    config = write_config(folder, max_error_rate=0.05)
    pool = [*questions(64, "pool"), "the pool number 1  [animal]", "the test number 0 [plant]", TOO_LONG]
    write_rows(folder / "unlabeled.csv", pool, answers=True)
    root = folder / "run"
    driver.run(configfile.load(str(config)), str(root), Progress(quiet=True))
    return ScriptedRun(root, config)


@pytest.fixture
def copied_run(scripted_run: ScriptedRun, tmp_path: Path) -> Path:
    """A copy of the finished run, to change at will."""
    return Path(shutil.copytree(scripted_run.root, tmp_path / "copied"))


def map_here(patch: pytest.MonkeyPatch) -> None:
    """Parts are mapped in this process instead of in Ray Data tasks, the last one first."""

    def map_parts(function: Callable[..., Any], parts: Sequence[str], **constants: Any) -> Iterator[Any]:
        return (function({"part": part}, **constants) for part in reversed(parts))

    modules = ("audit", "cuts", "near_duplicates", "oracle", "pool", "pools", "retrieve", "select")
    for module in (*modules, "ties", "tokenise", "train"):
        patch.setattr(f"semievol_ray.stages.{module}.map_parts", map_parts)


def run_here(patch: pytest.MonkeyPatch) -> None:
    """Whole runs of the scripted engine in this process: what actors do is done here, part by part."""
    from semievol_ray.placement import Node, Resources
    from semievol_ray.stages.context import Context
    from semievol_ray.stages.jobs import PartReport, Session, missing
    from semievol_ray.stages.worker import EngineWorker

    def run_session(
        session: Session,
        _: object,
        on_report: Callable[[PartReport], None],
        on_stats: Callable[[str], None],
        *__: object,
    ) -> None:
        if work := missing(session):
            engine = EngineWorker(session)
            for name, jobs in work.items():
                done = asyncio.run(engine({"part": [name.rsplit("/", 1)[1]], "jobs": [jobs]}))
                for report in done["reports"][0]:
                    on_report(PartReport(**report))
            on_stats("")

    def in_actor(worker: Any, argument: Any, parts: Sequence[str], on_part: Callable[[int], None]) -> None:
        made = worker(argument)
        for part in parts:
            on_part(made({"part": [part]})["num_rows"][0])

    map_here(patch)
    here = SimpleNamespace(get_actor_id=lambda: "actor", get_node_id=lambda: "node")
    patch.setattr("ray.get_runtime_context", lambda: here)
    patch.setattr("semievol_ray.stages.groups.run_session", run_session)
    patch.setattr("semievol_ray.stages.retrieve._in_actor", in_actor)
    patch.setattr(Context, "resources", Resources((Node(2, 0),)))


@pytest.fixture(scope="session")
def s3_session() -> Iterator["S3Server"]:
    """One S3 server for every test of this process, named by the usual environment."""
    pytest.importorskip("moto", reason="the S3 server of the tests is moto's: pip install 'moto[server]' s3fs")
    import s3server

    with pytest.MonkeyPatch.context() as patch, s3server.running(patch) as server:
        yield server


@pytest.fixture
def s3(s3_session: "S3Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "S3Server":
    """The S3 server with nothing wrong, and a cache of downloads of this test's own."""
    s3_session.behave()
    monkeypatch.setenv("SEMIEVOL_CACHE", str(tmp_path / "cache"))
    return s3_session


@pytest.fixture
def s3_root(s3: "S3Server") -> str:  # noqa: ARG001
    """A place for a run in the store, new for every test, with a blank and a letter beyond ASCII in its key."""
    return f"s3://runs/my runs/{uuid.uuid4().hex[:8]} ü"


@pytest.fixture
def mapped_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `map_here`."""
    map_here(monkeypatch)


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `run_here`."""
    run_here(monkeypatch)
