"""A group of results as the parameters of one statement: PostgreSQL's array literals, built column by column.

The thread that builds them has mails to send: literals of whole columns take a few microseconds for a row,
much less than adapting each value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from mail_orchestration.kernel.model import DeliveryResult, Outcome


def result_columns(results: Sequence[DeliveryResult]) -> dict[str, bytes]:
    """The columns under the names of the binds of `append_results`, each an array literal in UTF-8."""
    # Nearly always: none has had a result before. Two columns of equal elements are not built anew for that.
    if any(result.supersedes for result in results):
        result_nos = _array(str(r.result_no) for r in results)
        superseded = _array("NULL" if r.supersedes is None else r.supersedes.value for r in results)
    else:
        result_nos, superseded = _equal("1", len(results)), _equal("NULL", len(results))
    return {
        "message_nos": _array(str(r.message_no) for r in results),
        "contact_ids": _array(str(r.contact_id) for r in results),
        "moments": _array(r.occurred_at.isoformat() for r in results),
        "outcomes": _array(r.outcome.value for r in results),
        "reply_codes": _array("NULL" if r.reply_code is None else str(r.reply_code) for r in results),
        "enhanced_codes": _array(_repeated(r.enhanced_code) for r in results),
        "reply_texts": _array(quoted(r.reply_text) for r in results),
        "relays": _array(_repeated(r.relay) for r in results),
        "result_nos": result_nos,
        "superseded": superseded,
    }


def needs_follow_up(result: DeliveryResult) -> bool:
    """Whether more follows from the result than its row: another attempt, or a suppression."""
    return result.outcome is Outcome.DEFERRED or result.is_hard_bounce


def follow_up_columns(results: Sequence[DeliveryResult]) -> dict[str, bytes]:
    """What `append_results_and_follow_up` asks for besides."""
    return {"hard_bounces": _array("t" if r.is_hard_bounce else "f" for r in results)}


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


_repeated = lru_cache(maxsize=512)(quoted)


@lru_cache(maxsize=512)
def _equal(element: str, count: int) -> bytes:
    return _array([element] * count)


def _array(elements: Iterable[str]) -> bytes:
    # Lone surrogates come from replies decoded with surrogateescape.
    return ("{" + ",".join(elements) + "}").encode("utf-8", "replace")
