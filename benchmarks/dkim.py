"""Messages signed with DKIM in a second of one core: beside the bare signature of `cryptography`, and what it adds to
composing them.

    python -m benchmarks.dkim --messages 300 --rounds 5

The newsletter of examples/, with another recipient each time. Every way is tried in each round, one after the other, so
that all of them meet the same machine; CPU time of this process, medians. The first message of each is verified by
dkimpy. Ends with 1 when it is not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import dkim
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

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


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--messages", type=int, default=300, help="in each round and way")
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    keys = {algorithm.value: new_key(algorithm) for algorithm in Algorithm}
    people = [person(number) for number in range(chosen.messages)]
    unsigned = composer([])
    messages = [unsigned.compose(each).data for each in people]
    ways: dict[str, Callable[[], None]] = {"composed, unsigned": composing(unsigned, people)}
    for name, key in keys.items():
        made = composer([key])
        if not is_verified(made.compose(people[0]).data, key):
            print(f"dkimpy does not verify the signature with {name}")
            return 1
        ways[f"{name}: the bare signature"] = bare(key, chosen.messages)
        ways[f"{name}: signed"] = signing([key], messages)
        ways[f"{name}: composed and signed"] = composing(made, people)
    ways["both: signed"] = signing(list(keys.values()), messages)
    rates = measured(ways, chosen)
    tell(rates, statistics.mean(map(len, messages)), chosen)
    return 0


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


def measured(ways: dict[str, Callable[[], None]], chosen: argparse.Namespace) -> dict[str, float]:
    """How many of each in a second of CPU time: the medians."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run()
    for _ in range(chosen.rounds):
        for name, run in ways.items():
            began = time.process_time()
            run()
            seconds[name].append(time.process_time() - began)
    return {name: chosen.messages / statistics.median(took) for name, took in seconds.items()}


def tell(rates: dict[str, float], octets: float, chosen: argparse.Namespace) -> None:
    """A table in markdown, then JSON."""
    print(f"\nmessages of {octets:,.0f} octets, one core, {chosen.rounds} rounds of {chosen.messages}\n")
    print("| what | a second | µs each |\n|---|---:|---:|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} | {1e6 / rate:,.0f} |")
    ratios = {}
    for name, target in TARGETS.items():
        signed, alone = rates[f"{name}: signed"], rates[f"{name}: the bare signature"]
        ratios[name] = signed / alone
        verdict = "reached" if signed >= target else "NOT REACHED"
        if alone < target:
            verdict += ", nor by the bare signature on this machine"
        print(f"\n{name}: {ratios[name]:.2f} of the bare signature; {target:,} a second: {verdict}")
    print(json.dumps({"rates": rates, "ratio_to_bare_signature": ratios, "octets": octets}))


if __name__ == "__main__":
    sys.exit(main())
