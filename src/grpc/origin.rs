//! Where a request comes from: its id, the client's address as far as proxies can be believed, the caller.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use http::{Extensions, HeaderMap};
use ipnet::IpNet;
use tonic::Request;

use super::{deadline::Deadline, request_id::RequestId};
use crate::{domain::origin::Origin, transport::peer::Peer};

/// The header in which proxies pass on whom they speak for: each appends the address it was called from.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Of so many proxies that do not say there is a warning.
const MAX_SILENT: usize = 64;

/// The name of a caller that has proved who it is.
#[derive(Debug, Clone)]
pub struct CallerName(pub Arc<str>);

/// Finds out where requests come from.
#[derive(Debug, Clone)]
pub struct Origins {
    trusted: Arc<[IpNet]>,
    /// Proxies that did not say whom they speak for.
    silent: Arc<Mutex<Vec<IpAddr>>>,
}

impl Origins {
    /// Believes what peers in these networks say of their clients.
    pub fn new(trusted: Vec<IpNet>) -> Self {
        Self { trusted: trusted.into(), silent: Arc::default() }
    }

    /// A request as its message, where it comes from, and its id.
    pub(super) fn parts<T>(&self, request: Request<T>) -> (T, Origin, RequestId) {
        let (metadata, extensions, message) = request.into_parts();
        let origin = self.of(metadata.as_ref(), &extensions);
        (message, origin, RequestId::from_extensions(&extensions))
    }

    /// Where a request with these headers and extensions comes from.
    pub(super) fn of(&self, headers: &HeaderMap, extensions: &Extensions) -> Origin {
        let peer = extensions.get().map(|peer: &Peer| peer.address);
        Origin {
            request_id: RequestId::from_extensions(extensions).to_string(),
            address: peer.and_then(|peer| self.client(peer.ip(), headers)),
            peer,
            caller: extensions.get().map(|CallerName(name)| name.to_string()),
            deadline: extensions.get().map(|Deadline(deadline)| *deadline),
        }
    }

    /// Where a request that tries a password comes from. Tells once of a proxy that does not say, because the attempts
    /// that come through it count by no address.
    pub(super) fn of_attempt(&self, headers: &HeaderMap, extensions: &Extensions) -> Origin {
        let origin = self.of(headers, extensions);
        if let (None, Some(peer)) = (origin.address, origin.peer)
            && self.is_new(peer.ip())
        {
            let proxy = peer.ip().to_canonical();
            // On this machine it is as likely the client itself.
            if proxy.is_loopback() {
                tracing::info!(
                    proxy.address = %proxy,
                    "logins from this machine are not limited by address: if they come through a proxy, have it send x-forwarded-for"
                );
            } else {
                tracing::warn!(
                    proxy.address = %proxy,
                    "logins come through a trusted proxy that does not tell the address of the client, so they are not limited by address: have it send x-forwarded-for, or take it out of throttle.trusted_proxies"
                );
            }
        }
        origin
    }

    /// Whether this is the first time that a proxy does not say.
    fn is_new(&self, proxy: IpAddr) -> bool {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = silent.len() < MAX_SILENT && !silent.contains(&proxy);
        if is_new {
            silent.push(proxy);
        }
        is_new
    }

    /// The nearest address that is not a proxy of ours: only proxies of ours can be believed, and the
    /// rest of the header may be the client's invention. `None` where all are ours.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
        let mut nearest = peer.to_canonical();
        let lines: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
        let mut hops = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        while self.trusts(nearest) {
            match hops.next().map(address) {
                Some(Some(address)) => nearest = address,
                // A proxy of ours that does not say: what is beyond it is not known.
                Some(None) | None => return None,
            }
        }
        Some(nearest)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// An address, with or without a port and brackets.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse().map(|address: SocketAddr| address.ip())).ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, lines: &[&str]) -> Option<String> {
        let origins = Origins::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        origins.client(peer.parse().unwrap(), &headers).map(|address| address.to_string())
    }

    #[test]
    fn a_stranger_is_the_client_whatever_it_says() {
        assert_eq!(client("192.0.2.1", &[]).unwrap(), "192.0.2.1");
        assert_eq!(client("192.0.2.1", &["198.51.100.7"]).unwrap(), "192.0.2.1");
        assert_eq!(client("::ffff:192.0.2.1", &[]).unwrap(), "192.0.2.1", "mapped");
    }

    #[test]
    fn the_nearest_that_is_no_proxy_of_ours_is_the_client() {
        assert_eq!(client("10.0.0.1", &["203.0.113.5"]).unwrap(), "203.0.113.5");
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 203.0.113.5, 10.0.0.2"]).unwrap(), "203.0.113.5");
        assert_eq!(client("10.0.0.1", &["6.6.6.6", "203.0.113.5, 10.0.0.2"]).unwrap(), "203.0.113.5");
        assert_eq!(client("fd00::1", &["[2001:db8::7]:4711"]).unwrap(), "2001:db8::7");
        assert_eq!(client("10.0.0.1", &["203.0.113.5:80"]).unwrap(), "203.0.113.5");
    }

    #[test]
    fn a_proxy_that_does_not_say_is_told_of_once() {
        let origins = Origins::new(Vec::new());
        let proxy = |last: u8| IpAddr::from([10, 0, 0, last]);
        assert_eq!([1, 1, 2, 1].map(|last| origins.is_new(proxy(last))), [true, false, true, false]);
        assert_eq!((0..=255).filter(|last| origins.is_new(proxy(*last))).count(), MAX_SILENT - 2);
    }

    #[test]
    fn behind_a_proxy_that_does_not_say_the_client_is_unknown() {
        assert_eq!(client("10.0.0.1", &[]), None);
        assert_eq!(client("10.0.0.1", &["10.0.0.9"]), None);
        for garbage in ["unknown", "203.0.113.5, ", "203.0.113.5, _hidden", "1.2.3"] {
            assert_eq!(client("10.0.0.1", &[garbage]), None, "{garbage}");
        }
    }
}
