"""Dagster on the demo's installation: its processes, and what they say of runs and definitions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from mail_orchestration.cli.dagster_home import (
    DEFINITIONS_MODULE,
    WORKSPACE_FILE,
    checkout,
    environment_for_dagster,
    write_dagster_home,
)
from mail_orchestration.cli.demo_site import Site
from mail_orchestration.cli.services import Service, ServiceFailed, free_port
from mail_orchestration.processes.dagster_server import LOCATION_NAME

DAGSTER_IS_UP_WITHIN_SECONDS = 90.0

FAILED_RUNS = (
    "{ runsOrError(filter: { statuses: [FAILURE] }, limit: 1) { ... on Runs { results { jobName runId } } } }"
)
"""GraphQL: a run that failed."""
LOAD_ERRORS = (
    "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError {"
    " __typename ... on PythonError { message } } } } } }"
)
"""GraphQL: what kept a code location from loading."""


@dataclass(frozen=True, kw_only=True)
class CodeServer:
    """The process that holds Dagster's definitions, and the file that tells the others where it is."""

    service: Service
    port: int
    workspace: Path


@dataclass(frozen=True, kw_only=True)
class Dagster:
    """Dagster, up on a site."""

    url: str


def start_code_server(site: Site) -> CodeServer:
    """Start to load the definitions; one server for webserver and daemon, who would each load them for themselves."""
    home, port = site.folder / "dagster", free_port()
    write_dagster_home(home, code_server_port=port)
    site.services.environment = environment_for_dagster(
        home, settings=site.settings_path, database_url=site.inst.database.url
    )
    service = site.services.start(
        "code-server",
        "dagster",
        *(
            "code-server",
            "start",
            "--module-name",
            DEFINITIONS_MODULE,
            "--working-directory",
            str(checkout()),
        ),
        *("--host", "127.0.0.1", "--port", str(port), "--location-name", LOCATION_NAME),
    )
    return CodeServer(service=service, port=port, workspace=home / WORKSPACE_FILE)


def start_dagster(site: Site, code_server: CodeServer) -> Dagster:
    """Start Dagster's webserver and daemon and return when the web page answers and shows our definitions.

    Raises ServiceFailed with the end of the log of what does not come up.
    """
    services = site.services
    services.wait_for_port(code_server.service, code_server.port, seconds=DAGSTER_IS_UP_WITHIN_SECONDS)
    workspace = str(code_server.workspace)
    services.start("daemon", "dagster._daemon", "run", "--workspace", workspace)
    webserver = services.start(
        "webserver",
        "dagster_webserver",
        *("--host", "127.0.0.1", "--port", str(site.webserver_port), "--workspace", workspace),
    )
    url = site.inst.settings.dagster.url
    services.wait_for_http(webserver, f"{url}/server_info", seconds=DAGSTER_IS_UP_WITHIN_SECONDS)
    dagster = Dagster(url=url)
    for entry in _asked(site, dagster, LOAD_ERRORS)["workspaceOrError"].get("locationEntries", ()):
        if entry["locationOrLoadError"]["__typename"] == "PythonError":
            raise ServiceFailed(
                f"Dagster cannot load the definitions; the end of {code_server.service.log}:\n"
                f"{code_server.service.last_words()}"
            )
    return dagster


def failed_run(site: Site, dagster: Dagster) -> str | None:
    """The job of a run that Dagster calls failed, and its number; None when all is well. There should be none."""
    for run in _asked(site, dagster, FAILED_RUNS)["runsOrError"].get("results", ()):
        return f"{run['jobName']} {run['runId']}"
    return None


def _asked(site: Site, dagster: Dagster, query: str) -> dict[str, Any]:
    data = json.loads(site.services.ask(f"{dagster.url}/graphql?{urlencode({'query': query})}"))["data"]
    assert isinstance(data, dict)
    return data
