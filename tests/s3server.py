"""A real S3 server on localhost, moto's, with a switchboard in front that makes it fail as stores do.

Invariant: requests are handled one at a time, so that a conditional request is as atomic as S3's own.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BUCKET, FORBIDDEN = "runs", "forbidden"
Environ = dict[str, Any]
Answer = Iterable[bytes]


class S3Server:
    """The server, and what it shall do wrong until the next `behave`.

    num_failing: so many requests to come are answered with 500, undone. num_lost: so many PUTs to come are done, and
    then answered with 500. ignores_conditions: If-None-Match is not looked at. requests: (method, path and query).
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
                return

        self.behave()
        self._app, self._lock = DomainDispatcherApplication(create_backend_app), threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def behave(self) -> None:
        self.num_failing, self.num_lost, self.ignores_conditions = 0, 0, False
        self.requests: list[tuple[str, str]] = []

    def client(self) -> Any:
        """Another client of the store than ours."""
        import botocore.session

        return botocore.session.get_session().create_client("s3", endpoint_url=self.url)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: Environ, start: Callable[..., Any]) -> Answer:
        with self._lock:
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            self.requests.append((method, f"{path}?{environ['QUERY_STRING']}"))
            if path.startswith(f"/{FORBIDDEN}"):
                return _error(method, start, "403 Forbidden", "AccessDenied")
            if self.num_failing:
                self.num_failing -= 1
                return _error(method, start, "500 Internal Server Error", "InternalError")
            if self.ignores_conditions:
                environ.pop("HTTP_IF_NONE_MATCH", None)
            if method == "PUT" and self.num_lost:
                self.num_lost -= 1
                list(self._app(environ, lambda *_: None))
                return _error(method, start, "500 Internal Server Error", "InternalError")
            return list(self._app(environ, start))


def _error(method: str, start: Callable[..., Any], status: str, code: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{status}</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [] if method == "HEAD" else [body]


@contextmanager
def running(patch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server with the bucket `runs`, which the environment names until the block ends."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "testing")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = S3Server()
    patch.setenv("AWS_ENDPOINT_URL", server.url)
    try:
        server.client().create_bucket(Bucket=BUCKET)
        yield server
    finally:
        server.close()
