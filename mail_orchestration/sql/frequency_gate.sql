-- Statements of audience/frequency_gate.py: whom the frequency policy lets through (spec 8.4, 8.5, 8.7, 8.8).

-- name: find_release_at_gate
-- What the gate must know of a release.
SELECT r.release_id, r.released_on, r.campaign_id, r.occurrence, r.is_dry_run, r.frequency_policy, r.frequency_rules,
    r.shelf_life_days, r.counts, j.installation_id
FROM release AS r
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
WHERE r.release_id = CAST(:release_id AS bigint);

-- name: make_forbidden_recipients
-- Whom the policy forbids, in the transaction of one gate; rule is the place of the rule that does, among the release's.
CREATE TEMPORARY TABLE forbidden_recipient (
    recipient_no integer, contact_id bigint, audience_id integer, rule integer, reason text
) ON COMMIT DROP;

-- name: find_forbidden
-- The recipients of a release who have got, or are about to get, as many mails as one of the policy's rules lets through.
INSERT INTO forbidden_recipient (recipient_no, contact_id, audience_id, rule, reason)
SELECT p.recipient_no, p.contact_id, p.audience_id,
    CASE
        WHEN c.mails_4 + c.places >= (CAST(:most AS integer[]))[4] THEN 4
        WHEN c.mails_3 + c.places >= (CAST(:most AS integer[]))[3] THEN 3
        WHEN c.mails_2 + c.places >= (CAST(:most AS integer[]))[2] THEN 2
        ELSE 1
    END, :reason
FROM recipient AS p
INNER JOIN frequency_counter AS c ON c.contact_id = p.contact_id
WHERE p.released_on = CAST(:released_on AS date) AND p.release_id = CAST(:release_id AS bigint) AND p.bypass_reason IS NULL
    AND (
        c.mails_1 + c.places >= (CAST(:most AS integer[]))[1] OR c.mails_2 + c.places >= (CAST(:most AS integer[]))[2]
        OR c.mails_3 + c.places >= (CAST(:most AS integer[]))[3] OR c.mails_4 + c.places >= (CAST(:most AS integer[]))[4]
    )
    AND NOT EXISTS (
        SELECT FROM bypass AS b
        WHERE b.released_on = p.released_on AND b.release_id = p.release_id AND b.recipient_no = p.recipient_no
    );

-- name: make_foreseen_mails
-- What neither the daily log nor a place tells of yet, since no policy holds; a mail on its way counts in every window.
CREATE TEMPORARY TABLE foreseen_mail (contact_id bigint, day date) ON COMMIT DROP;

-- name: foresee_mails
-- The mails of a release that would count if a policy were enabled now: those that arrived on days that are not closed, and
-- those that may still be sent. Nothing is taken: a read of what take_places, the close of a day and give_back_places leave.
INSERT INTO foreseen_mail (contact_id, day)
SELECT p.contact_id, coalesce(CAST(s.arrived_at AT TIME ZONE :time_zone AS date), 'infinity')
FROM recipient AS p
LEFT JOIN (
    SELECT r.contact_id, max(r.message_no) AS message_no,
        (array_agg(r.outcome ORDER BY r.result_no DESC))[1] AS last_outcome,
        bool_or(r.outcome IN ('accepted', 'uncertain')) AS has_arrived,
        min(r.occurred_at) FILTER (
            WHERE r.outcome IN ('accepted', 'uncertain') AND r.occurred_at >= coalesce(i.log_begins_at, '-infinity')
        ) AS arrived_at
    FROM result AS r
    INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
    INNER JOIN installation AS i ON i.installation_id = j.installation_id
    WHERE r.released_on = CAST(:released_on AS date) AND r.release_id = CAST(:release_id AS bigint)
    GROUP BY r.contact_id
) AS s ON s.contact_id = p.contact_id
WHERE p.released_on = CAST(:released_on AS date) AND p.release_id = CAST(:release_id AS bigint) AND p.bypass_reason IS NULL
    AND (
        s.arrived_at >= CAST(:open_since AS timestamptz)
        OR (
            s.arrived_at IS NULL
            AND (
                s.last_outcome IS NULL OR s.last_outcome NOT IN ('rejected', 'stopped', 'expired') OR s.has_arrived
                OR s.message_no IN (
                    SELECT l.message_no FROM loose_mail AS l
                    WHERE l.kind = 'retry' AND l.release_id = CAST(:release_id AS bigint)
                )
            )
            AND (
                SELECT release_may_send(
                    CAST(:release_id AS bigint), CAST(:now AS timestamptz), CAST(:queued_after AS timestamptz)
                )
            )
        )
    )
    AND NOT EXISTS (
        SELECT FROM bypass AS b
        WHERE b.released_on = p.released_on AND b.release_id = p.release_id AND b.recipient_no = p.recipient_no
    )
    AND NOT EXISTS (
        SELECT FROM place_given_back AS g
        WHERE g.released_on = p.released_on AND g.release_id = p.release_id AND g.contact_id = p.contact_id
    );

