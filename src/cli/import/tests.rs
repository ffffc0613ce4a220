//! Each reader returns the accounts that were written, with their lines, and no input makes a reader panic.

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    account::{FIELDS, Record},
    auth0::Auth0,
    csv::Csv,
    django::{Django, Settings},
    json_lines::JsonLines,
    keycloak::{self, Keycloak},
    record_reader::{RecordReader, SyntaxError},
};
use crate::grpc::pb::ImportedAccount;

type Read = Result<Vec<Record>, SyntaxError>;

fn all(mut next: impl FnMut() -> Result<Option<Record>, SyntaxError>) -> Read {
    std::iter::from_fn(|| next().transpose()).collect()
}

fn json_lines(text: &[u8], chunk: usize, ignored: &[&str]) -> Read {
    let ignored = ignored.iter().map(|field| (*field).to_owned()).collect();
    let mut reader = JsonLines::new(RecordReader::of(text, chunk), ignored);
    all(|| reader.next())
}

fn csv(text: &[u8], chunk: usize, ignored: &[&str]) -> Result<Read, String> {
    let ignored: Vec<_> = ignored.iter().map(|field| (*field).to_owned()).collect();
    let mut reader = Csv::new(RecordReader::of(text, chunk), &ignored)?;
    Ok(all(|| reader.next()))
}

fn settings() -> Settings {
    Settings {
        model: "auth.user".into(),
        username_field: "username".into(),
        group_roles: HashMap::new(),
        ignored: Vec::new(),
    }
}

fn django(text: &[u8], chunk: usize) -> Read {
    let mut reader = Django::new(RecordReader::of(text, chunk), settings());
    all(|| reader.next())
}

fn keycloak(text: &[u8], chunk: usize) -> Read {
    let settings = keycloak::Settings { username_field: "username".into(), roles: HashMap::new() };
    let mut reader = Keycloak::new(RecordReader::of(text, chunk), settings);
    all(|| reader.next())
}

fn auth0(text: &[u8], chunk: usize, username_field: Option<&str>) -> Read {
    let mut reader = Auth0::new(RecordReader::of(text, chunk), username_field.map(str::to_owned));
    all(|| reader.next())
}

fn lines(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.line).collect()
}

/// The field of each violation, or the username without a violation.
fn outcomes(records: &[Record]) -> Vec<&str> {
    records
        .iter()
        .map(|record| {
            record
                .violation
                .as_ref()
                .map_or(record.account.username.as_str(), |violation| violation.field.as_str())
        })
        .collect()
}

fn account_json(account: &ImportedAccount) -> Value {
    json!({
        "user_id": account.user_id,
        "username": account.username,
        "password_hash": account.password_hash,
        "roles": account.roles,
        "disabled": account.disabled,
    })
}

fn quoted(cell: &str) -> String {
    format!("\"{}\"", cell.replace('"', "\"\""))
}

/// Text with the characters that have a meaning in one of the formats.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{1,12}",
        proptest::collection::vec(
            prop_oneof![
                Just("\""),
                Just(","),
                Just("\n"),
                Just("\r\n"),
                Just("{"),
                Just("]"),
                Just("\\"),
                Just("ü"),
                Just("a")
            ],
            1..12
        )
        .prop_map(|parts| parts.concat()),
    ]
}

fn accounts() -> impl Strategy<Value = Vec<ImportedAccount>> {
    let account = (text(), text(), text(), proptest::collection::vec("[a-z]{1,8}", 0..4), any::<bool>())
        .prop_map(|(user_id, username, password_hash, roles, disabled)| ImportedAccount {
            user_id,
            username,
            password_hash,
            roles,
            disabled,
            ..Default::default()
        });
    proptest::collection::vec(account, 0..8)
}

/// The records that a correct reader returns.
fn expected(accounts: Vec<ImportedAccount>, lines: &[u64]) -> Vec<Record> {
    accounts
        .into_iter()
        .zip(lines)
        .map(|(account, line)| Record {
            line: *line,
            account: ImportedAccount { line: *line, ..account },
            violation: None,
        })
        .collect()
}

fn breaks(text: &str) -> u64 {
    text.matches('\n').count() as u64
}

