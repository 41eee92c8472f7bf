"""The states of mail jobs in Python and in SQL are the same, and SQL allows every way that Python knows."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.loose_mail_states import LooseMailKind, LooseMailState
from mail_orchestration.kernel.states import ENDED, TRANSITIONS, MailJobKind, MailJobState
from tests.integration.dispatch_rows import NOW, World

_S = MailJobState
_UNKNOWN_YET = {_S.QUEUING, _S.INTERRUPTED, _S.STOPPED, _S.FAILED}
_ONLY_PARENTS = {state for state in _S if state.is_parents_own}
_ONLY_WORK = {_S.RUNNING, _S.STOPPING, _S.RECOVERING, _S.RECOVERED, _S.FINISHED}


@pytest.mark.rule("3.2")
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mail_job_state", MailJobState),
        ("mail_job_kind", MailJobKind),
        ("loose_mail_state", LooseMailState),
        ("loose_mail_kind", LooseMailKind),
        ("outcome", Outcome),
    ],
)
def test_the_enum_in_sql_is_the_one_in_python(database: Database, name: str, values: Any) -> None:
    with database.begin() as connection:
        found = connection.execute(
            text("SELECT unnest(enum_range(NULL::" + name + "))::text AS value")  # a name of ours
        )
        assert set(found.scalars()) == {member.value for member in values}


def kinds_of(state: MailJobState) -> set[MailJobKind]:
    """Which mail jobs can be in a state (spec 3.2)."""
    if state in _ONLY_PARENTS:
        return {MailJobKind.PARENT}
    if state is _S.QUEUED:
        return {MailJobKind.SMALL}
    if state is _S.STOPPED_Q:
        return {MailJobKind.SMALL, MailJobKind.PARENT}
    if state in _ONLY_WORK:
        return {MailJobKind.SMALL, MailJobKind.CHILD}
    if state in (_S.QUEUING, _S.INTERRUPTED, _S.STOPPED):
        return {MailJobKind.SMALL, MailJobKind.PARENT}
    return set(MailJobKind)


def columns(kind: MailJobKind, state: MailJobState) -> dict[str, object]:
    """What a mail job of that kind has set when it is in that state."""
    is_queued = kind is MailJobKind.CHILD or state not in _UNKNOWN_YET
    has_left = {_S.P_QUEUED: 1, _S.STOPPED_Q: 1, _S.P_ASSIGNING: 51, _S.STOPPED_R: 51}.get(state, 101)
    return {
        "state": state.value,
        "queued_at": NOW if is_queued else None,
        "first_message": 1 if is_queued else None,
        "last_message": 100 if is_queued else None,
        "next_message": has_left if is_queued and kind is MailJobKind.PARENT else None,
        "mailcaster": "m" if state in (_S.RUNNING, _S.STOPPING) else None,
        "heartbeat_at": NOW if state in (_S.RUNNING, _S.STOPPING) else None,
        "ended_at": NOW if state in ENDED else None,
    }


def put(connection: Connection, world: World, kind: MailJobKind, state: MailJobState) -> int:
    parent: int | None = None
    if kind is MailJobKind.CHILD:
        parent = put(connection, world, MailJobKind.PARENT, _S.P_ASSIGNED)
    values = columns(kind, state) | {
        "kind": kind.value,
        "parent_id": parent,
        "release_id": parent or 0,
        "installation_id": world.installation_id,
    }
    names = ", ".join(values)
    binds = ", ".join(_cast(name) for name in values)
    inserted: int = connection.scalar(
        text(f"INSERT INTO mail_job ({names}) VALUES ({binds}) RETURNING mail_job_id"), values
    )
    return inserted


def change(connection: Connection, mail_job_id: int, kind: MailJobKind, state: MailJobState) -> None:
    values = columns(kind, state)
    settings = ", ".join(f"{name} = {_cast(name)}" for name in values)
    connection.execute(
        text(f"UPDATE mail_job SET {settings} WHERE mail_job_id = :id"), values | {"id": mail_job_id}
    )


def _cast(name: str) -> str:
    types = {"state": "mail_job_state", "kind": "mail_job_kind"}
    return f"CAST(:{name} AS {types[name]})" if name in types else f":{name}"


@pytest.mark.rule("3.2")
def test_sql_allows_every_way_that_python_knows(database: Database) -> None:
    world = World(database)
    with database.begin() as connection:
        for leaves, all_enters in TRANSITIONS.items():
            for enters in all_enters:
                kinds = kinds_of(leaves) & kinds_of(enters)
                assert kinds, f"nobody goes from {leaves} to {enters}"
                for kind in kinds:
                    mail_job_id = put(connection, world, kind, leaves)
                    change(connection, mail_job_id, kind, enters)


@pytest.mark.rule("3.2")
@pytest.mark.parametrize(
    ("constraint", "kind", "state", "changed"),
    [
        ("running_has_a_mailcaster_and_a_heartbeat", "small", "RUNNING", {"mailcaster": None}),
        ("running_has_a_mailcaster_and_a_heartbeat", "child", "STOPPING", {"heartbeat_at": None}),
        ("ended_is_terminal", "small", "FINISHED", {"ended_at": None}),
        ("ended_is_terminal", "small", "QUEUED", {"ended_at": NOW}),
        ("p_assigned_has_handed_out_all", "parent", "P_ASSIGNED", {"next_message": 100}),
        ("p_assigning_has_messages_left", "parent", "P_ASSIGNING", {"next_message": 101}),
        ("parent_hands_out_what_it_has", "parent", "P_QUEUED", {"next_message": 0}),
        ("only_a_parent_hands_out_messages", "small", "QUEUED", {"next_message": 1}),
        ("queued_has_messages", "small", "QUEUED", {"first_message": 101}),
        ("kind_is_known_once_queued", "small", "QUEUED", {"kind": None}),
        ("child_has_a_parent", "child", "RUNNING", {"parent_id": None}),
    ],
)
def test_sql_refuses_what_cannot_be(
    database: Database, constraint: str, kind: str, state: str, changed: dict[str, object]
) -> None:
    world = World(database)
    with database.begin() as connection:
        mail_job_id = put(connection, world, MailJobKind(kind), MailJobState(state))
        [(name, value)] = changed.items()
        with pytest.raises(IntegrityError, match=constraint):
            connection.execute(
                text(f"UPDATE mail_job SET {name} = {_cast(name)} WHERE mail_job_id = :id"),
                {name: value, "id": mail_job_id},
            )
