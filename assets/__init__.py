"""What the mail leaves behind, as Dagster sees it: one asset for each stop on its way.

`audience_members → recipients → assembled_messages → child_jobs → global_queue → delivery_results →
mail_job_report`, and `frequency_counters` beside them. An asset calls one story of `mail_orchestration`
and tells what came of it; no rule about mail lives here. Materialising one by hand means what its
description says, and doing it twice does nothing twice.
"""

from __future__ import annotations

import warnings

import dagster as dg

# Backfill policies are marked beta by Dagster. We pin Dagster to one minor version, so this is known and
# meant.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
