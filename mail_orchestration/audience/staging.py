"""Rows of a source become lines for COPY, or rejects: the check of every row, pure, at 4 µs each.

The lines are written here, in the loop that has the values at hand: psycopg's row by row COPY costs as much again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from operator import itemgetter
from typing import Any

import orjson

from mail_orchestration.audience.rows import MAXIMUM_ROW_CHARACTERS, Batch, Layout, Reject, RejectCode
from mail_orchestration.kernel.addresses import address_key, normalise_address, parse_mailbox
from mail_orchestration.kernel.errors import BadAddress

# Direct Mailer's numbers, as its documentation lists them for rcp_formatting: 0 is "the default".
_BODY_FORMATS = {"": None, "0": None, "1": "text", "2": "mime", "3": "mhtml"}
_NO_DETAILS = (None, None, None, None)
_SAMPLE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedBatch:
    """What a batch came to. read = len(rows) + repeated + len(rejects)."""

    rows: list[tuple[str, str]]
    """One for each mailbox, with the first row's details, sorted by its key, in cells of COPY's text format.

    First address_key and address; then body_format, locale, guid, url and attributes as JSON.
    """
    rejects: list[Reject]
    repeated: int
    read: int

    def some_keys(self) -> list[str]:
        """Some keys of addresses from all over the batch, to see by whether it is likely to be new."""
        step = max(1, len(self.rows) // _SAMPLE)
        return [names.partition("\t")[0] for names, _ in self.rows[::step]]

    def staging_lines(self) -> bytes:
        """The rows as COPY takes them into audience_staging."""
        return "".join([f"{names}\t{rest}\n" for names, rest in self.rows]).encode()

    def contact_lines(self, installation_id: int, contact_ids: Sequence[int]) -> bytes:
        """The rows as COPY takes them into contact, each under a number of its own."""
        end = f"\t{installation_id}\n"
        numbered = zip(self.rows, contact_ids, strict=False)
        return "".join([f"{number}\t{row[0]}{end}" for row, number in numbered]).encode()

    def member_lines(self, audience_id: int, import_id: int, contact_ids: Sequence[int]) -> bytes:
        """The rows as COPY takes them into audience_member, under the same numbers."""
        end = f"\t{audience_id}\t{import_id}\n"
        numbered = zip(self.rows, contact_ids, strict=False)
        return "".join([f"{number}\t{row[1]}{end}" for row, number in numbered]).encode()


class _Unusable(Exception):
    def __init__(self, code: RejectCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def stage(batch: Batch, *, address_only: bool = False) -> StagedBatch:
    """Check and normalise every row of a batch. Never raises for what a row holds.

    With `address_only` no other column is looked at, and none can make a row unusable.
    """
    layout = batch.layout
    at = layout.address
    read_address = _mailbox if layout.takes_mailboxes else normalise_address
    read_rest = _nothing if address_only else _rest_reader(layout)
    found: dict[str, tuple[str, str]] = {}
    rejects = list(batch.rejects)
    repeated = 0
    for line, row in zip(batch.lines, batch.rows, strict=True):
        value = row[at]
        try:
            if not isinstance(value, str) or not value.strip():
                raise _Unusable(RejectCode.NO_ADDRESS, "the row has no address")
            address = read_address(value)
            key = address_key(address)
            rest = read_rest(row)
            if key in found:
                repeated += 1
            elif "\\" in address:
                found[key] = f"{_escaped(key)}\t{_escaped(address)}", rest
            else:
                found[key] = f"{key}\t{address}", rest
        except BadAddress as error:
            rejects.append(Reject.of(line, value, *_why_bad(value, error)))
        except _Unusable as unusable:
            rejects.append(Reject.of(line, value, unusable.code, str(unusable)))
    return StagedBatch(
        # In the order of the contacts' index, so that PostgreSQL's inserts come page by page.
        rows=[found[key] for key in sorted(found)],
        rejects=rejects,
        repeated=repeated,
        read=len(batch.rows) + len(batch.rejects),
    )


def _mailbox(value: str) -> str:
    return parse_mailbox(value)[1]


def _why_bad(value: str, error: BadAddress) -> tuple[RejectCode, str]:
    if "\0" in value:
        return RejectCode.NUL_CHARACTER, "the address has a NUL character in it"
    if not _encodes(value):
        return RejectCode.WRONG_ENCODING, "the address is not in the source's encoding"
    if len(value) > MAXIMUM_ROW_CHARACTERS:
        return RejectCode.TOO_LONG, f"the address has {len(value)} characters"
    return RejectCode.BAD_ADDRESS, str(error)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _nothing(row: Any) -> str:
    return r"\N" "\t" r"\N" "\t" r"\N" "\t" r"\N" "\t" r"\N"


def _rest_reader(layout: Layout) -> Callable[[Any], str]:
    """Reads body format, locale, guid, url and attributes of a row as cells of COPY; an empty detail is NULL."""
    read_attributes = _attributes_reader(layout)
    if layout.details == _NO_DETAILS:
        no_details = "\\N\t" * len(_NO_DETAILS)
        return lambda row: no_details + read_attributes(row)

    def read(row: Any) -> str:
        body_format, *others = (None if at is None else _detail(row[at]) for at in layout.details)
        if body_format is not None:
            body_format = body_format.lower()
            body_format = _BODY_FORMATS.get(body_format, body_format)
        cells = ["\\N" if text is None else _escaped(text) for text in (body_format, *others)]
        return "\t".join([*cells, read_attributes(row)])

    return read


def _escaped(text: str) -> str:
    """As a cell of COPY's text format."""
    text = text.replace("\\", "\\\\")
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _detail(value: Any) -> str | None:
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    if len(text) > MAXIMUM_ROW_CHARACTERS:
        raise _Unusable(RejectCode.TOO_LONG, f"a cell has {len(text)} characters")
    if "\0" in text:
        raise _Unusable(RejectCode.NUL_CHARACTER, "a cell has a NUL character in it")
    if not text.isascii() and not _encodes(text):
        raise _Unusable(RejectCode.WRONG_ENCODING, "a cell is not in the source's encoding")
    return text


