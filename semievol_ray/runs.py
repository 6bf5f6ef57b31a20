"""The run directory: manifest, steps with their fingerprints, parts, attempts, events, all under one lease.

Invariant: a step's folder holds output of exactly the settings and inputs in its step.json, written before work starts;
a step counts only once `committed` is in that file.
"""

import contextlib
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from semievol_ray import __version__, drift, folders, sharing, storage
from semievol_ray.errors import RunInUseError, RunStopped, SemievolError, StorageError, UserError
from semievol_ray.events import EventLog
from semievol_ray.lease import PATIENCE_SECONDS, RENEW_SECONDS, Lease
from semievol_ray.listing import PART_SUFFIX, PartFacts, measured, step_digest, write_listing
from semievol_ray.records import encode, json_lines, now, read_json, read_record
from semievol_ray.sessions import RUN
from semievol_ray.steps import STEP_FILE, Step, read_steps

__all__ = ["Run", "Step", "read_events", "read_manifest", "read_steps"]


class Run:
    """A run directory held by this process, from `open` to `close`."""

    def __init__(self, root: str, lease: Lease, share: str | None = None) -> None:
        self.root, self.fence, self.attempt = root, lease.fence, lease.fence
        self.claim = lease.claim
        self._lease, self._share = lease, share
        self._began: dict[str, float] = {}
        self._events = EventLog(root, lease.fence)
        self._listeners: list[Callable[[Mapping[str, object]], None]] = []
        self._logs = tempfile.mkdtemp(prefix="semievol-logs-") if storage.is_remote(root) else self.path("logs")
        self._open: dict[str, dict[str, Any]] = {}  # step.json of the steps under way, as this driver found it

    @classmethod
    def open(
        cls,
        root: str,
        manifest: Mapping[str, object],
        *,
        command: str = RUN,
        share: str | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        renew_seconds: float = RENEW_SECONDS,
    ) -> Self:
        """Take a new or existing run directory; its manifest stays unless no step is committed yet.

        command: what uses the run; of any but RUN the time is not the run's own. share: a folder through which runs
        take over each other's equal steps, on the same disk. `attempt` counts the opens.
        Errors: RunInUseError while another driver lives, StorageError.
        """
        root = storage.absolute(root)
        storage.make_folder(root)
        if storage.is_remote(root):
            storage.check_conditional_create(root)
        if storage.is_remote(share or ""):
            raise UserError(f"{share}: runs share steps by links, in a folder on one disk. Name a local folder.")
        lease = Lease.take(root, patience_seconds=patience_seconds, renew_seconds=renew_seconds)
        run = cls(root, lease, storage.absolute(share) if share else None)
        try:
            storage.make_folder(run.path("logs"))
            versions = {"semievol-ray": __version__, "python": platform.python_version()}
            storage.create(run.path("manifest.json"), encode({"versions": versions, "created": now(), **manifest}))
            read_json(run.path("manifest.json"))  # a damaged one is refused before any work
            if not any(record.get("committed") for _, record in read_steps(root)):
                run.save_manifest(manifest)  # the first tries may have ended at a mistake in the configuration
            run.event("run_started", attempt=run.attempt, command=command)
        except BaseException:
            run.close()
            raise
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is not None and not isinstance(error, RunInUseError):  # another driver's events are its own
                with contextlib.suppress(StorageError):
                    told = str(error) if isinstance(error, SemievolError) else f"{type(error).__name__} {error}".strip()
                    self.event("run_stopped", reason=told)
        finally:
            self.close()

    def close(self) -> None:
        """Store the log and the last events, release the lease; closing twice is fine."""
        self._events.close()
        if storage.is_remote(self.root):
            with contextlib.suppress(StorageError):  # a log must not hide why the run ends
                folders.put_folder(self._logs, self.path("logs"))
            shutil.rmtree(self._logs, ignore_errors=True)
        self._lease.close()

    def path(self, *names: str) -> str:
        """A path inside the run directory."""
        return "/".join((self.root, *names))

    def save_manifest(self, manifest: Mapping[str, object]) -> None:
        """Put other values into the manifest, where they differ, None for none; versions and time of creation stay."""
        before = read_json(self.path("manifest.json"))
        merged = {**before, **json.loads(encode(dict(manifest)))}
        now_is = {key: value for key, value in merged.items() if value is not None}
        if now_is != before:
            storage.write(self.path("manifest.json"), encode(now_is))

    @property
    def log_path(self) -> str:
        """The log file of this attempt, on this machine; that of a run in an object store is stored at `close`."""
        return f"{self._logs}/attempt-{self.attempt:04d}.log"

    def event(self, kind: str, **fields: object) -> None:
        """Add a line to events.jsonl, and tell the listeners."""
        self._events.write(kind, **fields)
        for listener in self._listeners:
            listener({"kind": kind, **fields})

    def listen(self, listener: Callable[[Mapping[str, object]], None]) -> None:
        """Let a function hear every event from now on, in the thread that notes it."""
        self._listeners.append(listener)

    def step(
        self,
        name: str,
        *,
        settings: Mapping[str, object],
        inputs: Mapping[str, str],
        parts: Sequence[str],
        numerics: Mapping[str, object] | None = None,
    ) -> Step:
        """Begin a step, or resume it where its step.json says the same; its numerics are then those of the first time.

        inputs: name -> digest of the committed step (or file) it comes from. Errors: DriftError with the differences.
        """
        assert not {"", ".."} & set(name.split("/")), name
        assert len(set(parts)) == len(parts), "a part occurs twice"
        self._lease.check()
        step = Step(self.path(name), name, tuple(parts), self.fence, token=self.claim.token)
        same = {"settings": dict(settings), "inputs": dict(inputs), "parts": list(parts)}
        whence = {"name": name, "package_version": __version__, "started": now(), "fence": self.fence}
        record = encode({**whence, **same, "numerics": dict(numerics or {})})
        _require_no_parts(step)
        if origin := self._share and sharing.take(self._share, step, json.loads(record)):
            self.event("step_shared", step=name, shared_from=origin)
        elif self._begin(step, record):
            self.event("step_started", step=name, num_parts=len(parts))
        else:
            self._resume(step, same)
        self._began[name] = time.monotonic()
        found = step.record()
        if not found.get("committed"):
            self._open[name] = found
        return replace(step, begun=found["started"])

    def commit(
        self,
        step: Step,
        metrics: Mapping[str, object],
        outputs: Mapping[str, str] | None = None,
        measure: Callable[[Step], Mapping[str, PartFacts]] | None = None,
    ) -> None:
        """Declare a step done; a step that is committed already stays as it is.

        outputs: name -> digest of what the step made besides parts (an adapter); part of the step's digest. measure:
        gives the facts of the parts as they lie there; without it they are read here. `seconds` run from this attempt's
        `step` call. Errors: RunStopped when a part is missing, RunInUseError when taken over.
        """
        now_is = step.record()
        record = self._open.get(step.name, now_is)  # what a driver that was taken over wrote since does not count
        if record.get("committed"):
            return
        if missing := step.missing_parts():
            some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise RunStopped(
                f"step {step.name} cannot end: {len(missing)} of {len(step.parts)} parts are missing in {step.path} "
                f"({some}). Run the same command again; it does the missing parts only."
            )
        facts = measure(step) if measure else measured(step.path, step.parts)
        assert list(facts) == list(step.parts), "facts of other parts"
        digest, num_rows = step_digest(facts, outputs or {}), sum(of.num_rows for of in facts.values())
        seconds = time.monotonic() - self._began.get(step.name, time.monotonic())
        committed = {"time": now(), "digest": digest, "num_rows": num_rows, "metrics": dict(metrics)}
        record = {**record, "committed": {**committed, "seconds": round(seconds, 3), "fence": self.fence}}
        with self.claim.held():
            write_listing(step.path, facts, self.claim.staging)
        with self.claim.held():
            storage.write(f"{step.path}/{STEP_FILE}", encode(record), self.claim.staging)
        self._open.pop(step.name, None)
        self.event("step_committed", step=step.name, **record["committed"])
        if self._share:
            sharing.offer(self._share, step)

    def _begin(self, step: Step, record: bytes) -> bool:
        with self.claim.held():
            return storage.create(f"{step.path}/{STEP_FILE}", record, self.claim.staging)

    def _resume(self, step: Step, same: Mapping[str, object]) -> None:
        record = step.record()
        refuse_drift(self.root, step.name, record, same)
        if not record.get("committed"):
            num_missing = len(step.missing_parts())
            self.event("step_resumed", step=step.name, num_parts=len(step.parts), num_missing=num_missing)
        elif self._share:
            sharing.offer(self._share, step)


