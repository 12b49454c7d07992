-- The token by which a token was made, and with which it ends; '' for those that a login, a browser or root made.

-- +goose Up

ALTER TABLE tokens ADD COLUMN parent TEXT NOT NULL DEFAULT '';
CREATE INDEX tokens_parent ON tokens (parent) WHERE parent <> '';
