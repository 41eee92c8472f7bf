"""Signing secrets: made once, kept readable by their owner alone, never shown, never replaced in silence."""

from __future__ import annotations

import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.signing_secrets import (
    SECRETS_FILE,
    SECRETS_VARIABLE,
    create_signing_keys,
    load_signing_keys,
)
from mail_orchestration.kernel.tokens import Purpose

OLD, NEW = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))


def test_a_fresh_installation_makes_its_own_once(tmp_path: Path) -> None:
    token = load_signing_keys(tmp_path, may_create=True).sign(Purpose.UNSUBSCRIBE, b"x")
    assert load_signing_keys(tmp_path, may_create=True).verify(Purpose.UNSUBSCRIBE, token) == b"x"
    assert stat.S_IMODE((tmp_path / SECRETS_FILE).stat().st_mode) == 0o600


def test_of_many_who_begin_at_once_one_makes_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        rings = list(pool.map(lambda _: load_signing_keys(tmp_path, may_create=True), range(16)))
    token = rings[0].sign(Purpose.COOKIE, b"x")
    assert all(ring.verify(Purpose.COOKIE, token) == b"x" for ring in rings)
    assert not create_signing_keys(tmp_path / SECRETS_FILE)


def test_none_is_made_where_several_hosts_need_the_same(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=f"there are no signing keys: set {SECRETS_VARIABLE}"):
        load_signing_keys(tmp_path, may_create=False)
    assert not (tmp_path / SECRETS_FILE).exists()


def test_the_last_one_signs_and_the_older_ones_stay_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRETS_VARIABLE, f"a:{OLD}")
    token = load_signing_keys(tmp_path, may_create=False).sign(Purpose.UNSUBSCRIBE, b"x")
    monkeypatch.setenv(SECRETS_VARIABLE, f"a:{OLD},b:{NEW}")
    ring = load_signing_keys(tmp_path, may_create=False)
    assert ring.current == "b"
    assert ring.verify(Purpose.UNSUBSCRIBE, token) == b"x"


@pytest.mark.parametrize("text", ["hello", "a:***", "a:c2hvcnQ=", f"too-long-key-id:{OLD}"])
def test_a_bad_one_is_told_without_showing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(SECRETS_VARIABLE, text)
    with pytest.raises(BadSettings, match=SECRETS_VARIABLE) as caught:
        load_signing_keys(tmp_path, may_create=True)
    assert text.partition(":")[2] not in str(caught.value) or text == "hello"
