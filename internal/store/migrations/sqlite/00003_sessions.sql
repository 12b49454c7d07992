-- Every session, with those that log in: their keys, passwords and groups.

-- +goose Up

ALTER TABLE installation ADD COLUMN session INTEGER NOT NULL DEFAULT 0;
ALTER TABLE installation ADD COLUMN serial  INTEGER NOT NULL DEFAULT 0; -- the latest given to a certificate

ALTER TABLE machines ADD COLUMN host_key TEXT NOT NULL DEFAULT '';

ALTER TABLE users ADD COLUMN default_pool TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN password     TEXT; -- hash

CREATE TABLE user_keys (
    user_name   TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    public_key  TEXT    NOT NULL,
    comment     TEXT    NOT NULL,
    added       INTEGER NOT NULL,
    PRIMARY KEY (user_name, fingerprint)
) WITHOUT ROWID;

-- Removed groups stay, as removed users do.
CREATE TABLE groups (
    gid     INTEGER NOT NULL PRIMARY KEY,
    name    TEXT    NOT NULL,
    created INTEGER NOT NULL,
    removed INTEGER
);
CREATE UNIQUE INDEX groups_name ON groups (name) WHERE removed IS NULL;

CREATE TABLE members (
    gid INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    PRIMARY KEY (gid, uid)
) WITHOUT ROWID;
CREATE INDEX members_user ON members (uid);

CREATE TABLE sessions (
    id          INTEGER NOT NULL PRIMARY KEY,
    user_name   TEXT    NOT NULL,
    uid         INTEGER NOT NULL,
    pool        TEXT    NOT NULL,
    created     INTEGER NOT NULL,
    machine     TEXT,
    state       TEXT    NOT NULL,
    reason      TEXT    NOT NULL,
    position    INTEGER NOT NULL,
    cpus        INTEGER NOT NULL,
    memory      INTEGER NOT NULL,
    gpus        INTEGER NOT NULL,
    share       REAL    NOT NULL,
    active      INTEGER NOT NULL,
    activity    TEXT    NOT NULL,
    last_active INTEGER,
    keep_until  INTEGER,
    placed      INTEGER,
    opened      INTEGER,
    ended       INTEGER,
    close       TEXT    NOT NULL,
    revision    INTEGER NOT NULL
);
CREATE INDEX sessions_open ON sessions (id) WHERE state <> 'closed';
-- By uid: a removed user's session may still be ending when another of that name logs in.
CREATE UNIQUE INDEX sessions_one ON sessions (uid, pool) WHERE state <> 'closed';
CREATE INDEX sessions_placed ON sessions (machine, revision) WHERE state IN ('placed', 'open', 'closing');
CREATE INDEX sessions_user ON sessions (user_name, id);
CREATE INDEX sessions_pool ON sessions (pool, id);
CREATE INDEX sessions_machine ON sessions (machine, id) WHERE machine IS NOT NULL;
CREATE INDEX sessions_ended ON sessions (ended);

CREATE TABLE connections (
    id        TEXT    NOT NULL PRIMARY KEY,
    session   INTEGER NOT NULL,
    user_name TEXT    NOT NULL,
    protocol  TEXT    NOT NULL,
    peer      TEXT    NOT NULL,
    auth      TEXT    NOT NULL,
    bytes_in  INTEGER NOT NULL,
    bytes_out INTEGER NOT NULL,
    started   INTEGER NOT NULL,
    ended     INTEGER
);
CREATE INDEX connections_open ON connections (session) WHERE ended IS NULL;

CREATE TABLE revocations (
    kind  TEXT    NOT NULL,
    value TEXT    NOT NULL,
    why   TEXT    NOT NULL,
    added INTEGER NOT NULL,
    PRIMARY KEY (kind, value)
) WITHOUT ROWID;
