//! Tokens that the library accepts but that this module would not have written.

use std::sync::LazyLock;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::keyring::KeyAlgorithm;

/// A Saturday in 2033.
const NOW: u64 = 2_000_000_000;

fn settings() -> TokenSettings {
    TokenSettings { issuer: "latchkey".into(), audience: "services".into(), leeway: Duration::from_secs(5) }
}

struct Fixture {
    tokens: Tokens,
    key: Key,
}

impl Fixture {
    fn new(algorithm: KeyAlgorithm) -> Self {
        let key = Key::read(algorithm.format(), algorithm.generate().unwrap().as_bytes()).unwrap();
        let tokens = Tokens::new(Keyring::new(vec![key.clone()], 0).unwrap(), settings());
        Self { tokens, key }
    }

    fn header(&self) -> Value {
        json!({ "typ": "at+jwt", "alg": self.key.algorithm.name(), "kid": self.key.kid })
    }

    /// A token with this header and these claims, with a valid signature.
    fn signed(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.key.signing, self.key.jwt_algorithm)
                .unwrap();
        format!("{message}.{signature}")
    }

    /// A token as the server issues it.
    fn issued(&self) -> String {
        let (user_id, roles) = (UserId::parse("user-1").unwrap(), Role::parse_all(&["staff"]).unwrap());
        self.tokens.issue(&user_id, &session(), &roles).unwrap()
    }

    fn reason(&self, token: &str) -> Option<Reason> {
        self.tokens.verify(token, Timestamp::from_secs(NOW)).err().map(|rejection| rejection.reason)
    }

    /// The verdict on a token with one claim replaced, or removed if the value is null.
    fn with_claim(&self, name: &str, value: Value) -> Option<Reason> {
        let mut claims = claims();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value;
        }
        self.reason(&self.signed(&self.header(), &claims))
    }

    /// The verdict on a token with one header member replaced, or removed if the value is null.
    fn with_header(&self, name: &str, value: Value) -> Option<Reason> {
        let mut header = self.header();
        if value.is_null() {
            header.as_object_mut().unwrap().remove(name);
        } else {
            header[name] = value;
        }
        self.reason(&self.signed(&header, &claims()))
    }
}

fn encode(value: &Value) -> String {
    BASE64URL_NOPAD.encode(value.to_string().as_bytes())
}

fn claims() -> Value {
    json!({
        "iss": "latchkey",
        "aud": "services",
        "sub": "user-1",
        "iat": NOW - 10,
        "nbf": NOW - 10,
        "exp": NOW + 10,
        "jti": SessionId::from_bytes([7; 16]).to_string(),
        "gen": 42,
        "slot": "default",
        "roles": ["staff"],
    })
}

fn session() -> Session {
    Session {
        id: SessionId::from_bytes([7; 16]),
        generation: Generation(42),
        slot: Slot::parse("web").unwrap(),
        device: crate::domain::types::Device::default(),
        issued_at: Timestamp::from_secs(NOW - 10),
        expires_at: Timestamp::from_secs(NOW + 10),
        last_seen: Timestamp::from_secs(NOW - 10),
        idle_timeout: Duration::from_mins(1).into(),
        epoch: 0,
        exclusive: false,
        login_key: None,
        client: None,
    }
}

#[test]
fn the_claims_of_a_token_are_those_of_its_session() {
    for algorithm in KeyAlgorithm::ALL {
        let fixture = Fixture::new(algorithm);
        let user_id = UserId::parse("user-1").unwrap();
        let roles = Role::parse_all(&["staff"]).unwrap();
        let token = fixture.tokens.issue(&user_id, &session(), &roles).unwrap();
        let claims = fixture.tokens.verify(&token, Timestamp::from_secs(NOW)).unwrap();
        let session = session();
        assert_eq!(
            *claims,
            Claims {
                user_id,
                session_id: session.id,
                generation: session.generation,
                slot: session.slot,
                not_before: session.issued_at,
                expires_at: session.expires_at,
            }
        );
    }
}

#[test]
fn the_largest_possible_token_is_valid() {
    let fixture = Fixture::new(KeyAlgorithm::RS256);
    let user_id = UserId::parse(&"u".repeat(UserId::MAX_LEN)).unwrap();
    let names: Vec<_> = (0..Role::MAX_COUNT).map(|n| format!("{n:064}")).collect();
    let token = fixture.tokens.issue(&user_id, &session(), &Role::parse_all(&names).unwrap()).unwrap();
    assert!(token.len() <= MAX_LEN, "{}", token.len());
    assert_eq!(fixture.reason(&token), None);
}

