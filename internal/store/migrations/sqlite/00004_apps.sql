-- Programs with web pages that run in sessions, and the ways in that browsers have.

-- +goose Up

ALTER TABLE installation ADD COLUMN app INTEGER NOT NULL DEFAULT 0;

-- What a token is for: '' is the API, 'spawner' apps of any user, 'web' a browser's login.
ALTER TABLE tokens ADD COLUMN kind TEXT NOT NULL DEFAULT '';

-- Who the user is to an OpenID provider.
ALTER TABLE users ADD COLUMN oidc_issuer  TEXT;
ALTER TABLE users ADD COLUMN oidc_subject TEXT;
CREATE UNIQUE INDEX users_oidc ON users (oidc_issuer, oidc_subject) WHERE oidc_subject IS NOT NULL;

CREATE TABLE apps (
    id        INTEGER NOT NULL PRIMARY KEY,
    session   INTEGER NOT NULL,
    name      TEXT    NOT NULL,
    user_name TEXT    NOT NULL,
    uid       INTEGER NOT NULL,
    pool      TEXT    NOT NULL,
    created   INTEGER NOT NULL,
    restart   INTEGER NOT NULL,
    state     TEXT    NOT NULL,
    since     INTEGER NOT NULL,
    reason    TEXT    NOT NULL,
    exit_code INTEGER,
    port      INTEGER NOT NULL,
    started   INTEGER,
    ended     INTEGER
);
CREATE INDEX apps_open ON apps (id) WHERE state <> 'ended';
CREATE INDEX apps_session ON apps (session) WHERE state <> 'ended';
-- The one that it replaces may still be stopping.
CREATE UNIQUE INDEX apps_one ON apps (session, name) WHERE state IN ('waiting', 'starting', 'running');
CREATE INDEX apps_user ON apps (user_name, id);

-- Apart from apps, because they hold secrets and go when the app has ended.
CREATE TABLE app_specs (app INTEGER NOT NULL PRIMARY KEY, body TEXT NOT NULL);
