"""The section `relays` of the settings: where mail is handed over (spec 6.8)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.limit_settings import LimitSettings, RampSettings
from mail_orchestration.kernel.settings_section import Name, Section, TimeZoneName


def _host(value: str) -> str:
    # It goes into SMTP commands: nothing in it may end one.
    if not re.fullmatch(r"[A-Za-z0-9._:%\[\]-]+", value):
        raise ValueError("must be a host's name in its ASCII form, or an IP address")
    return value


Host = Annotated[str, AfterValidator(_host)]


class StatedRelayLimits(Section):
    """What one installation lets a relay have, as others of its database are told (spec 6.7)."""

    time_zone: TimeZoneName
    """Whose days those of the ramp are."""
    limits: LimitSettings
    connections: int
    ramp: RampSettings | None

    @property
    def zone(self) -> ZoneInfo:
        """The time zone itself."""
        return ZoneInfo(self.time_zone)


def server_name(host: str, port: int) -> str:
    """A relay is the same whoever calls it by whatever name."""
    return f"{host.lower()}:{port}"


class RelaySettings(Section):
    """One SMTP relay (spec 6.8)."""

    name: Name
    host: Host
    port: int = Field(default=25, ge=1, le=65535)
    tls: Literal["none", "starttls", "implicit"] = "starttls"
    ca_file: Path | None = None
    server_name: Host | None = None
    username: str | None = None
    password_env: str | None = None
    password_file: Path | None = None
    auth: Literal["plain", "login", "xoauth2"] | None = None
    allow_plaintext_auth: bool = False
    helo_name: Host | None = None
    weight: int = Field(default=1, ge=1)
    connections: int = Field(default=20, ge=1)
    limits: LimitSettings = LimitSettings()
    ramp: RampSettings | None = None

    @model_validator(mode="after")
    def _password_goes_with_username(self) -> RelaySettings:
        named = (self.password_env is not None) + (self.password_file is not None)
        if named > 1:
            raise ValueError("name password_env or password_file, not both")
        if (self.username is None) != (named == 0):
            raise ValueError("username and password_env (or password_file) go together")
        return self

    def stated_limits(self, time_zone: str) -> StatedRelayLimits:
        """What an installation of this time zone lets the relay have."""
        return StatedRelayLimits(
            time_zone=time_zone, limits=self.limits, connections=self.connections, ramp=self.ramp
        )

    def password(self) -> str | None:
        """The secret itself, read when asked for. Raises BadSettings naming relay and place."""
        if self.password_env is not None:
            value = os.environ.get(self.password_env)
            if not value:
                raise BadSettings(
                    f"relay {self.name}: password_env names {self.password_env}, which is not in the environment"
                )
            return value
        if self.password_file is not None:
            where = f"relay {self.name}: password_file {self.password_file}"
            try:
                value = self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise BadSettings(f"{where} is not UTF-8") from None
            except OSError as error:
                raise BadSettings(f"{where} cannot be read: {error.strerror}") from error
            if not value:
                raise BadSettings(f"{where} is empty")
            return value
        return None