#[test]
fn an_unchanged_token_is_valid() {
    let fixture = Fixture::new(KeyAlgorithm::EdDSA);
    assert_eq!(fixture.reason(&fixture.signed(&fixture.header(), &claims())), None);
}

#[test]
fn claims_that_are_missing_or_of_another_type_are_rejected() {
    let fixture = Fixture::new(KeyAlgorithm::EdDSA);
    for name in ["iss", "aud", "sub", "iat", "nbf", "exp", "jti", "gen", "slot", "roles"] {
        for value in [Value::Null, json!(-1), json!(1.5), json!(true), json!({}), json!([1]), json!("")] {
            assert_eq!(fixture.with_claim(name, value.clone()), Some(Reason::Malformed), "{name}: {value}");
        }
    }
}

#[test]
fn another_issuer_or_audience_is_rejected() {
    let fixture = Fixture::new(KeyAlgorithm::EdDSA);
    for value in [json!("latchkey2"), json!(["latchkey"]), json!(["other", "latchkey"]), json!("LATCHKEY")] {
        assert_eq!(fixture.with_claim("iss", value.clone()), Some(Reason::Malformed), "iss: {value}");
    }
    for value in [json!("other"), json!(["services"]), json!(["services", "other"])] {
        assert_eq!(fixture.with_claim("aud", value.clone()), Some(Reason::Malformed), "aud: {value}");
    }
}

#[test]
fn a_header_that_differs_in_any_member_is_rejected() {
    let fixture = Fixture::new(KeyAlgorithm::EdDSA);
    for (name, value) in [
        ("typ", Value::Null),
        ("typ", json!("JWT")),
        ("typ", json!("AT+JWT")),
        ("typ", json!("application/at+jwt")),
        ("alg", json!("none")),
        ("alg", json!("None")),
        ("alg", json!("HS256")),
        ("alg", json!("RS256")),
        ("alg", json!("ES256")),
        ("kid", Value::Null),
        ("kid", json!(7)),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("b64", json!(true)),
        ("zip", json!("DEF")),
        ("cty", json!("JWT")),
        ("jku", json!("https://example.com/keys")),
        ("x5u", json!("https://example.com/cert")),
        (
            "jwk",
            json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }),
        ),
        ("anything", json!("else")),
    ] {
        assert_eq!(fixture.with_header(name, value.clone()), Some(Reason::Malformed), "{name}: {value}");
    }
}

#[test]
fn an_unknown_key_id_is_a_bad_signature() {
    let fixture = Fixture::new(KeyAlgorithm::EdDSA);
    for kid in ["", "other", "../../etc/passwd", "' OR 1=1"] {
        assert_eq!(fixture.with_header("kid", json!(kid)), Some(Reason::BadSignature), "{kid}");
    }
}

#[test]
fn a_public_key_is_not_an_hmac_secret() {
    // Algorithm confusion: the attacker signs with the public key as an HMAC secret.
    let fixture = Fixture::new(KeyAlgorithm::RS256);
    let public = serde_json::to_string(&fixture.tokens.keyring().jwks().keys[0]).unwrap();
    let header = json!({ "typ": "at+jwt", "alg": "HS256", "kid": fixture.key.kid });
    let message = format!("{}.{}", encode(&header), encode(&claims()));
    let forged = jsonwebtoken::EncodingKey::from_secret(public.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &forged, Algorithm::HS256).unwrap();
    assert_eq!(fixture.reason(&format!("{message}.{signature}")), Some(Reason::Malformed));
}

#[test]
fn a_key_verifies_only_tokens_of_its_own_algorithm() {
    let keys = [KeyAlgorithm::EdDSA, KeyAlgorithm::HS256]
        .map(|algorithm| Key::read(algorithm.format(), algorithm.generate().unwrap().as_bytes()).unwrap());
    let tokens = Tokens::new(Keyring::new(keys.to_vec(), 0).unwrap(), settings());
    let header = json!({ "typ": "at+jwt", "alg": "HS256", "kid": keys[0].kid });
    let message = format!("{}.{}", encode(&header), encode(&claims()));
    let signature =
        jsonwebtoken::crypto::sign(message.as_bytes(), &keys[1].signing, Algorithm::HS256).unwrap();
    let rejection = tokens.verify(&format!("{message}.{signature}"), Timestamp::from_secs(NOW)).unwrap_err();
    assert_eq!(rejection.reason, Reason::Malformed);
}

