-- The tables of mail_orchestration, in the order that mail flows. A person who knows this page knows the system.
--
-- Everything lives in the schema mail_orchestration; the search path is set by the connection.
-- Big tables (recipient, bypass, assembled_message, message_block, result, delivery_log, queue_history, daily_mail_count,
-- place_given_back, held_mail_log) are insert-only and partitioned by day, so that retention drops partitions and never
-- deletes rows. Partitions are made by
-- ensure_day_partitions(). Small tables (mail_job, loose_mail, mailcaster_shift) are updated; they are kept narrow and
-- vacuumed eagerly.


-- Who may be written to ------------------------------------------------------------------------------------------

-- settings is what of its settings file those must know who work for it elsewhere: see Settings.for_others. The daily log
-- forgets what was sent before log_begins_at (spec 8.4), though its results are still there; null: it has all. relay_limits:
-- what its settings let each relay have, by host and port, when it was opened last, which opened_at tells to the hour.
CREATE TABLE installation (
    installation_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    settings jsonb NOT NULL DEFAULT '{}',
    relay_limits jsonb NOT NULL DEFAULT '{}',
    opened_at timestamptz NOT NULL DEFAULT now(),
    log_begins_at timestamptz
);

-- address is as it goes on the envelope; address_key is what two spellings of one mailbox have in common.
-- No foreign keys on contact and audience_member, which are filled by the million: each check locks and rewrites the row
-- that it finds, and together they took twice the time of the import itself. Contacts and audiences are never deleted
-- while they have members, and merge_members joins with both.
CREATE TABLE contact (
    contact_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    installation_id integer NOT NULL,
    address text NOT NULL,
    address_key text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT contact_is_known_by_address UNIQUE (installation_id, address_key)
);

CREATE TABLE audience (
    audience_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    installation_id integer NOT NULL REFERENCES installation,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT audience_is_known_by_name UNIQUE (installation_id, name)
);

-- The details of a contact belong to the membership: each list keeps its own, and the list named first in a
-- release gives the details of a contact that is in several. attributes is null where a source has no extra column;
-- json and not jsonb: they are written once and read as a whole, and taking them in costs half as much.
CREATE TABLE audience_member (
    audience_id integer NOT NULL,
    contact_id bigint NOT NULL,
    body_format text,
    locale text,
    guid text,
    url text,
    attributes json,
    import_id bigint NOT NULL,
    PRIMARY KEY (audience_id, contact_id)
);
-- The few whose body format is none: dedup finds them here, and reads the primary key alone for everybody else.
CREATE INDEX audience_member_with_bad_format ON audience_member (audience_id, contact_id)
    WHERE body_format NOT IN ('text', 'mime', 'mhtml');

-- members: of the audience when it was finished. Nothing but an import changes them.
CREATE TABLE audience_import (
    import_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    audience_id integer NOT NULL REFERENCES audience ON DELETE CASCADE,
    source text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    rows_read bigint NOT NULL DEFAULT 0,
    rows_accepted bigint NOT NULL DEFAULT 0,
    rows_repeated bigint NOT NULL DEFAULT 0,
    rows_rejected bigint NOT NULL DEFAULT 0,
    members bigint,
    CONSTRAINT finished_import_accounts_for_every_row
        CHECK (finished_at IS NULL OR rows_read = rows_accepted + rows_repeated + rows_rejected)
);

-- A row that could not be imported: nothing of a source is dropped in silence.
CREATE TABLE audience_reject (
    import_id bigint NOT NULL REFERENCES audience_import ON DELETE CASCADE,
    line bigint NOT NULL,
    value text NOT NULL,
    reason text NOT NULL
);
CREATE INDEX audience_reject_of_import ON audience_reject (import_id, line);

-- topic '' is everything; another topic is an opt-out of that topic alone.
CREATE TABLE suppression (
    contact_id bigint NOT NULL REFERENCES contact,
    topic text NOT NULL DEFAULT '',
    reason text NOT NULL,
    detail text NOT NULL DEFAULT '',
    suppressed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (contact_id, topic),
    CONSTRAINT suppression_reason_is_known
        CHECK (reason IN ('opted_out', 'opted_out_of_topic', 'hard_bounce', 'complaint', 'manual')),
    CONSTRAINT only_an_opt_out_names_a_topic CHECK ((topic <> '') = (reason = 'opted_out_of_topic'))
);


-- What is said ---------------------------------------------------------------------------------------------------

-- Files of released campaigns by their hash: a release freezes what it says.
CREATE TABLE content (
    sha256 bytea PRIMARY KEY,
    bytes bytea NOT NULL,
    CONSTRAINT content_is_known_by_its_hash CHECK (sha256 = sha256(bytes))
);

-- resumes_as is what a paused campaign is once it is resumed. folder is where it was released from last, relative to the
-- folder of the settings; host and inode tell that very folder from one of the same name elsewhere. held_mails_freed: the
-- operator resumed it, or restarted a mail job of it, and the frequency queue was not looked through since (spec 8.4).
CREATE TABLE campaign (
    campaign_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    installation_id integer NOT NULL REFERENCES installation,
    name text NOT NULL,
    state text NOT NULL DEFAULT 'live',
    resumes_as text NOT NULL DEFAULT 'live',
    digest bytea NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    folder text,
    folder_host text,
    folder_inode numeric(20, 0),
    held_mails_freed boolean NOT NULL DEFAULT FALSE,
    CONSTRAINT campaign_is_known_by_name UNIQUE (installation_id, name),
    CONSTRAINT campaign_state_is_known CHECK (state IN ('test', 'live', 'paused', 'deleted')),
    CONSTRAINT campaign_resumes_as_what_can_be_sent CHECK (resumes_as IN ('test', 'live'))
);

