-- The clock may be set. Columns "until" are on the time that was lived: what a row's end was when it ended, less
-- the skew of then. They differ from "ended" only by what the clock jumped since the installation was made.

-- +goose Up

-- When the last transaction was on the clock that never jumps, of which boot, and how far the clock has
-- gone ahead of the time that was lived.
ALTER TABLE installation ADD COLUMN lived INTEGER NOT NULL DEFAULT 0;
ALTER TABLE installation ADD COLUMN boot  TEXT    NOT NULL DEFAULT '';
ALTER TABLE installation ADD COLUMN skew  INTEGER NOT NULL DEFAULT 0;

-- What the clock said from a moment of lived time on: that moment and the skew together.
CREATE TABLE frames (
    began INTEGER NOT NULL PRIMARY KEY,
    skew  INTEGER NOT NULL,
    jump  INTEGER              -- by how much the clock was set; NULL where the host was off
);
INSERT INTO frames (began, skew) VALUES (0, 0);

ALTER TABLE machines ADD COLUMN until INTEGER;
ALTER TABLE claims   ADD COLUMN until INTEGER;
ALTER TABLE sessions ADD COLUMN until INTEGER;
UPDATE machines SET until = ended;
UPDATE claims   SET until = ended;
UPDATE sessions SET until = ended;
DROP INDEX machines_ended;
DROP INDEX claims_ended;
DROP INDEX sessions_ended;
CREATE INDEX machines_until ON machines (until);
CREATE INDEX claims_until   ON claims (until) WHERE until IS NOT NULL;
CREATE INDEX sessions_until ON sessions (until);

ALTER TABLE jobs ADD COLUMN task_ended INTEGER;  -- when its latest task to end did

-- Order is by number: the latest event from before an account, or a session, was made. Accounts have no name
-- for ever, but a uid.
ALTER TABLE users      ADD COLUMN event INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions   ADD COLUMN event INTEGER NOT NULL DEFAULT 0;
ALTER TABLE operations ADD COLUMN uid   INTEGER;
UPDATE users SET event = coalesce((SELECT max(id) FROM events e WHERE e.time < users.created), 0)
    WHERE name IN (SELECT name FROM users GROUP BY name HAVING count(*) > 1);
UPDATE operations SET uid = (SELECT u.uid FROM users u WHERE u.name = json_extract(operations.body, '$.user') AND u.removed IS NULL);
