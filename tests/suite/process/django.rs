//! Users of Django, by the steps in docs/integration.md.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use latchkey::grpc::pb;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{
    client::{Client, PASSWORD, login_request},
    postgres::Postgres,
    process::{Process, command, run},
    skip::named_program,
};

const DOCS: &str = include_str!("../../../docs/integration.md");

/// Returns the code block of the documentation with this name.
fn documented(name: &str) -> String {
    let marked = format!("<!-- tested: {name} -->\n```");
    let (_, after) = DOCS.split_once(&marked).unwrap_or_else(|| panic!("{name} is not in the documentation"));
    // The first line is the name of the language.
    let (_, code) = after.split_once('\n').unwrap();
    code.split_once("```").unwrap().0.to_owned()
}

/// Django in the interpreter `python`, on a new database.
struct Django {
    python: PathBuf,
    database: String,
}

impl Django {
    /// Fills the database with users, or skips the test without Django.
    fn on(database: &str) -> Option<Self> {
        let python = named_program("Python with Django", "LATCHKEY_TEST_DJANGO")?;
        let django = Self { python, database: database.to_owned() };
        django.run(&["fill"]);
        Some(django)
    }

    fn run(&self, arguments: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/django/project.py");
        let output = Command::new(&self.python)
            .arg(script)
            .args(arguments)
            .env("DATABASE", &self.database)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/src"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns the username, password and activity of every user in the table.
    fn rows(&self) -> Value {
        serde_json::from_str(&self.run(&["rows"])).unwrap()
    }

    fn hash(&self, username: &str) -> String {
        let rows = self.rows();
        let row = rows.as_array().unwrap().iter().find(|row| row[0] == username).unwrap();
        row[1].as_str().unwrap().to_owned()
    }

    fn accepts(&self, username: &str, password: &str) -> bool {
        self.run(&["check", username, password]).trim() == "True"
    }
}

/// A user for each hasher of Django, and Jürgen with the first hasher.
const USERS: [&str; 7] =
    ["pbkdf2_sha256", "pbkdf2_sha1", "argon2", "bcrypt_sha256", "bcrypt", "scrypt", "Jürgen"];

fn with(username: &str, password: &str) -> pb::LoginRequest {
    pb::LoginRequest { password: password.into(), ..login_request(username, "") }
}

async fn refusal(client: &Client, username: &str, password: &str) -> (Code, String) {
    refused(&client.try_login(with(username, password)).await.unwrap_err())
}

fn refused(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().unwrap().reason)
}

async fn serve(data: &Path, url: &str, more: &[(&str, &str)]) -> (Process, Client) {
    let kind = if url.starts_with("postgres") { "postgres" } else { "sqlite" };
    let lookup = documented(&format!("django-lookup-{kind}"));
    let mut settings = vec![("ACCOUNTS__URL", url), ("ACCOUNTS__LOOKUP", &lookup)];
    settings.extend(more);
    let process = Process::start(data, &settings);
    let client = process.serving_client().await;
    (process, client)
}

