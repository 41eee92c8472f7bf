"""What the stages hand each other: frozen records, no behaviour to speak of."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from operator import attrgetter
from typing import Any


class BodyFormat(StrEnum):
    """The three body formats of a recipient (spec 1.4)."""

    TEXT = "text"
    MIME = "mime"
    MHTML = "mhtml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """One contact in one mail job, as composition sees it."""

    recipient_no: int
    """1, 2, 3 … within the mail job, in the order of dedup."""
    contact_id: int
    address: str
    """Normalised: IDN domain in ASCII, domain in lower case, local part as given (spec 1.1)."""
    body_format: BodyFormat | None = None
    """None takes the campaign's default."""
    locale: str | None = None
    guid: str | None = None
    url: str | None = None
    """The recipient's own page (Direct Mailer's `rcp_url`)."""
    attributes: dict[str, Any] = field(default_factory=dict)

    # A million of them pass through pipes: dataclass' own two ask for the fields each time, and take 8 µs instead of 3.
    def __getstate__(self) -> tuple[Any, ...]:
        return _values_of_recipient(self)

    def __setstate__(self, values: tuple[Any, ...]) -> None:
        for name, value in zip(Recipient.__slots__, values, strict=True):
            object.__setattr__(self, name, value)


_values_of_recipient = attrgetter(*Recipient.__slots__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bypass:
    """Why one recipient is skipped by all later stages (spec 1.4, 1.5, 2.7, 2.8)."""

    recipient_no: int
    reason: str
    """A short machine-readable word, such as `opted_out` or `template_error`."""
    detail: str = ""
    """For people: which attribute, which line of which template. Holds no address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRange:
    """Messages of one release, both ends included."""

    release_id: int
    released_on: date
    """The partition of the release's messages and results."""
    first_message: int
    last_message: int

    def binds(self) -> dict[str, int | date]:
        """As the statements want it."""
        return {
            "release_id": self.release_id,
            "released_on": self.released_on,
            "first_message": self.first_message,
            "last_message": self.last_message,
        }
