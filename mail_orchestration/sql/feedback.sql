-- Results, daily counts, books and reports.

-- name: append_results
-- One flush of the results log: every row, or none when the mail job is no longer held under this fence. The row lock
-- makes whoever takes the mail job away wait until this flush has committed, or makes this flush see the new fence.
WITH held AS (
    SELECT FROM mail_job
    WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state IN ('RUNNING', 'STOPPING') AND fence = CAST(:fence AS bigint)
    FOR SHARE
)
INSERT INTO result (
    released_on, release_id, mail_job_id,
    message_no, contact_id, occurred_at, outcome, reply_code, enhanced_code, reply_text, relay, result_no, supersedes
)
SELECT
    CAST(:released_on AS date), CAST(:release_id AS bigint), CAST(:mail_job_id AS bigint),
    r.message_no, r.contact_id, r.occurred_at, r.outcome, r.reply_code, r.enhanced_code, r.reply_text, r.relay,
    r.result_no, r.supersedes
FROM unnest(
    CAST(:message_nos AS integer[]), CAST(:contact_ids AS bigint[]), CAST(:moments AS timestamptz[]),
    CAST(:outcomes AS outcome[]), CAST(:reply_codes AS smallint[]), CAST(:enhanced_codes AS text[]),
    CAST(:reply_texts AS text[]), CAST(:relays AS text[]), CAST(:result_nos AS smallint[]), CAST(:superseded AS outcome[])
) AS r (
    message_no, contact_id, occurred_at, outcome, reply_code, enhanced_code, reply_text, relay, result_no, supersedes
)
WHERE EXISTS (SELECT FROM held);

-- name: append_results_and_follow_up
-- A flush as above, for one that holds what must be followed up in the same commit: a deferred message becomes a loose mail
-- that makes its next attempt, a dead letter if the most were made (6.3, 6.4); an address that a relay said takes no mail
-- is suppressed. 421 is no attempt. In order of contacts, as everybody suppresses, so that two wait for each other at most.
WITH held AS (
    SELECT installation_id FROM mail_job
    WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state IN ('RUNNING', 'STOPPING') AND fence = CAST(:fence AS bigint)
    FOR SHARE
),
given AS (
    SELECT r.*
    FROM unnest(
        CAST(:message_nos AS integer[]), CAST(:contact_ids AS bigint[]), CAST(:moments AS timestamptz[]),
        CAST(:outcomes AS outcome[]), CAST(:reply_codes AS smallint[]), CAST(:enhanced_codes AS text[]),
        CAST(:reply_texts AS text[]), CAST(:relays AS text[]), CAST(:result_nos AS smallint[]),
        CAST(:superseded AS outcome[]), CAST(:hard_bounces AS boolean[])
    ) AS r (
        message_no, contact_id, occurred_at, outcome, reply_code, enhanced_code, reply_text, relay, result_no, supersedes,
        is_hard_bounce
    )
    WHERE EXISTS (SELECT FROM held)
),
retried AS (
    INSERT INTO loose_mail (
        installation_id, kind, state, priority, created_at, due_at, expires_at, attempts, campaign_id, contact_id, address,
        topic, released_on, release_id, message_no, mail_job_id, result_no, last_outcome, reply_code, enhanced_code,
        reply_text, relay, description
    )
    SELECT
        held.installation_id, 'retry',
        CASE WHEN a.attempts < CAST(:most_attempts AS integer) THEN CAST('SCHEDULED' AS loose_mail_state) ELSE 'FAILED' END,
        j.priority, g.occurred_at,
        g.occurred_at + make_interval(secs => CAST(:retry_after_s AS double precision)), release.expires_at, a.attempts,
        release.campaign_id, g.contact_id, m.address, release.topic, m.released_on, m.release_id, g.message_no,
        CAST(:mail_job_id AS bigint), g.result_no, g.outcome, g.reply_code, g.enhanced_code, g.reply_text, g.relay,
        CASE WHEN a.attempts >= CAST(:most_attempts AS integer) THEN 'the most attempts were made' END
    FROM given AS g
    CROSS JOIN held
    INNER JOIN assembled_message AS m
        ON m.released_on = CAST(:released_on AS date) AND m.release_id = CAST(:release_id AS bigint)
            AND m.message_no = g.message_no
    INNER JOIN release ON release.release_id = m.release_id
    INNER JOIN mail_job AS j ON j.mail_job_id = m.release_id
    CROSS JOIN LATERAL (
        SELECT g.result_no - CASE WHEN g.reply_code = 421 THEN 1 ELSE 0 END AS attempts
    ) AS a
    WHERE g.outcome = 'deferred'
    ON CONFLICT (release_id, message_no) WHERE kind = 'retry' DO NOTHING
),
suppressed AS (
    INSERT INTO suppression (contact_id, reason, detail, suppressed_at)
    SELECT g.contact_id, 'hard_bounce', concat_ws(' ', g.reply_code, g.enhanced_code), g.occurred_at
    FROM given AS g
    INNER JOIN contact ON contact.contact_id = g.contact_id
    WHERE g.is_hard_bounce
    ORDER BY g.contact_id
    ON CONFLICT (contact_id, topic) DO NOTHING
)
INSERT INTO result (
    released_on, release_id, mail_job_id,
    message_no, contact_id, occurred_at, outcome, reply_code, enhanced_code, reply_text, relay, result_no, supersedes
)
SELECT
    CAST(:released_on AS date), CAST(:release_id AS bigint), CAST(:mail_job_id AS bigint),
    g.message_no, g.contact_id, g.occurred_at, g.outcome, g.reply_code, g.enhanced_code, g.reply_text, g.relay,
    g.result_no, g.supersedes
