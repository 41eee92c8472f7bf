"""The settings file: who this installation is, its relays, mailcasters and audiences.

Durations and sizes carry their unit in the name. Unknown keys are refused. Secrets never stand here: the file names an
environment variable or a file that holds them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from mail_orchestration.kernel.dkim_settings import DkimSettings, check_selectors
from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.fleet_settings import DispatcherSettings, MailcasterParameters
from mail_orchestration.kernel.frequency import log_too_short
from mail_orchestration.kernel.frequency_settings import FrequencySettings, active_rules
from mail_orchestration.kernel.limit_settings import DomainSettings, check_groups
from mail_orchestration.kernel.relay_settings import RelaySettings, server_name
from mail_orchestration.kernel.retention_settings import RetentionSettings
from mail_orchestration.kernel.sending_settings import SendWindowSettings
from mail_orchestration.kernel.settings_section import Name, Section, TimeZoneName, check_names
from mail_orchestration.kernel.yaml_document import read_yaml_file

SETTINGS_VARIABLE = "MAIL_ORCHESTRATION_SETTINGS"
SETTINGS_FILE = "mail_orchestration.yaml"
WEBSERVER_VARIABLE = "MAIL_ORCHESTRATION_WEBSERVER_URL"


def _base_url(value: str) -> str:
    # It goes into List-Unsubscribe as it is (RFC 2369): ASCII without angle brackets.
    if not re.fullmatch(r"https?://[!-~]+", value) or set('"<>?#') & set(value):
        raise ValueError(
            "must be like https://mail.example.org, in ASCII and without ?, #, quotes and angle brackets"
        )
    return value


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be like http://127.0.0.1:3000")
    return value


def _web_address_without_password(value: str) -> str:
    if urlsplit(value).username is not None:
        raise ValueError(
            f"user and password do not stand in the settings: name the address in {WEBSERVER_VARIABLE}"
        )
    return _web_address(value)


class AudienceSettings(Section):
    """Where an audience is filled from (spec 1.2). Exactly one source is named."""

    name: Name
    csv: Path | None = None
    parquet: Path | None = None
    direct_mailer: Path | None = None
    sql: str | None = None
    sql_url_env: str | None = None
    """The environment variable with the SQLAlchemy URL of the database that `sql` runs on; none: our own."""
    address_column: str = "email"
    encoding: str = "utf-8"
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    mode: Literal["append", "replace"] = "append"
    """append adds and refreshes; replace makes the audience what the source says."""

    @model_validator(mode="after")
    def _one_source(self) -> AudienceSettings:
        named = [key for key in ("csv", "parquet", "direct_mailer", "sql") if getattr(self, key) is not None]
        if len(named) > 1:
            raise ValueError(f"an audience has one source, not {' and '.join(named)}")
        if self.sql_url_env is not None and self.sql is None:
            raise ValueError("sql_url_env goes with sql")
        return self

    @property
    def has_source(self) -> bool:
        """False for an audience that a DataFrame or a hand-made import fills."""
        return any((self.csv, self.parquet, self.direct_mailer, self.sql))


class DagsterSettings(Section):
    """Where Dagster's webserver is (spec 6.1)."""

    url: Annotated[str, AfterValidator(_web_address_without_password)] = "http://127.0.0.1:3000"

    @property
    def webserver_url(self) -> str:
        """The environment's MAIL_ORCHESTRATION_WEBSERVER_URL, which may hold a password, or `url`.

        Raises BadSettings.
        """
        named = os.environ.get(WEBSERVER_VARIABLE)
        if not named:
            return self.url
        try:
            return _web_address(named)
        except ValueError as error:
            raise BadSettings(f"{WEBSERVER_VARIABLE} {error}") from None


_FOR_OTHERS = ("time_zone", "public_base_url", "dispatcher", "send_window")
"""The settings that belong to an installation's mails, and not to who sends them."""


