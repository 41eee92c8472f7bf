"""The long-run harness: a fleet under random faults, judged by what the relay took and what the database says.

    python -m tests.chaos --kills 500 --messages 300000

__main__    the command line
plan        which faults, in which order: drawn from one seed
site        the installation that is worked on: database, settings, campaigns, audiences
forks       a process that has imported everything and forks the workers; `roles` says what they do
relay       the relay that survives everything and keeps what it took; `mischief` is how it misbehaves
fleet       the mailcasters and the other workers, started again whenever they end
faults      how each kind of fault is done
dagster     the kinds that need Dagster's daemon, webserver and code server
hosts       mailcasters in a network namespace of their own, which can be cut off
run         the course: work, faults, drain
evidence    what relay, journal and database say in the end
judgement   lost, repeated, bounded? Pure
table       the judgement as Markdown and JSON
"""