FROM given AS g;

-- name: require_durable_commits
-- A session whose database or user was set to lose the last commits in a crash is set right; stronger settings stay.
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';


-- name: has_mails_between
-- Whether any mail of the installation may have reached somebody in a span of time, for a day that may have none.
SELECT EXISTS (
    SELECT FROM result AS r
    INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
    WHERE r.occurred_at >= CAST(:starts_at AS timestamptz) AND r.occurred_at < CAST(:ends_at AS timestamptz)
        AND r.outcome IN ('accepted', 'uncertain') AND j.installation_id = CAST(:installation_id AS integer)
);

-- name: ensure_partitions_of_day
-- The partitions of one day, made where they are missing.
SELECT ensure_day_partitions(CAST(:day AS date));

-- name: count_mails_of_day
-- The daily log of one day from its results. A message counts once, with the first result by which it may have arrived:
-- an uncertain one counts, and when it is sent again or settled it does not count again. Results are only ever added, so
-- that a repeat can only find more: the larger figure is right, also after retention dropped the results. The order
-- keeps two runs from a deadlock.
INSERT INTO daily_mail_count AS known (day, installation_id, contact_id, mails)
SELECT CAST(:day AS date), CAST(:installation_id AS integer), r.contact_id, count(*)
FROM result AS r
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
WHERE r.occurred_at >= CAST(:starts_at AS timestamptz) AND r.occurred_at < CAST(:ends_at AS timestamptz)
    AND r.outcome IN ('accepted', 'uncertain') AND j.installation_id = CAST(:installation_id AS integer)
    AND (
        r.result_no = 1
        OR NOT EXISTS (
            SELECT FROM result AS earlier
            WHERE earlier.released_on = r.released_on AND earlier.release_id = r.release_id
                AND earlier.message_no = r.message_no AND earlier.result_no < r.result_no
                AND earlier.outcome IN ('accepted', 'uncertain')
        )
    )
GROUP BY r.contact_id
ORDER BY r.contact_id
ON CONFLICT (contact_id, day) DO UPDATE SET mails = excluded.mails WHERE known.mails < excluded.mails;

-- name: close_day
-- The day's totals, from the daily log itself.
INSERT INTO closed_day (installation_id, day, closed_at, mails, contacts)
SELECT
    CAST(:installation_id AS integer), CAST(:day AS date), CAST(:now AS timestamptz), coalesce(sum(c.mails), 0), count(*)
FROM daily_mail_count AS c
WHERE c.day = CAST(:day AS date) AND c.installation_id = CAST(:installation_id AS integer)
ON CONFLICT (installation_id, day) DO UPDATE
SET closed_at = excluded.closed_at, mails = excluded.mails, contacts = excluded.contacts
RETURNING mails, contacts;