-- name: find_forbidden_by_own_rules
-- The same by the rules of the campaign, or of a policy that is wished: mails of closed days from the daily log, places,
-- which count in every window, and what is foreseen to count.
INSERT INTO forbidden_recipient (recipient_no, contact_id, audience_id, rule, reason)
SELECT p.recipient_no, p.contact_id, p.audience_id,
    CASE
        WHEN c.mails_4 >= (CAST(:most AS integer[]))[4] THEN 4
        WHEN c.mails_3 >= (CAST(:most AS integer[]))[3] THEN 3
        WHEN c.mails_2 >= (CAST(:most AS integer[]))[2] THEN 2
        WHEN c.mails_1 >= (CAST(:most AS integer[]))[1] THEN 1
    END AS rule, :reason
FROM (
    SELECT counted.contact_id,
        sum(counted.mails) FILTER (WHERE counted.day >= (CAST(:firsts AS date[]))[1]) AS mails_1,
        sum(counted.mails) FILTER (WHERE counted.day >= (CAST(:firsts AS date[]))[2]) AS mails_2,
        sum(counted.mails) FILTER (WHERE counted.day >= (CAST(:firsts AS date[]))[3]) AS mails_3,
        sum(counted.mails) FILTER (WHERE counted.day >= (CAST(:firsts AS date[]))[4]) AS mails_4
    FROM (
        SELECT contact_id, day, mails FROM daily_mail_count WHERE day >= CAST(:first AS date)
        UNION ALL
        SELECT contact_id, CAST('infinity' AS date), places FROM frequency_counter
        UNION ALL
        SELECT contact_id, day, 1 FROM foreseen_mail
    ) AS counted
    WHERE counted.contact_id IN (
        SELECT w.contact_id FROM recipient AS w
        WHERE w.released_on = CAST(:released_on AS date) AND w.release_id = CAST(:release_id AS bigint)
            AND w.bypass_reason IS NULL
    )
    GROUP BY counted.contact_id
) AS c
INNER JOIN recipient AS p
    ON p.contact_id = c.contact_id AND p.released_on = CAST(:released_on AS date)
        AND p.release_id = CAST(:release_id AS bigint) AND p.bypass_reason IS NULL
WHERE (
        c.mails_1 >= (CAST(:most AS integer[]))[1] OR c.mails_2 >= (CAST(:most AS integer[]))[2]
        OR c.mails_3 >= (CAST(:most AS integer[]))[3] OR c.mails_4 >= (CAST(:most AS integer[]))[4]
    )
    AND NOT EXISTS (
        SELECT FROM bypass AS b
        WHERE b.released_on = p.released_on AND b.release_id = p.release_id AND b.recipient_no = p.recipient_no
    );

