//! Promise P8: no token, password, hash or key of a run is in the output of the server or in its stores.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use latchkey::{
    domain::callers::key::CallerKey,
    grpc::{
        envoy::service::auth::v3::{
            AttributeContext, CheckRequest,
            attribute_context::{self, HttpRequest},
            authorization_client::AuthorizationClient,
        },
        pb::{self, LogoutScope, RejectionReason, validate_response::Verdict},
    },
};
use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tonic::{Code, Request};

use crate::support::{
    client::{Client, login_request},
    http,
    process::{Process, command, run},
    redis::RedisServer,
};

/// The request id that the test sends.
const REQUEST_ID: &str = "the-request-of-the-leak-test";

/// The secrets of a run with their descriptions.
#[derive(Default)]
struct Secrets(BTreeMap<String, String>);

impl Secrets {
    fn add(&mut self, what: impl Into<String>, secret: impl Into<String>) {
        let secret = secret.into();
        assert!(secret.len() >= 8, "too short to be told from other text: {secret}");
        self.0.insert(what.into(), secret);
    }

    /// Adds a token, as a whole and in parts, which could be joined.
    fn add_token(&mut self, what: &str, token: &str) {
        let parts: Vec<_> = token.split('.').collect();
        self.add(format!("{what}: its claims"), parts[1]);
        self.add(format!("{what}: its signature"), parts[2]);
    }

    /// Adds a hash in PHC format: the salt and the hash.
    fn add_hash(&mut self, what: &str, phc: &str) {
        for (number, part) in phc.rsplit('$').take(2).enumerate() {
            self.add(format!("{what}: part {number}"), part);
        }
    }

    /// Adds an Ed25519 key in PEM: its body and the key itself, in the usual encodings.
    fn add_key(&mut self, what: &str, text: &str) {
        let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let der = BASE64.decode(body.as_bytes()).unwrap();
        // PKCS#8 of Ed25519 has the key in an OCTET STRING in an OCTET STRING.
        let at = der.windows(4).position(|bytes| bytes == [0x04, 0x22, 0x04, 0x20]).unwrap() + 4;
        let key = &der[at..at + 32];
        self.add(format!("{what}: the file"), body);
        self.add(format!("{what}: in hex"), HEXLOWER.encode(key));
        self.add(format!("{what}: in base64"), BASE64.encode(key));
        self.add(format!("{what}: in base64url"), BASE64URL_NOPAD.encode(key));
        self.add(format!("{what}: as a list"), format!("{key:?}").replace(['[', ']'], ""));
    }

    /// Returns the secrets that a text contains.
    fn found_in(&self, bytes: &[u8]) -> Vec<&str> {
        let holds = |secret: &str| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        self.0.iter().filter(|(_, secret)| holds(secret)).map(|(what, _)| what.as_str()).collect()
    }
}