-- name: closed_days
-- When each day of the installation was closed, and the moment of its first release, before which there is no mail.
SELECT c.day, c.closed_at, f.first_released_at
FROM (
    SELECT min(r.released_at) AS first_released_at
    FROM release AS r
    INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
    WHERE j.installation_id = CAST(:installation_id AS integer)
) AS f
LEFT JOIN closed_day AS c ON c.installation_id = CAST(:installation_id AS integer)
ORDER BY c.day;

-- name: count_contacts_by_mails
-- For each of up to four windows, how many contacts got how many mails. A mail of day D counts through D + days.
-- One pass and one group for each contact: a group for each window and contact took twice as long and more.
WITH per_contact AS (
    SELECT
        sum(mails) FILTER (WHERE day >= CAST(:today AS date) - (CAST(:windows AS integer[]))[1]) AS first,
        sum(mails) FILTER (WHERE day >= CAST(:today AS date) - (CAST(:windows AS integer[]))[2]) AS second,
        sum(mails) FILTER (WHERE day >= CAST(:today AS date) - (CAST(:windows AS integer[]))[3]) AS third,
        sum(mails) FILTER (WHERE day >= CAST(:today AS date) - (CAST(:windows AS integer[]))[4]) AS fourth
    FROM daily_mail_count
    WHERE installation_id = CAST(:installation_id AS integer)
        AND day BETWEEN CAST(:first_day AS date) AND CAST(:today AS date)
    GROUP BY contact_id
),
alike AS (
    SELECT first, second, third, fourth, count(*) AS contacts FROM per_contact GROUP BY first, second, third, fourth
)
SELECT w.days, CAST(w.mails AS integer) AS mails, CAST(sum(a.contacts) AS bigint) AS contacts
FROM alike AS a
CROSS JOIN unnest(CAST(:windows AS integer[]), ARRAY[a.first, a.second, a.third, a.fourth]) AS w (days, mails)
WHERE w.mails IS NOT NULL
GROUP BY w.days, w.mails
ORDER BY w.days, w.mails;


-- name: release_for_report
-- What is known of a release besides its rows.
SELECT r.released_on, r.released_at, r.results_dropped_at, c.name AS campaign, j.state, j.kind, j.reason
FROM release AS r
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
INNER JOIN campaign AS c ON c.campaign_id = r.campaign_id
WHERE r.release_id = CAST(:release_id AS bigint);

-- name: count_books
-- Every row of a release, counted once, in one statement so that all lines are of the same instant. A message has its
-- first result once, and each later one takes away what it supersedes. What has none is being sent when its mail job is
-- being worked on, and was stopped with its release.
WITH this_release AS (
    SELECT r.*, j.state FROM release AS r INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
    WHERE r.release_id = CAST(:release_id AS bigint)
),
worked_on AS (
    SELECT coalesce(range_agg(int4range(first_message, last_message, '[]')), '{}') AS messages FROM mail_job
    WHERE release_id = CAST(:release_id AS bigint) AND state IN ('RUNNING', 'STOPPING')
),
fate AS (
    SELECT
        CASE
            WHEN m.message_no IS NULL THEN 'stray'
            WHEN l.outcome IS NOT NULL THEN 'outcome'
            WHEN m.message_no <@ w.messages THEN 'sending'
            WHEN r.state = 'STOPPED' THEN 'stopped_unsent'
            ELSE 'waiting'
        END AS line, l.outcome, l.supersedes, count(*) AS number
    FROM (
        SELECT message_no FROM assembled_message
        WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date)
        UNION ALL
        SELECT generate_series(1, message_count) FROM this_release WHERE messages_dropped_at IS NOT NULL
    ) AS m
    FULL JOIN (
        SELECT message_no, outcome, supersedes FROM result
        WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date)
    ) AS l ON l.message_no = m.message_no
    CROSS JOIN worked_on AS w
    CROSS JOIN this_release AS r
    GROUP BY 1, 2, 3
)
SELECT 'audience_rows' AS line, '' AS detail, coalesce(audience_rows, 0) AS number FROM this_release
UNION ALL
SELECT 'duplicates', '', coalesce(duplicates, 0) FROM this_release
UNION ALL
SELECT
    CASE
        WHEN p.bypass_reason IS NOT NULL THEN 'bypassed'
        WHEN r.assembled_at IS NULL AND p.recipient_no > r.assembled_up_to AND b.recipient_no IS NULL THEN 'unassembled'
        ELSE 'assembly_done'
    END, coalesce(p.bypass_reason, ''), count(*)
