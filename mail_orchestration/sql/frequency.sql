-- How often somebody is written to: the lock, the policy that holds, the gate, counters and places (spec 8).

-- name: lock_frequency
-- Whoever counts, takes or gives back places, holds mails or lets them go does it one after the other: see kernel/frequency_lock.py.
SELECT pg_advisory_xact_lock(hashtextextended('mail_orchestration.frequency.' || CAST(:installation_id AS integer), 0));

-- name: read_frequency_policy
-- The policy that holds for an installation, as it was applied last.
SELECT policy, counted_for, applied_at FROM frequency_policy WHERE installation_id = CAST(:installation_id AS integer);
