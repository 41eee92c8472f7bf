"""A mailcaster that serves several installations gives each its turn (spec 6.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch import turns
from mail_orchestration.dispatch.holds import HoldCause, place_hold
from mail_orchestration.dispatch.turns import Work, note_settings
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from mail_orchestration.kernel.settings import Settings
from mail_orchestration.kernel.tokens import SigningKeys
from mail_orchestration.mailcaster import has_work
from mail_orchestration.mailcaster.claiming import claim_in_turn
from mail_orchestration.serving import Served
from tests.integration.dispatch_rows import LARGE_PRIORITY, NOW, SMALL_PRIORITY, World

SOON = NOW + timedelta(minutes=1)
KEYS = SigningKeys({"t1": bytes(range(32))})


@dataclass
class Neighbour(World):
    """Another installation of the same database."""

    name: str = "beta"

    def __post_init__(self) -> None:
        with self.database.begin() as connection:
            self.installation_id = connection.scalar(
                text("INSERT INTO installation (name) VALUES (:name) RETURNING installation_id"),
                {"name": self.name},
            )
            self.campaign_id = connection.scalar(
                text(
                    "INSERT INTO campaign (installation_id, name, digest) VALUES (:id, 'spring', '') "
                    "RETURNING campaign_id"
                ),
                {"id": self.installation_id},
            )


def retry(world: World, *, state: str, due_at: datetime, reserved_until: datetime | None = None) -> None:
    """A message that waits to be sent again, as a row and nothing behind it."""
    world.execute(
        "INSERT INTO loose_mail (installation_id, kind, state, due_at, campaign_id, contact_id, address, released_on, "
        "  release_id, message_no, mail_job_id, result_no, last_outcome, worker, reserved_until) "
        "SELECT :installation_id, 'retry', CAST(:state AS loose_mail_state), :due_at, :campaign_id, 1, 'r@x.example', "
        "  current_date, 1, count(*) + 1, 1, 1, 'deferred', CASE WHEN :state = 'SENDING' THEN 'm' END, "
        "  CAST(:reserved_until AS timestamptz) FROM loose_mail",
        installation_id=world.installation_id,
        campaign_id=world.campaign_id,
        state=state,
        due_at=due_at,
        reserved_until=reserved_until,
    )


def installation_of(world: World, parameters: MailcasterParameters) -> Installation:
    """The installation `main` with one mailcaster."""
    settings = Settings(installation="main", mailcasters=(parameters,))
    return Installation(
        settings=settings, database=world.database, installation_id=world.installation_id, keys=KEYS
    )


@dataclass
class Two:
    """Installations `main` and `beta`, and `main`'s mailcaster `shared`."""

    main: World
    beta: Neighbour
    shared: MailcasterParameters

    def inst(self) -> Installation:
        return installation_of(self.main, self.shared)

    def takes(self, most: int = 1000, *, at: datetime = SOON) -> list[str]:
        """Whose work it takes, claim after claim, until there is none."""
        inst, names = self.inst(), []
        served = Served(inst, self.shared.installations, Work.MAIL_JOB)
        while len(names) < most and (taken := claim_in_turn(served, self.shared, lambda: at)) is not None:
            whose, claim = taken
            assert claim.installation_id == whose.installation_id
            names.append(whose.settings.installation)
        return names


@pytest.fixture
def two(database: Database) -> Two:
    return Two(
        main=World(database),
        beta=Neighbour(database),
        shared=LARGE_PRIORITY.model_copy(update={"name": "shared", "installations": "all"}),
    )


@pytest.mark.rule("6.2")
def test_one_with_two_hundred_thousand_waiting_does_not_starve_one_with_ten(two: Two) -> None:
    two.main.queue(200_000, kind="parent")
    two.main.execute(
        "WITH new AS (INSERT INTO mail_job (release_id, installation_id, kind, state, queued_at, first_message, "
        "    last_message) "
        "  SELECT 0, :installation_id, 'small', 'QUEUED', :now, 1, 10 FROM generate_series(1, 2000) "
        "  RETURNING mail_job_id), "
        "frozen AS (INSERT INTO release (release_id, campaign_id, released_at, released_on, files, digest, "
        "    content_digest, audience_ids) "
        "  SELECT mail_job_id, :campaign_id, :now, current_date, '{}', '', '', '{}' FROM new) "
        "SELECT",
        installation_id=two.main.installation_id,
        campaign_id=two.main.campaign_id,
        now=NOW,
    )
    two.main.execute("UPDATE mail_job SET release_id = mail_job_id WHERE release_id = 0")
    for _ in range(10):
        two.beta.queue(10, kind="small", now=SOON)

    taken = two.takes(24)

    assert taken == ["main", "beta"] * 10 + ["main"] * 4, (
        "each in its turn, and nobody waits for who has nothing"
    )


