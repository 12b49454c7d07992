-- The login at the portal by which a connection came; '' for those that came otherwise. It stood in auth.

-- +goose Up

ALTER TABLE connections ADD COLUMN login TEXT NOT NULL DEFAULT '';
UPDATE connections SET login = substr(auth, 11) WHERE auth LIKE 'web login %' AND instr(substr(auth, 11), ' ') = 0;
