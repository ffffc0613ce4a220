//! Tokens: parsing and verification.
//!
//! The first byte of the input selects its form: the text of a token, or the header and the claims of a token, which
//! are then signed. Signed ones reach the checks behind the signature.

use std::{sync::LazyLock, time::Duration};

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use latchkey::domain::{
    keyring::{Key, KeyFormat, Keyring},
    token::{TokenSettings, Tokens},
    types::{Claims, Timestamp},
};
use serde_json::Value;

/// A secret for these inputs alone: the kept corpus contains tokens that it signed.
const SECRET: &str = "Zq7vT2xKw9LmB4nRc8YdHs3JfGp6UaXe5QtVoWi1CkM0bNyEzSrPuDgAhFjTlOqI";

/// A Saturday in 2033.
const NOW: u64 = 2_000_000_000;

const ISSUER: &str = "latchkey";
const AUDIENCE: &str = "services";

struct Fixture {
    tokens: Tokens,
    signing: EncodingKey,
    kid: String,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let key = Key::read(KeyFormat::Secret, SECRET.as_bytes()).expect("the secret is valid");
    let kid = key.kid.clone();
    let ring = Keyring::new(vec![key], 0).expect("the ring has a key");
    let settings = TokenSettings {
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        leeway: Duration::from_secs(5),
    };
    Fixture { tokens: Tokens::new(ring, settings), signing: EncodingKey::from_secret(SECRET.as_bytes()), kid }
});

/// Stands for the id of the key in a header.
const KID: &str = "$KID";

impl Fixture {
    fn signature(&self, message: &str) -> String {
        jsonwebtoken::crypto::sign(message.as_bytes(), &self.signing, Algorithm::HS256)
            .expect("the key signs")
    }

    fn signed(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(&header.replace(KID, &self.kid)), encode(claims));
        let signature = self.signature(&message);
        format!("{message}.{signature}")
    }
}

fn encode(text: &str) -> String {
    BASE64URL_NOPAD.encode(text.as_bytes())
}

/// Verifies the token in an input. A token that is accepted is one that Latchkey could have written.
pub fn run(data: &[u8]) {
    let Some((form, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let fixture = &*FIXTURE;
    let token = if form % 2 == 0 {
        text.to_owned()
    } else {
        let (header, claims) = text.split_once('\n').unwrap_or((text, ""));
        fixture.signed(header, claims)
    };
    let now = Timestamp::from_secs(NOW);
    let verdict = fixture.tokens.verify(&token, now);
    assert_eq!(verdict, fixture.tokens.verify(&token, now), "a verdict changes when it is cached");
    let names_unknown_key = fixture.tokens.names_unknown_key(&token);
    if let Ok(claims) = verdict {
        assert!(!names_unknown_key);
        check_accepted(fixture, &token, &claims);
    }
}

fn check_accepted(fixture: &Fixture, token: &str, claims: &Claims) {
    let parts: Vec<_> = token.split('.').collect();
    let [header, payload, _] = parts[..] else { panic!("{} parts were accepted", parts.len()) };
    let message = format!("{header}.{payload}");
    assert_eq!(token, format!("{message}.{}", fixture.signature(&message)), "a second spelling was accepted");

    let json = |part: &str| {
        let bytes =
            BASE64URL_NOPAD.decode(part.as_bytes()).expect("a second spelling of base64 was accepted");
        serde_json::from_slice::<Value>(&bytes).expect("something that is not JSON was accepted")
    };
    let header = json(header);
    let expected = serde_json::json!({ "typ": "at+jwt", "alg": "HS256", "kid": fixture.kid });
    let present = |(_, value): &(&String, &Value)| !value.is_null();
    let members: Vec<_> = header.as_object().into_iter().flatten().filter(present).collect();
    assert!(
        members.len() == 3 && members.iter().all(|(name, value)| expected.get(name) == Some(*value)),
        "another header was accepted: {header}"
    );

    let payload = json(payload);
    let number = |name: &str| payload[name].as_u64().expect("a claim of another type was accepted");
    assert_eq!((payload["iss"].as_str(), payload["aud"].as_str()), (Some(ISSUER), Some(AUDIENCE)));
    assert_eq!(payload["sub"].as_str(), Some(claims.user_id.as_str()));
    assert_eq!(payload["jti"].as_str(), Some(&*claims.session_id.to_string()));
    assert_eq!(payload["slot"].as_str(), Some(claims.slot.as_str()));
    assert_eq!(number("gen"), claims.generation.0);
    assert!(number("exp") > NOW, "an expired token was accepted");
    assert_eq!(claims.expires_at, Timestamp::from_secs(number("exp")));
    assert_eq!(claims.not_before, Timestamp::from_secs(number("iat").max(number("nbf"))));
    assert!(payload["roles"].is_array());
}

/// Returns the inputs that the kept corpus begins with.
pub fn seeds() -> Vec<Vec<u8>> {
    let header = format!(r#"{{"typ":"at+jwt","alg":"HS256","kid":"{KID}"}}"#);
    let jti = latchkey::domain::types::SessionId::from_bytes([7; 16]);
    let claims = format!(
        r#"{{"iss":"latchkey","aud":"services","sub":"user-1","iat":{},"nbf":{},"exp":{},"jti":"{jti}","gen":42,"slot":"default","roles":["staff"]}}"#,
        NOW - 10,
        NOW - 10,
        NOW + 10,
    );
    let token = FIXTURE.signed(&header, &claims);
    let mut seeds = vec![
        [b"\0", token.as_bytes()].concat(),
        [b"\0", &token.as_bytes()[..token.len() - 1]].concat(),
        [b"\0", token.as_bytes(), b"="].concat(),
        [b"\0", token.as_bytes(), b".a"].concat(),
        b"\0a.b.c".to_vec(),
        b"\0".to_vec(),
        // RFC 7515 appendix A.1: another header, signed with another key.
        b"\0eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_vec(),
    ];
    let mut signed = |header: &str, claims: &str| seeds.push(format!("\u{1}{header}\n{claims}").into_bytes());
    signed(&header, &claims);
    for (from, to) in [
        ("at+jwt", "JWT"),
        ("HS256", "none"),
        ("HS256", "RS256"),
        (KID, "unknown"),
        ("}", r#","crit":["b64"],"b64":false}"#),
        ("}", r#","jwk":{"kty":"oct","k":"AA"}}"#),
        ("}", r#","cty":"JWT","zip":"DEF","x5u":"https://a"}"#),
        ("}", r#","alg":"HS256"}"#),
    ] {
        signed(&header.replacen(from, to, 1), &claims);
    }
    for (from, to) in [
        (r#""latchkey""#, r#"["latchkey"]"#),
        (r#""services""#, r#"["services","other"]"#),
        ("\"exp\":2000000010", "\"exp\":2000000000"),
        ("\"exp\":2000000010", "\"exp\":2000000010.5"),
        ("\"exp\":2000000010", "\"exp\":18446744073709551615"),
        ("\"exp\":2000000010,", ""),
        ("\"nbf\":1999999990", "\"nbf\":\"1999999990\""),
        ("user-1", "user 1"),
        ("user-1", ""),
        ("default", "Default"),
        ("\"gen\":42", "\"gen\":-1"),
        ("[\"staff\"]", "null"),
        ("}", ",\"iss\":\"other\"}"),
        ("}", ",\"iss\":\"latchkey\",\"ext\":{\"a\":[1,2,{}]}}"),
        ("iss", "\\u0069ss"),
    ] {
        signed(&header, &claims.replacen(from, to, 1));
    }
    seeds
}
