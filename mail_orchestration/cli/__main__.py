"""`python -m mail_orchestration.cli` is `mail-orchestration`."""

from __future__ import annotations

from mail_orchestration.cli import main

main()