FROM recipient AS p
LEFT JOIN bypass AS b USING (released_on, release_id, recipient_no)
CROSS JOIN this_release AS r
WHERE p.release_id = CAST(:release_id AS bigint) AND p.released_on = CAST(:released_on AS date)
GROUP BY 1, 2
UNION ALL
SELECT 'bypassed_later', reason, count(*) FROM bypass
WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date)
GROUP BY reason
UNION ALL
SELECT line, coalesce(CAST(outcome AS text), ''), number FROM fate
UNION ALL
SELECT line, CAST(supersedes AS text), -number FROM fate WHERE line = 'outcome' AND supersedes IS NOT NULL
UNION ALL
SELECT 'retry', CAST(state AS text), count(*) FROM loose_mail
WHERE kind = 'retry' AND release_id = CAST(:release_id AS bigint)
GROUP BY state
UNION ALL
SELECT 'broken_chain', '', count(*) FROM result AS later
WHERE later.release_id = CAST(:release_id AS bigint) AND later.released_on = CAST(:released_on AS date)
    AND later.supersedes IS NOT NULL
    AND NOT EXISTS (
        SELECT FROM result AS earlier
        WHERE earlier.release_id = CAST(:release_id AS bigint) AND earlier.released_on = CAST(:released_on AS date)
            AND earlier.message_no = later.message_no AND earlier.result_no = later.result_no - 1
            AND earlier.outcome = later.supersedes
    );

-- name: report_mail_jobs
-- The mail jobs of a release that messages are sent under: the results that each recorded, and those of them that are
-- their messages' last. A later result takes the one before it from the mail job that recorded that one.
WITH this_release AS NOT MATERIALIZED (
    SELECT * FROM result WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date)
),
recorded AS (
    SELECT mail_job_id, outcome, count(*) AS results, min(occurred_at) AS first_result_at, max(occurred_at) AS last_result_at
    FROM this_release
    GROUP BY mail_job_id, outcome
    UNION ALL
    SELECT earlier.mail_job_id, later.supersedes, -count(*), NULL, NULL
    FROM this_release AS later
    INNER JOIN this_release AS earlier
        ON later.message_no = earlier.message_no AND later.result_no = earlier.result_no + 1
    WHERE later.supersedes IS NOT NULL
    GROUP BY earlier.mail_job_id, later.supersedes
)
SELECT
    j.mail_job_id, j.state, j.mailcaster, j.recovers_id, j.first_message, j.last_message,
    CAST(coalesce(r.results, 0) AS bigint) AS results,
    CAST(coalesce(r.accepted, 0) AS bigint) AS accepted,
    CAST(coalesce(r.deferred, 0) AS bigint) AS deferred,
    CAST(coalesce(r.rejected, 0) AS bigint) AS rejected,
    CAST(coalesce(r.uncertain, 0) AS bigint) AS uncertain,
    CAST(coalesce(r.others, 0) AS bigint) AS others,
    r.first_result_at, r.last_result_at
FROM mail_job AS j
LEFT JOIN (
    SELECT
        mail_job_id,
        sum(results) FILTER (WHERE results > 0) AS results,
        sum(results) FILTER (WHERE outcome = 'accepted') AS accepted,
        sum(results) FILTER (WHERE outcome = 'deferred') AS deferred,
        sum(results) FILTER (WHERE outcome = 'rejected') AS rejected,
        sum(results) FILTER (WHERE outcome = 'uncertain') AS uncertain,
        sum(results) FILTER (WHERE outcome IN ('stopped', 'expired')) AS others,
        min(first_result_at) AS first_result_at, max(last_result_at) AS last_result_at
    FROM recorded
    GROUP BY mail_job_id
) AS r ON r.mail_job_id = j.mail_job_id
WHERE j.release_id = CAST(:release_id AS bigint) AND (j.kind IN ('small', 'child') OR r.mail_job_id IS NOT NULL)
ORDER BY j.mail_job_id;