-- name: expire_while_earlier_waits
-- Of a repeating campaign one mail waits for a contact: that of the earlier occurrence (spec 8.7).
UPDATE forbidden_recipient SET reason = 'expired'
WHERE EXISTS (
    SELECT FROM held_mail AS h
    INNER JOIN release AS r ON r.release_id = h.release_id
    WHERE h.contact_id = forbidden_recipient.contact_id AND h.campaign_id = CAST(:campaign_id AS integer)
        AND h.expires_at > CAST(:now AS timestamptz) AND r.occurrence <> '' AND r.occurrence <> :occurrence
);

-- name: bypass_forbidden
-- Whom the policy forbids stays in the books, with the rule.
INSERT INTO bypass (released_on, release_id, recipient_no, stage, reason, detail)
SELECT CAST(:released_on AS date), CAST(:release_id AS bigint), f.recipient_no, 'frequency', f.reason,
    (CAST(:details AS text[]))[f.rule]
FROM forbidden_recipient AS f;

-- name: hold_mails
-- Their mails wait, until the campaign's end at the most.
INSERT INTO held_mail (
    installation_id, contact_id, campaign_id, release_id, audience_id, priority, held_at, expires_at, max_mails, days
)
SELECT j.installation_id, f.contact_id, r.campaign_id, r.release_id, f.audience_id, j.priority, CAST(:now AS timestamptz),
    least(r.expires_at, CAST(:shelf_life_ends_at AS timestamptz)), (CAST(:most AS integer[]))[f.rule],
    (CAST(:days AS integer[]))[f.rule]
FROM forbidden_recipient AS f
CROSS JOIN release AS r
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
WHERE r.release_id = CAST(:release_id AS bigint) AND f.reason = 'held'
ORDER BY f.recipient_no;

-- name: log_expired_at_once
-- Those that do not wait, since a mail of an earlier occurrence does, are in the log as mails that expired.
INSERT INTO held_mail_log (
    day, held_mail_id, installation_id, contact_id, campaign_id, release_id, audience_id, priority, held_at, expires_at,
    max_mails, days, ended_at, ending, ended_by
)
SELECT CAST(:day AS date), nextval('held_mail_held_mail_id_seq'), j.installation_id, f.contact_id, r.campaign_id,
    r.release_id, f.audience_id, j.priority, CAST(:now AS timestamptz),
    least(r.expires_at, CAST(:shelf_life_ends_at AS timestamptz)), (CAST(:most AS integer[]))[f.rule],
    (CAST(:days AS integer[]))[f.rule], CAST(:now AS timestamptz), 'earlier_waits', 'the frequency gate'
FROM forbidden_recipient AS f
CROSS JOIN release AS r
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
WHERE r.release_id = CAST(:release_id AS bigint) AND f.reason = 'expired';

-- name: take_places
-- A place for everybody in a release whom nothing stopped before the gate or at it. Recipients are numbered in the order of
-- contacts. Whose place was given back by now has none to take: a policy may be enabled while a release is on its way.
INSERT INTO frequency_counter AS known (contact_id, installation_id, places)
SELECT p.contact_id, j.installation_id, 1
FROM recipient AS p
INNER JOIN mail_job AS j ON j.mail_job_id = p.release_id
WHERE p.released_on = CAST(:released_on AS date) AND p.release_id = CAST(:release_id AS bigint) AND p.bypass_reason IS NULL
    AND NOT EXISTS (
        SELECT FROM bypass AS b
        WHERE b.released_on = p.released_on AND b.release_id = p.release_id AND b.recipient_no = p.recipient_no
            AND b.stage IN ('preprocess', 'filter', 'frequency')
    )
    AND NOT EXISTS (
        SELECT FROM place_given_back AS g
        WHERE g.released_on = p.released_on AND g.release_id = p.release_id AND g.contact_id = p.contact_id
    )
ORDER BY p.recipient_no
ON CONFLICT (contact_id) DO UPDATE SET places = known.places + 1;

-- name: mark_places_taken
-- From now on places of the release's recipients are given back or move into the daily log.
UPDATE release SET takes_places = TRUE
WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date);
