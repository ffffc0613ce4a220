//! `latchkey descriptor`

use std::io::{IsTerminal as _, Write as _, stdout};

use super::Failure;
use crate::grpc::pb;

/// Prints it, as it is.
pub(super) fn run() -> Result<(), Failure> {
    let mut out = stdout();
    if out.is_terminal() {
        let sentence = "this is not for a terminal: write it to a file, with `> latchkey.binpb`";
        return Err(Failure::Usage(sentence.into()));
    }
    let written = out.write_all(pb::PUBLISHED).and_then(|()| out.flush());
    written.map_err(|error| Failure::Refused(format!("cannot write the descriptor set: {error}")))
}