@pytest.mark.rule("6.2")
def test_the_turn_is_that_of_whoever_had_it_longest_ago(two: Two) -> None:
    """Whichever mailcaster gave it: another shift goes on where the last one ended."""
    gamma = Neighbour(two.main.database, name="gamma")
    for world in (two.main, two.beta, gamma):
        for _ in range(3):
            world.queue(5, kind="small")

    assert two.takes(2) == ["main", "beta"]
    two.shared = two.shared.model_copy(update={"name": "another"})
    assert two.takes(2) == ["gamma", "main"]
    assert two.takes() == ["beta", "gamma", "main", "beta", "gamma"]


@pytest.mark.rule("4.3")
@pytest.mark.rule("6.2")
@pytest.mark.parametrize("parameters", [LARGE_PRIORITY, SMALL_PRIORITY], ids=lambda each: each.name)
@pytest.mark.parametrize("named", [(), ("main",), "all"], ids=["its own", "named", "all"])
def test_with_one_installation_the_order_is_that_of_the_search(
    database: Database, parameters: MailcasterParameters, named: object
) -> None:
    world = World(database)
    made = [
        world.queue(10, kind="small"),
        world.queue(3000, kind="parent"),
        world.queue(10, kind="small", priority=5),
        world.begun(20, kind="small", state="RECOVERING"),
        world.begun(2500, kind="parent", state="RECOVERING"),
    ]
    parameters = parameters.model_copy(update={"installations": named})
    inst = installation_of(world, parameters)
    served = Served(inst, parameters.installations, Work.MAIL_JOB)
    found = []
    while (taken := claim_in_turn(served, parameters, lambda: SOON)) is not None:
        claim = taken[1]
        found.append(made.index(claim.recovers_id or claim.release_id))

    small, large = [3, 2, 0], [4, 1]
    order = [*large, *small] if parameters.name == "large-priority" else [*small, *large]
    assert list(dict.fromkeys(found)) == order
    with database.begin() as connection:
        noted = connection.scalar(text("SELECT count(*) FROM turn"))
    assert noted == (0 if named == () else 1), "who serves nobody else notes no turn"


@pytest.mark.rule("6.2")
def test_those_that_are_not_named_are_left_to_others(two: Two) -> None:
    two.main.queue(5, kind="small")
    two.beta.queue(5, kind="small")

    two.shared = two.shared.model_copy(update={"installations": ("beta",)})
    assert two.takes() == ["beta"]
    assert not has_work(two.inst(), "shared", now=SOON)
    two.shared = two.shared.model_copy(update={"installations": ()})
    assert has_work(two.inst(), "shared", now=SOON)
    assert two.takes() == ["main"]


@pytest.mark.rule("6.2")
def test_one_that_the_database_does_not_know_is_named(two: Two) -> None:
    two.shared = two.shared.model_copy(update={"installations": ("main", "alpha")})
    for ask in (lambda: two.takes(), lambda: has_work(two.inst(), "shared", now=SOON)):
        with pytest.raises(BadSettings, match=r"names 'alpha', which .* \(it knows: main, beta\)"):
            ask()


@pytest.mark.rule("6.2")
def test_a_hold_is_of_its_installation(two: Two) -> None:
    two.main.queue(5, kind="small")
    two.beta.queue(5, kind="small")
    with two.main.database.begin() as connection:
        place_hold(connection, two.main.installation_id, HoldCause.OPERATOR, "moving", by="anna", now=NOW)

    assert two.takes() == ["beta"]
    assert not has_work(two.inst(), "shared", now=SOON)


