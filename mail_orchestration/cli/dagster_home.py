"""A DAGSTER_HOME for one machine, and the environment that Dagster's processes need.

The instance is deploy/dagster.yaml as it stands: it takes the database's address from the environment, so no secret
is written to a file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.kernel.settings import SETTINGS_VARIABLE
from mail_orchestration.processes.dagster_server import LOCATION_NAME

DAGSTER_URL_VARIABLE = "MAIL_ORCHESTRATION_DAGSTER_URL"
WORKSPACE_FILE = "workspace.yaml"
DEFINITIONS_MODULE = "schedules.definitions"


def checkout() -> Path:
    """The folder of the repository that this code runs from.

    Raises BadInput when the package was installed without it: deploy/ and examples/ are not part of the package.
    """
    folder = Path(__file__).resolve().parents[2]
    if not (folder / "deploy" / "dagster.yaml").is_file():
        raise BadInput("dev and demo run from a checkout of the repository, and this is an installed package")
    return folder


def write_dagster_home(home: Path, *, code_server_port: int) -> None:
    """Make the folder `home` with dagster.yaml and a workspace.yaml that names our code server."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(checkout() / "deploy" / "dagster.yaml", home / "dagster.yaml")
    (home / WORKSPACE_FILE).write_text(
        "load_from:\n"
        "  - grpc_server:\n"
        "      host: 127.0.0.1\n"
        f"      port: {code_server_port}\n"
        f"      location_name: {LOCATION_NAME}\n",
        encoding="utf-8",
    )


def dagster_url(database_url: str) -> str:
    """The library's database in SQLAlchemy's form for psycopg2, with Dagster's schema as its search path."""
    parts = urlsplit(database_url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query["options"] = f"{query.get('options', '')} -csearch_path=dagster".strip()
    return urlunsplit(
        parts._replace(scheme="postgresql+psycopg2", query=urlencode(query, quote_via=quote, safe="/"))
    )


def environment_for_dagster(home: Path, *, settings: Path, database_url: str) -> Mapping[str, str]:
    """This process's environment with what Dagster's processes need of it."""
    return os.environ | {
        "DAGSTER_HOME": str(home),
        SETTINGS_VARIABLE: str(settings),
        DAGSTER_URL_VARIABLE: dagster_url(database_url),
        "PYTHONUNBUFFERED": "1",
    }
