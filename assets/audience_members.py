"""WHO, before anyone is chosen: the audiences and their members."""

import dagster as dg
from pydantic import Field

from assets import shown
from assets.failures import told_to_operators
from assets.mail_system import MailSystem
from mail_orchestration.audience.importing import ImportSummary
from mail_orchestration.broadcast import fill_audience
from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.kernel.settings import Settings


class AudiencesToImport(dg.Config):
    """Which audiences to fill."""

    audiences: list[str] = Field(
        default_factory=list,
        description="Names of audiences as in the settings file; none named: all that have a source there.",
    )


@dg.asset(
    group_name="audience",
    kinds={"postgres", "csv", "parquet"},
    owners=shown.OWNERS,
    tags={"stage": "audience"},
    metadata={
        shown.COLUMN_SCHEMA: shown.columns(
            audience_id=("integer", "The audience, known by name."),
            contact_id=(
                "bigint",
                "The contact, known by address. The address itself is in the table contact.",
            ),
            body_format=("text", "text, mime or mhtml; empty takes the campaign's default."),
            locale=("text", "The contact's language and region."),
            guid=("text", "The contact's identifier in the system that the list comes from."),
            url=("text", "The recipient's own page, for campaigns whose body is one."),
            attributes=("json", "What templates can say about the contact: the source's other columns."),
        )
    },
)
def audience_members(
    context: dg.AssetExecutionContext, config: AudiencesToImport, mail: dg.ResourceParam[MailSystem]
) -> shown.Materialized:
    """The contacts of each audience, read anew from the sources that the settings file describes.

    Materialise it to import: every audience with a source, or those that the config names. Rows with a bad
    address or value are set aside with their line and reason, and never stop an import. Importing the same
    source again changes nothing but refreshes the details. Releases use what the audiences hold at the
    moment of their dedup.
    """
    with told_to_operators(), mail.opened("import", context.run.run_id) as installation:
        names = config.audiences or names_with_a_source(installation.settings)
        summaries: dict[str, ImportSummary] = {}
        for name in names:
            context.log.info("importing the audience %s", name)
            summaries[name] = fill_audience(installation, name, now=installation.now())
    return dg.MaterializeResult(metadata=import_metadata(summaries))


def names_with_a_source(settings: Settings) -> list[str]:
    """The audiences that can be imported without being named. Raises BadInput when there is none."""
    names = [audience.name for audience in settings.audiences if audience.has_source]
    if not names:
        raise BadInput(
            "no audience in the settings file has a source (csv, parquet, direct_mailer or sql), so there "
            "is nothing to import"
        )
    return names


def import_metadata(summaries: dict[str, ImportSummary]) -> shown.Metadata:
    """What one or several imports found, by audience name."""
    rejected: list[tuple[str, str, int]] = [
        (name, reason, count)
        for name, summary in summaries.items()
        for reason, count in sorted(summary.by_reason.items(), key=lambda item: -item[1])
    ]
    return {
        shown.ROW_COUNT: sum(summary.members for summary in summaries.values()),
        "audiences": shown.table(
            ("audience", "rows read", "accepted", "repeated", "rejected", "members now"),
            (
                (
                    name,
                    summary.rows_read,
                    summary.rows_accepted,
                    summary.rows_repeated,
                    summary.rows_rejected,
                    summary.members,
                )
                for name, summary in summaries.items()
            ),
        ),
        "rejects_by_reason": shown.table(
            ("audience", "reason", "rows"), rejected, nothing="No row was rejected."
        ),
        "rows_read": sum(summary.rows_read for summary in summaries.values()),
        "rows_rejected": sum(summary.rows_rejected for summary in summaries.values()),
    }