/// Uses every feature that handles a secret and returns the secrets.
async fn use_everything(client: &Client, data: &Path) -> Secrets {
    let mut secrets = Secrets::default();
    let password = |what: &str| format!("{what} {:016x}", rand::random::<u64>());
    let login =
        |password: &str| pb::LoginRequest { password: password.into(), ..login_request("alice", "phone") };

    let chosen = password("chosen");
    let create = |username: &str, password: &str| {
        let (username, password) = (username.into(), password.into());
        client.admin(pb::CreateAccountRequest { username, password, roles: vec!["staff".into()] })
    };
    let mut accounts = client.accounts.clone();
    let user_id = accounts
        .create_account(create("alice", &chosen))
        .await
        .unwrap()
        .into_inner()
        .account
        .unwrap()
        .user_id;
    // Four logins fail in different ways.
    let (twice, short) = (password("twice"), "shortpw".to_owned() + "\u{1F511}");
    accounts.create_account(create("alice", &twice)).await.unwrap_err();
    accounts.create_account(create("nobody at all\n", &short)).await.unwrap_err();
    let wrong_key = password("key").replace(' ', "_");
    let mut impostor = client.clone();
    impostor.admin_key.clone_from(&wrong_key);
    let refused = impostor.admin(pb::GetAccountRequest { key: None });
    impostor.accounts.clone().get_account(refused).await.unwrap_err();
    let wrong = password("wrong");
    client.try_login(login(&wrong)).await.unwrap_err();
    let misplaced = password("misplaced");
    let nowhere = pb::LoginRequest { slot: "nowhere".into(), ..login(&misplaced) };
    client.try_login(nowhere).await.unwrap_err();

    let first = client.try_login(login(&chosen)).await.unwrap().token;
    client.session(&first).await;
    let mut forwarded = Request::new(pb::ValidateRequest::default());
    forwarded.metadata_mut().insert("authorization", format!("Bearer {first}").parse().unwrap());
    forwarded.metadata_mut().insert("x-request-id", REQUEST_ID.parse().unwrap());
    let verdict = client.auth.clone().validate(forwarded).await.unwrap().into_inner().verdict.unwrap();
    assert!(matches!(verdict, Verdict::Session(_)));
    let second = client.try_login(login(&chosen)).await.unwrap().token;
    assert_eq!(client.rejection(&first).await.reason(), RejectionReason::Replaced);
    // These are incomplete and overlong tokens.
    let (header, others) = second.split_once('.').unwrap();
    assert_eq!(client.rejection(others).await.reason(), RejectionReason::Malformed);
    client.rejection(&format!("{header}.{header}.{others}")).await;
    client.rejection(&second.repeat(20)).await;
    client.try_validate(&second.repeat(300)).await.unwrap_err();

    use_caller_keys(client, &first, &mut secrets).await;
    use_sessions(client, &user_id, &login(&chosen), &mut secrets).await;

    // The new key must be in use before the test continues.
    assert!(
        run(
            {
                let mut c = command(data, &[]);
                c.args(["key", "generate"]);
                c
            },
            ""
        )
        .status
        .success()
    );
    let old_kid = super::kid(&second);
    let mut third = client.try_login(login(&chosen)).await.unwrap().token;
    while super::kid(&third) == old_kid {
        tokio::time::sleep(Duration::from_millis(20)).await;
        third = client.try_login(login(&chosen)).await.unwrap().token;
    }
    client.logout(&third, LogoutScope::This).await;
    client.logout(&third, LogoutScope::All).await;
    secrets.add_hash("the first hash", &stored_hash(data).await);
    let reset = password("reset");
    let set = pb::SetPasswordRequest { user_id: user_id.clone(), password: reset.clone() };
    accounts.set_password(client.admin(set)).await.unwrap();
    let fourth = client.try_login(login(&reset)).await.unwrap().token;

    for (what, token) in [("first", &first), ("second", &second), ("third", &third), ("fourth", &fourth)] {
        secrets.add_token(&format!("the {what} token"), token);
    }
    for text in [&chosen, &twice, &short, &wrong, &misplaced, &reset] {
        secrets.add(format!("the password `{text}`"), text);
    }
    secrets.add("the wrong admin key", wrong_key);
    secrets.add("the admin key", client.admin_key.clone());
    secrets.add_hash("the second hash", &stored_hash(data).await);
    for entry in fs::read_dir(data.join("keys")).unwrap() {
        let path = entry.unwrap().path();
        secrets.add_key(&path.display().to_string(), &fs::read_to_string(&path).unwrap());
    }
    secrets
}

/// Issues, repeats, watches and ends sessions.
async fn use_sessions(client: &Client, user_id: &str, login: &pb::LoginRequest, secrets: &mut Secrets) {
    let key = format!("idempotency-{:016x}", rand::random::<u64>());
    let keyed = pb::LoginRequest { idempotency_key: key.clone(), ..login.clone() };
    let repeated = client.try_login(keyed.clone()).await.unwrap().token;
    assert_eq!(client.try_login(keyed).await.unwrap().token, repeated);
    let watch = client.watch(&repeated).await;
    let issue = pb::IssueSessionRequest { user_id: user_id.into(), ..Default::default() };
    let issued = client.try_issue(issue).await.unwrap().token;
    assert_eq!(watch.end().await.reason(), RejectionReason::Replaced);
    let mut feed = client.feed("").await;
    client.try_end(pb::EndSessionsRequest { user_id: user_id.into(), ..Default::default() }).await.unwrap();
    feed.ended().await;
    secrets.add("the idempotency key", key);
    secrets.add_token("the repeated token", &repeated);
    secrets.add_token("the issued token", &issued);
}

