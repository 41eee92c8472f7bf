"""What must be true of every release, checked where it would go wrong (spec 1.3, 1.8, 2.7).

The blocking ones end the run: nothing behind them is materialised by it, so a mail job whose books do not
balance is not queued.
"""

from __future__ import annotations

import dagster as dg
from sqlalchemy import text

from assets import shown
from mail_orchestration.broadcast import release
from mail_orchestration.dispatch.releases import assembly_so_far
from mail_orchestration.feedback.books import Books, books
from mail_orchestration.feedback.frequency_figures import wrong_counters, wrong_places
from mail_orchestration.frozen import read_frozen
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.frequency_in_force import policy_in_force
from mail_orchestration.kernel.frequency_lock import lock_frequency

NO_CONTACT_TWICE = "no_contact_twice"
ASSEMBLY_FAILURES = "assembly_failures"
BOOKS_BALANCE = "books_balance"
COUNTERS_EQUAL_THE_LOG = "counters_equal_the_log"

# The primary key numbers recipients; that no contact has two numbers is what dedup promises and no constraint
# can say across partitions without an index as large as the table. Hence a look, once for each release.
_CONTACTS_TWICE = text(
    """
    SELECT count(*)
    FROM (
        SELECT contact_id FROM recipient
        WHERE release_id = :release_id AND released_on = :released_on
        GROUP BY contact_id HAVING count(*) > 1
    ) AS twice
    """
)


def no_contact_twice(asset: str) -> dg.AssetCheckSpec:
    """Blocking: each contact is one recipient."""
    return dg.AssetCheckSpec(
        NO_CONTACT_TWICE,
        asset=asset,
        blocking=True,
        description="No contact is a recipient of the same mail job twice, in however many audiences it is.",
    )


def assembly_failures(asset: str) -> dg.AssetCheckSpec:
    """Blocking above the campaign's limit, a warning below it."""
    return dg.AssetCheckSpec(
        ASSEMBLY_FAILURES,
        asset=asset,
        blocking=True,
        description=(
            "Every recipient's message could be assembled. A few that could not are a warning, and are "
            "listed by reason; above the campaign's limit the mail job is FAILED and nothing of it is "
            "sent."
        ),
    )


def books_balance(asset: str) -> dg.AssetCheckSpec:
    """Blocking: everybody in the audiences is accounted for."""
    return dg.AssetCheckSpec(
        BOOKS_BALANCE,
        asset=asset,
        blocking=True,
        description=(
            "Audience rows − duplicates = bypassed + held + discarded + expired + assembled, and assembled "
            "= waiting + sending + accepted + deferred + rejected + uncertain + stopped, counted row by "
            "row."
        ),
    )


def counters_equal_the_log(asset: str) -> dg.AssetCheckSpec:
    """Not blocking: nothing is behind it, and the operator corrects it."""
    return dg.AssetCheckSpec(
        COUNTERS_EQUAL_THE_LOG,
        asset=asset,
        description=(
            "The counters of every contact are what the daily log adds up to in each window of the frequency "
            "policy, and their places what is on its way or was accepted on a day that is not closed, counted "
            "row by row. Where they are not, `mail-orchestration frequency rescan --anew` corrects them."
        ),
    )


def check_no_contact_twice(installation: Installation, release_id: int) -> dg.AssetCheckResult:
    """Count the contacts that are recipients more than once."""
    found = release(installation, release_id)
    with installation.database.begin() as connection:
        twice: int = connection.execute(
            _CONTACTS_TWICE, {"release_id": release_id, "released_on": found.released_on}
        ).scalar_one()
    return dg.AssetCheckResult(
        check_name=NO_CONTACT_TWICE,
        passed=twice == 0,
        description=f"{twice:,} contacts are recipients of mail job {release_id} more than once.",
        metadata={"contacts_twice": twice},
    )


def check_assembly_failures(installation: Installation, release_id: int) -> dg.AssetCheckResult:
    """Weigh the messages that could not be assembled against the campaign's limit."""
    with installation.database.begin() as connection:
        frozen = read_frozen(connection, installation, release_id)
        to_assemble, failed = assembly_so_far(connection, frozen.release)
    limit = frozen.campaign.definition.maximum_assembly_failures_percentage
    above_limit = 100 * failed > limit * to_assemble
    return dg.AssetCheckResult(
        check_name=ASSEMBLY_FAILURES,
        passed=failed == 0,
        severity=dg.AssetCheckSeverity.ERROR if above_limit else dg.AssetCheckSeverity.WARN,
        description=(
            f"{failed:,} of {to_assemble:,} messages could not be assembled; "
            f"the campaign's limit is {limit:g} %."
        ),
        metadata={"failures": failed, "to_assemble": to_assemble, "limit_percentage": limit},
    )


def check_books_balance(installation: Installation, release_id: int) -> dg.AssetCheckResult:
    """Count everybody of the release, wherever they are now."""
    with installation.database.begin() as connection:
        account = books(connection, release_id)
    return dg.AssetCheckResult(
        check_name=BOOKS_BALANCE,
        passed=account.balances,
        description=account.explanation,
        metadata={"books": books_table(account)},
    )


def check_counters_equal_the_log(installation: Installation) -> dg.AssetCheckResult:
    """Add up the daily log once more, and the mails that have places, and compare."""
    wrong, misplaced = 0, 0
    with installation.database.begin() as connection:
        lock_frequency(connection, installation.installation_id)
        in_force = policy_in_force(connection, installation.installation_id)
        if in_force is not None:
            wrong = wrong_counters(connection, installation.installation_id, in_force)
            misplaced = wrong_places(connection, installation.installation_id, installation.settings.zone)
    return dg.AssetCheckResult(
        check_name=COUNTERS_EQUAL_THE_LOG,
        passed=wrong == misplaced == 0,
        description=(
            "No frequency policy holds, so nothing is counted."
            if in_force is None
            else f"The counters of {wrong:,} contacts are not what the daily log adds up to, and {misplaced:,} have "
            "other places than their mails."
        ),
        metadata={"wrong_counters": wrong, "wrong_places": misplaced},
    )


def books_table(account: Books) -> dg.MarkdownMetadataValue:
    """The books of one release as an operator reads them."""
    return shown.table(
        ("books", "count"),
        (
            ("audience rows", account.audience_rows),
            ("− duplicates", account.duplicates),
            ("= recipients", account.recipients),
            ("bypassed", account.bypassed_count),
            ("held", account.held),
            ("discarded", account.discarded),
            ("expired", account.expired),
            ("not assembled yet", account.unassembled),
            ("assembled", account.assembled),
            ("… waiting", account.waiting),
            ("… sending", account.sending),
            ("… accepted", account.accepted),
            ("… deferred", account.deferred),
            ("… rejected", account.rejected),
            ("… uncertain", account.uncertain),
            ("… stopped", account.stopped),
        ),
    )