proptest! {
    #[test]
    fn json_lines_are_read_as_written(accounts in accounts(), blank in 0..3_u64, chunk in 1..64_usize) {
        let mut text = String::new();
        let mut lines = Vec::new();
        for account in &accounts {
            text.push_str(&"\r\n".repeat(usize::try_from(blank).unwrap()));
            lines.push(breaks(&text) + 1);
            text.push_str(&(account_json(account).to_string() + "\n"));
        }
        prop_assert_eq!(json_lines(text.as_bytes(), chunk, &[]).unwrap(), expected(accounts, &lines));
    }

    #[test]
    fn csv_is_read_as_written(accounts in accounts(), end in "\r?\n", blank in 0..3_usize, chunk in 1..64_usize) {
        let mut text = format!("username,user_id,password_hash,roles,disabled{end}");
        let mut lines = Vec::new();
        for account in &accounts {
            text.push_str(&end.repeat(blank));
            lines.push(breaks(&text) + 1);
            let cells = [&account.username, &account.user_id, &account.password_hash].map(|cell| quoted(cell));
            let roles = account.roles.join(" ");
            text.push_str(&[cells.join(",").as_str(), &roles, &format!("{}{end}", account.disabled)].join(","));
        }
        prop_assert_eq!(csv(text.as_bytes(), chunk, &[]).unwrap().unwrap(), expected(accounts, &lines));
    }

    #[test]
    fn django_is_read_as_written(accounts in accounts(), pretty in any::<bool>(), chunk in 1..64_usize) {
        let mut text = "[".to_owned();
        let mut lines = Vec::new();
        for (number, account) in accounts.iter().enumerate() {
            text.push_str(if number == 0 { "\n" } else { ",\n" });
            lines.push(breaks(&text) + 1);
            let groups: Vec<_> = account.roles.iter().map(|role| [role]).collect();
            let fields = json!({
                "username": account.username, "password": account.password_hash, "is_active": !account.disabled,
                "groups": groups, "first_name": account.username, "is_staff": false,
            });
            let entry = json!({ "model": "auth.user", "pk": account.user_id, "fields": fields });
            let entry = if pretty { serde_json::to_string_pretty(&entry) } else { serde_json::to_string(&entry) };
            text.push_str(&entry.unwrap());
        }
        text.push_str("\n]\n");
        prop_assert_eq!(django(text.as_bytes(), chunk).unwrap(), expected(accounts.clone(), &lines));
        // A dump that is cut off is an error.
        let cut = text.trim_end().len() - 1;
        prop_assert!(django(&text.as_bytes()[..cut], chunk).is_err());
    }

    #[test]
    fn no_bytes_make_a_reader_panic(text in proptest::collection::vec(any::<u8>(), 0..200), chunk in 1..16_usize) {
        let _ = (json_lines(&text, chunk, &[]), csv(&text, chunk, &[]), django(&text, chunk));
        let _ = (keycloak(&text, chunk), auth0(&text, chunk, None));
    }

    #[test]
    fn no_similar_text_makes_a_reader_panic(
        parts in proptest::collection::vec(text(), 0..20),
        chunk in 1..16_usize,
    ) {
        let text = parts.concat();
        let _ = json_lines(text.as_bytes(), chunk, &[]);
        let _ = csv(format!("username,password_hash\n{text}").as_bytes(), chunk, &[]);
        let _ = django(format!("[{{{text}").as_bytes(), chunk);
        let _ = keycloak(format!("{{\"users\":[{{\"credentials\":[{text}").as_bytes(), chunk);
        let _ = auth0(format!("{{\"custom_password_hash\":{{{text}").as_bytes(), chunk, None);
        let _ = django(format!("[{{\"model\":\"auth.user\",\"fields\":{{\"username\":{text}").as_bytes(), chunk);
    }
}

#[test]
fn a_bad_line_does_not_affect_others() {
    let text = "\n{\"username\":\"a\",\"password_hash\":\"!\"}\n{\"username\": \n[]\n\n{\"username\":\"b\",\"rolls\":[]}\n\
        {\"username\":7}\n{\"username\":\"c\",\"user_id\":7,\"disabled_until\":null,\"roles\":[\"x\"]}";
    let records = json_lines(text.as_bytes(), 7, &[]).unwrap();
    assert_eq!(lines(&records), [2, 3, 4, 6, 7, 8]);
    assert_eq!(outcomes(&records), ["a", "", "", "rolls", "username", "c"]);
    assert_eq!((records[3].account.username.as_str(), records[5].account.user_id.as_str()), ("b", "7"));
    assert_eq!(outcomes(&json_lines(text.as_bytes(), 7, &["rolls"]).unwrap())[3], "b");
}