-- What a campaign said when a single mail of it was submitted: later edits change nothing (spec 7.1). Known by its digest,
-- so that mails which say the same share it. dictionary is what their composed messages are compressed against.
CREATE TABLE frozen_campaign (
    frozen_campaign_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    campaign_id integer NOT NULL REFERENCES campaign,
    digest bytea NOT NULL,
    files jsonb NOT NULL,
    frozen_at timestamptz NOT NULL,
    dictionary bytea REFERENCES content,
    CONSTRAINT campaign_is_frozen_by_digest UNIQUE (campaign_id, digest)
);


-- Mail jobs ------------------------------------------------------------------------------------------------------

CREATE TYPE mail_job_state AS ENUM (
    'QUEUING', 'INTERRUPTED',
    'QUEUED', 'P_QUEUED', 'P_ASSIGNING', 'P_ASSIGNED',
    'RUNNING', 'STOPPING', 'STOPPED_R', 'STOPPED_Q', 'RECOVERING',
    'STOPPED', 'RECOVERED', 'FINISHED', 'FAILED', 'P_FINISHED', 'P_FAILED', 'P_PARTIAL_FINISHED'
);

CREATE TYPE mail_job_kind AS ENUM ('small', 'parent', 'child');

-- One row for each mail job. release_id is the mail job that a release made: itself for small ones and parents, the
-- parent for children, the first of the chain for what recovery made.
-- Messages are numbered 1 … message_count in a release; a mail job covers first_message … last_message of them.
-- asked_state is what the operator asked for and it enters when it leaves its present state: STOPPED_Q in the place of the
-- queue while it is QUEUING or INTERRUPTED, RECOVERING in the place of STOPPED_R while it is STOPPING.
CREATE TABLE mail_job (
    mail_job_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    release_id bigint NOT NULL,
    installation_id integer NOT NULL REFERENCES installation,
    parent_id bigint REFERENCES mail_job,
    recovers_id bigint REFERENCES mail_job,
    kind mail_job_kind,
    state mail_job_state NOT NULL,
    asked_state mail_job_state,
    reason text NOT NULL DEFAULT '',
    priority integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    queued_at timestamptz,
    started_at timestamptz,
    ended_at timestamptz,
    first_message integer,
    last_message integer,
    next_message integer,
    canary_messages integer,
    mailcaster text,
    fence bigint NOT NULL DEFAULT 0,
    heartbeat_at timestamptz,
    accepted integer NOT NULL DEFAULT 0,
    deferred integer NOT NULL DEFAULT 0,
    rejected integer NOT NULL DEFAULT 0,
    uncertain integer NOT NULL DEFAULT 0,
    stopped integer NOT NULL DEFAULT 0,
    CONSTRAINT running_has_a_mailcaster_and_a_heartbeat
        CHECK (state NOT IN ('RUNNING', 'STOPPING') OR (mailcaster IS NOT NULL AND heartbeat_at IS NOT NULL)),
    CONSTRAINT only_a_stop_or_a_restart_is_asked_for
        CHECK (asked_state IS NULL OR asked_state IN ('STOPPED_Q', 'RECOVERING')),
    CONSTRAINT child_has_a_parent CHECK ((kind = 'child') = (parent_id IS NOT NULL)),
    CONSTRAINT kind_is_known_once_queued
        CHECK (kind IS NOT NULL OR state IN ('QUEUING', 'INTERRUPTED', 'STOPPED', 'FAILED')),
    CONSTRAINT queued_has_messages
        CHECK (state IN ('QUEUING', 'INTERRUPTED', 'STOPPED', 'FAILED') OR (first_message <= last_message AND queued_at IS NOT NULL)),
    CONSTRAINT only_a_parent_hands_out_messages CHECK ((kind = 'parent' AND next_message IS NOT NULL) OR next_message IS NULL),
    CONSTRAINT parent_hands_out_what_it_has
        CHECK (next_message IS NULL OR next_message BETWEEN first_message AND last_message + 1),
    CONSTRAINT p_assigned_has_handed_out_all
        CHECK (state NOT IN ('P_ASSIGNED', 'P_FINISHED', 'P_FAILED', 'P_PARTIAL_FINISHED') OR next_message = last_message + 1),
    CONSTRAINT p_assigning_has_messages_left CHECK (state NOT IN ('P_QUEUED', 'P_ASSIGNING') OR next_message <= last_message),
    CONSTRAINT only_a_parent_has_a_canary CHECK (canary_messages IS NULL OR (kind = 'parent' AND canary_messages > 0)),
    CONSTRAINT ended_is_terminal CHECK (
        (ended_at IS NOT NULL)
        = (state IN ('STOPPED', 'RECOVERED', 'FINISHED', 'FAILED', 'P_FINISHED', 'P_FAILED', 'P_PARTIAL_FINISHED'))
    )
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200);

-- What mailcasters look for, in the order in which they take it, one installation at a time: another's millions are not
-- read. The states are in the index's key and not in its
-- predicate only for the live ones: ended mail jobs, which are most, are not in it.
CREATE INDEX mail_job_to_take ON mail_job (installation_id, state, priority DESC, queued_at, mail_job_id)
    WHERE state IN ('QUEUING', 'QUEUED', 'P_QUEUED', 'P_ASSIGNING', 'P_ASSIGNED', 'RUNNING', 'STOPPING', 'RECOVERING');