def _attributes_reader(layout: Layout) -> Callable[[Any], str]:
    """Reads the attributes of a row as a JSON object in a cell of COPY; NULL when the source has no further column."""
    if not layout.attributes:
        return lambda row: "\\N"
    names = tuple(name for name, _ in layout.attributes)
    positions = [position for _, position in layout.attributes]
    pick = itemgetter(*positions) if len(positions) > 1 else lambda row: (row[positions[0]],)

    def read(row: Any) -> str:
        attributes = dict(zip(names, pick(row), strict=True))
        try:
            json = orjson.dumps(attributes, default=_plain, option=_JSON_OPTIONS)
        except TypeError as error:
            if any(not _encodes(text) for text in _texts(attributes)):
                raise _Unusable(RejectCode.WRONG_ENCODING, "a cell is not in the source's encoding") from None
            raise _Unusable(RejectCode.UNSTORABLE, str(error)) from None
        if len(json) > MAXIMUM_ROW_CHARACTERS:
            raise _Unusable(RejectCode.TOO_LONG, f"the row's attributes have {len(json)} characters")
        if b"\\" not in json:
            return json.decode()
        if b"\\u0000" in json and any("\0" in text for text in _texts(attributes)):
            raise _Unusable(RejectCode.NUL_CHARACTER, "a cell has a NUL character in it")
        # JSON has no bare tab or line end: its backslashes are all that COPY would take for its own.
        return json.decode().replace("\\", "\\\\")

    return read


_JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def _plain(value: Any) -> Any:
    """What orjson does not know, as JSON: exact decimals and durations as text, arrays and tuples as lists."""
    match value:
        case Decimal() | timedelta():
            return str(value)
        case datetime() | date() | time_of_day():
            return value.isoformat()
        case set() | frozenset():
            return sorted(value)
        case bytes() | bytearray() | memoryview():
            raise TypeError("bytes cannot be an attribute")
        case _ if hasattr(value, "tolist"):
            return value.tolist()
        case _:
            raise TypeError(f"{type(value).__name__} cannot be an attribute")


def _texts(value: Any) -> Iterator[str]:
    """Every text within a value."""
    within = [value]
    while within:  # no recursion: what is nested too deeply for it is just what comes by here
        each = within.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            within += [*each, *each.values()]
        elif isinstance(each, (list, tuple)):
            within += each