#[test]
fn a_line_that_is_too_long_is_skipped() {
    let long = format!("{{\"username\":\"{}\"}}\n{{\"username\":\"b\"}}", "x".repeat(3 << 20));
    let records = json_lines(long.as_bytes(), 4096, &[]).unwrap();
    assert_eq!((lines(&records), outcomes(&records)), (vec![1, 2], vec!["", "b"]));
    assert!(records[0].violation.as_ref().unwrap().reason.contains("larger than any account"));
}

#[test]
fn a_bad_row_does_not_affect_others() {
    let text = b"username,password_hash,disabled,email\na,!,,x\nb,!,perhaps,x\nc,!,no\n\"d\ne\",!,yes,x\n\xff,!,,x\nf,!,1,\n";
    let records = csv(text, 5, &["email"]).unwrap().unwrap();
    assert_eq!(lines(&records), [2, 3, 4, 5, 7, 8]);
    assert_eq!(outcomes(&records), ["a", "disabled", "", "d\ne", "", "f"]);
    assert!(records[2].violation.as_ref().unwrap().reason.contains("3 cells where the first row has 4"));
}

#[test]
fn the_first_row_of_csv_names_the_fields() {
    for (text, message) in [
        ("", "line 1: must be a row of field names"),
        ("username\n", "password_hash among them"),
        ("username,username,password_hash\n", "username is there twice"),
        ("username,password_hash,email\n", "--ignore email skips it"),
        ("username,password\n", "only hashes are imported"),
        ("\"username\n", "a quote is not closed"),
    ] {
        let error = csv(text.as_bytes(), 64, &[]).unwrap_err();
        assert!(error.contains(message), "{text:?}: {error}");
    }
    assert_eq!(csv(FIELDS.join(",").as_bytes(), 64, &[]).unwrap(), Ok(vec![]));
}

#[test]
fn an_unclosed_quote_is_an_error_in_the_line_of_its_row() {
    let error = csv(b"username,password_hash\na,!\nb,\"!\nc,!\n", 64, &[]).unwrap().unwrap_err();
    assert_eq!((error.line, error.reason.contains("not closed")), (3, true));
}

#[test]
fn a_dump_is_read_up_to_a_syntax_error() {
    let entry =
        |pk: u32| json!({ "model": "auth.user", "pk": pk, "fields": { "username": "a", "password": "!" } });
    let good = entry(1);
    for (text, line, message) in [
        (format!("[\n{good},\n{{\"model\": \"auth.user\",\n\"pk\": nil}}\n]"), 4, "is not JSON"),
        (format!("[\n{good},\n{{\"model\": \"auth.user}}\n]"), 3, "a string that is not closed"),
        (format!("[\n{good},\n{{\"model\": "), 3, "cut off"),
        (format!("[\n{good},\n"), 3, "cut off"),
        (format!("[\n{good}\n{good}]"), 3, "`,` or `]`"),
        (format!("[\n{good}\n]\n]"), 4, "after the end"),
        (format!("[\n{good},\n7]"), 3, "not an array of objects"),
    ] {
        let mut reader = Django::new(RecordReader::of(text.as_bytes(), 9), settings());
        let first = reader.next().unwrap().unwrap();
        assert_eq!((first.line, first.account.user_id.as_str(), first.violation), (2, "1", None), "{text}");
        let error = reader.next().unwrap_err();
        assert_eq!(error.line, line, "{text}: {error:?}");
        assert!(error.reason.contains(message), "{text}: {error:?}");
    }
    assert_eq!(django(b"[ ]", 1), Ok(vec![]));
    assert!(django(b" \n", 1).unwrap_err().reason.contains("empty file"));
}

