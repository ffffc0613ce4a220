-- One register a user: compare-and-set on the revision.
CREATE TABLE registers (
    key        TEXT    NOT NULL PRIMARY KEY,
    revision   INTEGER NOT NULL,
    value      BLOB    NOT NULL,
    keep_until INTEGER NOT NULL -- microseconds since the epoch; deleted some time after
) STRICT, WITHOUT ROWID;

CREATE INDEX registers_keep_until ON registers (keep_until);

-- AUTOINCREMENT: a number is never given out twice, even after the newest events were deleted.
CREATE TABLE events (
    seq        INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    value      BLOB    NOT NULL,
    keep_until INTEGER NOT NULL
) STRICT;
