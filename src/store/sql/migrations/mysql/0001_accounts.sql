-- utf8mb4_bin: compared and sorted code point by code point, which is byte by byte.
-- IF NOT EXISTS: MySQL cannot undo the first of two statements when the second is interrupted.
CREATE TABLE IF NOT EXISTS latchkey_accounts (
    user_id        VARCHAR(128) NOT NULL PRIMARY KEY,
    username       VARCHAR(128) NOT NULL,
    username_key   VARCHAR(512) NOT NULL UNIQUE, -- what usernames are compared by
    password_hash  TEXT         NOT NULL,
    roles          TEXT         NOT NULL, -- separated by spaces
    disabled       BOOLEAN      NOT NULL,
    disabled_until BIGINT,                -- microseconds since the epoch
    created_at     BIGINT       NOT NULL  -- microseconds since the epoch
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

-- Changes that session state has yet to follow; written with the change, deleted once followed.
CREATE TABLE IF NOT EXISTS latchkey_session_debts (
    id         BIGINT       NOT NULL PRIMARY KEY AUTO_INCREMENT,
    user_id    VARCHAR(128) NOT NULL,
    cause      VARCHAR(64)  NOT NULL,
    created_at BIGINT       NOT NULL -- microseconds since the epoch
) ENGINE = InnoDB, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS latchkey_callers (
    name         VARCHAR(128) NOT NULL PRIMARY KEY,
    key_hash     BINARY(32)   NOT NULL UNIQUE, -- SHA-256 of the key
    roles        TEXT         NOT NULL,        -- separated by spaces
    created_at   BIGINT       NOT NULL,        -- microseconds since the epoch
    last_used_at BIGINT                        -- microseconds since the epoch
) ENGINE = InnoDB, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;