-- name: report_domains
-- Recipient domains by number of messages, with what became of each message. A quoted local part may hold an @.
SELECT
    split_part(m.address, '@', -1) AS domain,
    count(*) FILTER (WHERE l.supersedes IS NULL) AS messages,
    count(*) FILTER (WHERE l.outcome = 'accepted') - count(*) FILTER (WHERE l.supersedes = 'accepted') AS accepted,
    count(*) FILTER (WHERE l.outcome = 'deferred') - count(*) FILTER (WHERE l.supersedes = 'deferred') AS deferred,
    count(*) FILTER (WHERE l.outcome = 'rejected') - count(*) FILTER (WHERE l.supersedes = 'rejected') AS rejected,
    count(*) FILTER (WHERE l.outcome = 'uncertain') - count(*) FILTER (WHERE l.supersedes = 'uncertain') AS uncertain,
    count(*) FILTER (WHERE l.outcome IN ('stopped', 'expired'))
        - count(*) FILTER (WHERE l.supersedes IN ('stopped', 'expired')) AS others
FROM assembled_message AS m
LEFT JOIN (
    SELECT message_no, outcome, supersedes FROM result
    WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date)
) AS l ON l.message_no = m.message_no
WHERE m.release_id = CAST(:release_id AS bigint) AND m.released_on = CAST(:released_on AS date)
GROUP BY 1
ORDER BY messages DESC, domain
LIMIT CAST(:most AS integer);

-- name: report_replies
-- What relays answered, by reply code and enhanced status code, with one text of each.
SELECT outcome, reply_code, enhanced_code, count(*) AS results, min(reply_text) AS sample
FROM result
WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date)
GROUP BY outcome, reply_code, enhanced_code
ORDER BY results DESC, outcome, reply_code, enhanced_code
LIMIT CAST(:most AS integer);

-- name: report_timeline
-- Results per bucket of time and outcome, the buckets counted from the epoch.
SELECT
    date_bin(make_interval(secs => CAST(:bucket_seconds AS integer)), occurred_at, CAST('epoch' AS timestamptz)) AS starts_at,
    outcome, count(*) AS results
FROM result
WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date)
GROUP BY 1, 2
ORDER BY 1, 2;


-- name: list_uncertain
-- The uncertain messages of a range with the mail job that covers each now; addresses are for the operator's own eyes.
SELECT
    u.message_no, m.recipient_no, m.address, u.occurred_at, u.result_no, u.relay, u.reply_text,
    j.mail_job_id, j.state AS mail_job_state, u.loose_mail_state
FROM uncertain_message AS u
INNER JOIN assembled_message AS m
    ON m.released_on = u.released_on AND m.release_id = u.release_id AND m.message_no = u.message_no
INNER JOIN mail_job AS j
    ON j.release_id = u.release_id AND j.kind IN ('small', 'child') AND j.state <> 'RECOVERED'
        AND u.message_no BETWEEN j.first_message AND j.last_message
WHERE u.released_on = CAST(:released_on AS date) AND u.release_id = CAST(:release_id AS bigint)
    AND u.message_no BETWEEN CAST(:first_message AS integer) AND CAST(:last_message AS integer)
ORDER BY u.message_no
LIMIT CAST(:most AS integer);

-- name: lock_mail_jobs_at_rest
-- The mail jobs of a range that nobody works on and nobody will take unasked: none of them begins while these are locked.
SELECT mail_job_id
FROM mail_job
WHERE release_id = CAST(:release_id AS bigint) AND kind IN ('small', 'child')
    AND state IN ('FINISHED', 'FAILED', 'STOPPED_R')
    AND first_message <= CAST(:last_message AS integer) AND last_message >= CAST(:first_message AS integer)
ORDER BY mail_job_id
FOR NO KEY UPDATE;