#[test]
fn a_violation_belongs_to_its_user() {
    let user = |fields: Value| json!({ "model": "auth.user", "pk": 1, "fields": fields });
    let valid = || json!({ "username": "a", "password": "!" });
    let with = |field: &str, value: Value| {
        let mut fields = valid();
        fields[field] = value;
        user(fields)
    };
    for (entry, field) in [
        (json!({ "pk": 1 }), ""),
        (json!({ "model": "auth.user", "pk": 1 }), ""),
        (json!({ "model": "auth.user", "pk": [1], "fields": valid() }), "pk"),
        (user(json!({ "email": "a", "password": "!" })), "username"),
        (user(json!({ "username": "a" })), "password"),
        (with("is_active", 1.into()), "is_active"),
        (with("date_joined", "yesterday".into()), "date_joined"),
        (with("groups", "staff".into()), "groups"),
        (with("groups", json!([3])), "groups"),
    ] {
        let records = django(json!([entry, user(valid())]).to_string().as_bytes(), 64).unwrap();
        assert_eq!(outcomes(&records), [field, "a"], "{entry}");
    }
}

#[test]
fn a_custom_user_model_is_read() {
    let dump = json!([
        { "model": "shop.customer", "pk": "f00", "fields": {
            "email": "a@example.org", "password": "", "groups": [["Big Buyers"], ["spam"]],
        } },
        { "model": "auth.user", "pk": 1, "fields": { "username": "a", "password": "!" } },
    ]);
    let settings = Settings {
        model: "shop.Customer".into(),
        username_field: "email".into(),
        group_roles: [("Big Buyers", "buyer"), ("spam", "")]
            .map(|(name, role)| (name.into(), role.into()))
            .into(),
        ignored: Vec::new(),
    };
    let mut reader = Django::new(RecordReader::of(dump.to_string().as_bytes(), 64), settings);
    let account = reader.next().unwrap().unwrap().account;
    assert_eq!((account.user_id.as_str(), account.username.as_str()), ("f00", "a@example.org"));
    assert_eq!((account.password_hash.as_str(), account.roles), ("!", vec!["buyer".to_owned()]));
    assert_eq!((reader.next(), reader.skipped), (Ok(None), 1));
}

const DUMPS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/django/");

#[test]
fn real_dumps_are_read_completely() {
    let names = [
        "root",
        "pbkdf2_sha256",
        "pbkdf2_sha1",
        "bcrypt_sha256",
        "bcrypt",
        "scrypt",
        "md5",
        "Jürgen",
        "ann+tag@example.org",
        "odd",
        "gone",
        "sso",
        "blank",
    ];
    for (file, first, keys, whole) in [
        ("natural.json", 1, true, true),
        ("groups_first.json", 18, true, true),
        ("users_first.json", 2, true, false),
        ("lines.jsonl", 3, true, true),
        ("everything.json", 220, false, true),
    ] {
        let text = std::fs::read(format!("{DUMPS}{file}")).unwrap();
        let records = django(&text, 100).unwrap();
        assert_eq!(
            records.iter().map(|record| record.account.username.as_str()).collect::<Vec<_>>(),
            names,
            "{file}"
        );
        assert_eq!(records[0].line, first, "{file}");
        let ids: Vec<_> = records.iter().map(|record| record.account.user_id.clone()).collect();
        let expected = (1..=names.len()).map(|id| if keys { id.to_string() } else { String::new() });
        assert_eq!(ids, expected.collect::<Vec<_>>(), "{file}");
        let of = |name: &str| records.iter().find(|record| record.account.username == name).unwrap();
        assert_eq!(of("root").account.roles, ["staff", "superuser"], "{file}");
        assert!(of("root").account.created_at.is_some(), "{file}");
        assert!(of("gone").account.disabled && !of("root").account.disabled, "{file}");
        assert!(of("sso").account.password_hash.starts_with('!'), "{file}");
        assert_eq!(of("blank").account.password_hash, "!", "{file}");
        assert!(of("scrypt").account.password_hash.starts_with("scrypt$"), "{file}");
        // Groups by primary key must come before the users.
        if whole {
            assert_eq!(of("ann+tag@example.org").account.roles, ["staff", "editors"], "{file}");
            assert_eq!(of("odd").account.roles, ["editors", "Content Editors"], "{file}");
        } else {
            let with_violation: Vec<_> = records
                .iter()
                .filter(|record| record.violation.is_some())
                .map(|record| record.account.username.as_str())
                .collect();
            assert_eq!(with_violation, ["Jürgen", "ann+tag@example.org", "odd"]);
        }
    }
}

const EXPORTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/");

#[test]
fn the_users_of_a_realm_are_found_wherever_they_are() {
    let text = std::fs::read(format!("{EXPORTS}keycloak/shop-realm.json")).unwrap();
    let records = keycloak(&text, 100).unwrap();
    let names = ["argon2", "sha1", "sha256", "sha256-long", "sha512", "gone", "credentials", "credentials"];
    assert_eq!(outcomes(&records), names, "the service account is skipped");
    let first = &records[0].account;
    assert_eq!(first.user_id, "0ce753ea-acf7-8542-192b-0639c61868a7");
    assert_eq!(first.roles, ["staff", "Content Editors"], "roles that every realm has are dropped");
    let created = first.created_at.unwrap();
    assert_eq!((created.seconds, created.nanos), (1_714_566_896, 789_000_000));
    assert!(first.password_hash.starts_with("$argon2id$v=19$m=64,t=5,p=1$DOdT6qz3hUIZKwY5xhhopw$"));
    assert!(records[2].account.password_hash.starts_with("$pbkdf2-sha256$i=1000,l=32$"));
    assert!(!first.disabled && records[5].account.disabled);
    for (record, reason) in [(6, "has no password"), (7, "hashed with bcrypt")] {
        let violation = records[record].violation.as_ref().unwrap();
        assert!(violation.reason.contains(reason), "{violation:?}");
    }
    assert_eq!(records[6].account.username, "sso");

    let line = String::from_utf8_lossy(&text).lines().position(|line| line.contains("\"0ce753ea")).unwrap();
    assert_eq!(records[0].line, line as u64, "the line with the bracket before the id");
    for cut in [text.len() - 3, text.len() / 2, 400] {
        assert!(keycloak(&text[..cut], 64).is_err(), "cut off after {cut} bytes");
    }
}

#[test]
fn a_file_that_is_no_export_of_users_is_an_error_with_a_remedy() {
    for (text, line, message) in [
        ("{\"realm\": \"a\",\n\"users\": null}\n", 3, "without users: make one with `kc.sh export"),
        ("{\"realm\": \"users\", \"a\": [], \"b\": {\"users\": [{}]}}", 1, "without users"),
        ("\n[{\"realm\": \"a\"}]", 2, "an array of realms"),
        ("users", 1, "not the export of a realm"),
        ("{\"users\": []}\n{", 2, "not the export of a realm"),
        ("", 1, "without users"),
    ] {
        let error = keycloak(text.as_bytes(), 3).unwrap_err();
        assert_eq!((error.line, error.reason.contains(message)), (line, true), "{text}: {error:?}");
    }
    assert_eq!(keycloak(b"{\"a\": \"\\\"\", \"users\": []}", 3), Ok(vec![]));
}

