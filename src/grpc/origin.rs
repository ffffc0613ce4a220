//! Resolves the origin of requests: request id, client address behind trusted proxies, peer, caller and deadline.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use http::{Extensions, HeaderMap};
use ipnet::IpNet;

use super::{deadline::Deadline, request_id::RequestId};
use crate::{domain::origin::Origin, transport::peer::Peer};

/// Each proxy appends the address of its peer to this header.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Maximum number of proxies without client addresses that are logged.
const MAX_SILENT: usize = 64;

/// The name of an authenticated caller, in the extensions of a request.
#[derive(Debug, Clone)]
pub struct CallerName(pub Arc<str>);

/// Resolves the origin of requests.
#[derive(Debug, Clone)]
pub struct Origins {
    trusted: Arc<[IpNet]>,
    /// Proxies that sent no client address.
    silent: Arc<Mutex<Vec<IpAddr>>>,
}

impl Origins {
    /// Trusts `x-forwarded-for` of proxies in these networks.
    pub fn new(trusted: Vec<IpNet>) -> Self {
        Self { trusted: trusted.into(), silent: Arc::default() }
    }

    /// Resolves the origin of a request with these headers and extensions.
    pub(super) fn resolve(&self, headers: &HeaderMap, extensions: &Extensions) -> Origin {
        let peer = extensions.get().map(|peer: &Peer| peer.address);
        Origin {
            request_id: RequestId::from_extensions(extensions).to_string(),
            address: peer.and_then(|peer| self.client(peer.ip(), headers)),
            peer,
            caller: extensions.get().map(|CallerName(name)| name.to_string()),
            deadline: extensions.get().map(|Deadline(deadline)| *deadline),
        }
    }

    /// Resolves the origin of a password attempt. Logs each proxy that sends no client address once, because the login
    /// limiter cannot count the attempts through it by address.
    pub(super) fn resolve_attempt(&self, headers: &HeaderMap, extensions: &Extensions) -> Origin {
        let origin = self.resolve(headers, extensions);
        if let (None, Some(peer)) = (origin.address, origin.peer)
            && self.is_newly_silent(peer.ip())
        {
            let proxy = peer.ip().to_canonical();
            // A peer on this machine may be the client itself.
            if proxy.is_loopback() {
                tracing::info!(
                    proxy.address = %proxy,
                    "logins from this machine are not limited by address; if they come through a proxy, configure it to send x-forwarded-for"
                );
            } else {
                tracing::warn!(
                    proxy.address = %proxy,
                    "logins through a trusted proxy that sends no client address are not limited by address; configure it to send x-forwarded-for, or remove it from throttle.trusted_proxies"
                );
            }
        }
        origin
    }

    /// Whether this proxy is seen without a client address for the first time.
    fn is_newly_silent(&self, proxy: IpAddr) -> bool {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = silent.len() < MAX_SILENT && !silent.contains(&proxy);
        if is_new {
            silent.push(proxy);
        }
        is_new
    }

    /// Returns the nearest address that is not a trusted proxy. Addresses beyond it may be forged by the client.
    /// Returns `None` if all addresses are trusted proxies.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
        let mut nearest = peer.to_canonical();
        let lines: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
        let mut hops = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        while self.trusts(nearest) {
            match hops.next().map(address) {
                Some(Some(address)) => nearest = address,
                // A trusted proxy that sends no valid address hides its peer.
                Some(None) | None => return None,
            }
        }
        Some(nearest)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// Parses an address with or without brackets and port.
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
    fn a_peer_that_is_not_trusted_is_the_client() {
        assert_eq!(client("192.0.2.1", &[]).unwrap(), "192.0.2.1");
        assert_eq!(client("192.0.2.1", &["198.51.100.7"]).unwrap(), "192.0.2.1");
        assert_eq!(client("::ffff:192.0.2.1", &[]).unwrap(), "192.0.2.1", "mapped");
    }

    #[test]
    fn the_nearest_address_that_is_not_a_trusted_proxy_is_the_client() {
        assert_eq!(client("10.0.0.1", &["203.0.113.5"]).unwrap(), "203.0.113.5");
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 203.0.113.5, 10.0.0.2"]).unwrap(), "203.0.113.5");
        assert_eq!(client("10.0.0.1", &["6.6.6.6", "203.0.113.5, 10.0.0.2"]).unwrap(), "203.0.113.5");
        assert_eq!(client("fd00::1", &["[2001:db8::7]:4711"]).unwrap(), "2001:db8::7");
        assert_eq!(client("10.0.0.1", &["203.0.113.5:80"]).unwrap(), "203.0.113.5");
    }

    #[test]
    fn a_proxy_without_client_addresses_is_logged_once() {
        let origins = Origins::new(Vec::new());
        let proxy = |last: u8| IpAddr::from([10, 0, 0, last]);
        assert_eq!([1, 1, 2, 1].map(|last| origins.is_newly_silent(proxy(last))), [true, false, true, false]);
        assert_eq!((0..=255).filter(|last| origins.is_newly_silent(proxy(*last))).count(), MAX_SILENT - 2);
    }

    #[test]
    fn behind_a_proxy_without_client_addresses_the_client_is_unknown() {
        assert_eq!(client("10.0.0.1", &[]), None);
        assert_eq!(client("10.0.0.1", &["10.0.0.9"]), None);
        for garbage in ["unknown", "203.0.113.5, ", "203.0.113.5, _hidden", "1.2.3"] {
            assert_eq!(client("10.0.0.1", &[garbage]), None, "{garbage}");
        }
    }
}
