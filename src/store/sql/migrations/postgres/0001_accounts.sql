-- COLLATE "C": compared and sorted byte by byte, whatever the locale of the database.
CREATE TABLE latchkey_accounts (
    user_id        TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    username       TEXT             NOT NULL,
    username_key   TEXT COLLATE "C" NOT NULL UNIQUE, -- what usernames are compared by
    password_hash  TEXT             NOT NULL,
    roles          TEXT             NOT NULL, -- separated by spaces
    disabled       BOOLEAN          NOT NULL,
    disabled_until BIGINT,                    -- microseconds since the epoch
    created_at     BIGINT           NOT NULL  -- microseconds since the epoch
);

-- Changes that session state has yet to follow; written with the change, deleted once followed.
CREATE TABLE latchkey_session_debts (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id    TEXT   NOT NULL,
    cause      TEXT   NOT NULL,
    created_at BIGINT NOT NULL -- microseconds since the epoch
);

CREATE TABLE latchkey_callers (
    name         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    key_hash     BYTEA            NOT NULL UNIQUE, -- SHA-256 of the key
    roles        TEXT             NOT NULL,        -- separated by spaces
    created_at   BIGINT           NOT NULL,        -- microseconds since the epoch
    last_used_at BIGINT                            -- microseconds since the epoch
);
