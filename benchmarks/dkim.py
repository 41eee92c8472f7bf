"""Messages signed with DKIM in a second of one core: beside the bare signature of `cryptography`, and what it adds to
composing them.

    python -m benchmarks.dkim --messages 300 --rounds 5

The newsletter of examples/, with another recipient each time. Every way is tried in each round, one after the other, so
that all of them meet the same machine; CPU time of this process. The first message of each is verified by dkimpy.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dkim
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from benchmarks.harness import command_line
from benchmarks.harness.measurements import Measurement, Target
from mail_orchestration.composition.composer import Composer
from mail_orchestration.composition.context import MailJobFacts
from mail_orchestration.composition.definition import load_campaign
from mail_orchestration.composition.dkim import Signer
from mail_orchestration.kernel.dkim_keys import Algorithm, DkimKey, load_dkim_key, new_private_key
from mail_orchestration.kernel.dkim_settings import DkimSettings
from mail_orchestration.kernel.model import Recipient
from mail_orchestration.kernel.tokens import SigningKeys

CAMPAIGN = Path(__file__).parents[1] / "examples" / "campaigns" / "spring-newsletter"
DOMAIN = "loewenzahn.example"
FACTS = MailJobFacts(
    installation="benchmark",
    mail_job_id=1,
    released_at=datetime(2026, 11, 1, tzinfo=UTC),
    public_base_url="https://mail.loewenzahn.example",
)
TARGETS = {"rsa": 2500, "ed25519": 8000}
"""Messages signed in a second of one core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    messages: int = 300
    """In each round and way."""
    rounds: int = 5


def measure(sizes: Sizes) -> list[Measurement]:
    """All ways in each round."""
    keys = {algorithm.value: new_key(algorithm) for algorithm in Algorithm}
    people = [person(number) for number in range(sizes.messages)]
    unsigned = composer([])
    messages = [unsigned.compose(each).data for each in people]
    ways: dict[str, Callable[[], None]] = {"composed, unsigned": composing(unsigned, people)}
    for name, key in keys.items():
        made = composer([key])
        if not is_verified(made.compose(people[0]).data, key):
            raise SystemExit(f"dkimpy does not verify the signature with {name}")
        ways[f"{name}: the bare signature"] = bare(key, sizes.messages)
        ways[f"{name}: signed"] = signing([key], messages)
        ways[f"{name}: composed and signed"] = composing(made, people)
    rates = measured(ways, sizes)
    return [
        found
        for name in keys
        for found in (
            _compared(rates, f"{name}: signed", f"{name}: the bare signature", TARGETS[name]),
            _compared(rates, f"{name}: composed and signed", "composed, unsigned", None),
        )
    ]


def _compared(
    rates: dict[str, tuple[float, ...]], name: str, reference: str, at_least: float | None
) -> Measurement:
    return Measurement(
        name=f"{name}, one core",
        unit="messages/s",
        runs=rates[name],
        reference=reference,
        reference_runs=rates[reference],
        target=Target(at_least=at_least, of="value") if at_least is not None else None,
        goal=6,
    )


def new_key(algorithm: Algorithm) -> DkimKey:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "key.pem"
        file.write_text(new_private_key(algorithm), encoding="ascii")
        return load_dkim_key(DkimSettings(domain=DOMAIN, selector=algorithm.value, key=file))


def person(number: int) -> Recipient:
    attributes = {"first_name": f"Søren {number}", "last_name": "Łuk", "city": "Kraków", "points": number}
    return Recipient(
        recipient_no=number, contact_id=number, address=f"r{number}@example.net", attributes=attributes
    )


def composer(keys: Sequence[DkimKey]) -> Composer:
    secrets = SigningKeys({"k1": b"0123456789abcdef0123456789abcdef"})
    return Composer(load_campaign(CAMPAIGN), FACTS, secrets, dkim_keys=keys)


def is_verified(message: bytes, key: DkimKey) -> bool:
    record = key.record().encode("ascii")
    return bool(dkim.verify(message, dnsfunc=lambda name, timeout=5: record))


def composing(made: Composer, people: Sequence[Recipient]) -> Callable[[], None]:
    def run() -> None:
        for each in people:
            made.compose(each)

    return run


def signing(keys: Sequence[DkimKey], messages: Sequence[bytes]) -> Callable[[], None]:
    signer = Signer(keys)

    def run() -> None:
        for each in messages:
            signer.signature_fields(each, FACTS.released_at)

    return run


def bare(key: DkimKey, times: int) -> Callable[[], None]:
    opened, digest = key.opened(), b"x" * 32
    padding, hashed = PKCS1v15(), Prehashed(SHA256())

    def run() -> None:
        for _ in range(times):
            if isinstance(opened, Ed25519PrivateKey):
                opened.sign(digest)
            else:
                opened.sign(digest, padding, hashed)

    return run


def measured(ways: dict[str, Callable[[], None]], sizes: Sizes) -> dict[str, tuple[float, ...]]:
    """How many of each in a second of CPU time, for each round."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run()
    for _ in range(sizes.rounds):
        for name, run in ways.items():
            began = time.process_time()
            run()
            rates[name].append(sizes.messages / (time.process_time() - began))
    return {name: tuple(each) for name, each in rates.items()}


if __name__ == "__main__":
    command_line.run(__doc__, measure, full=Sizes(), quick=Sizes(messages=50, rounds=1))
