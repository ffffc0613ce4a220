use proptest::prelude::*;
use serde::Deserialize;

use super::*;

/// A hash of low cost that another implementation made.
#[derive(Deserialize)]
struct Vector {
    made_by: String,
    password: String,
    hash: String,
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn parse_error(text: &str) -> UnsupportedHash {
    match HashFormat::parse(text) {
        Ok(_) => panic!("{text} is supported"),
        Err(error) => error,
    }
}

#[test]
fn hashes_of_other_implementations_match_their_passwords() {
    let vectors = vectors();
    assert!(vectors.len() > 100);
    for Vector { made_by, password, hash } in vectors {
        let stored = HashFormat::parse(&hash).unwrap_or_else(|error| panic!("{made_by}: {hash}: {error}"));
        assert!(stored.matches(password.as_bytes(), &MemoryPool::default()), "{made_by}: {hash}: {password}");
        // The same length, because bcrypt ignores the end of a long password.
        let wrong = password.replacen(|_: char| true, "~", 1);
        for wrong in [wrong.as_str(), ""] {
            assert!(!stored.matches(wrong.as_bytes(), &MemoryPool::default()), "{made_by}: {hash}: {wrong}");
        }
    }
}

/// Without every kind, the test above would prove little.
#[test]
fn the_vectors_have_every_kind() {
    let hashes: Vec<_> = vectors().into_iter().map(|vector| vector.hash).collect();
    for beginning in [
        "$argon2id$v=19$",
        "$argon2i$v=19$",
        "$argon2d$v=19$",
        "$argon2i$v=16$",
        "$argon2i$m=",
        "argon2$argon2id$",
        "$2a$",
        "$2b$",
        "$2y$",
        "bcrypt$$2b$",
        "bcrypt_sha256$$2b$",
        "$pbkdf2$1000$",
        "$pbkdf2-sha256$1000$",
        "$pbkdf2-sha512$1000$",
        "$pbkdf2-sha256$i=1000,l=40$",
        "$pbkdf2-sha512$i=1000$",
        "pbkdf2_sha256$",
        "pbkdf2_sha1$",
        "$scrypt$ln=",
        "scrypt$64$",
    ] {
        assert!(hashes.iter().any(|hash| hash.starts_with(beginning)), "{beginning}");
    }
}

fn made_with_2b(password: &str) -> HashFormat {
    let vector = vectors().into_iter().find(|vector| {
        vector.made_by.starts_with("bcrypt") && vector.hash.starts_with("$2b$") && vector.password == password
    });
    HashFormat::parse(&vector.unwrap().hash).unwrap()
}

#[test]
fn bcrypt_uses_exactly_72_bytes() {
    let long = "long password, ".repeat(12);
    let stored = made_with_2b(&long);
    assert!(stored.matches(&long.as_bytes()[..72], &MemoryPool::default()));
    assert!(
        stored.matches(format!("{}, and something else", &long[..72]).as_bytes(), &MemoryPool::default())
    );
    assert!(!stored.matches(&long.as_bytes()[..71], &MemoryPool::default()));
    assert!(!stored.matches(format!("{}~", &long[..71]).as_bytes(), &MemoryPool::default()));

    // Django hashes with SHA-256 first, so every byte counts.
    let vector = vectors()
        .into_iter()
        .find(|vector| vector.hash.starts_with("bcrypt_sha256") && vector.password == long);
    let stored = HashFormat::parse(&vector.unwrap().hash).unwrap();
    assert!(!stored.matches(&long.as_bytes()[..72], &MemoryPool::default()));
}

#[test]
fn a_nul_does_not_end_a_password() {
    let stored = made_with_2b("nul\0inside");
    for wrong in ["nul", "nul\0", "nul\0outside"] {
        assert!(!stored.matches(wrong.as_bytes(), &MemoryPool::default()), "{wrong:?}");
    }
    assert!(!made_with_2b("nul\0").matches(b"nul", &MemoryPool::default()));
}

#[test]
fn a_hash_covers_a_password_only_if_it_depends_on_all_of_it() {
    let long = "long password, ".repeat(12);
    let bcrypt = made_with_2b(&long);
    assert!(bcrypt.covers(&long.as_bytes()[..71]));
    // These may be the beginning of a longer password.
    assert!(!bcrypt.covers(&long.as_bytes()[..72]));
    assert!(!bcrypt.covers(long.as_bytes()));
    for Vector { hash, .. } in vectors() {
        let stored = HashFormat::parse(&hash).unwrap();
        let is_bare = matches!(stored, HashFormat::Bcrypt(_)) && !hash.starts_with("bcrypt_sha256");
        assert_eq!(stored.covers(long.as_bytes()), !is_bare, "{hash}");
        let sees_nul = matches!(stored, HashFormat::Argon2(_)) || hash.starts_with("bcrypt_sha256");
        assert_eq!(stored.covers(b"nul\0"), sees_nul, "{hash}");
        assert!(stored.covers("correct horse battery staple".as_bytes()), "{hash}");
    }
}

/// The reason for `covers`: these hashes also match other passwords.
#[test]
fn hashes_of_some_kinds_match_a_password_with_another_nul() {
    for Vector { hash, password, .. } in vectors() {
        let stored = HashFormat::parse(&hash).unwrap();
        let padded = [password.as_bytes(), b"\0"].concat();
        // HMAC hashes a longer key first.
        if matches!(stored, HashFormat::Pbkdf2(_) | HashFormat::Scrypt(_)) && password.len() < 64 {
            assert!(stored.matches(&padded, &MemoryPool::default()), "{hash}");
        }
    }
    let again = [b"nul\0inside\0".as_slice(), b"nul\0inside"].concat();
    assert!(made_with_2b("nul\0inside").matches(&again, &MemoryPool::default()));
}

#[test]
fn white_space_around_a_hash_is_ignored() {
    for Vector { hash, password, .. } in vectors().into_iter().take(40) {
        for padded in [format!("{hash}\n"), format!(" {hash}{}", " ".repeat(600))] {
            let stored = HashFormat::parse(&padded).unwrap_or_else(|error| panic!("{padded:?}: {error}"));
            assert!(stored.matches(password.as_bytes(), &MemoryPool::default()), "{padded:?}");
        }
    }
    assert!(matches!(HashFormat::parse("  \n"), Ok(HashFormat::Unmatchable)));
}

#[test]
fn surplus_bits_in_the_salt_of_bcrypt_are_ignored() {
    let hash = "$2b$04$abcdefghijklmnopqrstuu";
    let vector = vectors().into_iter().find(|vector| vector.hash.starts_with(hash)).unwrap();
    let other = vector.hash.replacen("stuu", "stuv", 1);
    assert_ne!(other, vector.hash);
    assert!(HashFormat::parse(&other).unwrap().matches(vector.password.as_bytes(), &MemoryPool::default()));
}

#[test]
fn hashes_that_no_password_matches_are_supported() {
    for text in ["", "!", "!Wd8kSfMHAZVIbnCS1PrBJJK4MeR8FkBR7XFOvHlz"] {
        assert!(matches!(HashFormat::parse(text), Ok(HashFormat::Unmatchable)), "{text:?}");
        assert!(!HashFormat::Unmatchable.matches(text.as_bytes(), &MemoryPool::default()));
    }
}

#[test]
fn only_hashes_of_our_format_and_cost_are_current() {
    let params = Argon2Params { memory_kib: 64, iterations: 2, parallelism: 1 };
    let hash = "$v=19$m=64,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHApz8ArZRb2epuyM";
    let current = |text: &str| HashFormat::parse(text).unwrap().is_current(params);
    assert!(current(&format!("$argon2id{hash}")));
    assert!(current(&format!("argon2$argon2id{hash}")));
    for (from, to) in [
        ("argon2id", "argon2i"),
        ("argon2id", "argon2d"),
        ("v=19$", "v=16$"),
        ("v=19$", ""),
        ("m=64", "m=65"),
        ("t=2", "t=1"),
        ("p=1", "p=2"),
        ("uyM", ""),
    ] {
        let text = format!("$argon2id{hash}");
        assert!(!current(&text.replacen(from, to, 1)), "{from} -> {to}");
    }
    let current: Vec<_> = vectors().into_iter().filter(|vector| current(&vector.hash)).collect();
    assert!(!current.is_empty());
    for vector in current {
        assert!(vector.hash.starts_with("$argon2id$v=19$m=64,t=2,p=1$"), "{}", vector.hash);
    }
}

// 16 and 32 bytes in Base64.
const SALT: &str = "c2FsdHNhbHRzYWx0c2FsdA";
const HASH: &str = "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHApz8ArZRb2epuyM";

#[test]
fn hashes_of_excessive_cost_are_not_supported() {
    let padded = format!("{HASH}=");
    let bcrypt = "abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui";
    // The most expensive supported hash of each kind, and a more expensive one.
    for (allowed, excessive) in [
        ("$argon2id$v=19$m=1048576,t=4,p=1$SALT$HASH", "$argon2id$v=19$m=1048577,t=1,p=1$SALT$HASH"),
        ("$argon2i$v=19$m=65536,t=64,p=1$SALT$HASH", "$argon2i$v=19$m=65537,t=64,p=1$SALT$HASH"),
        ("$argon2d$m=512,t=64,p=64$SALT$HASH", "$argon2d$m=512,t=65,p=64$SALT$HASH"),
        ("argon2$argon2id$v=19$m=520,t=1,p=64$SALT$HASH", "argon2$argon2id$v=19$m=520,t=1,p=65$SALT$HASH"),
        ("$argon2id$m=8,t=1,p=1$SALT$HASH", "$argon2id$m=4294967304,t=1,p=1$SALT$HASH"),
        ("$argon2id$m=8,t=1,p=1$SALT$HASH", "$argon2id$m=99999999999999999999999,t=1,p=1$SALT$HASH"),
        ("$2b$15$BCRYPT", "$2b$16$BCRYPT"),
        ("bcrypt_sha256$$2b$15$BCRYPT", "bcrypt_sha256$$2b$31$BCRYPT"),
        ("$2y$04$BCRYPT", "$2y$99$BCRYPT"),
        ("pbkdf2_sha256$5000000$salt$PADDED", "pbkdf2_sha256$5000001$salt$PADDED"),
        ("pbkdf2_sha1$2500000$salt$PADDED", "pbkdf2_sha1$2500001$salt$PADDED"),
        ("$pbkdf2-sha256$5000000$SALT$HASH", "$pbkdf2-sha256$4294967297$SALT$HASH"),
        ("$pbkdf2-sha512$i=5000000,l=32$SALT$HASH", "$pbkdf2-sha512$i=18446744073709551617,l=32$SALT$HASH"),
        ("$scrypt$ln=19,r=8,p=1$SALT$HASH", "$scrypt$ln=20,r=8,p=1$SALT$HASH"),
        ("$scrypt$ln=1,r=2097152,p=1$SALT$HASH", "$scrypt$ln=1,r=2097153,p=1$SALT$HASH"),
        ("$scrypt$ln=1,r=1,p=2097152$SALT$HASH", "$scrypt$ln=64,r=1,p=1$SALT$HASH"),
        ("scrypt$16384$salt$8$32$PADDED", "scrypt$16384$salt$8$33$PADDED"),
        ("scrypt$2$salt$1$1$PADDED", "scrypt$18446744073709551616$salt$8$1$PADDED"),
        ("scrypt$2$salt$1$1$PADDED", "scrypt$2$salt$4294967296$4294967296$PADDED"),
    ] {
        let fill = |text: &str| {
            let text = text.replace("PADDED", &padded).replace("BCRYPT", bcrypt);
            text.replace("SALT", SALT).replace("HASH", HASH)
        };
        assert!(HashFormat::parse(&fill(allowed)).is_ok(), "{allowed}");
        let error = parse_error(&fill(excessive));
        assert!(matches!(error, UnsupportedHash::Excessive(_)), "{excessive}: {error}");
    }
}

#[test]
fn malformed_hashes_are_not_supported() {
    let fill = |text: &str| text.replace("SALT", SALT).replace("HASH", HASH);
    let bcrypt = "$2b$04$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui";
    assert!(HashFormat::parse(bcrypt).is_ok());
    for text in [
        "$argon2id$",
        "$argon2id$v=19$m=8,t=1,p=1$SALT",
        "$argon2id$v=19$m=8,t=1,p=1$SALT$HASH$",
        "$argon2id$v=18$m=8,t=1,p=1$SALT$HASH",
        "$argon2id$v=19$m=8,t=1$SALT$HASH",
        "$argon2id$v=19$m=8,t=1,p=1,p=1$SALT$HASH",
        "$argon2id$v=19$m=8,t=1,p=1,keyid=7$SALT$HASH",
        "$argon2id$v=19$m=+8,t=1,p=1$SALT$HASH",
        "$argon2id$v=19$m=7,t=1,p=1$SALT$HASH",
        "$argon2id$v=19$m=8,t=0,p=1$SALT$HASH",
        "$argon2id$v=19$m=8,t=1,p=0$SALT$HASH",
        "$argon2id$v=19$m=8,t=1,p=1$c2FsdA$HASH",
        "$argon2id$v=19$m=8,t=1,p=1$SALT$c2hvcnQ",
        "$argon2id$v=19$m=8,t=1,p=1$SALT$HASH=",
        "argon2$",
        "argon2$argon2x$v=19$m=8,t=1,p=1$SALT$HASH",
        "$2b$",
        "$2b$4$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui",
        "$2b$03$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui",
        "$2b$04$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBu",
        "$2b$04$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBuii",
        "$2b$04$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBu+",
        "$2b$04$abcdefghijklmnopqrstüüü",
        "bcrypt$2b$04$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui",
        "pbkdf2_sha256$600000$salt$hash",
        "pbkdf2_sha256$0$salt$HASH=",
        "pbkdf2_sha256$1000$$HASH=",
        "pbkdf2_sha256$1000$salt$HASH=$",
        "pbkdf2_sha256$1e3$salt$HASH=",
        "$pbkdf2-sha256$i=1000,l=31$SALT$HASH",
        "$pbkdf2-sha256$l=32$SALT$HASH",
        "$scrypt$ln=0,r=8,p=1$SALT$HASH",
        "$scrypt$ln=6,r=0,p=1$SALT$HASH",
        "scrypt$63$salt$8$1$HASH=",
        "scrypt$1$salt$8$1$HASH=",
        "scrypt$64$salt$8$HASH=",
    ] {
        let error = parse_error(&fill(text));
        assert!(matches!(error, UnsupportedHash::Malformed(_)), "{text}: {error}");
    }
}

/// Errors are logged, so they must not contain parts of the hash.
#[test]
fn errors_name_the_kind_of_a_hash_and_nothing_else() {
    for (text, expected) in [
        ("$6$c2FsdA$hunter2", UnsupportedHash::Unsupported("sha512-crypt")),
        ("md5$salt$hunter2", UnsupportedHash::Unsupported("md5")),
        ("{SSHA}hunter2", UnsupportedHash::Unsupported("an LDAP scheme")),
        ("hunter2", UnsupportedHash::Unknown),
        ("$hunter2$hunter2", UnsupportedHash::Unknown),
        ("$", UnsupportedHash::Unknown),
        (&format!("$argon2id${}", "hunter2".repeat(1000)), UnsupportedHash::Unknown),
    ] {
        assert_eq!(parse_error(text), expected, "{text}");
        assert!(!expected.to_string().contains("hunter2"));
    }
}

/// Hashes with a few characters replaced, inserted and removed.
fn mutated() -> impl Strategy<Value = String> {
    let hashes: Vec<_> = vectors().into_iter().map(|vector| vector.hash).collect();
    let change =
        (any::<prop::sample::Index>(), 0..3_u8, prop::sample::select(b"$,=0129amtplrn./+!\x00\xff".to_vec()));
    (prop::sample::select(hashes), prop::collection::vec(change, 0..6)).prop_map(|(hash, changes)| {
        let mut text: Vec<char> = hash.chars().collect();
        for (at, how, with) in changes {
            let at = at.index(text.len());
            match how {
                0 => text[at] = with.into(),
                1 => text.insert(at, with.into()),
                _ => drop(text.remove(at)),
            }
        }
        text.into_iter().collect()
    })
}

/// Hashes with costs of every size.
fn costly() -> impl Strategy<Value = String> {
    let number = || prop_oneof![0..100_u64, any::<u32>().prop_map(u64::from), any::<u64>()];
    (0..7, number(), number(), number()).prop_map(|(kind, a, b, c)| match kind {
        0 => format!("$argon2id$v=19$m={a},t={b},p={c}${SALT}${HASH}"),
        1 => format!("$2b${:02}$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui", a % 100),
        2 => format!("pbkdf2_sha1${a}$salt${HASH}="),
        3 => format!("$pbkdf2-sha256$i={a},l=32${SALT}${HASH}"),
        4 => format!("$pbkdf2-sha512${a}${SALT}${HASH}"),
        5 => format!("scrypt${}$salt${b}${c}${HASH}=", 1_u64 << (a % 64)),
        _ => format!("$scrypt$ln={a},r={b},p={c}${SALT}${HASH}"),
    })
}

/// Computes the cost of a hash independently, and whether it is within the limits if the hash was accepted.
fn is_within_bounds(text: &str) -> bool {
    let numbers: Vec<u64> = text
        .split(['$', ',', '='])
        .filter(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
        .map(|part| part.parse().unwrap_or(u64::MAX))
        .collect();
    let product = |numbers: &[u64]| numbers.iter().fold(1_u64, |all, one| all.saturating_mul(*one));
    match HashFormat::parse(text) {
        Ok(HashFormat::Argon2(_)) => {
            let costs = &numbers[numbers.len() - 3..];
            costs[0] <= 1 << 20 && costs[1] <= 64 && costs[2] <= 64 && product(&costs[..2]) <= 1 << 22
        }
        Ok(HashFormat::Bcrypt(_)) => numbers[0] <= 15,
        Ok(HashFormat::Pbkdf2(_)) => numbers[0] <= 5_000_000,
        Ok(HashFormat::Scrypt(_)) if text.starts_with('$') => {
            numbers[0] < 23 && product(&[1 << numbers[0], numbers[1], numbers[2]]) <= 1 << 22
        }
        Ok(HashFormat::Scrypt(_)) => product(&numbers) <= 1 << 22,
        Ok(HashFormat::Unmatchable) | Err(_) => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn parsing_never_panics(text in "\\PC*") {
        drop(HashFormat::parse(&text));
        drop(HashFormat::parse(&format!("${text}")));
        drop(HashFormat::parse(&format!("$argon2id${text}")));
        drop(HashFormat::parse(&format!("$2b$04${text}")));
        drop(HashFormat::parse(&format!("bcrypt_sha256${text}")));
        drop(HashFormat::parse(&format!("pbkdf2_sha256${text}")));
        drop(HashFormat::parse(&format!("scrypt${text}")));
    }

    #[test]
    fn parsing_a_mutated_hash_never_panics(text in mutated()) {
        drop(HashFormat::parse(&text));
    }

    #[test]
    fn accepted_hashes_are_within_the_limits(text in costly()) {
        prop_assert!(is_within_bounds(&text), "{}", text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Every accepted hash can be computed.
    #[test]
    fn checking_an_accepted_hash_never_panics(text in mutated()) {
        if let Ok(stored) = HashFormat::parse(&text) && is_cheap(&stored) {
            stored.matches(b"correct horse battery staple", &MemoryPool::default());
        }
    }
}

fn is_cheap(stored: &HashFormat) -> bool {
    match stored {
        HashFormat::Argon2(hash) => hash.is_cheap(),
        HashFormat::Bcrypt(hash) => hash.is_cheap(),
        HashFormat::Pbkdf2(hash) => hash.is_cheap(),
        HashFormat::Scrypt(hash) => hash.is_cheap(),
        HashFormat::Unmatchable => true,
    }
}
