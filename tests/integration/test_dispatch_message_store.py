"""Assembled messages are stored in order, counted in the same transaction, and read back exactly."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.claims import unsent_messages
from mail_orchestration.dispatch.message_store import (
    MessageToStore,
    finish_assembly,
    read_message,
    store_bypasses,
    store_messages,
)
from mail_orchestration.kernel.errors import NotFound, StateConflict
from mail_orchestration.kernel.model import Bypass
from tests.integration.dispatch_rows import DAY, NOW, World, world

__all__ = ["world"]


def unassembled(world: World, recipients: int, kind: str = "small") -> int:
    """A release whose recipients are known and that has no message yet."""
    with world.database.begin() as connection:
        release_id = world.create(connection, recipients, kind=kind)
        connection.execute(
            text("UPDATE release SET assembled_at = NULL, message_count = 0 WHERE release_id = :id"),
            {"id": release_id},
        )
    return release_id


def message(recipient_no: int, place: int = 0) -> MessageToStore:
    return MessageToStore(
        recipient_no=recipient_no,
        contact_id=1000 + recipient_no,
        address=f"Reader.{recipient_no}@example.org",
        size=99,
        place=place,
    )


def block(number: int) -> bytes:
    return bytes([0, 255, 10, 13, number])


@pytest.mark.rule("2.7")
def test_messages_are_numbered_without_gaps_past_those_bypassed(world: World) -> None:
    release_id = unassembled(world, 5)
    with world.database.begin() as connection:
        assert store_messages(connection, DAY, release_id, 1, [message(1), message(3, 1)], [block(1)]) == 3
        bypass = Bypass(recipient_no=2, reason="template_error", detail="line 3")
        assert store_bypasses(connection, DAY, release_id, "compose", [bypass]) == 1
    with world.database.begin() as connection:
        assert store_messages(connection, DAY, release_id, 3, [], []) == 3
        assert store_bypasses(connection, DAY, release_id, "compose", []) == 0
        store_messages(connection, DAY, release_id, 3, [message(4)], [block(3)])
        with pytest.raises(StateConflict, match="3 messages and 1 bypassed make 4 of 5"):
            finish_assembly(connection, release_id, NOW)
        store_messages(connection, DAY, release_id, 4, [message(5)], [block(4)])
        assert finish_assembly(connection, release_id, NOW) == 4
        with pytest.raises(StateConflict, match="assembled already"):
            finish_assembly(connection, release_id, NOW)
        release = connection.execute(
            text("SELECT message_count, bypassed_count, assembled_up_to FROM release WHERE release_id = :id"),
            {"id": release_id},
        ).one()
        assert tuple(release) == (4, 1, 5)
        kept = connection.execute(text("SELECT recipient_no, stage, reason, detail FROM bypass")).one()
        assert tuple(kept) == (2, "compose", "template_error", "line 3")

        for key in ({"message_no": 3}, {"recipient_no": 4}, {"address": "reader.4@EXAMPLE.org"}):
            stored = read_message(connection, release_id, **key)
            assert (stored.message_no, stored.recipient_no, stored.contact_id) == (3, 4, 1004)
            assert (stored.address, stored.size) == ("Reader.4@example.org", 99)
            assert (stored.block, stored.place_in_block) == (block(3), 0)
            assert stored.released_on == DAY
            assert stored.dictionary is None
        second = read_message(connection, release_id, message_no=2)
        assert (second.recipient_no, second.block, second.place_in_block) == (3, block(1), 1)
        for missing in ({"message_no": 5}, {"recipient_no": 2}, {"address": "nobody@example.org"}):
            with pytest.raises(NotFound, match="has no such message"):
                read_message(connection, release_id, **missing)


@pytest.mark.rule("2.7")
def test_two_assemblers_do_not_mix_their_messages(world: World) -> None:
    release_id = unassembled(world, 5)
    with world.database.begin() as connection:
        store_messages(connection, DAY, release_id, 1, [message(1)], [block(1)])
    with world.database.begin() as connection, pytest.raises(StateConflict, match="do not end before 1"):
        store_messages(connection, DAY, release_id, 1, [message(1)], [block(1)])
    with world.database.begin() as connection:
        with pytest.raises(NotFound):
            finish_assembly(connection, 999, NOW)
        with pytest.raises(StateConflict):
            store_bypasses(connection, DAY, 999, "compose", [Bypass(recipient_no=1, reason="empty_body")])


def test_messages_and_blocks_are_stored_together_or_not_at_all(world: World) -> None:
    release_id = unassembled(world, 5)
    for blocks in ([], [block(1), block(3)]):
        with pytest.raises(ValueError, match="zip"), world.database.begin() as connection:
            store_messages(connection, DAY, release_id, 1, [message(1), message(2, 1)], blocks)
    with world.database.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM assembled_message")) == 0
        assert connection.scalar(text("SELECT message_count FROM release")) == 0


def test_a_message_whose_block_is_gone_is_past_its_retention(world: World) -> None:
    release_id = unassembled(world, 1)
    with world.database.begin() as connection:
        store_messages(connection, DAY, release_id, 1, [message(1)], [block(1)])
    world.execute("DELETE FROM message_block")
    with world.database.begin() as connection, pytest.raises(NotFound, match="past its retention"):
        read_message(connection, release_id, message_no=1)


def test_a_cut_off_batch_leaves_nothing(world: World) -> None:
    release_id = unassembled(world, 5)
    with world.database.begin() as connection:
        store_messages(connection, DAY, release_id, 1, [message(1), message(2)], [block(1), block(2)])
        connection.rollback()
    with world.database.begin() as connection:
        assert store_messages(connection, DAY, release_id, 1, [message(1)], [block(1)]) == 2


def test_the_dictionary_comes_with_the_message(world: World) -> None:
    release_id = unassembled(world, 1)
    world.execute("INSERT INTO content VALUES (sha256('frequent words'), 'frequent words')")
    world.execute("UPDATE release SET dictionary = sha256('frequent words')")
    with world.database.begin() as connection:
        store_messages(connection, DAY, release_id, 1, [message(1)], [block(1)])
        assert read_message(connection, release_id, message_no=1).dictionary == b"frequent words"
        with pytest.raises(ValueError, match="one of them"):
            read_message(connection, release_id)


@pytest.mark.rule("5.1")
@pytest.mark.parametrize("batch", [1, 7, 100, 1000])
def test_unsent_messages_are_all_read_whatever_the_batch(world: World, batch: int) -> None:
    claimed = world.claim_of(world.begun(500, kind="parent"))
    world.add_messages(claimed.release_id, 500)
    for first, last in ((1, 3), (10, 10), (50, 480), (499, 500)):
        world.deliver(claimed, first, last)
    expected = [n for n in range(1, 501) if not (n <= 3 or n == 10 or 50 <= n <= 480 or n >= 499)]

    numbers: list[int] = []
    after = 0
    with world.database.begin() as connection:
        while unsent := unsent_messages(connection, claimed, after, batch):
            assert len(unsent.to_send) <= batch
            assert not unsent.suppressed
            assert unsent.up_to > after
            numbers += [each.message_no for each in unsent.to_send]
            after = unsent.up_to
        assert unsent.up_to == 500
    assert numbers == expected


def test_unsent_messages_are_those_of_the_range_and_carry_their_bytes(world: World) -> None:
    release_id = unassembled(world, 5)
    with world.database.begin() as connection:
        messages = [message(1), message(2), message(3, 1), message(4, 2), message(5)]
        store_messages(connection, DAY, release_id, 1, messages, [block(1), block(2), block(5)])
    world.execute(
        "UPDATE mail_job SET kind = 'parent', queued_at = :now, state = 'P_QUEUED', first_message = 1, "
        "last_message = 5, next_message = 1",
        now=NOW,
    )
    other = world.begun(5, kind="small")
    world.add_messages(other, 5)
    world.execute(
        "INSERT INTO mail_job (release_id, installation_id, parent_id, kind, state, queued_at, first_message, "
        "  last_message, mailcaster, heartbeat_at) "
        "SELECT :id, installation_id, :id, 'child', 'RUNNING', :now, 2, 3, 'm', :now FROM installation",
        id=release_id,
        now=NOW,
    )
    with world.database.begin() as connection:
        child = connection.scalar(text("SELECT mail_job_id FROM mail_job WHERE kind = 'child'"))
        unsent = unsent_messages(connection, world.claim_of(child), 0, 100)
    assert [tuple(each) for each in unsent.to_send] == [
        (n, n, 1000 + n, f"Reader.{n}@example.org", 99, n - 2, block(2)) for n in (2, 3)
    ]


@pytest.mark.rule("1.5")
def test_who_was_suppressed_since_assembly_is_not_sent_to(world: World) -> None:
    release_id = world.queue(6, kind="small", topic="offers")
    world.add_messages(release_id, 6)
    for nth, topic, reason in (
        (1, "", "opted_out"),
        (2, "offers", "opted_out_of_topic"),
        (3, "news", "opted_out_of_topic"),
        (4, "", "hard_bounce"),
    ):
        world.execute(
            "INSERT INTO suppression (contact_id, topic, reason) SELECT contact_id, :topic, :reason "
            "FROM assembled_message WHERE release_id = :id AND message_no = :nth",
            id=release_id,
            nth=nth,
            topic=topic,
            reason=reason,
        )
    with world.database.begin() as connection:
        unsent = unsent_messages(connection, world.claim_of(release_id), 0, 100)
    assert [each.message_no for each in unsent.to_send] == [3, 5, 6]
    assert [each.message_no for each in unsent.suppressed] == [1, 2, 4]
