//! `latchkey bench` against a server.

use serde_json::Value;

use super::cli::Shell;
use crate::support::client::PASSWORD;

const BRIEF: &str = "bench --duration 200ms --connections 2 --concurrency 4";

fn shell() -> Shell {
    let shell = Shell::with(&[]);
    shell.add("alice");
    shell
}

#[test]
fn every_answer_is_counted_and_its_latency_kept() {
    let shell = shell();
    let token = shell.login("alice");
    let result = shell.says_json(BRIEF, &token);
    // The number depends on the machine.
    assert!(result["right"].as_u64().unwrap() > 0, "{result}");
    assert_eq!((&result["wrong"], &result["first_wrong"]), (&Value::from(0), &Value::Null));
    assert!(result["seconds"].as_f64().unwrap() >= 0.2, "{result}");
    let latency = |name: &str| result["latency_us"][name].as_u64().unwrap();
    assert!(latency("p50") > 0, "{result}");
    for pair in ["p50", "p90", "p99", "p99_9", "max"].windows(2) {
        assert!(latency(pair[0]) <= latency(pair[1]), "{result}");
    }

    let table = shell.says(BRIEF, &token).text();
    assert!(table.contains("requests/s") && table.contains("p99.9"), "{table}");
}

#[test]
fn a_fixed_rate_is_kept() {
    let shell = shell();
    let result = shell.says_json(&format!("{BRIEF} --rate 100 --peek --login alice"), PASSWORD);
    let asked = result["right"].as_u64().unwrap() + result["unsent"].as_u64().unwrap();
    // The twentieth is due at the end of the 200 ms.
    assert!((20..=21).contains(&asked), "{result}");
    assert_eq!((&result["rate"], &result["wrong"]), (&Value::from(100), &Value::from(0)));
}

#[test]
fn many_requests_go_over_one_stream() {
    let shell = shell();
    let token = shell.login("alice");
    // The requests exceed one frame and the concurrency of the server.
    let brief = "bench --stream --streams 2 --duration 200ms --connections 2 --concurrency 600";
    let result = shell.says_json(brief, &token);
    assert!(result["right"].as_u64().unwrap() >= 2400, "{result}");
    assert_eq!((&result["wrong"], &result["streams"]), (&Value::from(0), &Value::from(2)), "{result}");

    let result = shell.says_json(&format!("{brief} --rate 1000 --peek"), &token);
    let asked = result["right"].as_u64().unwrap() + result["unsent"].as_u64().unwrap();
    assert!((200..=201).contains(&asked), "{result}");
    assert_eq!((&result["rate"], &result["wrong"]), (&Value::from(1000), &Value::from(0)));
}

#[test]
fn a_wrong_answer_on_a_stream_fails_the_run() {
    let shell = shell();
    let dead = shell.login("alice");
    let live = shell.login("alice");
    let done = shell.says(&format!("{BRIEF} --stream --output json"), &format!("{live}\n{dead}\n"));
    let result: Value = serde_json::from_str(&done.out).unwrap();
    let (right, wrong) = (result["right"].as_u64().unwrap(), result["wrong"].as_u64().unwrap());
    // Half of the answers are wrong, because each stream sends the tokens in turn.
    assert!(right > 0 && right.abs_diff(wrong) <= 8, "{result}");
    done.fails(1, "answers were wrong; the first: REPLACED: ");

    // One method ends the stream and the other is unknown.
    let with_path = |path: &str| format!("{BRIEF} --stream --path /latchkey.v1.AuthService/{path}");
    shell.says(&with_path("Validate"), &live).fails(1, "were wrong");
    shell.says(&with_path("Nothing"), &live).fails(1, "were wrong");
}

#[test]
fn a_dead_token_fails_the_run() {
    let shell = shell();
    let dead = shell.login("alice");
    let live = shell.login("alice");
    let done = shell.says(&format!("{BRIEF} --output json"), &format!("{live}\n{dead}\n"));
    let result: Value = serde_json::from_str(&done.out).unwrap();
    assert!(result["right"].as_u64().unwrap() > 0 && result["wrong"].as_u64().unwrap() > 0, "{result}");
    assert!(result["first_wrong"].as_str().unwrap().starts_with("REPLACED: "), "{result}");
    done.fails(1, "answers were wrong; the first: REPLACED: ");
}

#[test]
fn unusable_options_are_errors() {
    let shell = shell();
    shell.says(BRIEF, "").fails(2, "the input is empty");
    shell.says(&format!("{BRIEF} --login alice"), "a wrong password").fails(1, "");
    shell.says(&format!("{BRIEF} --path /latchkey.v1.AuthService/Nothing"), "token").fails(1, "were wrong");
    shell.says(&format!("{BRIEF} --streams 2"), "token").fails(2, "--stream");
    shell.says("bench --duration 2h", "token").fails(2, "at most 1h");
    shell.says(&format!("{BRIEF} --server http://127.0.0.1:1"), "token").fails(3, "no server answers");
}