CREATE INDEX mail_job_children ON mail_job (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX mail_job_of_release ON mail_job (release_id);
CREATE UNIQUE INDEX mail_job_is_recovered_once ON mail_job (recovers_id) WHERE recovers_id IS NOT NULL;

-- What a release froze, and what dedup and assembly counted. One row for each top-level mail job.
-- digest is of all that was frozen, and an edit changes it; content_digest is of what the messages say. The same content
-- goes once to each contact for one occurrence of the campaign, but for a release that the operator made again (spec 6.6).
-- frequency_policy, frequency_rules ([[max_mails, days], …], null for the policy's own), shelf_life_days and counts are how
-- the frequency policy treats it (spec 8.5). takes_places: its recipients have places in frequency_counter, and until
-- places_settled_at some may still be given back. held_from is the release whose held mails this one sends.
-- The record stays when retention has dropped the messages, and later recipients and results.
-- released_on is the partition of everything big that belongs to the release.
CREATE TABLE release (
    release_id bigint PRIMARY KEY REFERENCES mail_job,
    campaign_id integer NOT NULL REFERENCES campaign,
    released_at timestamptz NOT NULL,
    released_on date NOT NULL,
    request_key text UNIQUE,
    files jsonb NOT NULL,
    digest bytea NOT NULL,
    content_digest bytea NOT NULL,
    occurrence text NOT NULL DEFAULT '',
    again boolean NOT NULL DEFAULT false,
    topic text NOT NULL DEFAULT '',
    starts_at timestamptz,
    expires_at timestamptz,
    canary_messages integer,
    canary_most_rejected numeric,
    is_dry_run boolean NOT NULL DEFAULT false,
    frequency_policy text NOT NULL DEFAULT 'per_policy',
    frequency_rules jsonb,
    shelf_life_days integer,
    counts boolean NOT NULL DEFAULT true,
    takes_places boolean NOT NULL DEFAULT false,
    places_settled_at timestamptz,
    held_from bigint REFERENCES release ON DELETE SET NULL,
    audience_ids integer[] NOT NULL,
    excluded_audience_ids integer[] NOT NULL DEFAULT '{}',
    resolving_since timestamptz,
    resolved_at timestamptz,
    audience_rows bigint,
    duplicates bigint,
    recipient_count integer,
    assembling_since timestamptz,
    assembled_up_to integer NOT NULL DEFAULT 0,
    assembled_at timestamptz,
    message_count integer NOT NULL DEFAULT 0,
    bypassed_count integer NOT NULL DEFAULT 0,
    dictionary bytea REFERENCES content,
    reported_at timestamptz,
    messages_dropped_at timestamptz,
    results_dropped_at timestamptz,
    CONSTRAINT results_are_not_dropped_before_messages
        CHECK (results_dropped_at IS NULL OR messages_dropped_at IS NOT NULL),
    CONSTRAINT frequency_policy_is_known
        CHECK (frequency_policy IN ('per_policy', 'override_policy', 'per_policy_do_not_queue')),
    CONSTRAINT only_what_counts_takes_places CHECK (counts OR NOT takes_places),
    CONSTRAINT only_places_are_settled CHECK (takes_places OR places_settled_at IS NULL),
    CONSTRAINT canary_has_a_size_and_a_limit CHECK ((canary_messages IS NULL) = (canary_most_rejected IS NULL)),
    CONSTRAINT resolved_is_counted
        CHECK (resolved_at IS NULL OR audience_rows = duplicates + recipient_count),
    CONSTRAINT assembled_is_resolved CHECK (assembled_at IS NULL OR resolved_at IS NOT NULL),
    CONSTRAINT assembled_is_complete
        CHECK (assembled_at IS NULL OR message_count + bypassed_count = recipient_count)
);
CREATE INDEX release_to_report ON release (release_id) WHERE reported_at IS NULL;
CREATE INDEX release_with_open_places ON release (release_id) WHERE takes_places AND places_settled_at IS NULL;
CREATE INDEX release_of_held_mails ON release (held_from) WHERE held_from IS NOT NULL;
CREATE INDEX release_of_campaign ON release (campaign_id, released_at DESC);


-- What one release holds, by the million -------------------------------------------------------------------------

-- bypass_reason is what dedup already knew (suppressed, excluded, a failed check); later reasons are rows of bypass.
CREATE TABLE recipient (
    released_on date NOT NULL,
    release_id bigint NOT NULL,
    recipient_no integer NOT NULL,
    audience_id integer NOT NULL,
    contact_id bigint NOT NULL,
    bypass_reason text,
    PRIMARY KEY (release_id, recipient_no, released_on)
) PARTITION BY RANGE (released_on);

-- Reasons found after dedup: custom components, templates, empty bodies. stage is the Direct Mailer stage.
CREATE TABLE bypass (
    released_on date NOT NULL,
    release_id bigint NOT NULL,
    recipient_no integer NOT NULL,
    stage text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    PRIMARY KEY (release_id, recipient_no, released_on)
) PARTITION BY RANGE (released_on);

-- The message itself is at place_in_block (from 0 on) of the block that begins with message_no - place_in_block. The wide
-- columns come first: no octet goes to alignment.
CREATE TABLE assembled_message (
    release_id bigint NOT NULL,
    contact_id bigint NOT NULL,
    released_on date NOT NULL,
    message_no integer NOT NULL,
    recipient_no integer NOT NULL,
    size integer NOT NULL,
    place_in_block smallint NOT NULL,
    address text NOT NULL,
    PRIMARY KEY (release_id, message_no, released_on)
) PARTITION BY RANGE (released_on);

-- What first_message and its neighbours say, compressed together against the release's dictionary: composition/compression.py
-- tells how. A block is written with the rows of its messages. EXTERNAL: PostgreSQL would try in vain to compress it again.
CREATE TABLE message_block (
    release_id bigint NOT NULL,
    released_on date NOT NULL,
    first_message integer NOT NULL,
    block bytea NOT NULL,
    PRIMARY KEY (release_id, first_message, released_on)
) PARTITION BY RANGE (released_on);
ALTER TABLE message_block ALTER COLUMN block SET STORAGE EXTERNAL;

CREATE TYPE outcome AS ENUM ('accepted', 'deferred', 'rejected', 'uncertain', 'stopped', 'expired');

-- The results log, insert-only. A message can have several results, numbered 1, 2, 3 …; the last one counts. Each later
-- one names in supersedes the outcome of the one before it, so that the messages that stand at an outcome now are
-- count(outcome) − count(supersedes): one aggregate, and nothing is looked for row by row.
-- relay is '' where no relay was asked: what we decided ourselves (stopped, expired, not sent again) or the operator did.
CREATE TABLE result (
    released_on date NOT NULL,
    release_id bigint NOT NULL,
    message_no integer NOT NULL,
    mail_job_id bigint NOT NULL,
    contact_id bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    outcome outcome NOT NULL,
    reply_code smallint,
    enhanced_code text,
    reply_text text,
    relay text NOT NULL,
    result_no smallint NOT NULL DEFAULT 1,
    supersedes outcome,
    CONSTRAINT only_a_first_result_supersedes_nothing CHECK ((result_no = 1) = (supersedes IS NULL))
) PARTITION BY RANGE (released_on);
CREATE INDEX result_of_message ON result (release_id, message_no);
-- Few: what is to be sent again, or waits for the operator, is found without reading the others.
CREATE INDEX result_uncertain ON result (release_id, message_no) WHERE outcome = 'uncertain';
CREATE INDEX result_not_arrived ON result (release_id, message_no) WHERE outcome IN ('rejected', 'stopped', 'expired');
CREATE INDEX result_by_time ON result USING brin (occurred_at) WITH (pages_per_range = 32);

-- The report of each release as it was counted last: a million rows take seconds. signs: see read_signs; null where somebody
-- worked on it when it was counted.
CREATE TABLE kept_report (
    release_id bigint PRIMARY KEY REFERENCES release ON DELETE CASCADE,
    signs jsonb,
    report json NOT NULL
);


-- Loose mails ----------------------------------------------------------------------------------------------------

-- In the order in which they go: whoever waits for one mail comes before who gets one of a million.
CREATE TYPE loose_mail_kind AS ENUM ('single', 'burst', 'retry');

CREATE TYPE loose_mail_state AS ENUM ('SCHEDULED', 'QUEUED', 'SENDING', 'FAILED', 'PAUSED', 'STOPPED');

-- What is sent one by one and not in a mail job (spec 6.2): retries of messages that a relay deferred, single mails and
-- bursts. A row is here until its mail has come to an end; then it moves to delivery_log.
-- due_at is the moment before which it is not attempted. A worker reserves a row until reserved_until, under a fence that
-- each reservation raises. asked_state is what the operator asked for while it is SENDING: it enters that instead of
-- waiting for its next attempt.
-- A retry sends what is stored for message_no of its release; result_no is of the message's last result in the results
-- log, under mail_job_id. A mail of its own is composed from frozen_campaign_id and its attributes (json and not jsonb:
-- read as a whole, once) at its first attempt; then it has its message here, and from then on it is the same octets at
-- every attempt. occurrence is what the caller named, so that another occurrence may say the same; history_key is what
-- queue_history knows it by, to forget it when it did not leave; remembered_at is when that took it up anew, null where
-- created_at is. Who opted out gets it nevertheless where
-- is_transactional.
-- last_outcome and reply_code to relay are of the last attempt, code and description of why it is FAILED or STOPPED.
CREATE TABLE loose_mail (
    loose_mail_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    installation_id integer NOT NULL REFERENCES installation,
    kind loose_mail_kind NOT NULL,
    state loose_mail_state NOT NULL,
    asked_state loose_mail_state,
    priority integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz NOT NULL,
    expires_at timestamptz,
    attempts smallint NOT NULL DEFAULT 0,
    run_outs smallint NOT NULL DEFAULT 0,
    worker text,
    reserved_until timestamptz,
    fence bigint NOT NULL DEFAULT 0,
    campaign_id integer NOT NULL REFERENCES campaign,
    contact_id bigint NOT NULL,
    address text NOT NULL,
    topic text NOT NULL DEFAULT '',
    released_on date,
    release_id bigint,
    message_no integer,
    mail_job_id bigint,
    result_no smallint,
    last_outcome outcome,
    frozen_campaign_id integer REFERENCES frozen_campaign,
    attributes json,
    occurrence text NOT NULL DEFAULT '',
    history_key bytea,
    remembered_at timestamptz,
    is_transactional boolean NOT NULL DEFAULT false,
    message bytea,
    size integer,
    reply_code smallint,
    enhanced_code text,
    reply_text text,
    relay text,
    code text,
    description text,
    CONSTRAINT sending_is_reserved_by_a_worker
        CHECK ((state = 'SENDING') = (worker IS NOT NULL) AND (state = 'SENDING') = (reserved_until IS NOT NULL)),
    CONSTRAINT only_while_sending_it_is_asked_to_rest
        CHECK (asked_state IS NULL OR (state = 'SENDING' AND asked_state IN ('PAUSED', 'STOPPED'))),
    CONSTRAINT retry_is_of_a_message CHECK (
        CASE WHEN kind = 'retry'
            THEN num_nulls(released_on, release_id, message_no, mail_job_id, result_no, last_outcome) = 0
            ELSE num_nonnulls(released_on, release_id, message_no, mail_job_id, result_no) = 0
        END
    ),
    CONSTRAINT retry_keeps_no_message_of_its_own CHECK (kind <> 'retry' OR message IS NULL),
    CONSTRAINT single_mail_has_frozen_content CHECK (kind <> 'single' OR frozen_campaign_id IS NOT NULL),
    CONSTRAINT message_has_a_size CHECK ((message IS NULL) = (size IS NULL)),
    CONSTRAINT only_what_rests_or_failed_says_why CHECK (code IS NULL OR state IN ('FAILED', 'STOPPED'))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200);

-- What is due, what is sent next, which reservations have run out and what rests: each is found without reading the
-- others.
CREATE INDEX loose_mail_scheduled ON loose_mail (installation_id, kind, due_at) WHERE state = 'SCHEDULED';
CREATE INDEX loose_mail_to_send ON loose_mail (installation_id, kind, priority DESC, due_at, loose_mail_id)
    WHERE state = 'QUEUED';
CREATE INDEX loose_mail_reserved ON loose_mail (reserved_until) WHERE state = 'SENDING';
CREATE INDEX loose_mail_that_rests ON loose_mail (installation_id, kind, state, priority DESC, due_at, loose_mail_id)
    WHERE state IN ('FAILED', 'PAUSED', 'STOPPED');
CREATE INDEX loose_mail_of_campaign ON loose_mail (campaign_id);
-- What waits is queued, however long ago it was submitted (spec 6.6).
CREATE INDEX loose_mail_waiting ON loose_mail (history_key)
    WHERE history_key IS NOT NULL AND state IN ('SCHEDULED', 'QUEUED', 'SENDING', 'PAUSED');
CREATE UNIQUE INDEX message_is_retried_by_one_loose_mail ON loose_mail (release_id, message_no) WHERE kind = 'retry';

-- What became of each loose mail, insert-only: one row when it has come to its end. day is the day of ended_at in UTC.
-- outcome is that of its last attempt, or why there was none (stopped, expired); a dead letter that the operator deleted
-- keeps the outcome that it died with. size: octets of a mail of its own; null for one that was never composed.
CREATE TABLE delivery_log (
    day date NOT NULL,
    loose_mail_id bigint NOT NULL,
    installation_id integer NOT NULL,
    kind loose_mail_kind NOT NULL,
    campaign_id integer NOT NULL,
    contact_id bigint NOT NULL,
    address text NOT NULL,
    release_id bigint,
    message_no integer,
    created_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    attempts smallint NOT NULL,
    outcome outcome NOT NULL,
    reply_code smallint,
    enhanced_code text,
    reply_text text,
    relay text NOT NULL,
    code text,
    description text,
    deleted_by text,
    size integer
) PARTITION BY RANGE (day);
CREATE INDEX delivery_log_by_time ON delivery_log (installation_id, ended_at DESC);
CREATE INDEX delivery_log_of_message ON delivery_log (release_id, message_no) WHERE release_id IS NOT NULL;
-- Who looks for an address, a campaign or what did not arrive does not read the millions that did.
CREATE INDEX delivery_log_of_address ON delivery_log (lower(address));
CREATE INDEX delivery_log_of_campaign ON delivery_log (campaign_id, ended_at DESC);
CREATE INDEX delivery_log_not_accepted ON delivery_log (installation_id, outcome, ended_at DESC) WHERE outcome <> 'accepted';
CREATE INDEX delivery_log_of_single_mail ON delivery_log (loose_mail_id) WHERE kind = 'single';

-- What mails of their own said, exactly, insert-only: one row for each in the delivery log that was composed (size is not
-- null there), for as long as the messages of releases are kept. message is compressed against the dictionary of the
-- frozen campaign. A retry's message is that of its release.
CREATE TABLE loose_mail_message (
    day date NOT NULL,
    loose_mail_id bigint NOT NULL,
    frozen_campaign_id integer NOT NULL,
    message bytea NOT NULL,
    PRIMARY KEY (loose_mail_id, day)
) PARTITION BY RANGE (day);

-- What was queued lately: the same mail is not queued again within the history (spec 6.6). One row for each mail of its own
-- (single mails, bursts); a release needs none, its recipients tell. mail_key is the hash of what must not come twice.
CREATE TABLE queue_history (
    queued_on date NOT NULL,
    mail_key bytea NOT NULL,
    queued_at timestamptz NOT NULL,
    PRIMARY KEY (mail_key, queued_on)
) PARTITION BY RANGE (queued_on);

-- The messages that are uncertain at this moment: their last result is. A relay was asked and nobody knows what became of
-- it, so another attempt may be made where may_be_repeated; where it is false we have decided that there will be none, or
-- a loose mail makes it.
CREATE VIEW uncertain_message AS
SELECT
    result.released_on, result.release_id, result.message_no, result.mail_job_id, result.contact_id, result.occurred_at,
    result.reply_text, result.relay, result.result_no,
    loose.state AS loose_mail_state,
    result.relay <> '' AND loose.state IS NULL AS may_be_repeated
FROM result
LEFT JOIN loose_mail AS loose
    ON loose.kind = 'retry' AND loose.release_id = result.release_id AND loose.message_no = result.message_no
WHERE result.outcome = 'uncertain'
    AND NOT EXISTS (
        SELECT FROM result AS later
        WHERE later.released_on = result.released_on AND later.release_id = result.release_id
            AND later.message_no = result.message_no AND later.result_no > result.result_no
    );


-- How often somebody was written to ------------------------------------------------------------------------------

-- The daily log (spec 8.2): mails accepted for a contact on a day of the installation's time zone, without those that do
-- not count. Written once for each day by the nightly close, which can be repeated. placed: those of them that had a place
-- in frequency_counter, which they left for this.
CREATE TABLE daily_mail_count (
    day date NOT NULL,
    installation_id integer NOT NULL,
    contact_id bigint NOT NULL,
    mails integer NOT NULL CHECK (mails > 0),
    placed integer NOT NULL DEFAULT 0 CHECK (placed BETWEEN 0 AND mails),
    PRIMARY KEY (contact_id, day)
) PARTITION BY RANGE (day);

CREATE TABLE closed_day (
    installation_id integer NOT NULL REFERENCES installation,
    day date NOT NULL,
    closed_at timestamptz NOT NULL,
    mails bigint NOT NULL,
    contacts bigint NOT NULL,
    PRIMARY KEY (installation_id, day)
);

-- The frequency policy that holds for an installation (spec 8.1): no row, no policy. policy is its setting as it was applied
-- last, with up to four rules: frequency_counter counts in their windows, in their order, for the day counted_for. figures:
-- how many contacts are at the limit of each when they were counted last; null since the rules are others.
CREATE TABLE frequency_policy (
    installation_id integer PRIMARY KEY REFERENCES installation,
    policy jsonb NOT NULL,
    counted_for date NOT NULL,
    applied_at timestamptz NOT NULL,
    figures jsonb,
    CONSTRAINT policy_has_up_to_four_rules CHECK (jsonb_array_length(policy -> 'rules') BETWEEN 1 AND 4)
);

-- How often each contact was written to (spec 8.2): mails of closed days in each window, as daily_mail_count has them, and
-- the places that count in every window beside them: mails on their way, and those accepted on a day that is not closed.
-- The gate takes a place for each recipient before assembly; the close of the day on which the mail was accepted moves it
-- into mails_*; what never arrives gives it back (place_given_back). All of this happens under one lock for each
-- installation, so that no two releases take the same place (spec 8.8).
CREATE TABLE frequency_counter (
    contact_id bigint PRIMARY KEY,
    installation_id integer NOT NULL,
    mails_1 integer NOT NULL DEFAULT 0,
    mails_2 integer NOT NULL DEFAULT 0,
    mails_3 integer NOT NULL DEFAULT 0,
    mails_4 integer NOT NULL DEFAULT 0,
    places integer NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- Recipients whose place was given back, insert-only: once for each, however often it is looked for.
CREATE TABLE place_given_back (
    released_on date NOT NULL,
    release_id bigint NOT NULL,
    contact_id bigint NOT NULL,
    PRIMARY KEY (release_id, contact_id, released_on)
) PARTITION BY RANGE (released_on);

-- The frequency queue (spec 8.4): what the policy forbids for now. A row waits here until it is sent in a release of its own
-- kind (release.held_from), or ends otherwise; then it moves to held_mail_log. release_id is the release that it was held
-- in, which has one for each contact; max_mails and days are the rule that forbade it. A gate writes a million of them at
-- once, and each index makes that a sixth slower: what waits in an installation is counted in the index of releases, and the
-- few numbers that the operator names are looked for row by row.
CREATE TABLE held_mail (
    held_mail_id bigint GENERATED ALWAYS AS IDENTITY,
    installation_id integer NOT NULL,
    contact_id bigint NOT NULL,
    campaign_id integer NOT NULL,
    release_id bigint NOT NULL,
    audience_id integer NOT NULL,
    priority integer NOT NULL,
    held_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    max_mails integer NOT NULL,
    days integer NOT NULL,
    PRIMARY KEY (contact_id, release_id)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX held_mail_of_release ON held_mail (release_id, installation_id, expires_at);

CREATE TYPE held_mail_ending AS ENUM (
    'sent', 'expired', 'deleted', 'policy_disabled', 'earlier_waits', 'campaign_deleted', 'stopped'
);

-- How each held mail's wait ended, insert-only; day is the day of ended_at in UTC. later_release_id is the release that
-- sends it: where the wait ended by 'sent' or 'policy_disabled'.
CREATE TABLE held_mail_log (
    day date NOT NULL,
    held_mail_id bigint NOT NULL,
    installation_id integer NOT NULL,
    contact_id bigint NOT NULL,
    campaign_id integer NOT NULL,
    release_id bigint NOT NULL,
    audience_id integer NOT NULL,
    priority integer NOT NULL,
    held_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    max_mails integer NOT NULL,
    days integer NOT NULL,
    ended_at timestamptz NOT NULL,
    ending held_mail_ending NOT NULL,
    later_release_id bigint,
    ended_by text NOT NULL,
    CONSTRAINT what_is_sent_is_in_a_release CHECK ((later_release_id IS NOT NULL) = (ending IN ('sent', 'policy_disabled')))
) PARTITION BY RANGE (day);
CREATE INDEX held_mail_log_of_contact ON held_mail_log (contact_id);
CREATE INDEX held_mail_log_of_release ON held_mail_log (release_id);


-- Whether a message of a release that has not been sent may be still: something of it has not ended, or has failed and can
-- be restarted since it was queued after that moment (spec 5.4), or waits for another attempt. Once the release has expired
-- only what somebody has in hand; an hour is for clocks that are not quite right.
CREATE FUNCTION release_may_send(release bigint, at timestamptz, queued_after timestamptz) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM release AS r
        WHERE r.release_id = release AND r.messages_dropped_at IS NULL AND (
            EXISTS (
                SELECT FROM mail_job AS j
                WHERE j.release_id = r.release_id AND (
                    j.state IN ('RUNNING', 'STOPPING')
                    OR ((r.expires_at IS NULL OR r.expires_at > at - interval '1 hour') AND (
                        j.ended_at IS NULL
                        OR (j.state = 'FAILED' AND j.kind <> 'parent' AND j.first_message IS NOT NULL AND j.queued_at > queued_after)
                    ))
                )
            )
            OR EXISTS (
                SELECT FROM loose_mail AS l
                WHERE l.kind = 'retry' AND l.release_id = r.release_id
                    AND (l.state = 'SENDING' OR l.expires_at IS NULL OR l.expires_at > at - interval '1 hour')
            )
        )
    )
$$;


-- Whether anything may be sent -----------------------------------------------------------------------------------

-- While a hold is not lifted nothing is sent, for one installation or (null) for all. Lifted ones stay, as a record.
CREATE TABLE sending_hold (
    sending_hold_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    installation_id integer REFERENCES installation,
    cause text NOT NULL,
    reason text NOT NULL,
    held_at timestamptz NOT NULL,
    held_by text NOT NULL,
    lifted_at timestamptz,
    lifted_by text,
    CONSTRAINT hold_cause_is_known CHECK (cause IN ('operator', 'notifications', 'restored')),
    CONSTRAINT restored_database_holds_all CHECK (cause <> 'restored' OR installation_id IS NULL),
    CONSTRAINT hold_is_lifted_by_somebody CHECK ((lifted_at IS NULL) = (lifted_by IS NULL))
);
CREATE UNIQUE INDEX sending_hold_is_open_once ON sending_hold (coalesce(installation_id, 0), cause) WHERE lifted_at IS NULL;

-- What this very database was when it was last known to be no copy: one row, and none before the first process worked
-- with it. written_in is the transaction that wrote the row: a row that was dumped and read back has another.
CREATE TABLE database_identity (
    system_identifier bigint,
    timeline integer,
    database_oid oid NOT NULL,
    table_oids oid [] NOT NULL,
    written_in xid8 NOT NULL,
    confirmed_at timestamptz NOT NULL,
    confirmed_by text NOT NULL
);

-- What this database is now, and how many octets of its server's log are on disk. A server may refuse to tell some of
-- it, which then counts for nothing.
CREATE FUNCTION this_database(
    OUT system_identifier bigint, OUT timeline integer, OUT database_oid oid, OUT table_oids oid [],
    OUT log_position bigint, OUT kept_position bigint
) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    SELECT d.oid INTO STRICT database_oid FROM pg_database AS d WHERE d.datname = current_database();
    table_oids := ARRAY['mail_job'::regclass::oid, 'release'::regclass::oid, 'result'::regclass::oid];
    BEGIN
        SELECT s.system_identifier INTO system_identifier FROM pg_control_system() AS s;
    EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR object_not_in_prerequisite_state THEN
        NULL;
    END;
    BEGIN
        -- Not from the control file, which shows a promotion only after the next checkpoint.
        timeline := ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer;
        log_position := pg_current_wal_insert_lsn() - '0/0'::pg_lsn;
        -- A crash takes away a record of which only the beginning is on disk, and leaves one whose end is.
        IF pg_current_wal_flush_lsn() - '0/0'::pg_lsn >= log_position THEN
            kept_position := log_position;
        END IF;
    EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR object_not_in_prerequisite_state THEN
        NULL;
    END;
END
$$;

-- In what this database is not the one that was known: nothing, or 'system', 'timeline', 'database', 'tables', 'rows'.
CREATE FUNCTION database_differs() RETURNS text [] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known record;
    this record;
    differs text [] := '{}';
BEGIN
    IF NOT EXISTS (SELECT FROM database_identity) THEN
        RETURN differs;
    END IF;
    SELECT * INTO this FROM this_database();
    -- Rows that were read into a database which had one already make two.
    IF (SELECT count(*) FROM database_identity) > 1 THEN
        differs := differs || 'rows'::text;
    END IF;
    SELECT *, xmin::text::bigint = (written_in::text::numeric % 4294967296)::bigint AS is_original INTO known
    FROM database_identity ORDER BY confirmed_at DESC LIMIT 1;
    IF known.system_identifier <> this.system_identifier THEN differs := differs || 'system'::text; END IF;
    IF known.timeline <> this.timeline THEN differs := differs || 'timeline'::text; END IF;
    IF known.database_oid <> this.database_oid THEN differs := differs || 'database'::text; END IF;
    IF known.table_oids <> this.table_oids THEN differs := differs || 'tables'::text; END IF;
    IF NOT known.is_original THEN differs := differs || 'rows'::text; END IF;
    RETURN differs;
END
$$;

-- Whether nothing may be sent for an installation.
CREATE FUNCTION sending_is_held(installation integer) RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT EXISTS (
        SELECT FROM sending_hold AS h
        WHERE h.lifted_at IS NULL AND (h.installation_id IS NULL OR h.installation_id = installation)
    ) OR cardinality(database_differs()) > 0
$$;


-- Who works ------------------------------------------------------------------------------------------------------

-- The last shift of each mailcaster, for status displays.
CREATE TABLE mailcaster_shift (
    installation_id integer NOT NULL REFERENCES installation,
    mailcaster text NOT NULL,
    host text NOT NULL,
    process_id integer NOT NULL,
    started_at timestamptz NOT NULL,
    heartbeat_at timestamptz NOT NULL,
    ended_at timestamptz,
    mail_job_id bigint REFERENCES mail_job,
    mail_jobs_done integer NOT NULL DEFAULT 0,
    messages_done bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (installation_id, mailcaster)
) WITH (fillfactor = 50);


-- When each installation last had its turn with a worker that serves several: the one longest ago is next. Mail jobs and
-- loose mails have turns of their own: many small ones of the one kind must not cost the other its turn.
CREATE TABLE turn (
    installation_id integer NOT NULL REFERENCES installation,
    work text NOT NULL,
    taken_at timestamptz NOT NULL,
    PRIMARY KEY (installation_id, work),
    CONSTRAINT work_is_known CHECK (work IN ('mail_job', 'loose_mail'))
) WITH (fillfactor = 50);


-- How long each installation keeps what: partitions hold the rows of all, and go when the last one lets them.
CREATE TABLE retention (
    installation_id integer NOT NULL REFERENCES installation,
    what text NOT NULL,
    days integer NOT NULL CHECK (days > 0),
    PRIMARY KEY (installation_id, what)
);


-- How fast anything may be sent ----------------------------------------------------------------------------------

-- What everybody who sends to a relay (scope relay, name host:port) or to a group of recipient domains (scope domain) has
-- taken of its limits, whatever installation they are of: the limits themselves are settings. Read and written under
-- the row's lock, in a transaction of its own; egress/slots.py says what the numbers mean. line_*: the slots by which
-- seconds and minutes are kept, in microseconds since 1970 by the database's clock; line_heads has for each track the
-- first slot that nobody has, line_short_at tells when somebody last got less than he could use. taken: messages of an
-- hour's and a day's quota, by window and period. back_off_*: that it asked for less, as egress/aimd.py has it.
CREATE TABLE throttle (
    scope text NOT NULL,
    name text NOT NULL,
    line_origin bigint NOT NULL DEFAULT 0,
    line_interval bigint NOT NULL DEFAULT 0,
    line_lateness bigint NOT NULL DEFAULT 0,
    line_heads bigint [] NOT NULL DEFAULT '{}',
    line_short_at bigint NOT NULL DEFAULT 0,
    taken jsonb NOT NULL DEFAULT '{}',
    taken_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    first_used_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    back_off_rate double precision,
    back_off_full_rate double precision,
    back_off_since bigint,
    back_off_cut_at bigint,
    back_off_reason text,
    PRIMARY KEY (scope, name),
    CONSTRAINT throttle_scope_is_known CHECK (scope IN ('relay', 'domain')),
    CONSTRAINT back_off_is_whole CHECK (
        num_nulls(back_off_rate, back_off_full_rate, back_off_since, back_off_cut_at, back_off_reason) IN (0, 5)
    )
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 200);
CREATE INDEX throttle_that_backs_off ON throttle (back_off_cut_at) WHERE back_off_cut_at IS NOT NULL;

-- The connections of a relay among those who send to it, each a process: how many it wants, and how many it may have open.
-- Written under the lock of the relay's row in throttle; a holder that is silent has none any more.
CREATE TABLE relay_connections (
    relay text NOT NULL,
    holder text NOT NULL,
    wanted integer NOT NULL,
    held integer NOT NULL,
    renewed_at timestamptz NOT NULL,
    PRIMARY KEY (relay, holder),
    CONSTRAINT connections_are_not_negative CHECK (wanted >= 0 AND held >= 0)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 200);


-- Partitions -----------------------------------------------------------------------------------------------------

-- Makes the partitions of one day. LIKE and ATTACH take a lock that running inserts and reads do not feel, which
-- CREATE TABLE … PARTITION OF would not; the advisory lock lets one session at a time make them.
CREATE FUNCTION ensure_day_partitions(day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    partition text;
BEGIN
    FOREACH parent IN ARRAY
        ARRAY[
            'recipient', 'bypass', 'assembled_message', 'message_block', 'result', 'delivery_log', 'loose_mail_message',
            'queue_history', 'daily_mail_count', 'place_given_back', 'held_mail_log'
        ]
    LOOP
        partition := parent || '_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        PERFORM pg_advisory_xact_lock(hashtextextended('mail_orchestration.ensure_day_partitions', 0));
        -- A query: to_regclass would answer from what this session knew before it waited for another that made it.
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_class AS c
            WHERE c.relname = partition AND c.relnamespace = current_schema()::regnamespace
        );
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)', partition, parent);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, partition, day, day + 1);
    END LOOP;
END
$$;