def refuse_drift(root: str, name: str, record: Mapping[str, Any], same: Mapping[str, object]) -> None:
    """DriftError where a step.json says another thing than what is asked now: settings, inputs and parts."""
    wanted = json.loads(encode(same))
    if changed := drift.differences({key: record.get(key) for key in wanted}, wanted):
        steps = [begun for begun, _ in read_steps(root)]
        raise drift.refusal(root, name, changed, steps[steps.index(name) + 1 :])


def _require_no_parts(step: Step) -> None:
    """StorageError where parts lie without a step.json: nobody knows what they were made with."""
    if storage.exists(f"{step.path}/{STEP_FILE}"):
        return
    if found := storage.names(step.path, PART_SUFFIX):
        raise StorageError(
            f"{step.path} holds {found[0]} but no {STEP_FILE}, which says what it was made with. Put that file back, "
            "or delete the folder and run the same command again."
        )


def require_run(root: str) -> None:
    """UserError when the folder is no run directory."""
    if not storage.exists(f"{root}/manifest.json"):
        raise UserError(f"{root} is no run directory: it has no manifest.json. Name a folder made by `semievol run`.")


def read_manifest(root: str) -> dict[str, Any]:
    """The manifest of a run directory; UserError when the folder is none, StorageError when it was damaged."""
    require_run(root)
    return read_record(f"{root}/manifest.json", {"name": str, "config": dict})


def read_events(root: str) -> list[dict[str, Any]]:
    """The events of a run directory, oldest first; lines torn by a full disk are left out."""
    return json_lines(f"{root}/events.jsonl")
