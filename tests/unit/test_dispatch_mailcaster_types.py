"""Types of mailcasters, what each looks for, and what a fleet leaves undone (spec 4.1, 4.2, 4.3)."""

from __future__ import annotations

import pytest

from mail_orchestration.dispatch.mailcaster_types import MailcasterType, fleet_warnings, mailcaster_type
from mail_orchestration.dispatch.search_order import SEARCH_ORDER, WorkKind, search_order
from mail_orchestration.kernel.fleet_settings import MailcasterParameters

_T = 2000


def _of(name: str = "one", **parameters: object) -> MailcasterParameters:
    return MailcasterParameters.model_validate(
        {"name": name, "small_audience_threshold": _T, "min_job_size": 1, **parameters}
    )


@pytest.mark.rule("4.1")
@pytest.mark.parametrize(
    ("largest", "small_only", "large_only", "kind"),
    [
        (_T + 1, False, False, MailcasterType.LARGE_JOB_PRIORITY),
        (_T + 1, True, False, MailcasterType.LARGE_JOB_PRIORITY),
        (_T + 1, False, True, MailcasterType.LARGE_JOB_ONLY),
        (_T + 1, True, True, MailcasterType.LARGE_JOB_ONLY),
        (_T, False, False, MailcasterType.SMALL_JOB_PRIORITY),
        (_T, True, False, MailcasterType.SMALL_JOB_PRIORITY),
        (_T, False, True, MailcasterType.SMALL_JOB_PRIORITY),
        (_T, True, True, MailcasterType.SMALL_JOB_PRIORITY),
        (_T - 1, False, False, MailcasterType.SMALL_JOB_PRIORITY),
        (_T - 1, True, False, MailcasterType.SMALL_JOB_ONLY),
        (_T - 1, False, True, MailcasterType.SMALL_JOB_PRIORITY),
        (_T - 1, True, True, MailcasterType.SMALL_JOB_ONLY),
    ],
)
def test_type_follows_from_parameters(
    largest: int, small_only: bool, large_only: bool, kind: MailcasterType
) -> None:
    assert (
        mailcaster_type(_of(max_job_size=largest, small_job_only=small_only, large_job_only=large_only))
        is kind
    )


@pytest.mark.rule("4.1")
def test_defaults_make_a_large_job_priority_mailcaster() -> None:
    assert mailcaster_type(MailcasterParameters(name="default")) is MailcasterType.LARGE_JOB_PRIORITY


_SMALL_ONLY = _of("small-only", max_job_size=10, small_job_only=True)
_SMALL_FIRST = _of("small-first", max_job_size=10)
_LARGE_ONLY = _of("large-only", max_job_size=_T + 1, large_job_only=True)
_LARGE_FIRST = _of("large-first", max_job_size=_T + 1)


@pytest.mark.rule("4.2")
@pytest.mark.parametrize(
    ("fleet", "said"),
    [
        pytest.param([], ["nothing is ever sent"], id="nobody"),
        pytest.param([_LARGE_FIRST], [], id="one that does everything"),
        pytest.param([_SMALL_ONLY, _LARGE_ONLY], [], id="two that share it"),
        pytest.param([_LARGE_ONLY], ["takes small mail jobs (fewer than 2000"], id="no small"),
        pytest.param([_SMALL_ONLY], ["2000 or more recipients"], id="no parents"),
        pytest.param([_SMALL_FIRST], ["children that hang are never recovered"], id="no large"),
        pytest.param(
            [_SMALL_FIRST, _SMALL_ONLY], ["children that hang are never recovered"], id="no large among two"
        ),
        pytest.param(
            [_of("big", max_job_size=_T, small_job_only=True), _LARGE_FIRST],
            ["mailcaster big: small_job_only is ignored"],
            id="small_job_only ignored",
        ),
        pytest.param(
            [_of("little", max_job_size=_T, large_job_only=True), _LARGE_FIRST],
            ["mailcaster little: large_job_only is ignored"],
            id="large_job_only ignored",
        ),
    ],
)
def test_fleet_is_warned_of_what_nobody_takes(fleet: list[MailcasterParameters], said: list[str]) -> None:
    warnings = fleet_warnings(fleet, _T)
    assert len(warnings) == len(said)
    for warning, part in zip(warnings, said, strict=True):
        assert part in warning


@pytest.mark.rule("4.3")
@pytest.mark.parametrize("kind", list(MailcasterType))
def test_order_agrees_with_what_the_type_takes(kind: MailcasterType) -> None:
    order = SEARCH_ORDER[kind]
    assert len(order) == len(set(order))
    assert (WorkKind.SMALL_QUEUED in order) == kind.takes_small
    assert (WorkKind.P_QUEUED in order) == kind.takes_parents
    assert (WorkKind.CHILD_HANGING in order) == kind.recovers_hanging_children


@pytest.mark.rule("4.3")
def test_small_job_priority_never_recovers_hanging_children() -> None:
    assert WorkKind.CHILD_HANGING not in SEARCH_ORDER[MailcasterType.SMALL_JOB_PRIORITY]
    assert WorkKind.CHILD_RECOVERING in SEARCH_ORDER[MailcasterType.SMALL_JOB_PRIORITY]


@pytest.mark.rule("5.3")
def test_without_automatic_recovery_hanging_ones_are_left_alone() -> None:
    order = search_order(_of(max_job_size=_T + 1, automatic_mail_job_recovery=False))
    assert order == (
        WorkKind.CHILD_RECOVERING,
        WorkKind.P_ASSIGNING,
        WorkKind.P_QUEUED,
        WorkKind.SMALL_RECOVERING,
        WorkKind.SMALL_QUEUED,
    )
