"""The section `dkim` of the settings: which key signs for which domain (spec 2.6)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.settings_section import Section

_LABEL = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_LONGEST_NAME = 253
_READ_OR_WRITTEN_BY_OTHERS = 0o006


def _domain(value: str) -> str:
    if not re.fullmatch(rf"{_LABEL}(\.{_LABEL})+", value):
        raise ValueError("must be a domain such as example.org, in its ASCII form")
    return value.lower()


def _selector(value: str) -> str:
    # RFC 6376 §3.1: sub-domains, with dots between them if one likes.
    if not re.fullmatch(rf"{_LABEL}(\.{_LABEL})*", value):
        raise ValueError("must have letters, digits and dashes only, such as s2026a")
    return value.lower()


class DkimSettings(Section):
    """A key that signs what comes from `domain` and its subdomains."""

    domain: Annotated[str, AfterValidator(_domain)]
    selector: Annotated[str, AfterValidator(_selector)]
    key: Path | None = None
    """The file that holds the private key."""
    key_variable: str | None = Field(default=None, min_length=1)
    """The environment variable that holds it."""

    @model_validator(mode="after")
    def _names_one_place(self) -> DkimSettings:
        if (self.key is None) == (self.key_variable is None):
            raise ValueError("name key (a file) or key_variable, and not both")
        if len(self.record_name) > _LONGEST_NAME:
            raise ValueError(
                f"{self.record_name} is longer than {_LONGEST_NAME} characters, so DNS has no such name"
            )
        return self

    @property
    def record_name(self) -> str:
        """Where DNS has the public key (RFC 6376 §3.6.2.1)."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def place(self) -> str:
        """How errors call it: whose key it is, and where it comes from."""
        where = f"key {self.key}" if self.key is not None else f"key_variable {self.key_variable}"
        return f"dkim, {self.selector} of {self.domain}: {where}"

    def secret(self) -> bytes:
        """The private key as it stands there, read when asked for. Raises BadSettings naming domain and place."""
        if self.key_variable is not None:
            if value := os.environ.get(self.key_variable):
                return value.encode("utf-8", "surrogateescape")
            raise BadSettings(f"{self.place} is not in the environment")
        assert self.key is not None, "one of the two is named"
        try:
            return self.key.read_bytes()
        except OSError as error:
            raise BadSettings(f"{self.place} cannot be read: {error.strerror}") from None

    def is_open_to_others(self) -> bool:
        """Whether users who are neither the file's owner nor in its group may read or write it."""
        return self.key is not None and bool(self.key.stat().st_mode & _READ_OR_WRITTEN_BY_OTHERS)


def check_selectors(sections: Sequence[DkimSettings]) -> None:
    """Raise ValueError when one record in DNS would have to hold two keys."""
    names = [each.record_name for each in sections]
    for each in sections:
        if names.count(each.record_name) > 1:
            raise ValueError(f"dkim: {each.domain} has selector {each.selector} twice")