@pytest.mark.rule("6.2")
@pytest.mark.rule("6.7")
def test_a_send_window_is_of_its_installation(two: Two) -> None:
    two.main.queue(5, kind="small")
    two.beta.queue(5, kind="small")
    # NOW is a Wednesday, at noon.
    theirs = Settings.model_validate({"send_window": {"spans": [{"from": "13:00", "to": "14:00"}]}})
    with two.main.database.begin() as connection:
        note_settings(connection, two.beta.installation_id, theirs.for_others())

    assert two.takes() == ["main"]
    assert not has_work(two.inst(), "shared", now=SOON)
    assert two.takes(at=NOW + timedelta(hours=1)) == ["beta"]


@pytest.mark.rule("5.2")
@pytest.mark.rule("6.2")
def test_what_hangs_is_told_by_the_settings_of_its_installation(two: Two) -> None:
    """A neighbour's hang time may be shorter than its heartbeats: it would take its mail jobs from living hands."""
    two.main.begun(5, kind="small")
    two.beta.begun(5, kind="small")
    later = NOW + timedelta(seconds=700)
    assert two.takes(at=later) == []

    theirs = Settings.model_validate({"dispatcher": {"hang_after_seconds": 600, "heartbeat_seconds": 60}})
    with two.main.database.begin() as connection:
        note_settings(connection, two.beta.installation_id, theirs.for_others())

    assert has_work(two.inst(), "shared", now=later)
    assert two.takes(at=later) == ["beta"]


@pytest.mark.rule("6.2")
def test_another_is_worked_for_with_its_own_settings_and_our_relays(two: Two) -> None:
    theirs = Settings.model_validate(
        {
            "installation": "beta",
            "time_zone": "Asia/Tokyo",
            "public_base_url": "https://beta.example",
            "dispatcher": {"max_attempts": 3},
            "send_window": {"spans": [{"days": ["mon"], "from": "08:30", "to": "24:00"}]},
            "relays": [{"name": "theirs", "host": "mx.beta.example"}],
        }
    )
    with two.main.database.begin() as connection:
        note_settings(connection, two.beta.installation_id, theirs.for_others())
    two.beta.queue(5, kind="small")
    ours = two.inst()
    ours = replace(ours, settings=ours.settings.model_copy(update={"time_zone": "Europe/Berlin"}))
    assert ours.settings.zone.key == "Europe/Berlin"

    [seen] = Served(ours, "all", Work.MAIL_JOB).in_turn(SOON)

    assert (seen.installation_id, seen.settings.installation) == (two.beta.installation_id, "beta")
    assert (seen.settings.time_zone, seen.settings.zone.key) == ("Asia/Tokyo", "Asia/Tokyo")
    assert seen.settings.public_base_url == "https://beta.example"
    assert seen.settings.dispatcher.max_attempts == 3
    assert seen.settings.send_window == theirs.send_window
    assert (seen.settings.relays, seen.settings.mailcasters) == (
        ours.settings.relays,
        ours.settings.mailcasters,
    )
    with two.main.database.begin() as connection:
        note_settings(connection, two.beta.installation_id, {"dispatcher": {"of_a_later_version": 1}})
    with pytest.raises(BadSettings, match=r"installation beta noted .*dispatcher\.of_a_later_version"):
        Served(ours, "all", Work.MAIL_JOB).all()


@pytest.mark.rule("6.2")
@pytest.mark.rule("6.3")
def test_loose_mails_have_turns_of_their_own(two: Two) -> None:
    """What is due has one: ready to be sent, come to its time, or left behind by a worker that is gone."""
    worlds = (two.main, two.beta)
    ids = [world.installation_id for world in worlds]

    def in_turn(at: datetime) -> list[int]:
        with two.main.database.begin() as connection:
            return turns.in_turn(connection, ids, Work.LOOSE_MAIL, at)

    assert in_turn(SOON) == []
    retry(two.main, state="SCHEDULED", due_at=SOON)
    retry(two.beta, state="SENDING", due_at=NOW, reserved_until=SOON)
    assert in_turn(NOW) == []
    assert in_turn(SOON) == ids
    with two.main.database.begin() as connection:
        turns.note_turn(connection, ids[0], Work.LOOSE_MAIL)
        turns.note_turn(connection, ids[1], Work.MAIL_JOB)
    assert in_turn(SOON) == [ids[1], ids[0]], "a turn with mail jobs counts for nothing here"
    retry(two.main, state="QUEUED", due_at=NOW)
    assert in_turn(NOW) == [ids[0]]
