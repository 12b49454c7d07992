-- Times are microseconds since 1970 in UTC, cpus thousandths of a core, durations nanoseconds.
-- Columns that a query only compares for equality are NULL where a partial index should skip the row.

-- +goose Up

-- One row: who we are, the latest time given to a transaction, and the latest number given to each noun.
CREATE TABLE installation (
    id       TEXT    NOT NULL PRIMARY KEY,
    clock    INTEGER NOT NULL,
    machine  INTEGER NOT NULL,
    job      INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    event    INTEGER NOT NULL,
    revision INTEGER NOT NULL
);

CREATE TABLE settings (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL);

-- Nouns of the configuration: small, few, read whole.
CREATE TABLE pools  (name TEXT NOT NULL PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE sizes  (name TEXT NOT NULL PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE shares (name TEXT NOT NULL PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE images (name TEXT NOT NULL PRIMARY KEY, body TEXT NOT NULL);

-- Removed users stay, so that no uid is ever given twice.
CREATE TABLE users (
    uid     INTEGER NOT NULL PRIMARY KEY,
    name    TEXT    NOT NULL,
    admin   INTEGER NOT NULL,
    created INTEGER NOT NULL,
    removed INTEGER
);
CREATE UNIQUE INDEX users_name ON users (name) WHERE removed IS NULL;

CREATE TABLE tokens (
    id        TEXT    NOT NULL PRIMARY KEY,
    user_name TEXT    NOT NULL,
    name      TEXT    NOT NULL,
    hash      TEXT    NOT NULL UNIQUE,
    created   INTEGER NOT NULL,
    expires   INTEGER,
    used      INTEGER
);
CREATE INDEX tokens_user ON tokens (user_name);

-- The latest number given to a machine of a pool; it outlives the pool.
CREATE TABLE machine_numbers (pool TEXT NOT NULL PRIMARY KEY, number INTEGER NOT NULL);

CREATE TABLE machines (
    id            INTEGER NOT NULL PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE,
    pool          TEXT    NOT NULL,
    size          TEXT    NOT NULL,
    cpus          INTEGER NOT NULL,
    memory        INTEGER NOT NULL,
    gpus          INTEGER NOT NULL,
    disk          INTEGER NOT NULL,
    price         REAL    NOT NULL,
    created       INTEGER NOT NULL,
    image         TEXT    NOT NULL,
    state         TEXT    NOT NULL,
    reason        TEXT    NOT NULL,
    failure       TEXT    NOT NULL,
    cordoned      INTEGER NOT NULL,
    drain_by      INTEGER,
    health        TEXT    NOT NULL,
    health_reason TEXT    NOT NULL,
    address       TEXT    NOT NULL,
    ready_at      INTEGER,
    ended         INTEGER,
    token_hash    TEXT    NOT NULL,
    agent_key     TEXT    NOT NULL,
    seen          INTEGER,
    remove        TEXT    NOT NULL,
    tries         INTEGER NOT NULL,
    retry_at      INTEGER,
    agent_ready   INTEGER NOT NULL,
    claim_ended   INTEGER,           -- when its latest claim to end did
    revision      INTEGER NOT NULL   -- the latest given to a claim on it
);
CREATE INDEX machines_live ON machines (id) WHERE state NOT IN ('gone', 'failed');
CREATE INDEX machines_pool ON machines (pool, id);
CREATE INDEX machines_ended ON machines (ended);

CREATE TABLE jobs (
    id         INTEGER NOT NULL PRIMARY KEY,
    user_name  TEXT    NOT NULL,
    uid        INTEGER NOT NULL,
    pool       TEXT    NOT NULL,
    spec       TEXT    NOT NULL,     -- without command and environment
    submit_key TEXT,
    created    INTEGER NOT NULL,
    share      TEXT    NOT NULL,
    dir        TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    blocked    TEXT    NOT NULL,
    cancelling INTEGER NOT NULL,
    pending    TEXT    NOT NULL,     -- an index set: a million tasks are a few bytes
    n_total    INTEGER NOT NULL,
    n_pending  INTEGER NOT NULL,
    assigned   INTEGER NOT NULL,
    running    INTEGER NOT NULL,
    succeeded  INTEGER NOT NULL,
    failed     INTEGER NOT NULL,
    cancelled  INTEGER NOT NULL,
    lost       INTEGER NOT NULL,
    started    INTEGER,
    ended      INTEGER,
    task_sum   INTEGER NOT NULL
);
CREATE INDEX jobs_open ON jobs (id) WHERE state NOT IN ('succeeded', 'failed', 'cancelled');
CREATE INDEX jobs_user ON jobs (user_name, id);
CREATE INDEX jobs_pool ON jobs (pool, id);
CREATE UNIQUE INDEX jobs_key ON jobs (user_name, uid, submit_key) WHERE submit_key IS NOT NULL;

-- Apart from jobs, because a row is rewritten whole whenever its counts change.
CREATE TABLE job_commands (
    job     INTEGER NOT NULL PRIMARY KEY,
    command TEXT    NOT NULL,
    env     TEXT    NOT NULL
);

CREATE TABLE job_after (
    after_job INTEGER NOT NULL,
    job       INTEGER NOT NULL,
    PRIMARY KEY (after_job, job)
) WITHOUT ROWID;

CREATE TABLE attempts (
    id        INTEGER NOT NULL PRIMARY KEY,
    job       INTEGER NOT NULL,
    idx       INTEGER NOT NULL,
    number    INTEGER NOT NULL,
    user_name TEXT    NOT NULL,
    state     TEXT    NOT NULL,
    exit_code INTEGER,
    reason    TEXT    NOT NULL,
    assigned  INTEGER NOT NULL,
    started   INTEGER,
    ended     INTEGER
);
CREATE UNIQUE INDEX attempts_task ON attempts (job, idx, number);
-- Unique, so that no fault can ever have two tries of one task alive.
CREATE UNIQUE INDEX attempts_open ON attempts (job, idx) WHERE ended IS NULL;
CREATE INDEX attempts_bad ON attempts (job, idx) WHERE state IN ('failed', 'cancelled', 'lost');

CREATE TABLE claims (
    attempt  INTEGER NOT NULL,
    rank     INTEGER NOT NULL,
    machine  TEXT    NOT NULL,
    cpus     INTEGER NOT NULL,
    memory   INTEGER NOT NULL,
    gpus     INTEGER NOT NULL,
    desired  TEXT    NOT NULL,
    why      TEXT    NOT NULL,
    revision INTEGER NOT NULL,
    started  INTEGER,
    ended    INTEGER,
    PRIMARY KEY (attempt, rank)
) WITHOUT ROWID;
CREATE INDEX claims_open ON claims (machine, revision) WHERE ended IS NULL;
CREATE INDEX claims_ended ON claims (ended) WHERE ended IS NOT NULL;

CREATE TABLE events (
    id        INTEGER NOT NULL PRIMARY KEY,
    time      INTEGER NOT NULL,
    actor     TEXT    NOT NULL,
    kind      TEXT    NOT NULL,
    pool      TEXT,
    machine   TEXT,
    job       INTEGER,
    user_name TEXT,
    message   TEXT    NOT NULL,
    reason    TEXT    NOT NULL
);
CREATE INDEX events_machine ON events (machine, id) WHERE machine IS NOT NULL;
CREATE INDEX events_job ON events (job, id) WHERE job IS NOT NULL;

CREATE TABLE operations (
    id      TEXT    NOT NULL PRIMARY KEY,
    state   TEXT    NOT NULL,
    created INTEGER NOT NULL,
    body    TEXT    NOT NULL
);
CREATE INDEX operations_running ON operations (created) WHERE state = 'running';
