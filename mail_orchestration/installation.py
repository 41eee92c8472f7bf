"""An opened installation: the settings, database and keys of one tenant, which every story is given."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection

from mail_orchestration.audience.importing import ensure_installation
from mail_orchestration.dispatch.relay_limits import note_relay_limits
from mail_orchestration.dispatch.restore_fence import recognise
from mail_orchestration.dispatch.turns import note_settings
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.dkim_keys import DkimKey, keys_for, load_dkim_keys
from mail_orchestration.kernel.errors import DatabaseUnavailable
from mail_orchestration.kernel.frequency_in_force import keep_time_zone
from mail_orchestration.kernel.migrations import migrate
from mail_orchestration.kernel.settings import Settings, load_settings
from mail_orchestration.kernel.signing_secrets import load_signing_keys
from mail_orchestration.kernel.tokens import SigningKeys


@dataclass(frozen=True, kw_only=True)
class Installation:
    """One tenant, ready to work with."""

    settings: Settings
    database: Database
    installation_id: int
    keys: SigningKeys
    dkim_keys: tuple[DkimKey, ...] = ()
    """In the order of the settings' section `dkim`."""

    def dkim_keys_for(self, domain: str) -> list[DkimKey]:
        """Those that sign mail `From` this domain; none: it leaves unsigned (spec 2.6)."""
        return keys_for(domain, self.dkim_keys)

    def now(self) -> datetime:
        """The present moment by the database's clock: for all that is stored, or compared between hosts.

        A host whose clock is ahead over midnight would else count its mails for tomorrow.
        """
        with self.database.begin() as connection:
            return database_now(connection)


@contextlib.contextmanager
def open_installation(
    settings_path: Path | None = None, *, application_name: str, pool_size: int = 5
) -> Iterator[Installation]:
    """Read the settings, open the database (the embedded one when there is no DATABASE_URL) and bring it up to date.

    A database that was restored or copied is opened, and holds all sending. Raises BadSettings naming file, line and
    key, or the DKIM key that cannot be used, or a time zone that the frequency policy does not count by; or
    DatabaseUnavailable.
    """
    settings = load_settings(settings_path)
    dkim_keys = load_dkim_keys(settings.dkim)
    with Database.open(
        settings.database_url, settings.data_dir, pool_size=pool_size, application_name=application_name
    ) as database:
        migrate(database)
        keys = load_signing_keys(settings.data_dir, may_create=database.is_embedded)
        with database.begin() as connection:
            installation_id = ensure_installation(connection, settings.installation)
            keep_time_zone(connection, installation_id, settings.time_zone)
            note_settings(connection, installation_id, settings.for_others())
            note_relay_limits(connection, installation_id, settings.relay_limits())
            look_at_database(connection, settings)
        yield Installation(
            settings=settings,
            database=database,
            installation_id=installation_id,
            keys=keys,
            dkim_keys=dkim_keys,
        )
        # How far the database got is remembered; one that was exchanged meanwhile is noticed.
        with contextlib.suppress(DatabaseUnavailable), database.begin() as connection:
            look_at_database(connection, settings)


def look_at_database(connection: Connection, settings: Settings) -> str | None:
    """Hold all sending, and say why, if this is not the database that was known (spec 5.8)."""
    return recognise(
        connection,
        settings.data_dir,
        by=f"a process at {socket.gethostname()}",
        accept_promotion=settings.dispatcher.accept_promoted_standby,
    )
