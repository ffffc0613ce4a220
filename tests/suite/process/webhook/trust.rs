//! Authentication of webhooks: the certificate of the receiver and the shared secret.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use serde_json::{Value, json};

use super::{
    SOON,
    receiver::{self, Receiver, SECRET},
    settings, url,
};
use crate::support::{
    process::{Process, command, run},
    skip::find_program,
    tls::Authority,
};

const DOCS: &str = include_str!("../../../../docs/webhook.md");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_with_tls_needs_a_trusted_certificate() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let folder = tempfile::tempdir().unwrap();
    let roots = ours.write(folder.path());
    for (authority, trusted) in [(&ours, true), (&others, false)] {
        let receiver = Receiver::with_tls(&authority.server()).await;
        let data = tempfile::tempdir().unwrap();
        let url = format!("https://localhost:{}/hook", receiver.address.port());
        let mut command = command(data.path(), &settings(&url, &[]));
        command.arg("serve").env("SSL_CERT_FILE", &roots).env_remove("SSL_CERT_DIR");
        let process = Process::launch(command, data.path());
        if trusted {
            receiver.until(SOON, "greeted", |receiver| receiver.events().len() == 1).await;
        } else {
            let log = process.output_until("failed to deliver webhook events");
            assert!(log.contains("invalid peer certificate"), "{log}");
            assert!(receiver.posts().is_empty());
        }
    }
}

#[test]
fn an_invalid_or_unprotected_secret_is_an_error_at_the_start() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("secret");
    for (contents, mode, said) in [
        (SECRET, 0o644, "webhook.secret_file: "),
        ("whsec_hunter2", 0o600, "webhook.secret_file: the content of "),
        ("hunter2 hunter2 hunter2 hunter2", 0o600, "webhook.secret_file: the content of "),
    ] {
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let file =
            [("WEBHOOK__URL", "http://127.0.0.1:1/"), ("WEBHOOK__SECRET_FILE", path.to_str().unwrap())];
        for arguments in [&["serve"][..], &["serve", "--check"]] {
            let mut command = command(data.path(), &file);
            command.args(arguments);
            let output = run(command, "");
            let said_so = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said_so}");
            assert!(said_so.contains(said), "{said_so}");
            assert!(!said_so.contains("hunter2") && !said_so.contains(SECRET), "{said_so}");
        }
    }
    // Most editors and `echo` end the file with a line break.
    fs::write(&path, format!("{SECRET}\n")).unwrap();
    let file = [("WEBHOOK__URL", "http://127.0.0.1:1/"), ("WEBHOOK__SECRET_FILE", path.to_str().unwrap())];
    let mut command = command(data.path(), &file);
    command.args(["serve", "--check"]);
    assert_eq!(run(command, "").status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_python_code_accepts_only_signed_deliveries() {
    let Some(python) = find_program("python3", "LATCHKEY_TEST_DJANGO") else { return };
    let (_, after) = DOCS.split_once("<!-- tested: verify -->\n```python\n").unwrap();
    let snippet = after.split_once("```").unwrap().0;
    let verify = |post: &receiver::Post, secret: &str| {
        let headers: serde_json::Map<String, Value> =
            ["webhook-id", "webhook-timestamp", "webhook-signature"]
                .map(|name| (name.to_owned(), post.header(name).into()))
                .into_iter()
                .collect();
        let input = json!({"secret": secret, "headers": headers, "body": post.body}).to_string();
        let script = format!(
            "{snippet}\nimport sys\ngiven = json.load(sys.stdin)\n\
             print(json.dumps(verify(given['secret'], given['headers'], given['body'].encode())))"
        );
        let mut command = Command::new(&python);
        command.args(["-c", &script]);
        let output = run(command, &input);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice::<Value>(&output.stdout).map_err(|_| error)
    };

    let receiver = Receiver::start().await;
    let url = url(receiver.address);
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &settings(&url, &[]));
    let client = process.serving_client().await;
    // The first delivery is a resync for all earlier events.
    receiver.until(SOON, "begun", |receiver| receiver.events().len() == 1).await;
    client.user("zoë").await;
    client.login("zoë", "Zoë’s phone").await;
    client.login("zoë", "Zoë’s tablet").await;
    receiver.until(SOON, "told", |receiver| receiver.events().len() == 2).await;
    let posts = receiver.posts();
    let post = posts.last().unwrap();
    let events = verify(post, SECRET).unwrap();
    assert_eq!(json!(post.events()), events);
    assert_eq!(events[0]["rejection"]["by_device"], "Zoë’s tablet");

    let mut forged = post.clone();
    forged.body = forged.body.replace("tablet", "table");
    assert!(verify(&forged, SECRET).unwrap_err().contains("not signed with our secret"));
    let other = "whsec_YW5vdGhlciBzZWNyZXQgYWx0b2dldGhlcg==";
    assert!(verify(post, other).unwrap_err().contains("not signed with our secret"));
    let mut old = post.clone();
    old.headers.insert("webhook-timestamp", "1700000000".parse().unwrap());
    assert!(verify(&old, SECRET).unwrap_err().contains("too old"));
}
