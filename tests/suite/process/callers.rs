//! Callers on the command line, and the audit trail of calls with bad keys.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use latchkey::grpc::pb;
use serde_json::Value;
use tonic::Request;

use crate::support::process::{Process, command, run};

/// Runs `latchkey` and returns the exit code, standard output and standard error.
fn says(process: &Process, data: &Path, settings: &[(&str, &str)], words: &str) -> (i32, String, String) {
    let server = process.grpc.to_string();
    let mut command = command(data, &[&[("SERVER", server.as_str())], settings].concat());
    command.args(words.split(' '));
    let output = run(command, "");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn callers_are_managed_in_text_and_in_json() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[("ACCESS__VALIDATE", "caller")]);
    let says = |settings: &[(&str, &str)], words: &str| says(&process, data.path(), settings, words);

    let (code, key, remark) = says(&[], "caller create web --role validator --role issuer");
    assert_eq!(code, 0, "{remark}");
    let key = key.strip_suffix('\n').unwrap();
    assert!(
        key.len() == 47 && key.starts_with("lkc_"),
        "nothing but the key, so that it can be caught: {key}"
    );
    assert!(
        remark.contains("caller     web\nroles      issuer, validator") && !remark.contains(key),
        "{remark}"
    );
    let (_, list, _) = says(&[], "caller list");
    assert_eq!(list, "CALLER  ROLES             LAST USED\nweb     issuer,validator  never\n");

    // The key comes from a file, as the admin key does, and never from an argument.
    let file = data.path().join("web.key");
    fs::write(&file, format!("{key}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let path = file.to_str().unwrap();
    for (settings, words) in [
        (&[("TOKEN", "x")][..], &*format!("validate --key-file {path}")),
        (&[("TOKEN", "x"), ("KEY_FILE", path)], "validate"),
        (&[("TOKEN", "x"), ("ACCESS__VALIDATE", "caller")], "validate"),
    ] {
        let (code, _, error) = says(settings, words);
        assert!(code == 1 && error.contains("MALFORMED"), "a verdict: {code} {error}");
    }
    let (code, _, error) = says(&[("TOKEN", "x")], "validate");
    assert!(code == 1 && error.contains("needs a caller key"), "{error}");
    let (code, _, error) = says(&[("KEY_FILE", path)], "account list");
    assert!(code == 1 && error.contains("does not have the role `admin`"), "{error}");
    assert!(says(&[], "caller list").1.contains("\nweb     issuer,validator  20"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, error) = says(&[("KEY_FILE", path)], "account list");
    assert!(code == 1 && error.contains("can be read by everybody"), "{error}");

    let json = |words: &str| -> Value {
        let (code, out, error) = says(&[], &format!("{words} --output json"));
        assert_eq!((code, error.as_str()), (0, ""));
        serde_json::from_str(&out).unwrap()
    };
    let made = json("caller create ops --role admin");
    assert!(made["key"].as_str().unwrap().starts_with("lkc_"));
    assert_eq!(made["caller"]["roles"][0], "admin");
    let listed = json("caller list");
    assert_eq!(listed["callers"][0]["name"], "ops");
    assert_eq!(listed["callers"][0]["last_used_at"], Value::Null);
    assert!(listed["callers"][1]["last_used_at"].is_string());
    assert!(!listed.to_string().contains("lkc_"));
    assert_eq!(json("caller revoke ops")["revoked"], "ops");

    for (words, code, said) in [
        ("caller create web --role validator", 1, "revoke it first"),
        ("caller create web", 2, "--role"),
        ("caller create other --role root", 2, "roles must be at least one of"),
        ("caller create admin --role admin", 2, "choose another"),
        ("caller revoke ops", 1, "there is no caller"),
    ] {
        let (actual, _, error) = says(&[], words);
        assert!(actual == code && error.contains(said), "{words}: {actual} {error}");
    }
    assert_eq!(says(&[], "caller revoke web").1, "revoked    web\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_bad_keys_is_aggregated_in_the_audit_trail() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[]);
    let client = process.serving_client().await;
    let refused = async |key: &str| {
        let mut request = Request::new(pb::ListCallersRequest {});
        request.metadata_mut().insert("x-latchkey-key", key.parse().unwrap());
        client.callers.clone().list_callers(request).await.unwrap_err();
    };
    for number in 0..500 {
        refused(&format!("lkc_{number:043}")).await;
    }
    let entries = |reason: &str| {
        let output = process.output();
        output.lines().filter(|line| line.contains("audit") && line.contains(reason)).count()
    };
    process.output_until("CALLER_UNAUTHENTICATED");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let told = entries("CALLER_UNAUTHENTICATED");
    assert!((1..=20).contains(&told), "{told} entries");

    // The flood does not hide the actions of a known caller.
    let message = pb::CreateCallerRequest { name: "web".into(), roles: vec!["validator".into()] };
    let key = client.callers.clone().create_caller(client.admin(message)).await.unwrap().into_inner().key;
    refused(&key).await;
    process.output_until("CALLER_NOT_ALLOWED");
    assert_eq!(entries("CALLER_NOT_ALLOWED"), 1);
    assert!(!process.output().contains("lkc_"));
}
