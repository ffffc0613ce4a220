use std::time::Duration;

use tokio::time::timeout;

use super::*;

fn admission(total: usize, client: usize, connection: usize) -> Arc<Admission> {
    let limit = Limit { total, client, connection };
    let limits = [(Resource::Requests, limit), (Resource::GrpcConnections, limit)];
    Admission::new(&limits, vec!["10.0.0.0/8".parse().unwrap()])
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The number of requests admitted one by one, and the scope of the limit that denies the next.
fn fill(connection: &Arc<Connection>, most: usize) -> (usize, Option<Scope>) {
    for taken in 0..most {
        if let Err(scope) = connection.take(Resource::Requests, 1) {
            return (taken, Some(scope));
        }
    }
    (most, None)
}

#[test]
fn limits_hold_per_connection_per_client_and_in_total() {
    let admission = admission(10, 6, 4);
    let (one, two) = (admission.connection(address("192.0.2.1")), admission.connection(address("192.0.2.1")));
    assert_eq!(fill(&one, 10), (4, Some(Scope::Connection)));
    assert_eq!(fill(&two, 10), (2, Some(Scope::Client)));
    let mapped = admission.connection(address("::ffff:192.0.2.1"));
    assert_eq!(fill(&mapped, 10), (0, Some(Scope::Client)), "the same client");
    let other = admission.connection(address("192.0.2.2"));
    assert_eq!(fill(&other, 10), (4, Some(Scope::Connection)));
    let third = admission.connection(address("192.0.2.3"));
    assert_eq!(fill(&third, 10), (0, Some(Scope::Total)));
    assert_eq!(admission.used(Resource::Requests), 10);

    // A denial takes nothing.
    one.release(Resource::Requests, 4);
    assert_eq!(fill(&third, 10), (4, Some(Scope::Connection)));
    assert_eq!(admission.refused(Resource::Requests, Scope::Total), 1);
    assert_eq!(admission.refused(Resource::Requests, Scope::Client), 2);
}

#[test]
fn a_client_share_is_rounded_up() {
    let client = |total, percent| Limit::shared(total, percent, 1).client;
    assert_eq!((client(10_000, 25), client(10, 25), client(1, 25), client(7, 100)), (2500, 3, 1, 7));
    assert_eq!(client(usize::MAX, 100), usize::MAX);
}

#[test]
fn a_trusted_proxy_is_not_one_client() {
    let admission = admission(10, 2, 20);
    let proxy = admission.connection(address("10.1.2.3"));
    assert_eq!(fill(&proxy, 20), (10, Some(Scope::Total)));
}

#[test]
fn an_ipv6_client_is_its_64_and_wider_networks_may_use_more() {
    let admission = admission(100, 4, 100);
    let mut connections = Vec::new();
    let mut of = |text| {
        connections.push(admission.connection(address(text)));
        Arc::clone(connections.last().unwrap())
    };
    assert_eq!(fill(&of("2001:db8:0:1::1"), 20), (4, Some(Scope::Client)));
    assert_eq!(fill(&of("2001:db8:0:1:ffff::1"), 20), (0, Some(Scope::Client)), "the same /64");
    assert_eq!(fill(&of("2001:db8:0:2::1"), 20), (4, Some(Scope::Client)));
    assert_eq!(fill(&of("2001:db8:0:3::1"), 20), (0, Some(Scope::Client)), "the /56 is full");
    assert_eq!(fill(&of("2001:db8:0:100::1"), 20), (4, Some(Scope::Client)));
    assert_eq!(fill(&of("2001:db8:0:200::1"), 20), (0, Some(Scope::Client)), "the /48 is full");
    assert_eq!(fill(&of("2001:db8:1:1::1"), 20), (4, Some(Scope::Client)), "another /48");
}

#[test]
fn clients_without_connections_are_removed() {
    let admission = admission(10, 2, 10);
    let connections: Vec<_> =
        (0..100).map(|number| admission.connection(address(&format!("2001:db8::{number}")))).collect();
    assert_eq!(admission.clients().len(), 3);
    drop(connections);
    assert!(admission.clients().is_empty());
}

#[test]
fn a_permit_grows_shrinks_and_is_released() {
    let admission = admission(10, 10, 10);
    let connection = admission.connection(address("192.0.2.1"));
    let mut permit = Permit::empty(Arc::clone(&connection), Resource::Requests);
    permit.set(7).unwrap();
    permit.set(11).unwrap_err();
    assert_eq!(admission.used(Resource::Requests), 7);
    permit.set(3).unwrap();
    assert_eq!(connection.used(Resource::Requests), 3);
    drop(permit);
    assert_eq!(admission.used(Resource::Requests), 0);
}

#[tokio::test]
async fn silent_connections_are_evicted_first_and_busy_ones_never() {
    let admission = admission(3, 3, 3);
    let gate = ConnectionLimiter::new(Arc::clone(&admission), Resource::GrpcConnections);
    let client = address("192.0.2.1");
    let admit = || timeout(Duration::from_secs(10), gate.admit(client));
    let busy = admit().await.unwrap().unwrap();
    busy.connection.note_requests(1);
    let used = admit().await.unwrap().unwrap();
    used.connection.note_requests(0);
    let silent = admit().await.unwrap().unwrap();
    assert!(admit().await.unwrap().is_none(), "its share");

    let newcomer = gate.admit(address("192.0.2.2"));
    tokio::pin!(newcomer);
    assert!(timeout(SOON, &mut newcomer).await.is_err());
    assert!(!silent.connection.is_evicted(), "it has only just come");
    admission.seconds.store(SILENT_FOR, Ordering::Relaxed);
    assert!(timeout(SOON, &mut newcomer).await.is_err());
    assert!(silent.connection.is_evicted() && !used.connection.is_evicted());
    drop(silent);
    let _second = timeout(Duration::from_secs(10), newcomer).await.unwrap().unwrap();

    admission.seconds.store(1000, Ordering::Relaxed);
    let third = gate.admit(address("192.0.2.3"));
    assert!(timeout(SOON, third).await.is_err());
    assert!(used.connection.is_evicted() && !busy.connection.is_evicted());
    assert_eq!(admission.evicted(), 3, "the second had no request either");
}

/// Long enough for several looks.
const SOON: Duration = Duration::from_millis(300);
/// Longer than one may be silent, and shorter than one may be idle.
const SILENT_FOR: u64 = 5;
