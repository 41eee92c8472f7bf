"""Where the signing secrets come from: the environment, or a file that only its owner reads.

Links in mail that was sent years ago are signed with them, so they are never made anew in silence where mail may
already have been sent from: only a fresh installation on the embedded server makes its own.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from pathlib import Path

from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.secret_files import create_secret_file
from mail_orchestration.kernel.tokens import MINIMUM_SECRET_OCTETS, BadSigningSecret, SigningKeys

SECRETS_VARIABLE = "MAIL_ORCHESTRATION_SIGNING_KEYS"
SECRETS_FILE = "signing_keys"


def load_signing_keys(data_dir: Path, *, may_create: bool) -> SigningKeys:
    """The ring of signing keys: `key-id:base64` entries, separated by commas or line ends; the last one signs.

    Taken from the environment, or from the file `signing_keys` in `data_dir`. With `may_create` a missing file is
    made, with one new key. Raises BadSettings naming the variable or the file, never the secret.
    """
    if text := os.environ.get(SECRETS_VARIABLE):
        return _parsed(text, f"environment variable {SECRETS_VARIABLE}")
    file = data_dir / SECRETS_FILE
    if may_create:
        create_signing_keys(file)
    try:
        return _parsed(file.read_text(encoding="ascii"), str(file))
    except FileNotFoundError:
        raise BadSettings(
            f"there are no signing keys: set {SECRETS_VARIABLE} (the same on every host), or make the file {file} "
            "with `mail-orchestration init`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"{file} cannot be read: {error}") from None


def create_signing_keys(file: Path) -> bool:
    """Make `file` with one new key, readable by its owner alone. False when it exists; many may try at once."""
    line = f"k1:{base64.b64encode(secrets.token_bytes(MINIMUM_SECRET_OCTETS)).decode()}\n"
    return create_secret_file(file, line)


def _parsed(text: str, where: str) -> SigningKeys:
    ring: dict[str, bytes] = {}
    for number, entry in enumerate(text.replace(",", "\n").split(), 1):
        key_id, separator, encoded = entry.partition(":")
        try:
            ring[key_id] = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            separator = ""
        if not separator:
            raise BadSettings(f"{where}: entry {number} is not `key-id:base64`")
    try:
        return SigningKeys(ring)
    except BadSigningSecret as error:
        raise BadSettings(f"{where}: {error}") from None