/// Checks what is the same on every database.
async fn users_are_who_they_are_in_django(client: &Client, django: &Django) {
    for username in USERS {
        client.login(username, "").await;
        let wrong = (Code::Unauthenticated, "INVALID_CREDENTIALS".to_owned());
        assert_eq!(refusal(client, username, "not this one").await, wrong, "{username}");
    }
    let session = client.login("Jürgen", "").await.session.unwrap();
    assert_eq!(session.roles, ["billing", "editors", "staff"]);
    assert!(session.user_id.parse::<u32>().is_ok(), "Django's primary key: {}", session.user_id);
    assert_eq!(client.login("root", "").await.session.unwrap().roles, ["staff", "superuser"]);

    let inactive = (Code::PermissionDenied, "ACCOUNT_DISABLED".to_owned());
    assert_eq!(refusal(client, "inactive", PASSWORD).await, inactive);
    for (username, password) in [
        ("inactive", "wrong"),
        ("unusable", PASSWORD),
        ("unusable", "!"),
        ("anna", PASSWORD),
        ("nobody", PASSWORD),
    ] {
        assert_eq!(refusal(client, username, password).await.1, "INVALID_CREDENTIALS", "{username}");
    }
    // Django considers these two users.
    for username in ["anna", "Anna"] {
        let login = with(username, &format!("{PASSWORD} of {username}"));
        let session = client.try_login(login).await.unwrap().session.unwrap();
        assert_eq!(session.username, username);
    }

    let old = client.login("Jürgen", "Android").await.token;
    client.login("Jürgen", "iPhone").await;
    let rejection = client.rejection(&old).await;
    assert_eq!((rejection.reason(), rejection.by_device.as_str()), (pb::RejectionReason::Replaced, "iPhone"));

    // Django still manages its users.
    let live = client.login("scrypt", "").await.token;
    django.run(&["set_password", "scrypt", "an entirely different one"]);
    assert_eq!(refusal(client, "scrypt", PASSWORD).await.1, "INVALID_CREDENTIALS");
    client.try_login(with("scrypt", "an entirely different one")).await.unwrap();
    assert_eq!(client.rejection(&live).await.reason(), pb::RejectionReason::Replaced);
    let live = client.login("argon2", "").await.token;
    django.run(&["deactivate", "argon2"]);
    assert_eq!(refusal(client, "argon2", PASSWORD).await, inactive);
    client.session(&live).await;

    let key = Some(pb::get_account_request::Key::Username("Jürgen".into()));
    let shown =
        client.accounts.clone().get_account(client.admin(pb::GetAccountRequest { key })).await.unwrap();
    assert_eq!(shown.into_inner().account.unwrap().created_at, None);

    let message =
        pb::CreateAccountRequest { username: "new".into(), password: PASSWORD.into(), roles: Vec::new() };
    let status = client.accounts.clone().create_account(client.admin(message)).await.unwrap_err();
    assert_eq!(refused(&status), (Code::FailedPrecondition, "ACCOUNTS_READ_ONLY".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_users_of_django_on_postgres_log_in_with_their_passwords() {
    let superuser = Postgres::shared().database().await;
    let Some(django) = Django::on(&superuser) else { return };
    // A role belongs to all databases of a server, and tests share one.
    let role = format!("latchkey_{}", superuser.rsplit_once('/').unwrap().1);
    for grant in
        documented("django-grants").split_inclusive(';').map(str::trim).filter(|grant| !grant.is_empty())
    {
        django.run(&["sql", &grant.replace("latchkey", &role)]);
    }
    let url = superuser.replace("postgres@", &format!("{role}@"));

    // Without accounts.update_hash nothing is written.
    let data = tempfile::tempdir().unwrap();
    let (process, client) = serve(data.path(), &url, &[]).await;
    let before = django.rows();
    for username in USERS {
        client.login(username, "").await;
    }
    assert_eq!(django.rows(), before);
    users_are_who_they_are_in_django(&client, &django).await;
    drop(process);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_users_of_django_on_sqlite_log_in_with_their_passwords() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("db.sqlite3").display());
    let Some(django) = Django::on(&url) else { return };
    let data = tempfile::tempdir().unwrap();
    let (_process, client) = serve(data.path(), &url, &[]).await;
    users_are_who_they_are_in_django(&client, &django).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_passwords_that_django_accepts_are_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("db.sqlite3").display());
    let Some(django) = Django::on(&url) else { return };
    let data = tempfile::tempdir().unwrap();
    let (_process, client) = serve(data.path(), &url, &[]).await;

    let long_name = format!("{}@example.org", "a".repeat(138));
    assert_eq!(long_name.len(), 150);
    let (long, wide) = ("x".repeat(4096), "𝄞 ".repeat(800));
    for (username, password, hasher) in [
        (&*long_name, PASSWORD, "pbkdf2_sha256"),
        ("long1", &*long, "pbkdf2_sha256"),
        ("long2", &long, "argon2"),
        ("long3", &long, "bcrypt_sha256"),
        ("long4", &long, "scrypt"),
        ("long5", &wide, "pbkdf2_sha1"),
        // A password is hashed as it was typed.
        ("variants", "ｐａｓｓｗｏｒｄ ﬃ", "pbkdf2_sha256"),
    ] {
        django.run(&["create", username, password, hasher]);
        assert_eq!(django.run(&["form", username, password]).trim(), "True", "{username}");
        client.try_login(with(username, password)).await.unwrap();
        // The last character counts.
        let mut shorter: String = password.into();
        shorter.pop();
        assert_eq!(refusal(&client, username, &shorter).await.1, "INVALID_CREDENTIALS", "{username}");
    }
    assert_eq!(django.run(&["form", "variants", "password ffi"]).trim(), "False");
    assert_eq!(refusal(&client, "variants", "password ffi").await.1, "INVALID_CREDENTIALS");

    // Names are taken with compatibility variants brought to one (NFKC), as they are stored.
    for (typed, stored) in
        [("ｌｏｎｇ１", "long1"), ("Ju\u{308}rgen", "Jürgen"), ("bcrypt＿sha256", "bcrypt_sha256")]
    {
        let password = if stored == "long1" { &*long } else { PASSWORD };
        assert_eq!(django.run(&["form", typed, password]).trim(), "True", "{typed}");
        let session = client.try_login(with(typed, password)).await.unwrap().session.unwrap();
        assert_eq!(session.username, stored);
        assert_eq!(refusal(&client, typed, "not this one").await.1, "INVALID_CREDENTIALS", "{typed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn django_reads_renewed_hashes() {
    let url = Postgres::shared().database().await;
    let Some(django) = Django::on(&url) else { return };
    let data = tempfile::tempdir().unwrap();
    let update = documented("django-update");
    let (_process, client) = serve(data.path(), &url, &[("ACCOUNTS__UPDATE_HASH", &update)]).await;
    for username in USERS {
        client.login(username, "").await;
        let begun = Instant::now();
        while !django.hash(username).starts_with("argon2$argon2id$v=19$m=8,t=1,p=1$") {
            assert!(begun.elapsed() < Duration::from_secs(10), "{username}: {}", django.hash(username));
            // Without an idle thread the renewal is left to the next login.
            client.login(username, "").await;
        }
        assert!(django.accepts(username, PASSWORD), "{username}");
        assert!(!django.accepts(username, "not this one"), "{username}");
        client.login(username, "").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_accepts_tokens_cookies_and_django_sessions_and_no_stale_token() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("db.sqlite3").display());
    let Some(django) = Django::on(&url) else { return };
    let data = tempfile::tempdir().unwrap();
    let (process, client) = serve(data.path(), &url, &[("GATEWAY__COOKIE", "__Host-latchkey")]).await;
    let old = client.login("Jürgen", "Android").await.token;
    let token = client.login("Jürgen", "iPhone").await.token;
    let inactive = client.login("argon2", "").await.token;
    django.run(&["deactivate", "argon2"]);

    let settings = documented("django-settings");
    let address = process.grpc.to_string();
    let file = dir.path().join("settings.py");
    let view = |requests: &Value| {
        let settings = settings.replace("127.0.0.1:50051", &address);
        assert!(settings.contains(&address), "the documentation names another port");
        std::fs::write(&file, settings).unwrap();
        let answers = django.run(&["view", file.to_str().unwrap(), &requests.to_string()]);
        let mut answers = serde_json::from_str::<Value>(&answers).unwrap();
        for answer in answers.as_array_mut().unwrap() {
            // The time of the login.
            if let Some(at) = answer[1].as_object_mut().unwrap().remove("at") {
                assert!(at.as_str().unwrap().ends_with('Z'), "{at}");
            }
        }
        answers
    };
    let by = |user: &str, class: &str| json!([200, { "user": user, "by": class }]);
    let (latchkey, session) = ("LatchkeyAuthentication", "SessionAuthentication");
    let bearer = |token: &str| json!({ "authorization": format!("Bearer {token}") });
    let cookie = |token: &str| json!({ "__Host-latchkey": token });
    let replaced = "You were logged out because of a newer login on iPhone.";
    let replaced =
        json!({ "reason": "REPLACED", "message": replaced, "terminal": true, "by_device": "iPhone" });
    let replaced = json!([401, replaced]);
    let cases = [
        (json!({ "headers": bearer(&token) }), by("Jürgen", latchkey)),
        (json!({ "cookies": cookie(&token) }), by("Jürgen", latchkey)),
        (json!({ "session": "root" }), by("root", session)),
        (json!({ "session": "root", "cookies": cookie(&token) }), by("Jürgen", latchkey)),
        (json!({ "headers": bearer(&old) }), replaced.clone()),
        (json!({ "cookies": cookie(&old) }), replaced.clone()),
        // A Django session does not make a stale token acceptable.
        (json!({ "session": "root", "cookies": cookie(&old) }), replaced),
        (json!({ "headers": bearer(&inactive) }), json!([401, { "detail": "There is no such user." }])),
        (json!({}), json!([401, { "detail": "Authentication credentials were not provided." }])),
    ];
    let (requests, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    assert_eq!(view(&requests.into()), Value::from(expected));

    // During an outage a token is neither accepted nor rejected.
    process.terminate();
    process.wait(Duration::from_secs(15));
    let answers = view(&json!([{ "cookies": cookie(&token) }, { "session": "root" }]));
    let outage = json!({
        "reason": "STORE_UNAVAILABLE",
        "message": "the session cannot be checked at the moment: try again",
    });
    assert_eq!(answers, json!([[503, outage], by("root", session)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_can_be_imported_from_django() {
    let dir = tempfile::tempdir().unwrap();
    let Some(django) = Django::on(&format!("sqlite:{}", dir.path().join("db.sqlite3").display())) else {
        return;
    };
    let dump = dir.path().join("users.json");
    django.run(&["dumpdata", dump.to_str().unwrap()]);

    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[]);
    let client = process.serving_client().await;
    let mut import = command(data.path(), &[]);
    import.args(["account", "import", dump.to_str().unwrap(), "--server", &process.grpc.to_string()]);
    let output = run(import, "");
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    // `anna` and `Anna` are one name here: the second is refused, and everybody else is imported.
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("case makes no difference"), "{said}");
    for username in USERS {
        client.login(username, "").await;
    }
    assert_eq!(client.login("Jürgen", "").await.session.unwrap().roles, ["billing", "editors", "staff"]);
    assert_eq!(refusal(&client, "inactive", PASSWORD).await.1, "ACCOUNT_DISABLED");
    assert_eq!(refusal(&client, "unusable", PASSWORD).await.1, "INVALID_CREDENTIALS");
}
