"""How the relay misbehaves: at which command it does what, drawn for each command from a seeded generator.

Which message a misbehaviour meets depends on timing; that the same ones come in the same order does not.
"""

from __future__ import annotations

import random
from enum import StrEnum

TRANSIENT = b"451 4.3.0 come again later\r\n"


class Stage(StrEnum):
    """Where in a session the relay is when it has to answer."""

    GREETING = "greeting"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    DOT = "final dot"


class Mischief(StrEnum):
    """What the relay does instead of its reply."""

    DROP = "drop"
    RESET = "reset"
    HALF_A_REPLY = "half a reply"
    MALFORMED = "malformed reply"
    HUGE = "huge reply"
    TRICKLED = "trickled reply"
    SAYS_421 = "421"
    TRANSIENT = "4xx"
    GOES_ON_WITH_354 = "354 after the recipient was refused"
    OUT_OF_TURN = "a reply that nobody asked for"
    SLOW = "slow to accept"
    DROP_TAKEN = "drop, message taken"
    RESET_TAKEN = "reset, message taken"
    HALF_A_REPLY_TAKEN = "half a reply, message taken"
    MALFORMED_TAKEN = "malformed reply, message taken"
    HUGE_TAKEN = "huge reply, message taken"

    @property
    def takes(self) -> bool:
        """Whether the relay takes the message though its reply never says so."""
        return self.name.endswith("_TAKEN")


_EVERYWHERE = (
    Mischief.DROP,
    Mischief.RESET,
    Mischief.HALF_A_REPLY,
    Mischief.MALFORMED,
    Mischief.HUGE,
    Mischief.TRICKLED,
    Mischief.SAYS_421,
    Mischief.TRANSIENT,
)
AT = {
    Stage.GREETING: (Mischief.SLOW, Mischief.DROP, Mischief.RESET, Mischief.SAYS_421, Mischief.TRICKLED),
    Stage.MAIL: _EVERYWHERE,
    Stage.RCPT: (*_EVERYWHERE, Mischief.GOES_ON_WITH_354),
    Stage.DATA: _EVERYWHERE,
    Stage.DOT: (
        *_EVERYWHERE,
        Mischief.OUT_OF_TURN,
        Mischief.DROP_TAKEN,
        Mischief.RESET_TAKEN,
        Mischief.HALF_A_REPLY_TAKEN,
        Mischief.MALFORMED_TAKEN,
        Mischief.HUGE_TAKEN,
    ),
}
"""What may happen at each stage."""

GREETING_SHARE = 20
"""Sessions are few beside transactions: their greetings misbehave so many times as often."""


class Mischiefs:
    """Draws what to do. `share` of the transactions misbehave, at one of their stages."""

    def __init__(self, seed: int, share: float) -> None:
        self._random = {stage: random.Random(f"{seed} {stage}") for stage in Stage}
        self.share = share

    def at(self, stage: Stage) -> Mischief | None:
        """What to do at this stage of this transaction; None: what a relay should."""
        drawn = self._random[stage]
        share = self.share * GREETING_SHARE if stage is Stage.GREETING else self.share / (len(Stage) - 1)
        return drawn.choice(AT[stage]) if drawn.random() < share else None
