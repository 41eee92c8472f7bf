"""What comes out of an audience's source, as it goes on to COPY."""

from __future__ import annotations

from mail_orchestration.audience.rows import Source
from mail_orchestration.audience.staging import stage


def read(source: Source) -> tuple[dict[str, list[str]], list[tuple[int, str]]]:
    """Address key → the other cells, as COPY gets them; and the rejects' lines and codes."""
    staged = [stage(batch) for batch in source.batches()]
    cells = (
        line.rstrip("\n").split("\t")
        for each in staged
        for line in each.staging_lines().decode().split("\n")[:-1]
    )
    return (
        {key: rest for key, *rest in cells},
        [(reject.line, reject.code) for each in staged for reject in each.rejects],
    )
