//! Validate, where several tokens may be meant: the cookies of one name that a browser sends for different scopes.

use super::{
    Engine, Error,
    rejection::{Reason, Rejection},
    validate::Verdict,
};

impl Engine {
    /// Returns the first of these tokens whose session is live, by its place, with its verdict. Where none is, the one
    /// whose rejection says most. `tokens` must not be empty.
    ///
    /// Tokens after the live one are not looked at, and their sessions are not used. An outage is an error even if
    /// other tokens were rejected: the one that could not be judged may be live.
    pub async fn validate_any(&self, tokens: &[&str], peek: bool) -> Result<(usize, Verdict), Error> {
        let mut best: Option<(usize, Rejection)> = None;
        for (place, token) in tokens.iter().enumerate() {
            match self.validate(token, peek, None).await? {
                live @ Verdict::Live(_) => return Ok((place, live)),
                Verdict::Rejected(rejection) => {
                    if best.as_ref().is_none_or(|(_, best)| weight(rejection.reason) > weight(best.reason)) {
                        best = Some((place, rejection));
                    }
                }
            }
        }
        let (place, rejection) = best.unwrap_or((0, Rejection::bare(Reason::Malformed)));
        Ok((place, Verdict::Rejected(rejection)))
    }
}

/// How much a rejection says. A terminal one keeps the client from logging in again by itself, and so pushing out
/// whoever has just done so; what was never signed here says nothing.
fn weight(reason: Reason) -> u8 {
    match reason {
        Reason::Malformed | Reason::BadSignature => 0,
        reason if reason.is_terminal() => 2,
        _ => 1,
    }
}
