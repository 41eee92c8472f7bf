"""How many of a parent's messages the next child takes (spec 4.4)."""

from __future__ import annotations

import math
from fractions import Fraction

from mail_orchestration.kernel.fleet_settings import MailcasterParameters

_LOOKS = 200


def child_size(remaining: int, total: int, untouched: bool, parameters: MailcasterParameters) -> int:
    """The size of the child that this mailcaster makes now, from 1 to `remaining`.

    `remaining` of the parent's `total` messages are in no child yet; `untouched` says that there is no child
    at all (P_QUEUED). Only then does a whole that fits in [min, max] become one child. `min_job_size` yields
    to the tail.
    """
    if not 1 <= remaining <= total:
        raise ValueError(f"{remaining} of {total} messages cannot remain")
    smallest, largest = parameters.min_job_size, parameters.max_job_size
    if untouched and smallest <= total <= largest:
        return total
    # As the decimal that stands in the settings: 0.29 % of 10,000 is 29, and in binary floating point 28.
    share = math.floor(Fraction(str(parameters.percentage_job_size)) * remaining / 100)
    return min(max(share, smallest), largest, remaining)


def mean_child_size(total: int, parameters: MailcasterParameters) -> float:
    """How many messages the children have on average, 1 or more, if this mailcaster makes all of `total`."""
    if total <= parameters.max_job_size:
        return max(1, total)
    # Children shrink slowly: a look at so many places counts them well enough, whatever the total.
    looked_at = (math.ceil(total * (look + 0.5) / _LOOKS) for look in range(_LOOKS))
    sizes = (child_size(max(left, parameters.min_job_size), total, False, parameters) for left in looked_at)
    return _LOOKS / sum(1 / size for size in sizes)
