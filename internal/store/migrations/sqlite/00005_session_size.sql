-- The size of machine that a person asked for; '' takes any.

-- +goose Up

ALTER TABLE sessions ADD COLUMN size TEXT NOT NULL DEFAULT '';
