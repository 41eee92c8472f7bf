"""Single mails as JSON tells them: one object for each mail, one mail for each line of a file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.single_mailer.mails import SingleMail

_KEYS = frozenset(each.name for each in fields(SingleMail)) - {"campaign"}
MAXIMUM_LINE_LETTERS = 1_000_000


def read_mails(lines: Iterable[str], *, campaign: str | Path, file: str) -> Iterator[SingleMail]:
    """The mails of a file's lines; empty ones are passed over. Raises BadInput naming file, line and key.

    What is in a mail is not looked at here: `submit` answers for each by itself.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield read_mail(_document(line), campaign=campaign)
        except BadInput as error:
            raise BadInput(f"{file}:{number}: {error}") from None


def read_mail(document: Any, *, campaign: str | Path) -> SingleMail:
    """One mail. Raises BadInput naming the key when there is one too many, or no `to`.

    An `at` that is no moment stays as it is, for `submit` to refuse this mail alone.
    """
    if not isinstance(document, dict):
        raise BadInput('must be an object such as {"to": "ann@example.com"}')
    if unknown := sorted(document.keys() - _KEYS):
        raise BadInput(f"{unknown[0]}: there is no such key (there are: {', '.join(sorted(_KEYS))})")
    if "to" not in document:
        raise BadInput("to: is missing")
    given = {key: value for key, value in document.items() if value is not None}
    if isinstance(given.get("at"), str):
        with contextlib.suppress(BadInput):
            given["at"] = moment(given["at"])
    return SingleMail(campaign=campaign, **given)


def moment(text: str) -> datetime:
    """A moment in ISO 8601. Raises BadInput, also when it says no offset from UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.utcoffset() is None:
        raise BadInput(f"at: {text!r} is no moment with its offset, such as 2027-03-01T09:00:00+01:00")
    return found


def _document(line: str) -> Any:
    if len(line) > MAXIMUM_LINE_LETTERS:
        raise BadInput(f"the line has {len(line)} letters, more than {MAXIMUM_LINE_LETTERS}")
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deep"
        raise BadInput(f"is no JSON: {reason}") from None
