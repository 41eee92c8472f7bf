"""What every source delivers: batches of rows with their line numbers, and the layout that says what a column means."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from mail_orchestration.kernel.errors import BadAudience

ROWS_PER_BATCH = 20_000
ROWS_OF_FIRST_BATCH = 4_000
"""Of a file: until it is checked the database has nothing to do."""
MAXIMUM_ROW_CHARACTERS = 131_072
"""A longer row is rejected. It is also csv's own limit for one cell."""
_MAXIMUM_NAME_CHARACTERS = 63
_MAXIMUM_SHOWN_CHARACTERS = 1_000

_DETAIL_COLUMNS = {
    "body_format": 0,
    "locale": 1,
    "guid": 2,
    "url": 3,
    "rcp_fmt": 0,
    "rcp_locale": 1,
    "rcp_guid": 2,
    "rcp_url": 3,
}


class RejectCode(StrEnum):
    """Why a row could not be imported, in a word."""

    NO_ADDRESS = "no_address"
    BAD_ADDRESS = "bad_address"
    MALFORMED = "malformed"
    """The row cannot be told from the next one: a stray quote, a line without end."""
    WRONG_CELL_COUNT = "wrong_cell_count"
    WRONG_ENCODING = "wrong_encoding"
    NUL_CHARACTER = "nul_character"
    TOO_LONG = "too_long"
    UNSTORABLE = "unstorable"
    """A typed value, such as bytes, that cannot be a contact's attribute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row that is set aside (spec 1.1)."""

    line: int
    """The line of a file where the row begins, or the number of the row, from 1."""
    value: str = field(repr=False)
    """The address or the row as it was found, at most 1,000 characters, without NUL."""
    code: str
    detail: str

    @classmethod
    def of(cls, line: int, value: object, code: RejectCode, detail: str) -> Reject:
        """Make one of whatever was found, cut and cleaned so that it can be stored and shown."""
        shown = value if isinstance(value, str) else "" if value is None else str(value)
        shown = shown[:_MAXIMUM_SHOWN_CHARACTERS].replace("\0", "")
        return cls(
            line=line,
            value=shown.encode("utf-8", "backslashreplace").decode()[:_MAXIMUM_SHOWN_CHARACTERS],
            code=code.value,
            detail=detail.replace("\0", "")
            .encode("utf-8", "backslashreplace")
            .decode()[:_MAXIMUM_SHOWN_CHARACTERS],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which column of a source is what."""

    width: int
    address: int
    details: tuple[int | None, int | None, int | None, int | None] = (None, None, None, None)
    """The columns of body format, locale, guid and url."""
    attributes: tuple[tuple[str, int], ...] = ()
    takes_mailboxes: bool = False
    """Whether an address may be written `Name <a@b>`."""

    @classmethod
    def of(cls, names: Sequence[str], address_column: str, source: str) -> Layout:
        """Read a header.

        `address_column` is found by its exact name, else by its cleaned one. `body_format`, `locale`, `guid` and `url`
        (also as Direct Mailer's `rcp_fmt` …) are the recipient's own; every other column is an attribute under its
        cleaned name. Raises BadAudience when there is no such column, or two have one name.
        """
        cleaned = [clean_name(name, position) for position, name in enumerate(names, start=1)]
        for position, name in enumerate(cleaned):
            first = cleaned.index(name)
            if first != position:
                raise BadAudience(f"{source}: columns {first + 1} and {position + 1} are both named {name!r}")
        if address_column in names:
            address = list(names).index(address_column)
        elif clean_name(address_column, 0) in cleaned:
            address = cleaned.index(clean_name(address_column, 0))
        else:
            raise BadAudience(f"{source}: there is no column {address_column!r}{_hint(names)}")
        details: list[int | None] = [None, None, None, None]
        attributes: list[tuple[str, int]] = []
        for position, name in enumerate(cleaned):
            which = _DETAIL_COLUMNS.get(name)
            if position == address:
                continue
            if which is None:
                attributes.append((name, position))
            elif details[which] is not None:
                first = 1 + (details[which] or 0)
                raise BadAudience(f"{source}: columns {first} and {position + 1} both give the {name}")
            else:
                details[which] = position
        body_format, locale, guid, url = details
        return cls(
            width=len(names),
            address=address,
            details=(body_format, locale, guid, url),
            attributes=tuple(attributes),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some rows of a source, at most about ROWS_PER_BATCH."""

    layout: Layout
    lines: Sequence[int]
    """The line of each row."""
    rows: Sequence[Sequence[Any]]
    """Each as wide as the layout: text, or from typed sources what JSON can hold."""
    rejects: Sequence[Reject] = ()
    """What could not even be read as a row."""


class Source(Protocol):
    """Where an audience comes from."""

    @property
    def name(self) -> str:
        """For messages and the list of imports: a file's path, never a secret."""

    def batches(self) -> Iterator[Batch]:
        """Read it once, in bounded memory. Raises BadAudience when it cannot be read, or not to its end."""


def clean_name(name: str, position: int) -> str:
    """A column's name as templates can use it: lower case, `_` for every run of anything but letters and digits.

    `First Name` becomes `first_name`, `2nd` `column_2nd`, and a column without a name `column_<position>`.
    """
    text = unicodedata.normalize("NFKC", name).lower()
    # Some numbers of other scripts are alphanumeric and yet cannot stand in a name.
    text = "".join(each if each.isalnum() and f"_{each}".isidentifier() else "_" for each in text)
    text = re.sub("_+", "_", text).strip("_")
    text = text[:_MAXIMUM_NAME_CHARACTERS].strip("_")
    if not text:
        return f"column_{position}"
    return text if text.isidentifier() else f"column_{text}"


def _hint(names: Sequence[str]) -> str:
    if any("@" in name for name in names):
        # Not quoted: it is somebody's address.
        return "; its first line seems to be data, and a header is needed"
    listed = ", ".join(name[:60] for name in names[:20])
    return f" (there are: {listed})"
