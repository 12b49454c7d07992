-- The rights of its user that a session has on its machine, in the server's words; '' before the machine has said so.

-- +goose Up

ALTER TABLE sessions ADD COLUMN rights TEXT NOT NULL DEFAULT '';
