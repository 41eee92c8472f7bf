"""Which of the four types a mailcaster is, and what a fleet of them would leave undone (spec 4.1, 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from mail_orchestration.kernel.fleet_settings import MailcasterParameters


class MailcasterType(StrEnum):
    """What a mailcaster takes, and what it prefers (spec 4.1)."""

    SMALL_JOB_ONLY = "small job only"
    SMALL_JOB_PRIORITY = "small job priority"
    LARGE_JOB_PRIORITY = "large job priority"
    LARGE_JOB_ONLY = "large job only"

    @property
    def takes_small(self) -> bool:
        """It takes small mail jobs."""
        return self is not MailcasterType.LARGE_JOB_ONLY

    @property
    def takes_parents(self) -> bool:
        """It takes children of parents."""
        return self is not MailcasterType.SMALL_JOB_ONLY

    @property
    def recovers_hanging_children(self) -> bool:
        """It takes children that another mailcaster left hanging (spec 4.3)."""
        return self in (MailcasterType.LARGE_JOB_PRIORITY, MailcasterType.LARGE_JOB_ONLY)


def mailcaster_type(parameters: MailcasterParameters) -> MailcasterType:
    """The type that follows from max_job_size, small_audience_threshold and the two `only` flags (spec 4.1).

    Above the threshold `small_job_only` is ignored, up to it `large_job_only` is; at the threshold both are.
    """
    threshold = parameters.small_audience_threshold
    if parameters.max_job_size > threshold:
        return (
            MailcasterType.LARGE_JOB_ONLY if parameters.large_job_only else MailcasterType.LARGE_JOB_PRIORITY
        )
    if parameters.max_job_size < threshold and parameters.small_job_only:
        return MailcasterType.SMALL_JOB_ONLY
    return MailcasterType.SMALL_JOB_PRIORITY


def fleet_warnings(fleet: Sequence[MailcasterParameters], small_audience_threshold: int) -> list[str]:
    """What nobody in `fleet` would ever take, one sentence each; empty for a fleet that leaves nothing (spec
    4.2).

    `small_audience_threshold` is the dispatcher's: it decides which mail jobs are small (spec 3.1).
    """
    types = {mailcaster_type(parameters) for parameters in fleet}
    warnings = []
    if not fleet:
        warnings.append("no mailcaster is configured: nothing is ever sent")
    elif not any(kind.takes_small for kind in types):
        warnings.append(
            f"no mailcaster takes small mail jobs (fewer than {small_audience_threshold} recipients): "
            "they wait for ever; add one that is not large_job_only"
        )
    elif not any(kind.takes_parents for kind in types):
        warnings.append(
            f"no mailcaster takes mail jobs of {small_audience_threshold} or more recipients: "
            "they wait for ever; add one that is not small_job_only"
        )
    elif not any(kind.recovers_hanging_children for kind in types):
        warnings.append(
            "no mailcaster is large (max_job_size above small_audience_threshold): "
            "children that hang are never recovered"
        )
    for parameters in fleet:
        warnings.extend(_ignored_flags(parameters))
    return warnings


def _ignored_flags(parameters: MailcasterParameters) -> list[str]:
    kind = mailcaster_type(parameters)
    size, threshold = parameters.max_job_size, parameters.small_audience_threshold
    ignored = []
    if parameters.small_job_only and kind is not MailcasterType.SMALL_JOB_ONLY:
        ignored.append(
            f"mailcaster {parameters.name}: small_job_only is ignored, because max_job_size ({size}) "
            f"is not below small_audience_threshold ({threshold})"
        )
    if parameters.large_job_only and kind is not MailcasterType.LARGE_JOB_ONLY:
        ignored.append(
            f"mailcaster {parameters.name}: large_job_only is ignored, because max_job_size ({size}) "
            f"is not above small_audience_threshold ({threshold})"
        )
    return ignored
