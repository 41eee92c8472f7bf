"""The relays of the settings as egress knows them."""

from __future__ import annotations

from collections.abc import Sequence

from mail_orchestration.egress.relay import AuthMechanism, Relay, TlsMode
from mail_orchestration.egress.setup import tls_context
from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.relay_settings import RelaySettings
from mail_orchestration.kernel.secret import Secret
from mail_orchestration.kernel.settings import Settings


def relays_of(settings: Settings, names: Sequence[str] = ()) -> list[Relay]:
    """The relays of those names, or all. Reads their passwords. Raises BadSettings when there is none."""
    chosen = [relay for relay in settings.relays if not names or relay.name in names]
    if not chosen:
        raise BadSettings("relays: the settings describe no relay, so nothing can be sent")
    return [relay_of(relay) for relay in chosen]


def relay_of(relay: RelaySettings) -> Relay:
    """One relay, with its password. Raises BadSettings naming where the password was sought, or a bad `ca_file`."""
    password = relay.password()
    found = Relay(
        name=relay.name,
        host=relay.host,
        port=relay.port,
        tls=TlsMode(relay.tls),
        ca_file=relay.ca_file,
        server_name=relay.server_name,
        username=relay.username,
        password=None if password is None else Secret(password),
        auth=None if relay.auth is None else AuthMechanism(relay.auth.upper()),
        allow_plaintext_auth=relay.allow_plaintext_auth,
        weight=relay.weight,
        connections=relay.connections,
        helo_name=relay.helo_name,
    )
    # Here, and not only when a delivery begins: by then a mail job has been taken.
    tls_context(found)
    return found
