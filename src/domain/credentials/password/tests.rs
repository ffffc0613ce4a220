use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::*;
use crate::domain::{Error, origin::Origin, types::UserId};

const CHEAP: Argon2Params = Argon2Params { memory_kib: 8, iterations: 1, parallelism: 1 };

fn password(text: &str) -> Password {
    Password::presented(text.into()).unwrap()
}

fn user() -> UserId {
    UserId::random()
}

fn stored(phc: &str) -> PasswordHash {
    PasswordHash::new(phc.into())
}

#[tokio::test]
async fn only_the_right_password_is_right() {
    let passwords = Passwords::new(CHEAP, 1, 4).unwrap();
    let hash = passwords.hash(password(" Tr0ub4dor&3 ")).await.unwrap();
    assert!(hash.as_str().starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{}", hash.as_str());
    let check = async |text: &str| passwords.check(&user(), &password(text), Some(&hash)).await.unwrap();
    assert_eq!(check(" Tr0ub4dor&3 ").await, PasswordCheck::Right { outdated: false });
    for wrong in ["Tr0ub4dor&3", " Tr0ub4dor&3", " tr0ub4dor&3 ", " Tr0ub4dor&3 \u{0}"] {
        assert_eq!(check(wrong).await, PasswordCheck::Wrong, "{wrong:?}");
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
    let checked = passwords.check(&user(), &password("secret"), Some(&old)).await.unwrap();
    assert_eq!(checked, PasswordCheck::Right { outdated: true });
    assert_eq!(passwords.check(&user(), &password("other"), Some(&old)).await.unwrap(), PasswordCheck::Wrong);
}

const TOO_EXPENSIVE: &str =
    "$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g";
/// The hash of "correct horse battery staple".
const BCRYPT: &str = "$2a$04$Jgb5g0TjZVUBAJBhC79GL.LNN.mQN2KqE3LMGfUoLpFIiHHIjpn4q";
const DJANGO: &str = "pbkdf2_sha256$1000$rmaik8GP3v2AyiMgfu4ZAc$S0Nj3cnTf10J7UxslGFLveOZoHdEXqtqWsNx3t+7Lcs=";

#[tokio::test]
async fn a_check_costs_one_hash_whatever_is_stored() {
    let passwords = Passwords::new(CHEAP, 1, 4).unwrap();
    let good = passwords.hash(password("secret")).await.unwrap();
    for stored in [
        None,
        Some(good),
        Some(stored("")),
        Some(stored("!unusable")),
        Some(stored("plain text")),
        Some(stored(BCRYPT)),
        Some(stored(DJANGO)),
        Some(stored("pbkdf2_sha256$600000$salt$hash")),
        Some(stored("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ")),
        Some(stored(TOO_EXPENSIVE)),
        Some(stored(&TOO_EXPENSIVE.replace("m=4194304,t=1", "m=8,t=1000"))),
    ] {
        let before = passwords.hashes();
        let checked = passwords.check(&user(), &password("wrong password"), stored.as_ref()).await.unwrap();
        assert_eq!((checked, passwords.hashes() - before), (PasswordCheck::Wrong, 1), "{stored:?}");
    }
    for old in [BCRYPT, DJANGO] {
        let before = passwords.hashes();
        let right = password("correct horse battery staple");
        let checked = passwords.check(&user(), &right, Some(&stored(old))).await.unwrap();
        assert_eq!(
            (checked, passwords.hashes() - before),
            (PasswordCheck::Right { outdated: true }, 1),
            "{old}"
        );
    }
    assert_eq!(passwords.renewals(), 0);
}

/// Runs a future on this thread and returns what it logged.
async fn logged(work: impl Future) -> String {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    work.await;
    drop(guard);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn an_unsupported_hash_is_logged_with_its_user_and_a_remedy() {
    let passwords = Passwords::new(CHEAP, 1, 4).unwrap();
    let user_id = user();
    for (unsupported, expected) in [
        ("$6$hunter2$hunter2", "of a kind that is not supported: sha512-crypt"),
        ("hunter2", "of an unknown kind"),
        ("$argon2id$v=19$m=8,t=1,p=1$hunter2", "malformed: argon2"),
        (TOO_EXPENSIVE, "more memory or time than Latchkey spends on a check: argon2"),
    ] {
        let secret = password("my secret");
        let log = logged(passwords.check(&user_id, &secret, Some(&stored(unsupported)))).await;
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains("ERROR") && log.contains(expected), "{log}");
        assert!(log.contains(user_id.as_str()) && log.contains("set the password again"), "{log}");
        for secret in ["hunter2", "c2FsdHNhbHQ", "my secret"] {
            assert!(!log.contains(secret), "{log}");
        }
    }
}

#[tokio::test]
async fn supported_hashes_are_not_logged() {
    let passwords = Passwords::new(CHEAP, 1, 4).unwrap();
    for stored in [None, Some(stored("")), Some(stored("!unusable")), Some(stored(BCRYPT))] {
        let log = logged(passwords.check(&user(), &password("secret"), stored.as_ref())).await;
        assert_eq!(log, "", "{stored:?}");
    }
}

#[tokio::test]
async fn a_renewed_hash_has_the_format_of_the_old_one() {
    let passwords = Passwords::new(CHEAP, 1, 4).unwrap();
    let right = password("correct horse battery staple");
    for (old, form) in
        [(BCRYPT, "$argon2id$v=19$m=8,t=1,p=1$"), (DJANGO, "argon2$argon2id$v=19$m=8,t=1,p=1$")]
    {
        let new = passwords.renew(&right, &stored(old)).unwrap().await.unwrap();
        assert!(new.as_str().starts_with(form), "{}", new.as_str());
        let checked = passwords.check(&user(), &right, Some(&new)).await.unwrap();
        assert_eq!(checked, PasswordCheck::Right { outdated: false });
    }
    assert_eq!((passwords.renewals(), passwords.hashes()), (2, 2));
}

const SLOW: Argon2Params = Argon2Params { memory_kib: 1024, iterations: 64, parallelism: 1 };

/// With one thread and no queue there is one place. A renewal must not take it, neither while it waits nor while it
/// runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_yields_to_logins() {
    let passwords = Arc::new(Passwords::new(SLOW, 1, 0).unwrap());
    let check = || {
        let passwords = Arc::clone(&passwords);
        async move { passwords.check(&user(), &password("secret"), None).await }
    };
    let login = tokio::spawn(check());
    while passwords.hashes() == 0 {
        tokio::task::yield_now().await;
    }
    let old = stored(BCRYPT);
    assert!(passwords.renew(&password("secret"), &old).is_none(), "the thread is busy");
    assert_eq!(login.await.unwrap().unwrap(), PasswordCheck::Wrong);

    let renewal = tokio::spawn(passwords.renew(&password("secret"), &old).expect("the thread is idle"));
    assert!(passwords.renew(&password("secret"), &old).is_none(), "one at a time");
    assert_eq!(check().await.unwrap(), PasswordCheck::Wrong, "a login waits for the thread and is not shed");
    renewal.await.unwrap().unwrap();
    assert_eq!((passwords.hashes(), passwords.renewals()), (2, 1));
}

/// The decoy costs as much as a new hash, so the duration of a cheaper one would reveal that the account exists.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_for_a_cheap_hash_takes_as_long_as_for_an_unknown_user() {
    let passwords = Passwords::new(SLOW, 1, 0).unwrap();
    let took = async |stored: Option<&PasswordHash>, text: &str| {
        let begun = std::time::Instant::now();
        let checked = passwords.check(&user(), &password(text), stored).await.unwrap();
        (begun.elapsed(), checked)
    };
    let mut unknown = Duration::MAX;
    for _ in 0..5 {
        unknown = unknown.min(took(None, "secret").await.0);
    }
    let cheap = stored(&DJANGO.replace("1000", "1"));
    let (wrong, _) = took(Some(&cheap), "secret").await;
    assert!(wrong >= unknown / 2, "{wrong:?} against {unknown:?}");
    // For comparison: without the delay a check of this hash takes almost no time.
    let mut right = Duration::MAX;
    for _ in 0..5 {
        let (time, checked) = took(Some(&stored(DJANGO)), "correct horse battery staple").await;
        assert_eq!(checked, PasswordCheck::Right { outdated: true });
        right = right.min(time);
    }
    assert!(right < unknown / 2, "{right:?} against {unknown:?}");
}