#[test]
fn a_user_of_a_realm_with_a_wrong_field_is_refused() {
    let users = |user: Value| json!({ "users": [user] }).to_string();
    let credential = |data: &str, secret: &str| json!([{ "type": "password", "credentialData": data, "secretData": secret }]);
    let pbkdf2 = r#"{"algorithm": "pbkdf2-sha256", "hashIterations": 1}"#;
    let argon2 = r#"{"algorithm": "argon2", "hashIterations": 1}"#;
    let secret = r#"{"value": "AAAA", "salt": "AAAA"}"#;
    for (field, value, reason) in [
        ("username", json!(7), "must be a string"),
        ("username", json!(null), "users log in with it"),
        ("id", json!(7), "must be a string"),
        ("enabled", json!("true"), "true or false"),
        ("createdTimestamp", json!("2024"), "milliseconds"),
        ("realmRoles", json!("staff"), "array of strings"),
        ("realmRoles", json!([7]), "array of strings"),
        ("credentials", json!(7), "must be an array"),
        ("credentials", json!([{ "type": "password", "value": "hunter2" }]), "in credentialData"),
        ("credentials", credential(pbkdf2, "{}"), "in secretData"),
        ("credentials", credential(pbkdf2, r#"{"value": "*", "salt": ""}"#), "not Base64"),
        ("credentials", credential(argon2, secret), "without its version"),
    ] {
        let mut user = json!({ "username": "a", "enabled": true, "credentials": credential(pbkdf2, secret) });
        assert_eq!(outcomes(&keycloak(users(user.clone()).as_bytes(), 9).unwrap()), ["a"]);
        user[field] = value;
        let records = keycloak(users(user.clone()).as_bytes(), 9).unwrap();
        let violation = records[0].violation.as_ref().unwrap_or_else(|| panic!("{user}"));
        assert_eq!(
            (violation.field.as_str(), violation.reason.contains(reason)),
            (field, true),
            "{violation:?}"
        );
        assert!(!violation.reason.contains("hunter2"));
    }
}

#[test]
fn the_users_of_auth0_have_the_ids_and_names_that_services_know() {
    let text = std::fs::read(format!("{EXPORTS}auth0/hashes.ndjson")).unwrap();
    let records = auth0(&text, 50, None).unwrap();
    assert_eq!(lines(&records), [1, 2, 3, 4]);
    assert_eq!(outcomes(&records), ["anna@example.org", "named", "moved@example.org", "passwordHash"]);
    assert_eq!(records[3].account.username, "social@example.org");
    let ids: Vec<_> = records.iter().map(|record| record.account.user_id.as_str()).collect();
    assert_eq!(
        ids[..3],
        ["auth0|55579b557896d0ce1764c47f", "auth0|a157d36a739191c1826419da", "auth0|euclid"]
    );
    assert_eq!(outcomes(&auth0(&text, 50, Some("email")).unwrap())[1], "named@example.org");

    let text = std::fs::read(format!("{EXPORTS}auth0/bulk.json")).unwrap();
    let records = auth0(&text, 50, None).unwrap();
    let names = ["seven", "argon@example.org", "pbkdf2@example.org", "scrypt@example.org"];
    assert_eq!(outcomes(&records)[..4], names);
    for (record, reason) in [(4, "uses \"md5\", which is not supported"), (5, "hashes passwords in utf16le")]
    {
        let violation = records[record].violation.as_ref().unwrap();
        assert!(
            violation.field == "custom_password_hash" && violation.reason.contains(reason),
            "{violation:?}"
        );
    }
    assert_eq!((records[0].account.user_id.as_str(), records[0].account.disabled), ("auth0|7", true));
    assert!(records[3].account.password_hash.starts_with("$scrypt$ln=10,r=8,p=1$"));
    let profile = br#"{"user_id": "auth0|1", "email": "a", "created_at": "2024-05-01T12:34:56.789Z", "password_hash": "!"}"#;
    let profile = &auth0(profile, 50, None).unwrap()[0];
    assert_eq!((profile.account.user_id.as_str(), &profile.violation), ("auth0|1", &None));
    assert_eq!(profile.account.created_at.unwrap().seconds, 1_714_566_896);
}

#[test]
fn text_that_is_not_utf_8_is_refused_with_its_place() {
    let records = json_lines(b"{\"username\": \"J\xfcrgen\"}\n{\"username\": \"b\"}", 5, &[]).unwrap();
    let violation = records[0].violation.as_ref().unwrap();
    assert!(violation.reason.starts_with("is not UTF-8 in column 16: convert the file"), "{violation:?}");
    assert_eq!(outcomes(&records)[1], "b");

    let records = csv(b"username,password_hash\n\"a\nJ\xfc\",!\n", 5, &[]).unwrap().unwrap();
    let violation = records[0].violation.as_ref().unwrap();
    assert!(
        violation.reason.starts_with("goes on to line 3, which is not UTF-8 in column 2"),
        "{violation:?}"
    );
    let error = csv(b"usern\xe4me,password_hash\n", 5, &[]).unwrap_err();
    assert!(error.starts_with("line 1: is not UTF-8 in column 6"), "{error}");

    let error = keycloak(b"{\"users\": [\n{\"username\":\n\"\xfc\"}]}", 5).unwrap_err();
    assert_eq!((error.line, error.reason.starts_with("is not UTF-8 in column 2")), (3, true), "{error:?}");
}