/// Uses the keys of a caller before and after its revocation, and an unknown one.
async fn use_caller_keys(client: &Client, token: &str, secrets: &mut Secrets) {
    let create = pb::CreateCallerRequest { name: "web".into(), roles: vec!["validator".into()] };
    let mut callers = client.callers.clone();
    let key = callers.create_caller(client.admin(create)).await.unwrap().into_inner().key;
    let made_up = CallerKey::random().reveal().to_owned();
    for (key, code) in [(&key, Code::PermissionDenied), (&made_up, Code::Unauthenticated)] {
        let mut request = Request::new(pb::ListCallersRequest {});
        request.metadata_mut().insert("x-latchkey-key", key.parse().unwrap());
        assert_eq!(callers.list_callers(request).await.unwrap_err().code(), code);
        let mut request = Request::new(pb::ValidateRequest { token: token.to_owned(), ..Default::default() });
        request.metadata_mut().insert("x-latchkey-key", key.parse().unwrap());
        client.auth.clone().validate(request).await.unwrap();
    }
    callers.revoke_caller(client.admin(pb::RevokeCallerRequest { name: "web".into() })).await.unwrap();
    for (what, key) in [("the caller's key", &key), ("the made-up key", &made_up)] {
        let hash = CallerKey::hash_of(key.as_bytes()).unwrap().0;
        secrets.add(what, &key[4..]);
        secrets.add(format!("{what}: its hash in hex"), HEXLOWER.encode(&hash));
        secrets.add(format!("{what}: its hash in base64"), BASE64.encode(&hash));
        secrets.add(format!("{what}: its hash as a list"), format!("{hash:?}").replace(['[', ']'], ""));
    }
}

/// Sends good and bad tokens through gateways and from browsers.
async fn use_gateways(process: &Process, client: &Client, secrets: &mut Secrets) {
    let user_id = client.user("gina").await;
    let issue = || pb::IssueSessionRequest { user_id: user_id.clone(), ..Default::default() };
    let (old, new) =
        (client.try_issue(issue()).await.unwrap().token, client.try_issue(issue()).await.unwrap().token);
    for (token, status) in [(&old, 401), (&new, 200)] {
        let bearer = format!("Bearer {token}");
        let cookie = format!("token={token}");
        let twice = [("authorization", bearer.as_bytes()), ("authorization", bearer.as_bytes())];
        for headers in [&twice[..1], &[("cookie", cookie.as_bytes())]] {
            assert_eq!(http::get(process.http, "/forward-auth", headers).await.status, status);
        }
        assert_eq!(http::get(process.http, "/forward-auth", &twice).await.status, 401);
        let misspelt = format!("/forward-auth?require_role={token}");
        assert_eq!(http::get(process.http, &misspelt, &twice[..1]).await.status, 500);

        let headers = [("authorization".to_owned(), bearer.clone()), ("cookie".to_owned(), cookie)].into();
        let http = Some(HttpRequest { headers, header_map: None });
        let attributes = AttributeContext {
            request: Some(attribute_context::Request { http }),
            context_extensions: [].into(),
        };
        let mut envoy = AuthorizationClient::connect(format!("http://{}", process.grpc)).await.unwrap();
        let question = CheckRequest { attributes: Some(attributes) };
        let answer = envoy.check(question).await.unwrap().into_inner();
        assert_eq!(answer.status.unwrap().code == 0, status == 200);

        let web = [("content-type", &b"application/grpc-web+proto"[..]), twice[0]];
        let line = "POST /latchkey.v1.AuthService/Validate";
        assert_eq!(http::exchange(process.grpc, line, &web, &[0; 5]).await.unwrap().status, 200);
    }
    // A server that acts for a browser asks for a cookie.
    let mut login = Request::new(login_request("gina", "Firefox"));
    login.metadata_mut().insert("x-latchkey-cookie", "true".parse().unwrap());
    let answer = client.auth.clone().login(login).await.unwrap();
    let set = answer.metadata().get("set-cookie").unwrap().to_str().unwrap().to_owned();
    let pair = set.split(';').next().unwrap();
    for method in ["Validate", "Logout", "Logout"] {
        let web = [
            ("content-type", &b"application/grpc-web+proto"[..]),
            ("origin", b"https://app.example.com"),
            ("cookie", pair.as_bytes()),
        ];
        let line = format!("POST /latchkey.v1.AuthService/{method}");
        let answer = http::exchange(process.grpc, &line, &web, &[0; 5]).await.unwrap();
        assert_eq!((answer.status, answer.header("set-cookie").is_some()), (200, method == "Logout"));
    }
    secrets.add_token("the token in a cookie", pair.strip_prefix("token=").unwrap());
    secrets.add_token("the token that gateways saw first", &old);
    secrets.add_token("the token that gateways saw second", &new);
}

