//! `latchkey descriptor`: prints the descriptor set of the protocol.

use std::io::{IsTerminal as _, Write as _, stdout};

use super::CommandError;
use crate::grpc::pb;

pub(super) fn run() -> Result<(), CommandError> {
    let mut out = stdout();
    if out.is_terminal() {
        return Err(CommandError::Usage(
            "the descriptor set is binary: write it to a file, with `> latchkey.binpb`".into(),
        ));
    }
    let written = out.write_all(pb::PUBLISHED).and_then(|()| out.flush());
    written.map_err(|error| CommandError::Failed(format!("cannot write the descriptor set: {error}")))
}
