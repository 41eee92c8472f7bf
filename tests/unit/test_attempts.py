"""Messages and results are what components see of them, interpreted and compiled (spec 1.6)."""

from __future__ import annotations

import copy
import pickle
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pytest

from mail_orchestration.kernel.attempts import DeliveryResult, Outcome, OutgoingMessage, Phase
from mail_orchestration.kernel.message_lines import Lines
from mail_orchestration.sending.components_see import MessageInHand, MessageWithResult

FIELDS: dict[str, Any] = {
    "message_no": 7,
    "contact_id": 8,
    "outcome": Outcome.REJECTED,
    "reply_code": 550,
    "enhanced_code": "5.1.1",
    "reply_text": "no such user",
    "relay": "sink",
    "occurred_at": datetime(2026, 3, 1, 12, tzinfo=UTC),
    "result_no": 2,
    "supersedes": Outcome.DEFERRED,
    "refused_at": Phase.RCPT,
    "is_hard_bounce": True,
}


OTHERS: dict[str, Any] = {
    "message_no": 70,
    "contact_id": 80,
    "outcome": Outcome.DEFERRED,
    "reply_code": None,
    "enhanced_code": None,
    "reply_text": None,
    "relay": "",
    "occurred_at": datetime(2026, 3, 2, 12, tzinfo=UTC),
    "result_no": 3,
    "supersedes": None,
    "refused_at": None,
    "is_hard_bounce": False,
}


def _said(result: DeliveryResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in FIELDS}


@pytest.mark.rule("6.4")
def test_a_result_that_supersedes_another_keeps_everything_else() -> None:
    result = DeliveryResult(**FIELDS)
    assert _said(result) == FIELDS
    assert _said(result.of_message(70)) == FIELDS | {"message_no": 70}
    assert _said(result.superseding(Outcome.UNCERTAIN, 3)) == FIELDS | {
        "supersedes": Outcome.UNCERTAIN,
        "result_no": 3,
    }


def test_results_are_equal_when_they_say_the_same() -> None:
    result, same = (DeliveryResult(**FIELDS) for _ in range(2))
    assert result == same
    assert hash(result) == hash(same)
    for name, other in OTHERS.items():
        assert result != DeliveryResult(**FIELDS | {name: other}), name


@pytest.mark.rule("1.6")
def test_a_component_may_copy_and_pickle_a_result() -> None:
    shown = MessageWithResult(recipient_no=1, result=DeliveryResult(**FIELDS))
    assert copy.copy(shown.result) == shown.result
    assert copy.deepcopy(shown) == shown
    assert pickle.loads(pickle.dumps(shown)) == shown
    assert asdict(shown) == {"recipient_no": 1, "result": shown.result}


@pytest.mark.rule("1.6")
def test_a_component_may_copy_and_pickle_a_message() -> None:
    message = OutgoingMessage(
        7, 8, "us@example.org", "r7@example.net", b"Subject: hello\r\n\r\n", Lines.PLAIN
    )
    shown = MessageInHand(recipient_no=1, message=message)
    for copied in (
        copy.deepcopy(message),
        pickle.loads(pickle.dumps(shown)).message,
        asdict(shown)["message"],
    ):
        assert type(copied) is OutgoingMessage
        assert (copied.message_no, copied.contact_id) == (7, 8)
        assert (copied.reverse_path, copied.address) == ("us@example.org", "r7@example.net")
        assert (copied.data, copied.lines, copied.octets) == (b"Subject: hello\r\n\r\n", Lines.PLAIN, 18)