-- name: settle_uncertain
-- The operator's word on uncertain messages of these mail jobs, which the caller has locked: a result that supersedes
-- uncertain, the mail jobs' figures with it, and the release is reported on once more.
WITH settled AS (
    INSERT INTO result (
        released_on, release_id, message_no, mail_job_id, contact_id, occurred_at, outcome, reply_text, relay, result_no,
        supersedes
    )
    SELECT
        u.released_on, u.release_id, u.message_no, u.mail_job_id, u.contact_id, CAST(:now AS timestamptz),
        CAST(:outcome AS outcome), 'settled by the operator', '', u.result_no + 1, 'uncertain'
    FROM uncertain_message AS u
    INNER JOIN assembled_message AS m
        ON m.released_on = u.released_on AND m.release_id = u.release_id AND m.message_no = u.message_no
    INNER JOIN mail_job AS j
        ON j.mail_job_id = ANY(CAST(:mail_job_ids AS bigint[])) AND u.message_no BETWEEN j.first_message AND j.last_message
    WHERE u.released_on = CAST(:released_on AS date) AND u.release_id = CAST(:release_id AS bigint)
        AND u.message_no BETWEEN CAST(:first_message AS integer) AND CAST(:last_message AS integer)
        AND (CAST(:recipient_nos AS integer[]) IS NULL OR m.recipient_no = ANY(CAST(:recipient_nos AS integer[])))
        AND u.loose_mail_state IS NULL
    RETURNING mail_job_id
),
by_mail_job AS (
    UPDATE mail_job
    SET uncertain = mail_job.uncertain - s.messages,
        accepted = mail_job.accepted + CASE WHEN CAST(:outcome AS outcome) = 'accepted' THEN s.messages ELSE 0 END,
        rejected = mail_job.rejected + CASE WHEN CAST(:outcome AS outcome) = 'rejected' THEN s.messages ELSE 0 END
    FROM (SELECT mail_job_id, CAST(count(*) AS integer) AS messages FROM settled GROUP BY mail_job_id) AS s
    WHERE mail_job.mail_job_id = s.mail_job_id
),
to_report AS (
    UPDATE release SET reported_at = NULL
    WHERE release_id = CAST(:release_id AS bigint) AND EXISTS (SELECT FROM settled)
)
SELECT count(*) FROM settled;

-- name: lock_mail_jobs_of_retries
-- The mail jobs under which results of retries are about to be written: their figures change with them.
SELECT mail_job_id FROM mail_job WHERE mail_job_id = ANY(CAST(:mail_job_ids AS bigint[]))
ORDER BY mail_job_id
FOR NO KEY UPDATE;

-- name: lock_releases_of_retries
-- Their releases: of two workers that end the last two retries of one, the second sees the first.
SELECT release_id FROM release WHERE release_id = ANY(CAST(:release_ids AS bigint[]))
ORDER BY release_id
FOR NO KEY UPDATE;

