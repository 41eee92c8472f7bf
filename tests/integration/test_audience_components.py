"""Components of preprocess and filter, between dedup and assembly."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mail_orchestration.kernel.errors import ComponentFailed
from mail_orchestration.kernel.model import Bypass, Recipient
from tests.integration.audience_world import World, component, world

__all__ = ["world"]


@pytest.mark.rule("1.6", "1.8")
def test_components_of_preprocess_and_filter_see_who_is_left_in_batches(world: World) -> None:
    release = world.release(world.many("members", 1, 2_500))
    world.suppress("r7", "manual")
    seen: list[tuple[str, int]] = []

    def thirds(batch: Sequence[Recipient]) -> list[Bypass]:
        seen.append(("preprocess", len(batch)))
        return [Bypass(recipient_no=r.recipient_no, reason="third") for r in batch if r.recipient_no % 3 == 0]

    def fifths(batch: Sequence[Recipient]) -> list[Bypass]:
        seen.append(("filter", len(batch)))
        return [
            Bypass(recipient_no=r.recipient_no, reason="fifth", detail="no luck")
            for r in batch
            if r.recipient_no % 5 == 0
        ]

    components = [
        component("filter", fifths),
        component("preprocess", thirds),
        component("send", seen.append),
    ]
    summary = world.resolve(release, components=components)
    assert summary.bypassed == {"manual": 1, "third": 833, "fifth": 334}
    assert [stage for stage, _ in seen] == ["preprocess", "filter"] * 3
    assert sum(size for stage, size in seen if stage == "preprocess") == 2_499
    stored = world.rows("SELECT stage, reason, detail, count(*) FROM bypass GROUP BY 1, 2, 3 ORDER BY 1")
    assert stored == [("filter", "fifth", "no luck", 334), ("preprocess", "third", "", 833)]
    assert world.rows("SELECT bypassed_count FROM release") == [(1_168,)]
    assert len(world.handed_over(release, batch=700)[0]) == summary.to_assemble == 2_500 - 1_168


@pytest.mark.rule("1.6")
def test_a_component_that_raises_fails_the_stage_and_leaves_nothing(world: World) -> None:
    release = world.release(world.audience("members", "ann", "ben"))

    def broken(batch: Sequence[Recipient]) -> None:
        raise RuntimeError(batch[0].address)

    with pytest.raises(ComponentFailed, match=r"rules:filter \(stage filter\).*RuntimeError") as raised:
        world.resolve(release, components=[component("filter", broken)])
    assert "@" not in str(raised.value)
    assert world.recipients(release) == []
    assert world.rows("SELECT resolved_at, recipient_count FROM release") == [(None, None)]
    assert world.resolve(release).recipients == 2
