"""Who is a recipient of a release, once, and who is bypassed for which reason."""

from __future__ import annotations

import pytest

from mail_orchestration.audience.resolving import ResolveSummary
from mail_orchestration.kernel.errors import NotFound, StateConflict
from mail_orchestration.kernel.model import BodyFormat, Bypass, Recipient
from tests.integration.audience_world import NOW, World, world

__all__ = ["world"]


@pytest.mark.rule("1.3", "1.8")
def test_a_contact_of_several_audiences_is_one_recipient_with_the_first_ones_details(world: World) -> None:
    first = world.audience("first", "ann", "ben", body_format="text", attributes='{"list": "first"}')
    second = world.audience("second", "ben", "cid", "dan", locale="de", attributes='{"list": "second"}')
    release = world.release(second, first)
    summary = world.resolve(release)
    assert summary == ResolveSummary(audience_rows=5, duplicates=1, recipients=4, bypassed={}, is_small=True)
    assert world.recipients(release) == [
        (1, "ann", first, None),
        (2, "ben", second, None),
        (3, "cid", second, None),
        (4, "dan", second, None),
    ]
    recipients, bypasses = world.handed_over(release)
    assert [each.recipient_no for each in recipients] == [1, 2, 3, 4]
    assert recipients[0] == Recipient(
        recipient_no=1,
        contact_id=recipients[0].contact_id,
        address="ann@example.com",
        body_format=BodyFormat.TEXT,
        attributes={"list": "first"},
    )
    assert (recipients[1].locale, recipients[1].attributes) == ("de", {"list": "second"})
    assert bypasses == []
    figures = "SELECT audience_rows, duplicates, recipient_count, bypassed_count, resolved_at FROM release"
    assert world.rows(figures) == [(5, 1, 4, 0, NOW)]
    assert world.mail_job(release) == ("QUEUING", "small", "")


@pytest.mark.rule("1.4", "1.5")
def test_verify_and_filter_bypass_with_the_first_reason(world: World) -> None:
    fine = {"attributes": '{"name": "N", "city": "C"}'}
    members = world.audience(
        "members",
        *[(name, fine) for name in ("ann", "out", "topic", "other", "bounce", "angry", "hand", "not_us")],
        ("format", {**fine, "body_format": "rtf"}),
        ("html", {**fine, "body_format": "mhtml"}),
        ("nameless", {"attributes": '{"name": " ", "city": "C"}'}),
        ("homeless", {"attributes": '{"name": "N", "city": null}'}),
        ("nothing", {}),
        ("worst", {"body_format": "rtf"}),
    )
    excluded = world.audience("excluded", "not_us", "out", "stranger")
    for address, reason, topic in [
        ("out", "opted_out", ""),
        ("topic", "opted_out_of_topic", "offers"),
        ("other", "opted_out_of_topic", "news"),
        ("bounce", "hard_bounce", ""),
        ("bounce", "opted_out_of_topic", "offers"),
        ("angry", "complaint", ""),
        ("hand", "manual", ""),
        ("worst", "manual", ""),
    ]:
        world.suppress(address, reason, topic)
    release = world.release(members, exclude=[excluded], topic="offers")
    summary = world.resolve(release, required_attributes=["name", "city"], small_audience_threshold=3)
    assert {name: reason for _, name, _, reason in world.recipients(release)} == {
        "ann": None,
        "other": None,
        "html": None,
        "out": "opted_out",
        "topic": "opted_out_of_topic",
        "bounce": "hard_bounce",
        "angry": "complaint",
        "hand": "manual",
        "not_us": "excluded_audience",
        "format": "bad_body_format",
        "worst": "bad_body_format",
        "nameless": "missing_attribute:name",
        "homeless": "missing_attribute:city",
        "nothing": "missing_attribute:name",
    }
    assert summary.bypassed["missing_attribute:name"] == 2
    assert (summary.recipients, summary.to_assemble, summary.is_small) == (14, 3, False)
    assert {each.address for each in world.handed_over(release)[0]} == {
        "ann@example.com",
        "other@example.com",
        "html@example.com",
    }
    assert world.mail_job(release) == ("QUEUING", "parent", "")


@pytest.mark.rule("1.4")
@pytest.mark.parametrize(("name", "column"), [("rcp_url", "url"), ("locale", "locale"), ("guid", "guid")])
def test_what_the_membership_holds_itself_can_be_required(world: World, name: str, column: str) -> None:
    release = world.release(world.audience("members", ("ann", {column: "x"}), "ben"))
    world.resolve(release, required_attributes=[name])
    assert {address: reason for _, address, _, reason in world.recipients(release)} == {
        "ann": None,
        "ben": f"missing_attribute:{name}",
    }


@pytest.mark.rule("1.7")
@pytest.mark.parametrize("is_empty", [True, False])
def test_nobody_left_stops_the_mail_job(world: World, is_empty: bool) -> None:
    audience = world.audience("nobody", *([] if is_empty else ["ann"]))
    world.suppress("ann", "manual")
    release = world.release(audience)
    summary = world.resolve(release)
    assert summary.to_assemble == 0
    state, _, reason = world.mail_job(release)
    assert state == "STOPPED"
    assert reason == (
        "no recipients: the audiences are empty" if is_empty else "no recipients: all are bypassed (1 manual)"
    )
    assert world.resolve(release) == summary


@pytest.mark.rule("3.1")
@pytest.mark.parametrize(("recipients", "kind"), [(9, "small"), (10, "parent")])
def test_small_is_fixed_by_those_who_are_left(world: World, recipients: int, kind: str) -> None:
    audience = world.many("members", 1, recipients + 1)
    world.suppress("r1", "manual")
    release = world.release(audience)
    assert world.resolve(release, small_audience_threshold=10).is_small == (kind == "small")
    assert world.mail_job(release)[1] == kind


@pytest.mark.rule("1.3")
def test_dedup_happens_once(world: World) -> None:
    audience = world.audience("members", "ann", "ben")
    release = world.release(audience)
    first = world.resolve(release)
    world.audience("members", "cid")
    assert world.resolve(release) == first
    with pytest.raises(NotFound, match="no release 999"):
        world.resolve(999)
    world.rows(
        "UPDATE mail_job SET state = 'INTERRUPTED' WHERE mail_job_id = :r RETURNING 1",
        r=(second := world.release(audience)),
    )
    with pytest.raises(StateConflict, match="INTERRUPTED"):
        world.resolve(second)


@pytest.mark.rule("1.4")
def test_who_left_the_audience_after_dedup_is_handed_over_as_a_bypass(world: World) -> None:
    release = world.release(world.audience("members", "ann", "ben", "cid"))
    world.resolve(release)
    world.rows(
        "DELETE FROM audience_member USING contact WHERE contact.contact_id = audience_member.contact_id "
        "AND address = 'ben@example.com' RETURNING 1"
    )
    recipients, bypasses = world.handed_over(release, batch=1)
    assert [each.recipient_no for each in recipients] == [1, 3]
    assert bypasses == [Bypass(recipient_no=2, reason="left_audience")]
    assert [each.recipient_no for each in world.handed_over(release, after=2)[0]] == [3]


def test_only_a_resolved_release_is_handed_over(world: World) -> None:
    release = world.release(world.audience("members", "ann"))
    with pytest.raises(NotFound, match="not resolved"):
        world.handed_over(release)
