use std::time::Duration;

use super::*;

const CHEAP: Argon2Params = Argon2Params { memory_kib: 8, iterations: 1, parallelism: 1 };

fn password(text: &str) -> Password {
    Password::presented(text.into()).unwrap()
}

fn stored(phc: &str) -> PasswordHash {
    PasswordHash::new(phc.into())
}

#[tokio::test]
async fn the_right_password_is_right_and_no_other() {
    let passwords = Passwords::new(CHEAP, 1, 4).unwrap();
    let hash = passwords.hash(password(" Tr0ub4dor&3 ")).await.unwrap();
    assert!(hash.as_str().starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{}", hash.as_str());
    let check = async |text: &str| passwords.check(&password(text), Some(&hash)).await.unwrap();
    assert_eq!(check(" Tr0ub4dor&3 ").await, Checked::Right { outdated: false });
    for wrong in ["Tr0ub4dor&3", " Tr0ub4dor&3", " tr0ub4dor&3 ", " Tr0ub4dor&3 \u{0}"] {
        assert_eq!(check(wrong).await, Checked::Wrong, "{wrong:?}");
    }
}

#[tokio::test]
async fn two_hashes_of_one_password_differ() {
    let passwords = Passwords::new(CHEAP, 1, 4).unwrap();
    let first = passwords.hash(password("secret")).await.unwrap();
    assert_ne!(first, passwords.hash(password("secret")).await.unwrap());
}

#[tokio::test]
async fn a_hash_of_another_cost_is_outdated() {
    let old = Passwords::new(CHEAP, 1, 4).unwrap().hash(password("secret")).await.unwrap();
    let passwords = Passwords::new(Argon2Params { iterations: 2, ..CHEAP }, 1, 4).unwrap();
    let checked = passwords.check(&password("secret"), Some(&old)).await.unwrap();
    assert_eq!(checked, Checked::Right { outdated: true });
    assert_eq!(passwords.check(&password("other"), Some(&old)).await.unwrap(), Checked::Wrong);
}

#[tokio::test]
async fn whatever_is_stored_a_check_costs_one_hash() {
    let passwords = Passwords::new(CHEAP, 1, 4).unwrap();
    let good = passwords.hash(password("secret")).await.unwrap();
    let too_dear = "$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g";
    for stored in [
        None,
        Some(good),
        Some(stored("")),
        Some(stored("plain text")),
        Some(stored("pbkdf2_sha256$600000$salt$hash")),
        Some(stored("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ")),
        Some(stored(too_dear)),
        Some(stored(&too_dear.replace("m=4194304,t=1", "m=8,t=1000"))),
    ] {
        let before = passwords.hashes();
        let checked = passwords.check(&password("wrong password"), stored.as_ref()).await.unwrap();
        assert_eq!((checked, passwords.hashes() - before), (Checked::Wrong, 1), "{stored:?}");
    }
}

#[tokio::test]
async fn the_decoy_lets_nobody_in() {
    let passwords = Passwords::new(CHEAP, 1, 4).unwrap();
    assert_eq!(passwords.check(&password("decoy"), None).await.unwrap(), Checked::Wrong);
    assert_eq!(passwords.check(&password("decoy"), Some(&stored("?"))).await.unwrap(), Checked::Wrong);
}

#[test]
fn length_is_counted_in_code_points_and_nothing_is_trimmed() {
    assert!(Password::chosen("1234567".into()).is_err());
    assert!(Password::chosen("12345678".into()).is_ok());
    assert!(Password::chosen("       1".into()).is_ok());
    assert!(Password::chosen("ü".repeat(8)).is_ok());
    assert!(Password::chosen("𝄞".repeat(256)).is_ok());
    assert!(Password::chosen("𝄞".repeat(257)).is_err());
    assert!(Password::presented("1".into()).is_ok(), "an old, short password can still be presented");
    assert!(Password::presented(String::new()).is_err());
    assert!(Password::presented("x".repeat(257)).is_err());
}

#[test]
fn debug_shows_no_secret() {
    assert!(!format!("{:?} {:?}", password("hunter2"), stored("hunter2")).contains("hunter2"));
}

/// A blocking task is not cancelled with its client, so its permit must live as long as the work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_leaves_its_place_taken_until_the_work_is_done() {
    let slow = Argon2Params { memory_kib: 1024, iterations: 64, parallelism: 1 };
    let passwords = Arc::new(Passwords::new(slow, 1, 0).unwrap());
    let client = tokio::spawn({
        let passwords = Arc::clone(&passwords);
        async move { passwords.check(&password("secret"), None).await }
    });
    while passwords.hashes() == 0 {
        tokio::task::yield_now().await;
    }
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());

    let next = passwords.check(&password("secret"), None).await;
    assert!(matches!(next, Err(Error::Overloaded { .. })), "the thread is still at work: {next:?}");
    while passwords.admitted.available_permits() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(passwords.check(&password("secret"), None).await.unwrap(), Checked::Wrong);
    assert_eq!(passwords.hashes(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_sheds_at_once() {
    let slow = Argon2Params { memory_kib: 1024, iterations: 20, parallelism: 1 };
    let passwords = Arc::new(Passwords::new(slow, 1, 1).unwrap());
    let checks: Vec<_> = (0..20)
        .map(|_| {
            let passwords = Arc::clone(&passwords);
            tokio::spawn(async move { passwords.check(&password("secret"), None).await })
        })
        .collect();
    let (mut done, mut shed) = (0, 0);
    for check in checks {
        match check.await.unwrap() {
            Ok(_) => done += 1,
            Err(Error::Overloaded { retry_after, .. }) => {
                assert!(retry_after > Duration::ZERO);
                shed += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(done >= 2 && shed >= 1, "{done} done, {shed} shed");
    assert_eq!(passwords.hashes(), done);
}
