"""The mailcasters of the runs: of every type, and with every way to look for work."""

from __future__ import annotations

from tests.integration.dispatch_rows import mailcaster

FLEET = {
    each.name: each
    for each in (
        mailcaster(
            "small-only", small_audience_threshold=10, small_job_only=True, min_job_size=1, max_job_size=9
        ),
        mailcaster(
            "small-first",
            small_audience_threshold=10,
            min_job_size=3,
            max_job_size=10,
            percentage_job_size=20,
        ),
        mailcaster(
            "large-first",
            small_audience_threshold=10,
            min_job_size=5,
            max_job_size=20,
            percentage_job_size=30,
        ),
        mailcaster(
            "large-only", small_audience_threshold=10, min_job_size=8, max_job_size=25, large_job_only=True
        ),
        mailcaster(
            "patient",
            small_audience_threshold=10,
            min_job_size=4,
            automatic_mail_job_recovery=False,
            max_job_size=30,
            percentage_job_size=50,
        ),
        mailcaster(
            "strict",
            small_audience_threshold=10,
            min_job_size=2,
            max_job_size=15,
            job_recovery_expire_in_hours=3,
        ),
    )
}
SWEEPERS = [
    mailcaster("last-large", small_audience_threshold=10, min_job_size=5, max_job_size=40),
    mailcaster(
        "last-small", small_audience_threshold=10, small_job_only=True, min_job_size=1, max_job_size=9
    ),
]
"""They end what is left, at the end of every run."""
