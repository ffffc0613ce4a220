-- 254 code points, and what they are compared by: case folding makes at most three of one (of an `ffi` that is one letter).
ALTER TABLE latchkey_accounts
    MODIFY username     VARCHAR(254) NOT NULL,
    MODIFY username_key VARCHAR(762) NOT NULL;
