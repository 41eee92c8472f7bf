"""A group of results as the parameters of one statement: PostgreSQL's array literals, built column by column.

The thread that builds them has mails to send: literals of whole columns take a few microseconds for a row,
much less than adapting each value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TypeVar

from mail_orchestration.kernel.attempts import DeliveryResult, Outcome

_T = TypeVar("_T")


def result_columns(results: Sequence[DeliveryResult]) -> dict[str, bytes]:
    """The columns under the names of the binds of `append_results`, each an array literal in UTF-8."""
    return {
        "message_nos": _array([str(each.message_no) for each in results]),
        "contact_ids": _array([str(each.contact_id) for each in results]),
        "moments": _array(_moments(results)),
        "outcomes": _column([each.outcome for each in results], str),
        "reply_codes": _column([each.reply_code for each in results], _bare),
        "enhanced_codes": _column([each.enhanced_code for each in results], quoted),
        "reply_texts": _column([each.reply_text for each in results], quoted),
        "relays": _column([each.relay for each in results], quoted),
        "result_nos": _column([each.result_no for each in results], str),
        "superseded": _column([each.supersedes for each in results], _bare),
    }


def needs_follow_up(result: DeliveryResult) -> bool:
    """Whether more follows from the result than its row: another attempt, or a suppression."""
    return result.outcome is Outcome.DEFERRED or result.is_hard_bounce


def follow_up_columns(results: Sequence[DeliveryResult]) -> dict[str, bytes]:
    """What `append_results_and_follow_up` asks for besides."""
    return {"hard_bounces": _array(["t" if each.is_hard_bounce else "f" for each in results])}


def quoted(value: str | None) -> str:
    """A text as an element of an array literal.

    What PostgreSQL cannot hold is replaced: a relay that answers with NUL must not cost a hundred other
    connections their results.
    """
    if value is None:
        return "NULL"
    if "\0" in value:
        value = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _bare(value: int | str | None) -> str:
    """A number, or a word that needs no quotes."""
    return "NULL" if value is None else str(value)


def _moments(results: Sequence[DeliveryResult]) -> list[str]:
    texts = []
    last: datetime | None = None
    text = ""
    for each in results:
        if each.occurred_at is not last:  # results of one turn of the event loop have the same
            last = each.occurred_at
            text = last.isoformat()
        texts.append(text)
    return texts


def _column(values: Sequence[_T], element: Callable[[_T], str]) -> bytes:
    """Nearly always all values are equal, and an array of so many of them has been built before."""
    if values and values.count(values[0]) == len(values):
        return _equal(element(values[0]), len(values))
    return _array([element(value) for value in values])


@lru_cache(maxsize=512)
def _equal(element: str, count: int) -> bytes:
    return _array([element] * count)


def _array(elements: Iterable[str]) -> bytes:
    # Lone surrogates come from replies decoded with surrogateescape.
    return ("{" + ",".join(elements) + "}").encode("utf-8", "replace")
