"""DATABASE_URL: read once, shown without its secrets, and connected to."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg
from psycopg.abc import AdaptContext
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mail_orchestration.kernel.errors import BadSettings

_DEFAULTS = {
    "connect_timeout": "5",
    # A host that vanishes is noticed in half a minute, before a lease runs out; the kernel takes two hours.
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
_SCHEME = re.compile(r"postgres(?:ql)?(?:\+\w+)?://")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseAddress:
    """Where a database is. Its `str` and `repr` hold host, port and database, never the user's password."""

    url: str = field(repr=False)
    """In libpq's form: `postgresql://user:password@host:port/database?…`."""
    parameters: Mapping[str, str] = field(repr=False)
    """What the URL says, by libpq's keywords."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `postgres://…`, `postgresql://…` or `postgresql+driver://…`.

        Raises BadSettings, which quotes nothing of it, for anything else.
        """
        scheme = _SCHEME.match(url.strip())
        # libpq's own complaint is not passed on: it quotes pieces, and a piece may be the password.
        complaint = (
            "DATABASE_URL: this is no address of the form postgresql://user:password@host:port/database "
            "(percent-encode special characters in user and password)"
        )
        if scheme is None:
            raise BadSettings(complaint)
        libpq_url = f"postgresql://{url.strip()[scheme.end() :]}"
        try:
            read = conninfo_to_dict(libpq_url)
        except psycopg.ProgrammingError:
            raise BadSettings(complaint) from None
        return cls(
            url=libpq_url, parameters={key: str(value) for key, value in read.items() if value is not None}
        )

    def connect(
        self, *, application_name: str, schema: str, context: AdaptContext | None
    ) -> psycopg.Connection[Any]:
        """A connection with the search path `schema` in UTC; what the URL says goes before our defaults.

        Raises psycopg.OperationalError.
        """
        options = f"{self.parameters.get('options', '')} -c search_path={schema} -c timezone=UTC"
        parameters = {
            **_DEFAULTS,
            **self.parameters,
            "application_name": application_name,
            "options": options,
        }
        return psycopg.connect(make_conninfo("", **parameters), context=context)

    def __str__(self) -> str:
        get = self.parameters.get
        host = get("host") or get("hostaddr") or os.environ.get("PGHOST", "local socket")
        name = get("dbname") or os.environ.get("PGDATABASE") or get("user") or "the user's own"
        port = get("port") or os.environ.get("PGPORT", "5432")
        return f"{name} at {host}" if host.startswith("/") else f"{name} at {host}:{port}"
