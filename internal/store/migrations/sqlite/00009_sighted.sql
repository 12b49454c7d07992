-- +goose Up

-- When a machine was last seen to be there, to a few seconds: what is found gone later ended then.
ALTER TABLE machines ADD COLUMN sighted INTEGER;
