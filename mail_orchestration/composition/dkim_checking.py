"""What the check of a campaign says of its signatures (spec 2.6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mail_orchestration.composition.definition import Campaign
from mail_orchestration.composition.findings import Finding, Severity
from mail_orchestration.kernel.dkim_keys import NEW_RSA_BITS, Algorithm, keys_for, load_dkim_key
from mail_orchestration.kernel.dkim_settings import DkimSettings
from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.settings import SETTINGS_FILE


def dkim_findings(campaign: Campaign, sections: Sequence[DkimSettings]) -> Iterator[Finding]:
    """Warnings of messages that leave unsigned, and of the keys that sign them; `sections` are the settings' own."""
    for remark in remarks_on_signing(campaign.definition.from_.domain, sections):
        yield Finding(severity=Severity.WARNING, file=SETTINGS_FILE, line=None, message=remark)


def remarks_on_signing(domain: str, sections: Sequence[DkimSettings]) -> Iterator[str]:
    """One sentence for each thing that is to be known of mail `From` this domain."""
    signing = keys_for(domain, sections)
    if not signing:
        yield f"dkim: no key for {domain}, so messages leave unsigned unless your relay signs them"
    for section in signing:
        try:
            key = load_dkim_key(section)
        except BadSettings as error:
            # Who writes campaigns need not have the keys.
            yield f"{error}; where it is sent from, that must be mended first"
            continue
        if key.algorithm is Algorithm.RSA and key.bits < NEW_RSA_BITS:
            yield f"{section.place} has {key.bits} bits; {NEW_RSA_BITS} are due (RFC 8301)"
        if section.is_open_to_others():
            yield f"{section.place} can be read or written by every user: take that away with chmod 600"