#[tokio::test]
async fn the_password_of_the_decoy_is_wrong() {
    let passwords = Passwords::new(CHEAP, 1, 4).unwrap();
    assert_eq!(passwords.check(&user(), &password("decoy"), None).await.unwrap(), PasswordCheck::Wrong);
    assert_eq!(
        passwords.check(&user(), &password("decoy"), Some(&stored("?"))).await.unwrap(),
        PasswordCheck::Wrong
    );
}

#[test]
fn a_password_to_be_checked_may_be_short() {
    assert!(Password::presented("1".into()).is_ok(), "an old, short password can still be presented");
    assert!(Password::presented(String::new()).is_err());
    assert!(Password::presented("𝄞".repeat(256)).is_ok());
    assert_eq!(
        Password::presented_in("current_password", String::new()).unwrap_err().field,
        "current_password"
    );
}

#[test]
fn debug_shows_no_secret() {
    assert!(!format!("{:?} {:?}", password("hunter2"), stored("hunter2")).contains("hunter2"));
}

/// A hash is not cancelled with its client, so it must keep its place until it is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_keeps_its_place_when_its_client_goes_away() {
    let passwords = Arc::new(Passwords::new(SLOW, 1, 0).unwrap());
    let client = tokio::spawn({
        let passwords = Arc::clone(&passwords);
        async move { passwords.check(&user(), &password("secret"), None).await }
    });
    while passwords.hashes() == 0 {
        tokio::task::yield_now().await;
    }
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());

    let next = passwords.check(&user(), &password("secret"), None).await;
    assert!(matches!(next, Err(Error::Overloaded { .. })), "the thread is still busy: {next:?}");
    while passwords.free_places() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(passwords.check(&user(), &password("secret"), None).await.unwrap(), PasswordCheck::Wrong);
    assert_eq!(passwords.hashes(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_sheds_at_once() {
    let slow = Argon2Params { memory_kib: 1024, iterations: 20, parallelism: 1 };
    let passwords = Arc::new(Passwords::new(slow, 1, 1).unwrap());
    let checks: Vec<_> = (0..20)
        .map(|_| {
            let passwords = Arc::clone(&passwords);
            tokio::spawn(async move { passwords.check(&user(), &password("secret"), None).await })
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

#[test]
fn a_password_is_checked_up_to_4096_bytes() {
    assert!(Password::presented("x".repeat(4096)).is_ok());
    assert!(Password::presented("𝄞".repeat(1024)).is_ok());
    for text in ["x".repeat(4097), "𝄞".repeat(1025)] {
        assert_eq!(Password::presented(text).unwrap_err().description, "must be at most 4096 bytes");
    }
}

#[test]
fn white_space_and_the_prefix_of_django_do_not_change_a_hash() {
    let hash = |text: &str| PasswordHash::new(text.into());
    let hash_of_latchkey = hash("$argon2id$v=19$m=8,t=1,p=1$salt$hash");
    for same in [
        "$argon2id$v=19$m=8,t=1,p=1$salt$hash",
        "argon2$argon2id$v=19$m=8,t=1,p=1$salt$hash",
        "$argon2id$v=19$m=8,t=1,p=1$salt$hash   \n",
    ] {
        assert!(hash_of_latchkey.is_same(&hash(same)) && hash(same).is_same(&hash_of_latchkey), "{same}");
    }
    for other in
        ["", "$argon2id$v=19$m=8,t=1,p=1$salt$has", "$argon2id$v=19$m=8,t=1,p=1$salt$hash$", "argon2"]
    {
        assert!(!hash_of_latchkey.is_same(&hash(other)), "{other}");
    }
    for (text, is_django_format) in [
        ("argon2$argon2id$x", true),
        ("pbkdf2_sha256$1$x$y", true),
        ("bcrypt$$2b$x", true),
        ("!unusable", true),
        ("$2b$04$x", false),
        ("{bcrypt}$2b$x", false),
        ("", false),
        ("x", false),
    ] {
        assert_eq!(hash(text).is_django_format(), is_django_format, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_would_miss_its_deadline_is_shed_at_once() {
    let passwords = Passwords::new(SLOW, 1, 100).unwrap();
    passwords.check(&user(), &password("secret"), None).await.unwrap();
    let origin = |deadline: Duration| Origin {
        deadline: Some(std::time::Instant::now() + deadline),
        ..Origin::default()
    };
    let soon = Requester::from(&origin(Duration::from_micros(10)));
    let shed = passwords.admit(soon).unwrap().turn().await.err();
    assert!(matches!(shed, Some(Error::Overloaded { .. })), "{shed:?}");
    let in_time = Requester::from(&origin(Duration::from_mins(1)));
    let turn = passwords.admit(in_time).unwrap().turn().await.unwrap();
    // Nobody waits for the check when its hash would begin.
    let checked = passwords.check_in(turn, || false, &user(), &password("secret"), None).await;
    assert!(matches!(checked, Err(Error::Overloaded { .. })), "{checked:?}");
    assert_eq!((passwords.hashes(), passwords.under_way()), (1, 0));
}

#[tokio::test]
async fn a_newcomer_takes_the_place_of_the_oldest_request_of_the_largest_lane() {
    let passwords = Passwords::new(CHEAP, 1, 4).unwrap();
    let from = |address: &str, port: u16| {
        let address = address.parse().unwrap();
        let peer = Some((address, port).into());
        Requester::from(&Origin { address: Some(address), peer, ..Origin::default() })
    };
    // Both turns are taken, so that all others wait.
    let mut turns = Vec::new();
    for _ in 0..2 {
        turns.push(passwords.admit(Requester::default()).unwrap().turn().await.unwrap());
    }
    let wait = |requester| {
        let place = passwords.admit(requester).unwrap();
        Box::pin(place.turn())
    };
    let mut greedy = [wait(from("2001:db8::1", 1)), wait(from("2001:db8:0:7::1", 2))];
    for waiting in &mut greedy {
        assert!(futures_util::poll!(waiting).is_pending());
    }
    let mut other = wait(from("198.51.100.1", 3));
    assert!(futures_util::poll!(&mut other).is_pending());
    let mut newcomer = wait(from("198.51.100.2", 4));
    assert!(futures_util::poll!(&mut newcomer).is_pending());
    let [oldest, newest] = greedy;
    assert!(matches!(oldest.await.err(), Some(Error::Overloaded { .. })), "one site is one lane");
    drop(turns);
    let _all = (newest.await.unwrap().release(), other.await.unwrap().release(), newcomer.await.unwrap());
}

#[tokio::test]
async fn a_connection_exceeds_its_share_only_while_waits_are_short() {
    let passwords = Passwords::new(CHEAP, 1, 100).unwrap().with_connection_share(3);
    let of = |port: u16| {
        let peer = Some(([198, 51, 100, 1], port).into());
        Requester::from(&Origin { peer, ..Origin::default() })
    };
    for (hash, expected) in [(Duration::from_micros(10), 0), (Duration::from_secs(1), 14)] {
        passwords.set_average(hash);
        let mut turns = Vec::new();
        for _ in 0..2 {
            turns.push(passwords.admit(Requester::default()).unwrap().turn().await.unwrap());
        }
        let mut waiting = Vec::new();
        for number in 0..20 {
            let mut turn = Box::pin(passwords.admit(of(number % 2)).unwrap().turn());
            assert!(futures_util::poll!(&mut turn).is_pending());
            waiting.push(turn);
        }
        let mut shed = 0;
        for turn in &mut waiting {
            shed += usize::from(matches!(futures_util::poll!(turn), std::task::Poll::Ready(Err(_))));
        }
        assert_eq!(shed, expected, "with hashes of {hash:?}");
    }
}
