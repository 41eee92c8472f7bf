"""Signed tokens."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mail_orchestration.kernel.tokens import BadSigningSecret, BadToken, Purpose, SigningKeys

OLD, NEW = b"o" * 32, b"n" * 32
KEYS = SigningKeys({"old": OLD, "new": NEW})


@pytest.mark.rule("2.3")
@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(Purpose))
def test_what_was_signed_is_read_back(payload: bytes, purpose: Purpose) -> None:
    token = KEYS.sign(purpose, payload)
    assert token.startswith("new.")
    assert KEYS.verify(purpose, token) == payload
    assert token.replace(".", "").replace("-", "").replace("_", "").isalnum()


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=60), st.data())
def test_one_altered_character_is_enough(payload: bytes, data: st.DataObject) -> None:
    token = KEYS.sign(Purpose.UNSUBSCRIBE, payload)
    position = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABab01-_.=%\u00e9 ").filter(lambda each: each != token[position]))
    with pytest.raises(BadToken):
        KEYS.verify(Purpose.UNSUBSCRIBE, token[:position] + other + token[position + 1 :])


@settings(deadline=None)
@given(st.text(max_size=200))
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(BadToken):
        KEYS.verify(Purpose.COOKIE, text)


def test_a_token_is_good_for_its_purpose_only() -> None:
    token = KEYS.sign(Purpose.COOKIE, b"7")
    with pytest.raises(BadToken):
        KEYS.verify(Purpose.UNSUBSCRIBE, token)


def test_old_tokens_stay_valid_until_their_key_is_dropped() -> None:
    token = SigningKeys({"old": OLD}).sign(Purpose.UNSUBSCRIBE, b"7")
    assert KEYS.verify(Purpose.UNSUBSCRIBE, token) == b"7"
    with pytest.raises(BadToken):
        SigningKeys({"new": NEW}).verify(Purpose.UNSUBSCRIBE, token)


def test_the_same_id_with_another_secret_signs_otherwise() -> None:
    assert SigningKeys({"a": OLD}).digest(Purpose.MESSAGE_ID, b"1") != SigningKeys({"a": NEW}).digest(
        Purpose.MESSAGE_ID, b"1"
    )


def test_repr_shows_no_secret_and_pickling_keeps_the_ring() -> None:
    assert repr(KEYS) == "SigningKeys(['new', 'old'], current='new')"
    assert pickle.loads(pickle.dumps(KEYS)).verify(Purpose.COOKIE, KEYS.sign(Purpose.COOKIE, b"x")) == b"x"


@pytest.mark.parametrize(
    ("secrets", "current"),
    [({}, None), ({"a": b"short"}, None), ({"a.b": OLD}, None), ({"a": OLD}, "b"), ({"": OLD}, None)],
)
def test_unusable_secrets_are_refused(secrets: dict[str, bytes], current: str | None) -> None:
    with pytest.raises(BadSigningSecret) as caught:
        SigningKeys(secrets, current)
    assert "short" not in str(caught.value)
