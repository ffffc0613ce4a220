//! Validates several tokens: a browser may send several cookies of one name, for different scopes.

use super::{
    Engine, Error,
    rejection::{Reason, Rejection},
    validate::Verdict,
};

impl Engine {
    /// Returns the index and the verdict of the first token whose session is live, or of the most relevant rejection.
    /// `tokens` must not be empty.
    ///
    /// Tokens after the live one are not judged, and their sessions are not used. An outage is an error even if other
    /// tokens were rejected, because the token that could not be judged may be live.
    pub async fn validate_any(&self, tokens: &[&str], peek: bool) -> Result<(usize, Verdict), Error> {
        let mut best: Option<(usize, Rejection)> = None;
        for (index, token) in tokens.iter().enumerate() {
            match self.validate(token, peek, None).await? {
                live @ Verdict::Live(_) => return Ok((index, live)),
                Verdict::Rejected(rejection) => {
                    let is_better =
                        |(_, best): &(usize, Rejection)| relevance(rejection.reason) > relevance(best.reason);
                    if best.as_ref().is_none_or(is_better) {
                        best = Some((index, rejection));
                    }
                }
            }
        }
        let (index, rejection) = best.unwrap_or((0, Rejection::bare(Reason::Malformed)));
        Ok((index, Verdict::Rejected(rejection)))
    }
}

/// The relevance of a rejection. A terminal one is most relevant: it keeps the client from logging in again by itself
/// and displacing a newer login. A token that was not signed here is not relevant.
fn relevance(reason: Reason) -> u8 {
    match reason {
        Reason::Malformed | Reason::BadSignature => 0,
        reason if reason.is_terminal() => 2,
        _ => 1,
    }
}
