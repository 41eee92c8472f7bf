"""The frequency story: nobody is written to more often than the policy allows (spec 8).

    bring_up_to_date → (the gate, in audience) → hold → release

The gate itself is part of resolving a release: `audience.frequency_gate`.
"""

from mail_orchestration.frequency.applying import has_policy
from mail_orchestration.frequency.upkeep import Upkeep, bring_up_to_date

__all__ = ["Upkeep", "bring_up_to_date", "has_policy"]
