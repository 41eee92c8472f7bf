"""Messages to imagined contacts, for the dictionary of a mail job's stored messages (spec 2.7).

They are as the mail job's messages will be, of the same templates and for contacts of the same shape, and none of
them could be sent: their links are signed with a secret of zeros, their DKIM signatures are made up, their larger
files are left out.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from mail_orchestration.composition import dictionary
from mail_orchestration.composition.attachments import StaticPart
from mail_orchestration.composition.composer import Composer
from mail_orchestration.composition.dkim import Signer
from mail_orchestration.composition.errors import CompositionError
from mail_orchestration.kernel.model import Recipient
from mail_orchestration.kernel.pages import Page
from mail_orchestration.kernel.tokens import MINIMUM_SECRET_OCTETS, SigningKeys

_NOBODY = Recipient(recipient_no=0, contact_id=0, address="somebody@example.org")
_MESSAGES = 32
"""At least so many for a dictionary."""


def make_dictionary(
    composer: Composer,
    *,
    rendered: bool = True,
    models: Sequence[Recipient] = (),
    cpu_seconds: float = math.inf,
) -> bytes:
    """What `compression.Compressor` needs to store the messages of `composer` small.

    `rendered` composes messages for imagined contacts, who are like the campaign's sample and like these models;
    `AssemblyPool` does it in a worker under limits. After `cpu_seconds` no more of them are begun; without that bound
    the dictionary is the same every time. Of the models it has the shape of their names and attributes (lengths, and
    what is neither letter nor digit) and the domains that several of them share.
    """
    imagining = _ImaginingComposer(composer)
    inline, attached = composer.static_parts
    return dictionary.build(
        text=imagining.literal_message(),
        samples=imagining.messages(models, time.process_time() + cpu_seconds) if rendered else (),
        blobs=[part.body for part in (*inline, *attached)],
    )


class _ImaginingComposer(Composer):
    """Composes what another one would, for nobody."""

    def __init__(self, original: Composer) -> None:
        inline, attached = original.static_parts
        super().__init__(
            original.campaign,
            original.facts,
            SigningKeys({original.key_id: bytes(MINIMUM_SECRET_OCTETS)}),
            undefined=dictionary.Imagined,
            static_parts=([_emptied(part) for part in inline], [_emptied(part) for part in attached]),
        )
        if original.dkim_keys:
            made_up = random.Random(1)  # noqa: S311 - these signatures shall be worth nothing
            self._signer = Signer(original.dkim_keys, made_up=made_up)

    def literal_message(self) -> bytes:
        """What the templates say by themselves, under the header fields of all messages."""
        return self._written_literally(_NOBODY)

    def messages(self, models: Sequence[Recipient], until: float) -> Iterator[bytes]:
        """Several to each of those who are like these; whatever else their templates name prints nothing.

        None is begun when `time.process_time` is past `until`.
        """
        page = Page(url="", html="<p>.</p>\n") if self._definition.content_url is not None else None
        chance = random.Random(0)  # noqa: S311 - nothing secret: the dictionary is the same every time
        sample = replace(_NOBODY, attributes=self._definition.sample_contact)
        shared = _shared_domains(models)
        originals = [sample, *models]
        imagined = (
            _somebody_like(each, shared, chance) for each in originals * (1 + _MESSAGES // len(originals))
        )
        for somebody in (sample, *imagined):
            if time.process_time() > until:
                return
            try:
                yield self._composed(somebody, page, None).data
            except CompositionError:
                continue


def _emptied(part: StaticPart) -> StaticPart:
    """Without its body, where that is cut out of stored messages."""
    return replace(part, body=b"") if len(part.body) >= dictionary.MINIMUM_BLOB_OCTETS else part


def _shared_domains(models: Sequence[Recipient]) -> set[str]:
    """Those of more than one contact: who is drawn twice does not share a domain with himself."""
    addresses = {model.contact_id: model.address for model in models}
    times = Counter(address.rpartition("@")[2] for address in addresses.values())
    return {domain for domain, contacts in times.items() if contacts > 1}


def _somebody_like(model: Recipient, domains: Collection[str], chance: random.Random) -> Recipient:
    """With another name at the same domain, if it is one of those."""
    local, _, domain = model.address.rpartition("@")
    return replace(
        _NOBODY,
        recipient_no=dictionary.alike(model.recipient_no, chance),
        contact_id=dictionary.alike(model.contact_id, chance),
        address=f"{dictionary.alike(local, chance)}@{domain if domain in domains else 'example.org'}",
        body_format=model.body_format,
        attributes={name: dictionary.alike(value, chance) for name, value in model.attributes.items()},
    )
