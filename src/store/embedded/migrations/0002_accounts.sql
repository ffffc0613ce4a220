CREATE TABLE accounts (
    user_id        TEXT    NOT NULL PRIMARY KEY,
    username       TEXT    NOT NULL,
    username_key   TEXT    NOT NULL UNIQUE, -- what usernames are compared by
    password_hash  TEXT    NOT NULL,
    roles          TEXT    NOT NULL, -- separated by spaces
    disabled       INTEGER NOT NULL, -- 0 or 1
    disabled_until INTEGER,          -- microseconds since the epoch
    created_at     INTEGER NOT NULL  -- microseconds since the epoch
) STRICT;

-- Changes that session state has yet to follow; written with the change, deleted once followed.
CREATE TABLE session_debts (
    id         INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    user_id    TEXT    NOT NULL,
    cause      TEXT    NOT NULL,
    created_at INTEGER NOT NULL -- microseconds since the epoch
) STRICT;
