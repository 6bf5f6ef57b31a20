"""Logs as JSON lines: what the driver and its workers say, each line with the run, step, part and replica it is about.

Invariant: no secret is written: values of environment variables named like one, and users in addresses, become ***.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

ROOM = "semievol_ray"
FIELDS = ("run", "session", "step", "part", "replica", "node", "attempt")
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL|ACCESS_KEY)", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_LEAST_SECRET = 8
HIDDEN = "***"


class JsonLines(logging.Formatter):
    """A record as one line: time, level, logger, message, FIELDS where known, `told` for the rest, `error` if any."""

    def format(self, record: logging.LogRecord) -> str:
        about = getattr(record, "about", {})
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: about[key] for key in FIELDS if about.get(key) is not None},
        }
        if rest := {key: value for key, value in about.items() if key not in FIELDS}:
            line["told"] = rest
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return public(json.dumps(line, default=str, ensure_ascii=False))


class Bound(logging.LoggerAdapter[logging.Logger]):
    """A logger whose lines carry fields; more are given with extra={"about": {...}}."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        given = (kwargs.get("extra") or {}).get("about", {})
        return msg, {**kwargs, "extra": {"about": {**(self.extra or {}), **given}}}


class EventLog:
    """Notes the events of a run in its log; a part only when rows of it failed, for events.jsonl has them all."""

    def __init__(self, run_name: str) -> None:
        self._log = bound(f"{ROOM}.events", run=run_name)

    def __call__(self, event: Mapping[str, Any]) -> None:
        told = {key: value for key, value in event.items() if key not in ("time", "kind", "metrics", "stats")}
        if event["kind"] != "part_committed":
            self._log.info(event["kind"], extra={"about": told})
        elif event.get("num_errors"):
            self._log.warning("part_committed with failed rows", extra={"about": told})


def bound(logger: str, **fields: object) -> Bound:
    """A logger that says these fields with every line."""
    return Bound(logging.getLogger(logger), fields)


@contextmanager
def to_file(path: str) -> Iterator[None]:
    """For the block, what this package logs goes to a file, and its warnings to the terminal as well."""
    logger, level = logging.getLogger(ROOM), logging.getLogger(ROOM).level
    handlers: list[logging.Handler] = [_QuietFile(path, encoding="utf-8", delay=True), _terminal()]
    handlers[0].setFormatter(JsonLines())
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


def in_worker() -> None:
    """Let this process log JSON lines to stderr, which Ray keeps in the worker's own log file; once a process."""
    logger = logging.getLogger(ROOM)
    if not any(isinstance(handler.formatter, JsonLines) for handler in logger.handlers):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def public(text: str) -> str:
    """Text without the values of secrets in the environment and without users in addresses."""
    for name, value in os.environ.items():
        if len(value) >= _LEAST_SECRET and _SECRET_NAME.search(name):
            text = text.replace(value, HIDDEN)
    return _USER_INFO.sub(f"{HIDDEN}@", text)


class _QuietFile(logging.FileHandler):
    """A log that a full disk ends without a word: the run itself tells of the disk, once."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002
        return None


def _terminal() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda record: not record.name.endswith(".events"))
    return handler
