"""The embedded server's settings, each with its reason.

They suit two cores that the server shares with mailcasters. `ALTER SYSTEM SET …` overrides any of them.
Valid from PostgreSQL 15 on.
"""

from __future__ import annotations

from pathlib import Path

_CONFIGURATION = """\
# Written by mail_orchestration at every start of the server. Change a setting with ALTER SYSTEM instead.

# Only through the Unix socket, whose folder is closed to other users.
listen_addresses = ''
unix_socket_permissions = 0700
max_connections = 100

# Nothing that was committed is lost.
fsync = on
synchronous_commit = on
full_page_writes = on

# Loads of a million rows: few, spread checkpoints.
max_wal_size = 2GB
min_wal_size = 256MB
checkpoint_timeout = 15min
checkpoint_completion_target = 0.9
wal_buffers = 16MB

# Two cores, shared with Python: no parallel workers (Docker's 64 MB of /dev/shm would not do for them).
shared_buffers = 192MB
effective_cache_size = 1GB
work_mem = 16MB
maintenance_work_mem = 128MB
huge_pages = off
max_parallel_workers_per_gather = 0
max_parallel_maintenance_workers = 0
random_page_cost = 1.1
jit = off

# The small tables change all the time and must stay small.
autovacuum = on
autovacuum_max_workers = 2
autovacuum_naptime = 10s
autovacuum_vacuum_cost_delay = 2ms
autovacuum_vacuum_cost_limit = 1000
autovacuum_vacuum_scale_factor = 0.05
autovacuum_analyze_scale_factor = 0.05

timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'

# What the server says of itself, and no statement, value or address.
log_min_messages = log
log_min_error_statement = panic
log_error_verbosity = terse
log_checkpoints = off
log_connections = off
log_autovacuum_min_duration = -1
log_line_prefix = '%m [%p] '
"""


def write_configuration(path: Path) -> None:
    """Write `postgresql.conf`, readable for the server's account."""
    fresh = path.with_suffix(".new")
    fresh.write_text(_CONFIGURATION)
    fresh.chmod(0o644)
    fresh.replace(path)
