"""The frequency story: nobody is written to more often than the policy allows (spec 8).

    prepare_gate → (the gate, in audience) → rescan: bring_up_to_date → release_held

The gate itself is part of resolving a release: `audience.frequency_gate`.
"""

from mail_orchestration.frequency.applying import foresee_policy
from mail_orchestration.frequency.upkeep import Upkeep, bring_up_to_date, prepare_gate

__all__ = ["Upkeep", "bring_up_to_date", "foresee_policy", "prepare_gate"]
