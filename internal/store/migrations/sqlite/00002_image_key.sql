-- +goose Up

-- The content that a machine was made from: it is kept while the machine lives.
ALTER TABLE machines ADD COLUMN image_key TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE machines DROP COLUMN image_key;
