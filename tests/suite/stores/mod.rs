//! One suite of behaviour for every store.
