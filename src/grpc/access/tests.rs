use prost_reflect::DescriptorPool;

use super::*;
use crate::grpc::pb;

/// Every method that the server can serve, by full path, and whether its answer is a stream.
fn methods() -> Vec<(String, bool)> {
    let mut pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
    for descriptors in [
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ] {
        pool.decode_file_descriptor_set(descriptors).unwrap();
    }
    pool.services()
        .flat_map(|service| {
            service
                .methods()
                .map(|method| {
                    (format!("/{}/{}", service.full_name(), method.name()), method.is_server_streaming())
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn every_method_has_a_rule() {
    let methods = methods();
    assert!(methods.len() >= 16, "{methods:?}");
    for (method, _) in methods {
        assert!(rule(&method).is_some(), "{method} has no rule: say in access.rs who may call it");
    }
}

#[test]
fn everything_about_accounts_and_callers_is_for_admins() {
    let managing = |method: &str| method.contains("AccountService") || method.contains("CallerService");
    for (method, _) in methods().iter().filter(|(method, _)| managing(method)) {
        assert_eq!(rule(method), Some(Rule::Role(CallerRole::Admin)), "{method}");
    }
}

#[test]
fn every_stream_is_known_as_one() {
    for (method, streams) in methods() {
        assert_eq!(is_streaming(&method), streams, "{method}: say so in access.rs");
    }
}

#[test]
fn what_is_not_known_is_denied() {
    for path in [
        "",
        "/",
        "/latchkey.v1.AuthService",
        "/latchkey.v1.AuthService/login",
        "/latchkey.v1.AuthService/Login/",
        "//latchkey.v1.AuthService/Login",
        "/latchkey.v1.AuthService/LoginAsAnybody",
    ] {
        assert_eq!(rule(path), None, "{path}");
    }
    assert_eq!(rule("/latchkey.v1.AuthService/Login"), Some(Rule::Open));
}
