-- How many of a job's tasks the kernel killed some of for memory, without failing them for it.

-- +goose Up

ALTER TABLE jobs ADD COLUMN killed INTEGER NOT NULL DEFAULT 0;