async fn stored_hash(data: &Path) -> String {
    let options = SqliteConnectOptions::new().filename(data.join("latchkey.db")).read_only(true);
    let mut database = SqliteConnection::connect_with(&options).await.unwrap();
    let row = sqlx::query("SELECT password_hash FROM accounts WHERE username = 'alice'");
    row.fetch_one(&mut database).await.unwrap().get(0)
}

/// Reads all keys and values from Redis.
fn contents(redis: &RedisServer) -> Vec<u8> {
    let mut contents = Vec::new();
    let mut cursor = 0_u64;
    loop {
        let (next, keys): (u64, Vec<Vec<u8>>) =
            redis.query(redis::cmd("SCAN").arg(cursor).arg("COUNT").arg(1000));
        for key in keys {
            let kind: String = redis.query(redis::cmd("TYPE").arg(&key));
            match kind.as_str() {
                "string" => contents.extend(redis.query::<Vec<u8>>(redis::cmd("GET").arg(&key))),
                "stream" => {
                    type Entries = Vec<(String, Vec<Vec<u8>>)>;
                    let entries: Entries = redis.query(redis::cmd("XRANGE").arg(&key).arg("-").arg("+"));
                    contents.extend(entries.into_iter().flat_map(|(_, fields)| fields).flatten());
                }
                other => panic!("unexpected type {other}"),
            }
            contents.extend(key);
        }
        cursor = next;
        if cursor == 0 {
            return contents;
        }
    }
}

fn files(folder: &Path, prefix: &str) -> Vec<u8> {
    let named = |path: &Path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix);
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| named(path)).flat_map(|path| fs::read(path).unwrap()).collect()
}

/// A run with everything logged that can be: what it printed.
async fn no_secret_is_printed(settings: &[(&str, &str)], redis: Option<&RedisServer>) -> String {
    let data = tempfile::tempdir().unwrap();
    let mut all = vec![
        ("TOKEN__RELOAD_INTERVAL", "100ms"),
        ("GATEWAY__COOKIE", "token"),
        ("BROWSER__ORIGINS", "https://app.example.com"),
        ("BROWSER__SET_COOKIE", "true"),
    ];
    all.extend_from_slice(settings);
    let process = Process::start(data.path(), &all);
    let client = process.serving_client().await;
    let mut secrets = use_everything(&client, data.path()).await;
    use_gateways(&process, &client, &mut secrets).await;

    // Only hashes are stored in clear, and only with the accounts.
    let mut tokens_and_passwords = Secrets::default();
    let stored = secrets.0.iter().filter(|(what, _)| !what.contains(" hash"));
    tokens_and_passwords.0.extend(stored.map(|(what, secret)| (what.clone(), secret.clone())));
    let database = files(data.path(), "latchkey.db");
    assert!(database.windows(5).any(|window| window == b"alice"), "that is not where it is stored");
    assert_eq!(tokens_and_passwords.found_in(&database), [""; 0]);
    if let Some(redis) = redis {
        let contents = contents(redis);
        assert!(contents.windows(5).any(|window| window == b"phone"), "that is not where it is stored");
        assert_eq!(secrets.found_in(&contents), [""; 0]);
    }

    process.terminate();
    let (_, output) = process.wait(Duration::from_secs(15));
    assert!(output.contains(REQUEST_ID), "no line of a request: {output}");
    assert!(output.contains("/latchkey.v1.AuthService/Validate"), "no line of a request: {output}");
    assert_eq!(secrets.found_in(output.as_bytes()), [""; 0]);

    // The search finds what is there.
    for (what, secret) in &secrets.0 {
        let planted = format!("{output} {{\"message\":\"{secret}\"}}");
        assert!(secrets.found_in(planted.as_bytes()).contains(&what.as_str()));
    }
    output
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_the_log_as_json() {
    no_secret_is_printed(&[("LOG__LEVEL", "trace"), ("LOG__FORMAT", "json")], None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_the_log_as_text_or_in_redis() {
    let redis = RedisServer::start();
    let url = redis.url();
    let settings = [("LOG__LEVEL", "trace"), ("LOG__FORMAT", "text"), ("SESSIONS__URL", url.as_str())];
    no_secret_is_printed(&settings, Some(&redis)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_the_log_even_where_the_frames_of_the_network_are_asked_for() {
    let level = "trace,h2=trace,h2::codec=trace,hyper=trace,hyper::proto=trace,tower=trace,sqlx=trace,sqlx::query=trace";
    let output = no_secret_is_printed(&[("LOG__LEVEL", level), ("LOG__FORMAT", "json")], None).await;
    assert!(output.contains("h2::codec"), "the frames were not asked for");
}
