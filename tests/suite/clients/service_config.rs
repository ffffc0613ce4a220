//! The service config: which calls clients repeat, and the copies of it that clients carry.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

/// The RPCs that clients do not repeat by themselves, and why.
const ONCE: [(&str, &str); 11] = [
    ("AuthService/Login", "opens another session without an idempotency key"),
    ("AuthService/ValidateStream", "its requests are repeated, not the stream"),
    ("AuthService/ChangePassword", "the current password is another one afterwards"),
    ("SessionService/IssueSession", "opens another session without an idempotency key"),
    ("SessionService/EndSessions", "ends sessions that were opened in between"),
    ("AccountService/CreateAccount", "the account exists afterwards"),
    ("AccountService/SetPassword", "ends sessions that were opened in between"),
    ("AccountService/DeleteAccount", "the account does not exist afterwards"),
    ("AccountService/ImportAccounts", "a stream of the client"),
    ("CallerService/CreateCaller", "the key is in the lost answer"),
    ("CallerService/RevokeCaller", "the caller does not exist afterwards"),
];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn config() -> Value {
    serde_json::from_str(&read("proto/latchkey/v1/service_config.json")).unwrap()
}

/// Returns the names of all RPCs, such as `AuthService/Login`.
fn rpcs() -> BTreeSet<String> {
    let mut rpcs = BTreeSet::new();
    for file in ["account", "auth", "caller", "session"] {
        let mut service = String::new();
        for line in read(&format!("proto/latchkey/v1/{file}.proto")).lines() {
            let mut words = line.split([' ', '(']).filter(|word| !word.is_empty());
            match (words.next(), words.next()) {
                (Some("service"), Some(name)) => name.clone_into(&mut service),
                (Some("rpc"), Some(name)) => {
                    rpcs.insert(format!("{service}/{name}"));
                }
                _ => {}
            }
        }
    }
    rpcs
}

#[test]
fn every_rpc_is_repeated_or_has_a_reason_not_to_be() {
    let config = config();
    let methods = config["methodConfig"].as_array().unwrap().iter();
    let names: Vec<_> = methods.flat_map(|method| method["name"].as_array().unwrap()).collect();
    let repeated = names.iter().map(|name| {
        let service = name["service"].as_str().unwrap().strip_prefix("latchkey.v1.").unwrap();
        format!("{service}/{}", name["method"].as_str().unwrap())
    });
    let decided: Vec<_> = repeated.chain(ONCE.map(|(rpc, _)| rpc.to_owned())).collect();
    let known: BTreeSet<_> = decided.iter().cloned().collect();
    assert_eq!(known, rpcs());
    assert_eq!(known.len(), decided.len(), "an RPC is named twice");
}

#[test]
fn clients_carry_the_service_config() {
    let wanted = config();
    for copy in ["clients/go/service_config.json", "clients/python/src/latchkey_auth/service_config.json"] {
        assert_eq!(serde_json::from_str::<Value>(&read(copy)).unwrap(), wanted, "{copy}");
    }
    let script = read("clients/node/src/service_config.ts");
    let (_, json) = script.split_once("JSON.stringify(").unwrap();
    let (json, _) = json.rsplit_once(");").unwrap();
    assert_eq!(serde_json::from_str::<Value>(json).unwrap(), wanted, "clients/node");
}
