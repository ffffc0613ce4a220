CREATE TABLE callers (
    name         TEXT    NOT NULL PRIMARY KEY,
    key_hash     BLOB    NOT NULL UNIQUE, -- SHA-256 of the key
    roles        TEXT    NOT NULL,        -- separated by spaces
    created_at   INTEGER NOT NULL,        -- microseconds since the epoch
    last_used_at INTEGER                  -- microseconds since the epoch
) STRICT;
