"""What is said when Dagster's webserver is not there, is something else, or will not do it."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mail_orchestration.cli.exit_codes import ExitCode, exit_code_of
from mail_orchestration.kernel.errors import BadSettings, NotFound
from mail_orchestration.kernel.settings import WEBSERVER_VARIABLE, Settings
from mail_orchestration.processes import (
    PROCESSES,
    DagsterRefused,
    DagsterServer,
    DagsterUnavailable,
    overview,
    process,
    run_now,
    switch,
)


@contextlib.contextmanager
def answering(body: object, status: int = 200) -> Iterator[tuple[str, list[str | None]]]:
    """A server that answers everything with `body`; its address, and who the askers said they were."""
    said: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said.append(self.headers["Authorization"])
            self.rfile.read(int(self.headers["Content-Length"]))
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", said
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.rule("6.1")
def test_a_webserver_that_is_not_there_is_named_with_what_says_where_it_is() -> None:
    with pytest.raises(
        DagsterUnavailable, match=r"does not answer at http://127.0.0.1:1: .*dagster\.url"
    ) as raised:
        overview(DagsterServer("http://127.0.0.1:1/"))
    assert exit_code_of(raised.value) is ExitCode.UNAVAILABLE


@pytest.mark.parametrize("body", [b"<html>", [1], {"data": None}])
def test_something_else_at_its_address_is_told(body: object) -> None:
    with answering(body) as (host, _), pytest.raises(DagsterUnavailable, match="is not Dagster's webserver"):
        overview(DagsterServer(f"http://{host}"))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"__typename": "UnauthorizedError"}, "read-only"),
        (
            {"__typename": "PipelineNotFoundError", "message": "Could not find job"},
            "Dagster: Could not find job",
        ),
        ({"__typename": "PythonError", "message": "Broken\nTraceback: secrets"}, "Dagster: Broken$"),
        ({"__typename": "RunConfigValidationInvalid", "errors": [{"message": "no such key"}]}, "no such key"),
    ],
)
def test_a_job_that_is_refused_says_why(answer: dict[str, object], says: str) -> None:
    with answering({"data": {"done": answer}}) as (host, _), pytest.raises(DagsterRefused, match=says):
        run_now(DagsterServer(f"http://{host}"), process("clean_delivery_queue"), by="anna")


def test_a_location_that_is_not_loaded_or_of_other_code_is_told() -> None:
    missing = {"repositoryOrError": {"__typename": "RepositoryNotFoundError", "message": "no"}}
    with answering({"data": missing}) as (host, _), pytest.raises(DagsterRefused, match="no location"):
        switch(DagsterServer(f"http://{host}"), process("report"), on=True)
    other = {"repositoryOrError": {"__typename": "Repository", "sensors": [], "schedules": []}}
    with (
        answering({"data": other}) as (host, _),
        pytest.raises(DagsterRefused, match="knows no sensor report"),
    ):
        switch(DagsterServer(f"http://{host}"), process("report"), on=True)


def test_an_error_in_graphql_is_told() -> None:
    with (
        answering({"errors": [{"message": "Cannot query field"}]}, 400) as (host, _),
        pytest.raises(DagsterRefused, match="Cannot query field"),
    ):
        overview(DagsterServer(f"http://{host}"))


def test_a_proxy_gets_user_and_password_and_nobody_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering({}, 401) as (host, said):
        monkeypatch.setenv(WEBSERVER_VARIABLE, f"http://anna:geheim@{host}/")
        server = DagsterServer.of(Settings())
        with pytest.raises(DagsterRefused, match="asks who we are") as raised:
            overview(server)
    assert said == ["Basic " + base64.b64encode(b"anna:geheim").decode()]
    assert server.url == f"http://{host}"
    assert "geheim" not in f"{raised.value}{server!r}"


def test_an_address_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEBSERVER_VARIABLE, "localhost")
    with pytest.raises(BadSettings, match=f"{WEBSERVER_VARIABLE} must be like"):
        DagsterServer.of(Settings())
    for wrong in ("localhost:3000", "ftp://x", "http://anna:geheim@x"):
        with pytest.raises(ValueError, match=r"dagster\.url"):
            Settings.model_validate({"dagster": {"url": wrong}})


@pytest.mark.rule("6.1")
def test_the_processes_are_those_of_the_rule_and_their_names_are_told() -> None:
    titles = {each.title: each.scope.value for each in PROCESSES}
    assert titles["Assemble"] == titles["Queue for delivery"] == "installation"
    assert titles["Global delivery queue"] == titles["Clean delivery queue"] == "all"
    with pytest.raises(
        NotFound, match=r"no process 'get_bounces' \(there are: assemble, queue_for_delivery, "
    ):
        process("get_bounces")