#[test]
fn a_changed_token_is_a_bad_signature_or_malformed() {
    let fixture = Fixture::new(KeyAlgorithm::EdDSA);
    let token = fixture.signed(&fixture.header(), &claims());
    for index in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let reason = fixture.reason(&changed);
        assert!(matches!(reason, Some(Reason::BadSignature | Reason::Malformed)), "{index}: {reason:?}");
    }
}

#[test]
fn another_spelling_of_a_token_is_rejected() {
    let fixture = Fixture::new(KeyAlgorithm::EdDSA);
    let token = fixture.signed(&fixture.header(), &claims());
    for other in [
        format!("{token}="),
        format!("{token} "),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{token}."),
        format!("{token}.{token}"),
        token.replace('-', "+").replace('_', "/") + "=",
        // The last base64 character of 64 bytes has four unused bits.
        format!("{}{}", &token[..token.len() - 1], next(token.as_bytes()[token.len() - 1])),
    ] {
        assert!(fixture.reason(&other).is_some(), "{other}");
    }
}

/// The base64url character that differs from this one in an unused bit.
fn next(character: u8) -> char {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let index = alphabet.iter().position(|other| *other == character).unwrap();
    char::from(alphabet[index ^ 1])
}

#[test]
fn a_text_that_is_no_token_is_malformed() {
    let fixture = Fixture::new(KeyAlgorithm::EdDSA);
    for text in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "\u{0}", "ü.ü.ü", "e30.e30.", "null.null.null"]
    {
        assert_eq!(fixture.reason(text), Some(Reason::Malformed), "{text:?}");
    }
}

#[test]
fn a_token_over_four_kib_is_malformed() {
    let fixture = Fixture::new(KeyAlgorithm::EdDSA);
    let padding = |length: usize| {
        let mut claims = claims();
        claims["padding"] = json!("x".repeat(length));
        fixture.signed(&fixture.header(), &claims)
    };
    let fits = padding(2000);
    assert!(fits.len() <= MAX_LEN);
    assert_eq!(fixture.reason(&fits), None, "unknown claims are ignored");
    let too_long = padding(3000);
    assert!(too_long.len() > MAX_LEN);
    assert_eq!(fixture.reason(&too_long), Some(Reason::Malformed));
}

#[test]
fn a_token_expires_exactly_at_its_exp() {
    let fixture = Fixture::new(KeyAlgorithm::EdDSA);
    let token = fixture.signed(&fixture.header(), &claims());
    let end = Timestamp::from_secs(NOW + 10);
    let before = Timestamp::from_micros(end.as_micros() - 1);
    assert!(fixture.tokens.verify(&token, before).is_ok());
    assert_eq!(fixture.tokens.verify(&token, end), Err(Rejection::at(Reason::Expired, end)));
    assert_eq!(fixture.with_claim("exp", json!(NOW - 59)), Some(Reason::Expired), "`exp` has no leeway");
}

#[test]
fn not_before_is_the_later_of_iat_and_nbf() {
    let fixture = Fixture::new(KeyAlgorithm::EdDSA);
    for name in ["nbf", "iat"] {
        for begins in [NOW + 5, NOW + 6, 1 << 40] {
            let mut claims = claims();
            claims[name] = json!(begins);
            let token = fixture.signed(&fixture.header(), &claims);
            let verified = fixture.tokens.verify(&token, Timestamp::from_secs(NOW)).unwrap();
            assert_eq!(verified.not_before, Timestamp::from_secs(begins), "{name}");
        }
    }
}

#[test]
fn a_forged_token_does_not_learn_that_it_has_expired() {
    let fixture = Fixture::new(KeyAlgorithm::EdDSA);
    let mut expired = claims();
    expired["exp"] = json!(NOW - 1);
    let token = fixture.signed(&fixture.header(), &expired);
    assert_eq!(fixture.reason(&token), Some(Reason::Expired));
    let forged = format!("{}.{}", token.rsplit_once('.').unwrap().0, BASE64URL_NOPAD.encode(&[0; 64]));
    assert_eq!(fixture.reason(&forged), Some(Reason::BadSignature));
}

