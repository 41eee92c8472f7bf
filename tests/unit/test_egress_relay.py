"""A relay's settings, its secrets, and its back-off."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_orchestration.egress.faults import without_addresses
from mail_orchestration.egress.relay import AuthMechanism, Backoff, Relay, TlsMode
from mail_orchestration.egress.reply import Reply
from mail_orchestration.egress.setup import Extensions, extensions_of, tls_context
from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.secret import Secret


@pytest.mark.rule("6.8")
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"host": ""}, "host"),
        ({"port": 0}, "port"),
        ({"weight": 0}, "weight"),
        ({"connections": 0}, "connections"),
        ({"username": "u"}, "username"),
        ({"auth": AuthMechanism.PLAIN}, "auth"),
        ({"helo_name": "x\r\nRSET"}, "helo_name"),
        ({"ca_file": Path("ca.pem")}, "ca_file"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], named: str) -> None:
    with pytest.raises(BadSettings, match=rf"relay 'r': {named} "):
        Relay(**{"name": "r", "host": "h.example", "tls": TlsMode.NONE, **settings})  # type: ignore[arg-type]


def test_a_ca_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.pem"
    relay = Relay(name="r", host="h.example", tls=TlsMode.STARTTLS, ca_file=missing)
    with pytest.raises(BadSettings, match=r"ca_file.*none\.pem"):
        tls_context(relay)


def test_a_relay_shows_no_secret() -> None:
    relay = Relay(name="r", host="h", tls=TlsMode.NONE, username="u", password=Secret("hush"))
    assert "hush" not in f"{relay!r} {relay} {relay.password}"


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_the_back_off_stays_within_its_bounds(failures: int, jitter: float) -> None:
    assert 1.0 <= Backoff().seconds(failures, jitter) <= 60.0


def test_the_back_off_doubles() -> None:
    assert [Backoff().seconds(failures, 0.0) for failures in (1, 2, 3, 6, 7, 8)] == [1, 2, 4, 32, 60, 60]


def test_extensions_are_read_whatever_their_case_and_order() -> None:
    hello = Reply(250, None, "mx hello\nsize 1000\n8bitmime\nAUTH PLAIN\nAUTH=LOGIN\nX-OTHER y\nPIPELINING")
    assert extensions_of(hello) == Extensions(
        pipelining=True,
        eight_bit_mime=True,
        size_offered=True,
        largest_octets=1000,
        mechanisms=frozenset({"PLAIN", "LOGIN"}),
    )
    assert extensions_of(Reply(250, None, "mx\nSIZE 0")) == Extensions(size_offered=True)
    assert extensions_of(Reply(250, None, "PIPELINING")) == Extensions()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "421 <a.b+c@x.example>: too many from d@y.example",
            "421 <<address>>: too many from <address>",
        ),
        ('421 "anna smith"@x.example', "421 <address>"),
        ("421 <o'neil@x.example>", "421 <<address>>"),
        ("421 anna@[192.0.2.1]: no", "421 <address>: no"),
        ("cannot connect: refused", "cannot connect: refused"),
    ],
)
def test_addresses_are_blotted_out_of_errors(said: str, shown: str) -> None:
    assert without_addresses(said) == shown


@pytest.mark.rule("5.2")
@pytest.mark.parametrize("said", ["x" * 50_000, '"' * 50_000, "x@" * 25_000, 'a["' * 16_000])
def test_a_huge_reply_is_made_fit_for_the_log_at_once(said: str) -> None:
    began = time.monotonic()
    assert len(without_addresses(said)) <= 200
    assert time.monotonic() - began < 1, "no heart beats meanwhile"