-- name: record_loose_results
-- What became of attempts at loose mails, of those that are still reserved under the fence: the others are somebody else's
-- by now, and nothing of them is written. A retry's is a result of its message, and the mail job's figures go with it.
-- What has come to an end moves to the delivery log, with what it said; the rest waits for its next attempt or is a dead
-- letter. What did not leave is forgotten by the queue history, so that it can be submitted anew. Where it was the last one
-- of a release that waited, that is reported on once more. Returns the numbers of those that were written.
WITH given AS (
    SELECT *
    FROM unnest(
        CAST(:loose_mail_ids AS bigint[]), CAST(:fences AS bigint[]), CAST(:moments AS timestamptz[]),
        CAST(:outcomes AS outcome[]), CAST(:reply_codes AS smallint[]), CAST(:enhanced_codes AS text[]),
        CAST(:reply_texts AS text[]), CAST(:relays AS text[]), CAST(:hard_bounces AS boolean[]),
        CAST(:entered AS loose_mail_state[]), CAST(:due AS timestamptz[]), CAST(:counted AS boolean[]),
        CAST(:codes AS text[]), CAST(:descriptions AS text[])
    ) AS g (
        loose_mail_id, fence, occurred_at, outcome, reply_code, enhanced_code, reply_text, relay, is_hard_bounce, enters,
        next_at, is_counted, code, description
    )
),
held AS (
    SELECT
        l.loose_mail_id, l.installation_id, l.kind, l.asked_state, l.created_at, l.campaign_id, l.contact_id, l.address,
        l.released_on, l.release_id, l.message_no, l.mail_job_id, l.result_no, l.last_outcome, l.history_key, l.size,
        CAST(l.attempts + CASE WHEN g.is_counted AND g.relay <> '' THEN 1 ELSE 0 END AS smallint) AS attempts,
        g.occurred_at, g.outcome, g.reply_code, g.enhanced_code, g.reply_text, g.relay, g.is_hard_bounce, g.enters,
        g.next_at, g.is_counted, g.code, g.description
    FROM loose_mail AS l
    INNER JOIN given AS g ON g.loose_mail_id = l.loose_mail_id AND g.fence = l.fence
    WHERE l.state = 'SENDING'
    ORDER BY l.loose_mail_id
    FOR NO KEY UPDATE OF l
),
recorded AS (
    INSERT INTO result (
        released_on, release_id, mail_job_id, message_no, contact_id, occurred_at, outcome, reply_code, enhanced_code,
        reply_text, relay, result_no, supersedes
    )
    SELECT
        h.released_on, h.release_id, h.mail_job_id, h.message_no, h.contact_id, h.occurred_at, h.outcome, h.reply_code,
        h.enhanced_code, h.reply_text, h.relay, h.result_no + 1, h.last_outcome
    FROM held AS h
    WHERE h.kind = 'retry' AND h.is_counted
    RETURNING mail_job_id, outcome, supersedes
),
figures AS (
    UPDATE mail_job
    SET accepted = mail_job.accepted + f.accepted, deferred = mail_job.deferred + f.deferred,
        rejected = mail_job.rejected + f.rejected, uncertain = mail_job.uncertain + f.uncertain,
        stopped = mail_job.stopped + f.stopped
    FROM (
        SELECT
            mail_job_id,
            CAST(count(*) FILTER (WHERE outcome = 'accepted') AS integer) AS accepted,
            CAST(count(*) FILTER (WHERE outcome = 'deferred') - count(*) FILTER (WHERE supersedes = 'deferred') AS integer)
                AS deferred,
            CAST(count(*) FILTER (WHERE outcome = 'rejected') AS integer) AS rejected,
            CAST(count(*) FILTER (WHERE outcome = 'uncertain') - count(*) FILTER (WHERE supersedes = 'uncertain') AS integer)
                AS uncertain,
            CAST(count(*) FILTER (WHERE outcome = 'stopped') AS integer) AS stopped
        FROM recorded
        GROUP BY mail_job_id
    ) AS f
    WHERE mail_job.mail_job_id = f.mail_job_id
),
suppressed AS (
    INSERT INTO suppression (contact_id, reason, detail, suppressed_at)
    SELECT h.contact_id, 'hard_bounce', concat_ws(' ', h.reply_code, h.enhanced_code), h.occurred_at
    FROM held AS h
    INNER JOIN contact ON contact.contact_id = h.contact_id
    WHERE h.is_hard_bounce
    ORDER BY h.contact_id
    ON CONFLICT (contact_id, topic) DO NOTHING
),
ended AS (
    DELETE FROM loose_mail USING held WHERE loose_mail.loose_mail_id = held.loose_mail_id AND held.enters IS NULL
    RETURNING held.occurred_at, loose_mail.loose_mail_id, loose_mail.frozen_campaign_id, loose_mail.message
),
said AS (
    INSERT INTO loose_mail_message (day, loose_mail_id, frozen_campaign_id, message)
    SELECT CAST(e.occurred_at AT TIME ZONE 'UTC' AS date), e.loose_mail_id, e.frozen_campaign_id, e.message
    FROM ended AS e
    WHERE e.message IS NOT NULL
),
forgotten AS (
    DELETE FROM queue_history USING held
    WHERE queue_history.mail_key = held.history_key AND held.enters IS NULL AND held.outcome IN ('stopped', 'expired')
),
logged AS (
    INSERT INTO delivery_log (
        day, loose_mail_id, installation_id, kind, campaign_id, contact_id, address, release_id, message_no, created_at,
        ended_at, attempts, outcome, reply_code, enhanced_code, reply_text, relay, code, description, size
    )
    SELECT
        CAST(h.occurred_at AT TIME ZONE 'UTC' AS date), h.loose_mail_id, h.installation_id, h.kind, h.campaign_id,
        h.contact_id, h.address, h.release_id, h.message_no, h.created_at, h.occurred_at, h.attempts, h.outcome,
        h.reply_code, h.enhanced_code, h.reply_text, h.relay, h.code, h.description, h.size
    FROM held AS h
    WHERE h.enters IS NULL
),
kept AS (
    UPDATE loose_mail
    SET state = CASE WHEN h.enters = 'SCHEDULED' THEN coalesce(h.asked_state, h.enters) ELSE h.enters END,
        asked_state = NULL, worker = NULL, reserved_until = NULL, attempts = h.attempts,
        due_at = coalesce(h.next_at, loose_mail.due_at),
        result_no = CASE WHEN h.is_counted THEN loose_mail.result_no + 1 ELSE loose_mail.result_no END,
        last_outcome = CASE WHEN h.is_counted THEN h.outcome ELSE loose_mail.last_outcome END,
        reply_code = h.reply_code, enhanced_code = h.enhanced_code, reply_text = h.reply_text, relay = h.relay,
        code = h.code, description = h.description
    FROM held AS h
    WHERE loose_mail.loose_mail_id = h.loose_mail_id AND h.enters IS NOT NULL
),
to_report AS (
    UPDATE release SET reported_at = NULL
    WHERE release.reported_at IS NOT NULL
        AND release.release_id IN (SELECT h.release_id FROM held AS h WHERE h.is_counted)
        AND NOT EXISTS (
            SELECT FROM held AS h WHERE h.release_id = release.release_id AND h.enters = 'SCHEDULED'
        )
        AND NOT EXISTS (
            SELECT FROM loose_mail AS w
            WHERE w.kind = 'retry' AND w.release_id = release.release_id
                AND w.state IN ('SCHEDULED', 'QUEUED', 'SENDING')
                AND w.loose_mail_id NOT IN (SELECT h.loose_mail_id FROM held AS h)
        )
)
SELECT loose_mail_id FROM held;

