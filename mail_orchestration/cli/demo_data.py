"""The demo's contacts: the same ones each time, in three overlapping audiences, with what real lists have in them.

Names from many languages, addresses in capitals and with IDN domains, rows that are no contacts, people who opted
out, and mailboxes that the demo's relay refuses.
"""

from __future__ import annotations

import csv
import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CUSTOMERS, FRIENDS, GUESTS = "customers", "friends-of-the-garden", "workshop-guests"

_SEED = 2027
_FIRST_NAMES = (
    "Søren", "Zoë", "Jürgen", "Łucja", "François", "Niña", "Ümit", "Željko", "Chloé", "Gonçalo", "Ágnes",
    "Bjørk", "Renée", "Šárka", "Иван", "Ελένη", "花子", "Thị", "Anna", "John", "Mary", "Peter", "Sofia",
    "Lars", "Emma", "Noah", "Mia", "Paul", "Ida", "Leo", "Clara", "Hugo", "Ella", "Max",
)  # fmt: skip
_LAST_NAMES = (
    "Müller", "Łukasiewicz", "Nguyễn", "Çelik", "Ångström", "García", "O’Neill", "Østergård", "Dvořák",
    "Horváth", "Papadopoulos", "田中", "Иванова", "D’Angelo", "Smith", "Jones", "Brown", "Jensen", "Rossi",
    "Novák", "Kowalska", "Schmidt", "Weber", "Silva", "Costa", "Martin",
)  # fmt: skip
_CITIES = (
    "Kraków",
    "München",
    "København",
    "Coruña",
    "Besançon",
    "Łódź",
    "Zürich",
    "Århus",
    "İzmir",
    "東京",
    "Bath",
    "",
)
_DOMAINS = (
    "example.com",
    "example.com",
    "example.com",
    "example.org",
    "example.org",
    "example.net",
    "bücher.example",
)

_BAD_ADDRESSES = (
    "not-an-address",
    "two@@example.com",
    "spaces in@example.com",
    "@example.com",
    "nobody@",
    "",
    "dot..dot@example.com",
    "x" * 70 + "@example.org",
    "someone@-example-.com",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One imagined contact."""

    address: str
    first_name: str
    last_name: str
    city: str
    points: int


@dataclass(frozen=True, kw_only=True)
class DemoFiles:
    """The files that were written, and what is known of them beforehand."""

    customers: Path
    friends: Path
    guests: Path
    suppressions: Path
    people: int
    bad_rows: int
    suppressed: int


def write_demo_files(folder: Path, people: int) -> DemoFiles:
    """Write a CSV, a Parquet file, a Direct Mailer list and a suppression list of `people` contacts in all."""
    folder.mkdir(parents=True, exist_ok=True)
    crowd = imagine(people)
    share = len(crowd) // 100
    files = DemoFiles(
        customers=folder / "customers.csv",
        friends=folder / "friends-of-the-garden.parquet",
        guests=folder / "workshop-guests.txt",
        suppressions=folder / "opted-out.csv",
        people=len(crowd),
        bad_rows=2 * len(_BAD_ADDRESSES) + 1,
        suppressed=len(crowd[::150]),
    )
    _write_customers(files.customers, crowd[: 60 * share])
    _write_friends(files.friends, crowd[40 * share : 98 * share])
    # The last two in a hundred are guests alone: a Direct Mailer list has no first names, which the campaign requires.
    _write_guests(files.guests, crowd[55 * share :])
    with files.suppressions.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([["email"], *([person.address] for person in crowd[::150])])
    return files


def imagine(people: int) -> list[Person]:
    """So many contacts, each with an address of its own; the same ones at every call."""
    chance = random.Random(_SEED)  # noqa: S311 - names for a demo
    return [_person(number, chance) for number in range(1, people + 1)]


def _person(number: int, chance: random.Random) -> Person:
    first, last = chance.choice(_FIRST_NAMES), chance.choice(_LAST_NAMES)
    local = f"{_ascii(first) or 'hanako'}.{_ascii(last) or 'tanaka'}.{number}"
    match number % 500:
        case 101 | 202 | 303 | 404 | 450:
            local = f"gone.{local}"
        case 111 | 222:
            local = f"full.{local}"
        case 7:
            local = f"{first}.{number}".lower()
        case _:
            pass
    return Person(
        address=f"{local}@{chance.choice(_DOMAINS)}",
        first_name=first,
        last_name=last,
        city=chance.choice(_CITIES),
        points=chance.randrange(0, 400, 5),
    )


def _ascii(name: str) -> str:
    """`name` as an ASCII local part; empty when none of it is Latin."""
    text = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    return "".join(letter for letter in text if letter.isalnum())


def _write_customers(file: Path, people: Sequence[Person]) -> None:
    """CSV, with bad rows strewn in and some addresses in capitals."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["email", "first_name", "last_name", "city", "points"])
        every = max(1, len(people) // len(_BAD_ADDRESSES))
        bad = iter(_BAD_ADDRESSES)
        for position, person in enumerate(people):
            if position % every == 0 and (address := next(bad, None)) is not None:
                writer.writerow([address, "Nobody", "At All", "", 0])
            local, _, domain = person.address.rpartition("@")
            address = f" {local}@{domain.upper()} " if position % 17 == 0 else person.address
            writer.writerow([address, person.first_name, person.last_name, person.city, person.points])


def _write_friends(file: Path, people: Sequence[Person]) -> None:
    """Parquet, with other columns than the CSV and bad rows at its end."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = [
        {"email": person.address, "first_name": person.first_name, "city": person.city} for person in people
    ]
    rows += [{"email": address, "first_name": "Nobody", "city": ""} for address in _BAD_ADDRESSES]
    parquet.write_table(pa.Table.from_pylist(rows), file)


def _write_guests(file: Path, people: Sequence[Person]) -> None:
    """A Direct Mailer list: rcp_email, rcp_guid, rcp_fmt, rcp_locale, rcp_url, empty fields kept."""
    formats = ("mime", "text", "mhtml", "")
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        for number, person in enumerate(people):
            writer.writerow([person.address, f"guest-{number}", formats[number % 4], "en_GB", ""])
        writer.writerow(["not-an-address", "guest-x", "mime", "", ""])