class Settings(Section):
    """The whole file."""

    installation: Name = "main"
    time_zone: TimeZoneName = "UTC"
    public_base_url: Annotated[str, AfterValidator(_base_url)] = "http://localhost:8025"
    """Where unsubscribe and tracking links point."""
    data_dir: Path = Path(".mail_orchestration")
    campaigns_dir: Path = Path("campaigns")
    fetch_allowed_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Private networks that pages may be fetched from (spec 2.3), as CIDR."""
    dispatcher: DispatcherSettings = DispatcherSettings()
    retention: RetentionSettings = RetentionSettings()
    frequency: FrequencySettings = FrequencySettings()
    """How often anybody may be written to (spec 8.1)."""
    send_window: SendWindowSettings | None = None
    """When mail may be sent (spec 6.7); None: at any time."""
    dagster: DagsterSettings = DagsterSettings()
    relays: tuple[RelaySettings, ...] = ()
    domains: tuple[DomainSettings, ...] = ()
    dkim: tuple[DkimSettings, ...] = ()
    """Who signs (spec 2.6); several keys of one domain each sign."""
    mailcasters: tuple[MailcasterParameters, ...] = ()
    audiences: tuple[AudienceSettings, ...] = ()

    folder: Path = Field(default=Path(), exclude=True)
    """The folder of the settings file; its relative paths are resolved against it."""

    @field_validator("frequency")
    @classmethod
    def _the_log_is_kept_for_the_rules(
        cls, value: FrequencySettings, info: ValidationInfo
    ) -> FrequencySettings:
        rules, retention = active_rules(value.rules), info.data.get("retention")
        if rules and retention and (why := log_too_short(rules, retention.daily_log_days)):
            raise ValueError(why)
        return value

    @model_validator(mode="after")
    def _names_are_unique_and_known(self) -> Settings:
        for section in ("relays", "domains", "mailcasters", "audiences"):
            check_names(section, [item.name for item in getattr(self, section)])
        check_groups(self.domains)
        check_selectors(self.dkim)
        servers: dict[tuple[str, int], RelaySettings] = {}
        for relay in self.relays:
            same = servers.setdefault((relay.host.lower(), relay.port), relay)
            for key in ("limits", "connections", "ramp"):
                if getattr(same, key) != getattr(relay, key):
                    where = f"{relay.host}:{relay.port}"
                    raise ValueError(
                        f"relays: {same.name!r} and {relay.name!r} are both {where}, and have different {key}"
                    )
        relays = {relay.name for relay in self.relays}
        for mailcaster in self.mailcasters:
            for name in mailcaster.relays:
                if name not in relays:
                    raise ValueError(f"mailcaster {mailcaster.name}: there is no relay named {name!r}")
        return self

    @cached_property
    def zone(self) -> ZoneInfo:
        """The installation's time zone."""
        return ZoneInfo(self.time_zone)

    @property
    def database_url(self) -> str | None:
        """DATABASE_URL, or None: then the embedded server under `data_dir` serves."""
        return os.environ.get("DATABASE_URL") or None

    def for_others(self) -> dict[str, Any]:
        """What those must know who work for this installation with other settings, in JSON's terms (spec 6.2)."""
        return self.model_dump(mode="json", by_alias=True, include=set(_FOR_OTHERS))

    def relay_limits(self) -> dict[str, dict[str, Any]]:
        """What these settings let each relay have, by host and port, in JSON's terms: for other installations (6.7)."""
        return {
            server_name(relay.host, relay.port): relay.stated_limits(self.time_zone).model_dump(mode="json")
            for relay in self.relays
        }

    def working_for(self, installation: str, told: Mapping[str, Any]) -> Settings:
        """These settings for work of another installation, which told us what `for_others` says.

        Raises BadSettings when what it told cannot be read: its processes run another version.
        """
        try:
            theirs = Settings.model_validate({**told, "installation": installation})
        except ValidationError as error:
            fault = error.errors()[0]
            raise BadSettings(
                f"what installation {installation} noted of its settings cannot be read here: "
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}; run the same version everywhere"
            ) from None
        ours = set(type(self).model_fields) - {"installation", *_FOR_OTHERS}
        return theirs.model_copy(update={name: getattr(self, name) for name in ours})

    def mailcaster(self, name: str) -> MailcasterParameters:
        """The mailcaster of that name. Raises BadSettings listing the names there are."""
        for mailcaster in self.mailcasters:
            if mailcaster.name == name:
                return mailcaster
        known = ", ".join(m.name for m in self.mailcasters) or "none"
        raise BadSettings(f"there is no mailcaster named {name!r} (there are: {known})")

    def audience(self, name: str) -> AudienceSettings:
        """The audience of that name. Raises BadSettings listing the names there are."""
        for audience in self.audiences:
            if audience.name == name:
                return audience
        known = ", ".join(a.name for a in self.audiences) or "none"
        raise BadSettings(f"the settings describe no audience named {name!r} (they describe: {known})")


def settings_path(path: Path | None = None) -> Path:
    """The file that is meant: the one given, the environment's, or the current folder's."""
    return (path or Path(os.environ.get(SETTINGS_VARIABLE) or SETTINGS_FILE)).absolute()


def load_settings(path: Path | None = None) -> Settings:
    """Read and validate the settings. Raises BadSettings naming file, line and key.

    Relative paths in the file count from the file's own folder, so that it means the same wherever it is used from.
    """
    file = settings_path(path)
    if not file.is_file():
        raise BadSettings(
            f"there is no settings file {file}; make one with `mail-orchestration init`, "
            f"or name one in {SETTINGS_VARIABLE}"
        )
    settings = read_yaml_file(file, model=Settings, error=BadSettings)
    folder = file.parent

    def absolute(value: Path | None) -> Path | None:
        return None if value is None else folder / value

    return settings.model_copy(
        update={
            "folder": folder,
            "data_dir": folder / settings.data_dir,
            "campaigns_dir": folder / settings.campaigns_dir,
            "relays": tuple(
                relay.model_copy(
                    update={
                        "ca_file": absolute(relay.ca_file),
                        "password_file": absolute(relay.password_file),
                    }
                )
                for relay in settings.relays
            ),
            "dkim": tuple(each.model_copy(update={"key": absolute(each.key)}) for each in settings.dkim),
            "audiences": tuple(
                audience.model_copy(
                    update={
                        key: absolute(getattr(audience, key)) for key in ("csv", "parquet", "direct_mailer")
                    }
                )
                for audience in settings.audiences
            ),
        }
    )