#[test]
fn tokens_of_an_old_key_are_valid_until_it_is_removed() {
    let old = Fixture::new(KeyAlgorithm::EdDSA);
    let new = Fixture::new(KeyAlgorithm::ES256);
    let token = old.signed(&old.header(), &claims());
    let keys = vec![old.key.clone(), new.key.clone()];
    old.tokens.rotate(Keyring::new(keys, 1).unwrap());
    assert_eq!(old.reason(&token), None);
    let issued = old.tokens.issue(&UserId::parse("user-1").unwrap(), &session(), &[]).unwrap();
    assert_eq!(jsonwebtoken::decode_header(&issued).unwrap().kid.as_ref(), Some(&new.key.kid));
    let gone = old.tokens.rotate(Keyring::new(vec![new.key.clone()], 0).unwrap());
    assert_eq!(
        gone,
        [(old.key.kid.clone(), Timestamp::from_secs(NOW + 10))],
        "the removed key, and the latest `exp` of its tokens"
    );
    assert_eq!(old.reason(&token), Some(Reason::BadSignature));
}

/// Verifies tokens as other readers of the `JWKS` do.
#[test]
fn the_published_keys_verify_the_tokens() {
    for algorithm in [KeyAlgorithm::EdDSA, KeyAlgorithm::ES256, KeyAlgorithm::RS256] {
        let fixture = Fixture::new(algorithm);
        let token = fixture.tokens.issue(&UserId::parse("user-1").unwrap(), &session(), &[]).unwrap();
        let jwks = fixture.tokens.keyring().jwks();
        let key = DecodingKey::from_jwk(jwks.find(&fixture.key.kid).unwrap()).unwrap();
        let mut validation = Validation::new(fixture.key.jwt_algorithm);
        validation.set_audience(&["services"]);
        validation.set_issuer(&["latchkey"]);
        assert!(jsonwebtoken::decode::<Value>(&token, &key, &validation).is_ok(), "{}", algorithm.name());
    }
}

/// Flips one bit in the signature of a token.
fn flip_bit(token: &str, at: usize) -> String {
    let (message, signature) = token.rsplit_once('.').unwrap();
    let mut bytes = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
    bytes[at] ^= 1;
    format!("{message}.{}", BASE64URL_NOPAD.encode(&bytes))
}

#[test]
fn a_verified_token_is_known_by_all_of_its_bytes() {
    for algorithm in KeyAlgorithm::ALL {
        let fixture = Fixture::new(algorithm);
        let token = fixture.issued();
        let known = || fixture.tokens.current.load().verified.tokens.len();
        assert_eq!((fixture.reason(&token), known()), (None, 1), "{}", algorithm.name());
        // Often enough that its claims come into the memo.
        assert!((0..200).all(|_| fixture.reason(&token).is_none()));
        for at in 0..32 {
            assert_eq!(fixture.reason(&flip_bit(&token, at)), Some(Reason::BadSignature), "byte {at}");
        }
        let (message, signature) = token.rsplit_once('.').unwrap();
        let payload = BASE64URL_NOPAD.decode(message.split_once('.').unwrap().1.as_bytes()).unwrap();
        let forged = String::from_utf8(payload).unwrap().replace("user-1", "user-2");
        let forged = BASE64URL_NOPAD.encode(forged.as_bytes());
        let forged = format!("{}.{forged}.{signature}", message.split_once('.').unwrap().0);
        assert_eq!(fixture.reason(&forged), Some(Reason::BadSignature));
        assert_eq!(known(), 1, "a rejected token is not remembered");
    }
}

#[test]
fn only_the_spelling_of_this_server_takes_the_short_way() {
    let fixture = Fixture::new(KeyAlgorithm::EdDSA);
    let (ring, spelling) = (fixture.tokens.keyring(), Spelling::new(&fixture.tokens.keyring(), &settings()));
    let token = fixture.issued();
    assert!(spelling.parse(&ring, &token).is_some());
    let (message, _) = token.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    let json = String::from_utf8(BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap()).unwrap();
    // What the library thinks of each is in the second column.
    for (from, to, reason) in [
        ("\"iat\":", "\"iat\": ", None),
        ("user-1", "user\\u002d1", None),
        ("]}", "],\"more\":1}", None),
        ("]}", "]} ", None),
        ("]}", "]}x", Some(Reason::Malformed)),
        ("]}", "]", Some(Reason::Malformed)),
        ("\"staff\"", "\"staff\",", Some(Reason::Malformed)),
        ("\"staff\"", "7", Some(Reason::Malformed)),
        ("\"gen\":42", "\"gen\":042", Some(Reason::Malformed)),
        ("\"gen\":42", "\"gen\":-42", Some(Reason::Malformed)),
        ("\"gen\":42", "\"gen\":18446744073709551616", Some(Reason::Malformed)),
        ("\"gen\":42", "\"gen\":", Some(Reason::Malformed)),
        ("user-1", "", Some(Reason::Malformed)),
        ("latchkey", "other", Some(Reason::Malformed)),
        ("services", "other", Some(Reason::Malformed)),
    ] {
        let changed = json.replace(from, to);
        assert_ne!(changed, json);
        let message = format!("{header}.{}", BASE64URL_NOPAD.encode(changed.as_bytes()));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &fixture.key.signing, Algorithm::EdDSA).unwrap();
        let token = format!("{message}.{signature}");
        assert!(spelling.parse(&ring, &token).is_none(), "{changed}");
        assert_eq!(fixture.reason(&token), reason, "{changed}");
    }
}

