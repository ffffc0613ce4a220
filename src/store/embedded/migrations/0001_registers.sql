-- One register a user: compare-and-set on the revision.
CREATE TABLE registers (
    key        TEXT    NOT NULL PRIMARY KEY,
    revision   INTEGER NOT NULL,
    value      BLOB    NOT NULL,
    keep_until INTEGER NOT NULL -- microseconds since the epoch; deleted some time after
) STRICT, WITHOUT ROWID;

CREATE INDEX registers_keep_until ON registers (keep_until);

-- AUTOINCREMENT: a number is never given out twice. With the time it names an event for good, also after
-- the file was lost or restored from a backup. Only the beginning of the log is ever deleted.
CREATE TABLE events (
    seq   INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at    INTEGER NOT NULL, -- microseconds since the epoch
    value BLOB              -- NULL in the first row
) STRICT;

-- The row that a cursor names before anything has happened.
INSERT INTO events (at) VALUES (CAST(unixepoch('subsec') * 1000000 AS INTEGER));
