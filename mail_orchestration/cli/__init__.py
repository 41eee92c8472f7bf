"""The command line, `mail-orchestration`: every act of the installation for people (tables) and scripts (`--json`).

`app` is the frame, `face` how a command speaks, `exit_codes` what it ends with; `*_commands` hold the commands, by
whom they serve. `demo/` brings a whole installation up on one machine for `dev` and `demo`.
"""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point of the console script."""
    from mail_orchestration.cli.commands import run

    sys.exit(run(sys.argv[1:]))
