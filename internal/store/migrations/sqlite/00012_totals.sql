-- Closed days are folded into totals, and what is older than its retention is forgotten. Amounts are millionths
-- of seconds and of money.

-- +goose Up

-- Totals are there for the days before "folded"; those up to "folding" are being written. Of the days before
-- "pruned" there may be totals only.
ALTER TABLE installation ADD COLUMN folded  INTEGER NOT NULL DEFAULT 0;
ALTER TABLE installation ADD COLUMN folding INTEGER NOT NULL DEFAULT 0;
ALTER TABLE installation ADD COLUMN pruned  INTEGER NOT NULL DEFAULT 0;

CREATE TABLE usage_days (
    day       INTEGER NOT NULL, -- its beginning
    kind      TEXT    NOT NULL,
    pool      TEXT    NOT NULL,
    size      TEXT    NOT NULL,
    user_name TEXT    NOT NULL,
    uid       INTEGER NOT NULL,
    machine   INTEGER NOT NULL,
    cpu       INTEGER NOT NULL,
    gib       INTEGER NOT NULL,
    gpu       INTEGER NOT NULL,
    cost      INTEGER NOT NULL,
    tasks     INTEGER NOT NULL,
    carried   INTEGER NOT NULL, -- tasks that had begun on an earlier day
    PRIMARY KEY (day, kind, pool, size, user_name, uid)
) WITHOUT ROWID;

-- The same by job and session, without what was idle; -1 are those that are no longer kept.
CREATE TABLE usage_jobs (
    day       INTEGER NOT NULL,
    job       INTEGER NOT NULL,
    session   INTEGER NOT NULL,
    kind      TEXT    NOT NULL,
    pool      TEXT    NOT NULL,
    size      TEXT    NOT NULL,
    user_name TEXT    NOT NULL,
    uid       INTEGER NOT NULL,
    machine   INTEGER NOT NULL,
    cpu       INTEGER NOT NULL,
    gib       INTEGER NOT NULL,
    gpu       INTEGER NOT NULL,
    cost      INTEGER NOT NULL,
    tasks     INTEGER NOT NULL,
    carried   INTEGER NOT NULL,
    PRIMARY KEY (day, job, session, kind, pool, size, user_name, uid)
) WITHOUT ROWID;
CREATE INDEX usage_jobs_job     ON usage_jobs (job)     WHERE job > 0;
CREATE INDEX usage_jobs_session ON usage_jobs (session) WHERE session > 0;

-- What lasted longer than a day is found beside what ended soon after it.
CREATE INDEX claims_long   ON claims   (until) WHERE ended - started > 86400000000;
CREATE INDEX machines_long ON machines (until) WHERE ended - created > 86400000000;
CREATE INDEX sessions_long ON sessions (until) WHERE ended - placed > 86400000000;

CREATE INDEX events_user ON events (user_name, id);
CREATE INDEX events_pool ON events (pool, id) WHERE pool IS NOT NULL;

CREATE INDEX jobs_bad   ON jobs (id) WHERE state IN ('failed', 'cancelled');
CREATE INDEX jobs_ended ON jobs (ended) WHERE ended IS NOT NULL;
ALTER TABLE jobs ADD COLUMN output_removed INTEGER;
CREATE INDEX jobs_output ON jobs (ended) WHERE ended IS NOT NULL AND output_removed IS NULL;
CREATE INDEX connections_session ON connections (session);
CREATE INDEX apps_of_session     ON apps (session);