proptest! {
    /// The short way and the library read the same claims from every token that is issued.
    #[test]
    fn an_issued_token_is_read_as_by_the_library(
        user_id in "[!-~]{1,128}",
        slot in "[a-z0-9][a-z0-9_-]{0,31}",
        roles in prop::collection::vec("[A-Za-z0-9_.:/-]{1,64}", 0..8),
        id: [u8; 16],
        generation: u64,
        (issuer, audience) in (".{1,20}", ".{1,20}"),
        issued_at in 0..4_000_000_000_u64,
    ) {
        let key = fixed_key();
        let ring = Keyring::new(vec![key.clone()], 0).unwrap();
        let settings = TokenSettings { issuer, audience, ..settings() };
        let tokens = Tokens::new(ring.clone(), settings.clone());
        let session = Session {
            id: SessionId::from_bytes(id),
            generation: Generation(generation),
            slot: Slot::parse(&slot).unwrap(),
            issued_at: Timestamp::from_secs(issued_at),
            ..session()
        };
        let token = tokens.issue(&UserId::parse(&user_id).unwrap(), &session, &Role::parse_all(&roles).unwrap());
        let token = token.unwrap();
        let expected = tokens.verify_by_library(&ring, &token).unwrap();
        let spelling = Spelling::new(&ring, &settings);
        match spelling.parse(&ring, &token) {
            Some(issued) => {
                prop_assert_eq!(issued.claims, expected);
                prop_assert!(key.has_signed(issued.message, issued.signature));
            }
            // JSON escapes these two.
            None => prop_assert!(user_id.contains(['"', '\\'])),
        }
    }
}

/// One key for all cases, because generating one takes longer than a case.
fn fixed_key() -> Key {
    static PEM: LazyLock<zeroize::Zeroizing<String>> =
        LazyLock::new(|| KeyAlgorithm::EdDSA.generate().unwrap());
    Key::read(KeyAlgorithm::EdDSA.format(), PEM.as_bytes()).unwrap()
}

#[test]
fn the_memo_is_filled_by_tokens_that_are_used_again_and_again() {
    let fixture = Fixture::new(KeyAlgorithm::EdDSA);
    let token = fixture.issued();
    let memo = || fixture.tokens.current.load().verified.memo.len();
    assert_eq!((fixture.reason(&token), memo()), (None, 0));
    // The chance that none of them is sampled is below 10^-27.
    assert!((0..1000).all(|_| fixture.reason(&token).is_none()));
    assert_eq!(memo(), 1);
}

#[test]
fn a_cached_token_is_checked_on_every_use() {
    let fixture = Fixture::new(KeyAlgorithm::EdDSA);
    let tokens = [fixture.signed(&fixture.header(), &claims()), fixture.issued()];
    let at = |secs| {
        tokens.each_ref().map(|token| {
            fixture.tokens.verify(token, Timestamp::from_secs(secs)).err().map(|error| error.reason)
        })
    };
    assert_eq!(at(NOW), [None; 2]);
    assert_eq!(at(NOW + 10), [Some(Reason::Expired); 2]);
    assert_eq!(at(NOW - 100), [None; 2], "NOT_YET_VALID is decided together with the session");
    assert_eq!(at(NOW), [None; 2]);
    fixture.tokens.rotate(Fixture::new(KeyAlgorithm::EdDSA).tokens.keyring().as_ref().clone());
    assert_eq!(at(NOW), [Some(Reason::BadSignature); 2], "tokens of a removed key are not remembered");
}
