"""The installations that a worker serves: its own alone, or several of the same database, in fair turns (spec 6.2)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Literal

from mail_orchestration.dispatch import turns
from mail_orchestration.dispatch.turns import KnownInstallation, Work
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import BadSettings


class Served:
    """Whom a worker of `inst` serves with one kind of work: with none named its own installation, without turns."""

    def __init__(self, inst: Installation, named: tuple[str, ...] | Literal["all"], work: Work) -> None:
        """`named` are the `installations` of the mailcaster's parameters."""
        self._inst = inst
        self._named = named
        self._work = work

    def all(self) -> list[Installation]:
        """Every one of them, as this worker works for it. Raises BadSettings for one that the database does not know.

        Another one's relays, mailcasters and keys are this worker's own; what its mails need of its settings is what
        its own processes last noted. Nothing may be composed for it: links would be signed with the wrong keys.
        """
        if not self._named:
            return [self._inst]
        names = None if self._named == "all" else self._named
        with self._inst.database.begin() as connection:
            found = turns.installations(connection, names)
            known = found if names is None else turns.installations(connection)
        missing = sorted(set(names or ()) - {each.name for each in found})
        if missing:
            raise BadSettings(
                f"mailcasters: installations names {missing[0]!r}, which this database does not know (it knows: "
                f"{', '.join(each.name for each in known)}); an installation is known once it was opened"
            )
        return [self._as_seen(each) for each in found]

    def in_turn(self, now: datetime) -> list[Installation]:
        """Those that may have work, the one first whose last turn is longest ago. Raises BadSettings like `all`."""
        served = self.all()
        if not self._named:
            return served
        by_id = {each.installation_id: each for each in served}
        with self._inst.database.begin() as connection:
            return [by_id[each] for each in turns.in_turn(connection, by_id, self._work, now)]

    def note_turn(self, installation_id: int) -> None:
        """This one has its turn now."""
        if self._named:
            with self._inst.database.begin() as connection:
                turns.note_turn(connection, installation_id, self._work)

    def _as_seen(self, known: KnownInstallation) -> Installation:
        if known.installation_id == self._inst.installation_id:
            return self._inst
        settings = self._inst.settings.working_for(known.name, known.settings)
        return replace(self._inst, installation_id=known.installation_id, settings=settings)