-- name: retry_uncertain
-- The operator lets uncertain messages of these mail jobs, which the caller has locked, be sent once more: as loose mails,
-- whose attempts begin now.
INSERT INTO loose_mail (
    installation_id, kind, state, priority, created_at, due_at, expires_at, campaign_id, contact_id, address, topic,
    released_on, release_id, message_no, mail_job_id, result_no, last_outcome, reply_text, relay
)
SELECT
    top.installation_id, 'retry', 'SCHEDULED', top.priority, CAST(:now AS timestamptz), CAST(:now AS timestamptz),
    release.expires_at, release.campaign_id, u.contact_id, m.address, release.topic, u.released_on, u.release_id,
    u.message_no, u.mail_job_id, u.result_no, 'uncertain', u.reply_text, u.relay
FROM uncertain_message AS u
INNER JOIN assembled_message AS m
    ON m.released_on = u.released_on AND m.release_id = u.release_id AND m.message_no = u.message_no
INNER JOIN release ON release.release_id = u.release_id
INNER JOIN mail_job AS top ON top.mail_job_id = u.release_id
INNER JOIN mail_job AS j
    ON j.mail_job_id = ANY(CAST(:mail_job_ids AS bigint[])) AND u.message_no BETWEEN j.first_message AND j.last_message
WHERE u.released_on = CAST(:released_on AS date) AND u.release_id = CAST(:release_id AS bigint)
    AND u.message_no BETWEEN CAST(:first_message AS integer) AND CAST(:last_message AS integer)
    AND (CAST(:recipient_nos AS integer[]) IS NULL OR m.recipient_no = ANY(CAST(:recipient_nos AS integer[])))
    AND u.loose_mail_state IS NULL
ON CONFLICT (release_id, message_no) WHERE kind = 'retry' DO NOTHING
RETURNING loose_mail_id;
