"""How fast anything is sent, by all who send together, through the database (spec 6.7).

known_limits    what the settings say of each relay and recipient domain
shared          egress' source of slots and connections
showing         what stands where, for people
"""

from mail_orchestration.throttling.known_limits import limits_of
from mail_orchestration.throttling.shared import SharedThrottle

__all__ = ["SharedThrottle", "limits_of"]
