use prost_reflect::{DescriptorPool, MethodDescriptor};

use super::*;
use crate::grpc::pb;

/// Every method that the server can serve.
fn methods() -> Vec<MethodDescriptor> {
    let mut pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
    for descriptors in [
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ] {
        pool.decode_file_descriptor_set(descriptors).unwrap();
    }
    pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

#[test]
fn every_method_has_a_rule() {
    let methods = methods();
    assert!(methods.len() >= 16, "{methods:?}");
    for path in methods.iter().map(path) {
        assert!(rule(&path).is_some(), "{path} has no rule in methods.rs");
        assert!(PATHS.contains(&path.as_str()), "{path} is not counted: add it to PATHS");
    }
    assert_eq!(PATHS.len(), methods.len(), "a path of PATHS is not served");
}

#[test]
fn methods_that_manage_accounts_and_callers_are_for_admins() {
    let manages = |path: &String| path.contains("AccountService") || path.contains("CallerService");
    for path in methods().iter().map(path).filter(manages) {
        assert_eq!(rule(&path), Some(Rule::Role(CallerRole::Admin)), "{path}");
    }
}

#[test]
fn every_stream_of_responses_is_listed() {
    for method in methods() {
        let path = path(&method);
        assert_eq!(sends_stream(&path), method.is_server_streaming(), "{path}");
    }
}

#[test]
fn every_stream_of_requests_is_listed() {
    for method in methods() {
        let path = path(&method);
        assert_eq!(reads_stream(&path), method.is_client_streaming(), "{path}");
    }
}

#[test]
fn every_upload_is_listed() {
    let is_upload = |method: &MethodDescriptor| method.is_client_streaming() && !method.is_server_streaming();
    let methods = methods();
    assert!(methods.iter().any(is_upload));
    for method in methods {
        let path = path(&method);
        assert_eq!(super::is_upload(&path), is_upload(&method), "{path}");
    }
}

#[test]
fn an_unknown_method_has_no_rule() {
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
