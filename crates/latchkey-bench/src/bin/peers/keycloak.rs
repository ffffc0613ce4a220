//! Keycloak: its realm, and logins with a password.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use latchkey_bench::{Result, support::address::server_port};
use serde_json::{Value, json};

use crate::{http, peer::Call, users::Credential};

pub(crate) const INTROSPECTION: Call = Call::Introspection {
    path: "/realms/bench/protocol/openid-connect/token/introspect",
    client: "bench:bench-secret",
};
const TOKEN: &str = "/realms/bench/protocol/openid-connect/token";
const REALM: &str = "crates/latchkey-bench/peers/keycloak/realm.json";
const PASSWORD: &str = "correct horse battery staple";
const START_TIMEOUT: Duration = Duration::from_mins(3);

/// Writes the realm with its users where Keycloak imports it at the start.
pub(crate) fn write_realm(home: &Path, users: usize) -> Result<()> {
    let mut realm: Value = serde_json::from_str(&fs::read_to_string(REALM)?)?;
    let user = |number: usize| {
        json!({
            "username": format!("user{number:08}"),
            "enabled": true,
            "email": format!("user{number:08}@example.com"),
            "emailVerified": true,
            "firstName": "A",
            "lastName": "User",
            "credentials": [{ "type": "password", "value": PASSWORD, "temporary": false }],
        })
    };
    realm["users"] = (0..users).map(user).collect();
    let folder = home.join("keycloak/data/import");
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join("bench-realm.json"), realm.to_string())?)
}

/// Keycloak cannot choose a port itself.
pub(crate) fn choose_port(command: &mut Command) {
    command.env("PEER_PORT", server_port().to_string());
}

pub(crate) fn wait_until_serving(address: SocketAddr) -> Result<()> {
    let begun = Instant::now();
    while !http::send(address, "/realms/bench", &[], None).is_ok_and(|response| response.status == 200) {
        if begun.elapsed() > START_TIMEOUT {
            return Err("Keycloak does not start: see target/peers/keycloak/log".into());
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

pub(crate) fn log_in(address: SocketAddr, number: usize) -> Result<Credential> {
    let username = format!("user{number:08}");
    let password = PASSWORD.replace(' ', "+");
    let form = format!(
        "grant_type=password&client_id=bench&client_secret=bench-secret&username={username}&password={password}"
    );
    let response = http::send(address, TOKEN, &[], Some(&form))?;
    let body: Value = serde_json::from_str(&response.body).unwrap_or_default();
    let token = body["access_token"].as_str();
    let token = token.ok_or_else(|| format!("a login to Keycloak failed: {}", response.body))?.to_owned();
    Ok(Credential { token, expected: format!("\"username\":\"{username}\"") })
}
