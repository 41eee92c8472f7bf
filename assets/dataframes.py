"""Audiences that an upstream Dagster asset computes: its pandas DataFrame fills one (spec 1.2).

In a module of your own, loaded beside ours:

    import dagster as dg
    import pandas as pd

    from assets.dataframes import audience_from_dataframe
    from schedules.definitions import defs as mail_orchestration

    @dg.asset
    def loyal_customers() -> pd.DataFrame:
        return pd.DataFrame({"email": ["ada@example.org"], "first_name": ["Ada"]})

    defs = dg.Definitions.merge(
        mail_orchestration,
        dg.Definitions(assets=[loyal_customers, audience_from_dataframe("loyal", loyal_customers)]),
    )

The frame travels by the IO manager of the asset that computes it, which is yours to choose. It is the one
place where a whole list is in memory at once: beyond a few million rows let the asset write Parquet, and
name the file in the settings instead.
"""

from typing import Literal

import dagster as dg
import pandas as pd

from assets import shown
from assets.audience_members import audience_members, import_metadata
from assets.failures import told_to_operators
from assets.mail_system import MailSystem
from mail_orchestration.audience.sources import DataFrameSource
from mail_orchestration.broadcast import fill_audience


def audience_from_dataframe(
    audience: str,
    upstream: dg.AssetsDefinition | dg.AssetSpec | dg.AssetKey | str,
    *,
    address_column: str = "email",
    mode: Literal["append", "replace"] = "replace",
    group_name: str = "audience",
) -> dg.AssetsDefinition:
    """An asset `audience_members/<audience>` that fills the audience from the DataFrame that `upstream`
    hands over.

    Extra columns become the contacts' attributes. With `replace` (the default) the audience is what the
    frame says; `append` adds and refreshes. Rows with a bad address are set aside and counted, as in every
    import. `audience` may hold letters, digits and underscores, as it becomes part of the asset's key.
    """

    key = _key(upstream)

    @dg.asset(
        key=[audience_members.key.path[-1], audience],
        ins={"frame": dg.AssetIn(key=key)},
        group_name=group_name,
        kinds={"postgres", "pandas"},
        owners=shown.OWNERS,
        tags={"stage": "audience"},
        description=(
            f"The audience {audience}, filled from a DataFrame. Materialise it to import what the upstream "
            "asset holds; rows with a bad address are set aside with their reason."
        ),
    )
    def dataframe_audience(
        context: dg.AssetExecutionContext, frame: pd.DataFrame, mail: dg.ResourceParam[MailSystem]
    ) -> shown.Materialized:
        with told_to_operators(), mail.opened("import", context.run.run_id) as installation:
            source = DataFrameSource(
                frame=frame, address_column=address_column, label=f"asset {key.to_user_string()}"
            )
            summary = fill_audience(installation, audience, source=source, mode=mode, now=installation.now())
        return dg.MaterializeResult(metadata=import_metadata({audience: summary}))

    return dataframe_audience


def _key(upstream: dg.AssetsDefinition | dg.AssetSpec | dg.AssetKey | str) -> dg.AssetKey:
    match upstream:
        case dg.AssetKey():
            return upstream
        case str():
            return dg.AssetKey.from_user_string(upstream)
        case _:
            return upstream.key
