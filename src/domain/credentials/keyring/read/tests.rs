//! Files of other kinds, which are never accepted as a key.

use data_encoding::{BASE64, BASE64_MIME, HEXLOWER};

use super::*;

macro_rules! fixture {
    ($name:literal) => {
        ($name, include_str!(concat!("../fixtures/", $name)))
    };
}

/// Files that are no private key in PEM for a supported algorithm, and what their error calls them.
const OTHERS: [((&str, &str), &str); 12] = [
    (fixture!("ed25519_public.pem"), "a public key in PEM"),
    (fixture!("rsa_public.pem"), "a public key in PEM"),
    (fixture!("rsa_pkcs1_public.pem"), "a public key in PEM"),
    (fixture!("certificate.pem"), "a certificate"),
    (fixture!("request.pem"), "a certificate request"),
    (fixture!("encrypted.pem"), "an encrypted private key"),
    (fixture!("encrypted_traditional.pem"), "an encrypted private key"),
    (fixture!("sec1.pem"), "a private key in the form SEC1"),
    (fixture!("sec1_with_parameters.pem"), "a private key in the form SEC1"),
    (fixture!("openssh.pem"), "a private key of OpenSSH"),
    (fixture!("openssh_public.txt"), "a public key of OpenSSH"),
    (
        ("PGP", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQ\n-----END PGP PUBLIC KEY BLOCK-----\n"),
        "PGP PUBLIC KEY BLOCK",
    ),
];

const ED25519: &str = include_str!("../fixtures/ed25519.pem");
const RSA: &str = include_str!("../fixtures/rsa.pem");

fn read_error(format: KeyFormat, contents: &[u8]) -> String {
    match Key::read(format, contents) {
        Ok(key) => panic!("accepted as {}: {}", key.algorithm.name(), String::from_utf8_lossy(contents)),
        Err(KeyError(error)) => error,
    }
}

/// Converts PEM to DER.
fn der(pem: &str) -> Vec<u8> {
    pem::parse(pem).unwrap().into_contents()
}

#[test]
fn a_pem_file_is_a_private_key_and_nothing_else() {
    for ((name, contents), found) in OTHERS {
        let forms = [
            contents.to_owned(),
            format!("\n{contents}"),
            format!("# a comment\n{contents}"),
            contents.replace('\n', "\r\n"),
        ];
        for form in forms {
            let error = read_error(KeyFormat::Pem, form.as_bytes());
            assert!(error.contains(found) && error.contains(": "), "{name}: {error}");
        }
    }
    for (contents, found) in [
        (String::new(), "nothing at all"),
        (" \n\t\n".into(), "nothing at all"),
        ("f3b9o5WmVnX0b3mXh1S0bq3wT1yQe8jJr2k7c6d5e4f3g2h1\n".into(), "name ends with .secret"),
        (
            r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#
                .into(),
            "a key in JSON (JWK)",
        ),
        (format!("{ED25519}{ED25519}"), "more than one block"),
        (format!("{ED25519}{}", OTHERS[3].0.1), "more than one block"),
        (ED25519.replace("-----END PRIVATE KEY-----", ""), "no end"),
        (ED25519.replace("MC4C", "MC5C"), ""),
        (include_str!("../fixtures/p384.pem").into(), "P-256"),
        (include_str!("../fixtures/x25519.pem").into(), "not for Ed25519, P-256 or RSA"),
        (BASE64.encode(ED25519.as_bytes()), "encoded"),
    ] {
        let error = read_error(KeyFormat::Pem, contents.as_bytes());
        assert!(error.contains(found), "{contents}: {error}");
    }
    let error = read_error(KeyFormat::Pem, &der(ED25519));
    assert!(error.contains("a private key in DER") && error.contains("openssl pkey -inform DER"), "{error}");

    // Text around the only key is ignored.
    for contents in [
        ED25519.to_owned(),
        format!("\n{ED25519}"),
        format!("Bag Attributes\n  friendlyName: x\n{ED25519}\n"),
    ] {
        assert_eq!(Key::read(KeyFormat::Pem, contents.as_bytes()).unwrap().algorithm, KeyAlgorithm::EdDSA);
    }
    assert_eq!(Key::read(KeyFormat::Pem, RSA.as_bytes()).unwrap().algorithm, KeyAlgorithm::RS256);
}

#[test]
fn a_secret_file_is_not_key_material_of_another_kind() {
    let text = OTHERS.map(|((_, contents), _)| contents.as_bytes().to_vec());
    // With traditional encryption the body is only a ciphertext.
    let bodies = text.iter().filter(|contents| !String::from_utf8_lossy(contents).contains("Proc-Type"));
    let pem = bodies.filter_map(|contents| Some(pem::parse(contents).ok()?.into_contents()));
    let mut all: Vec<Vec<u8>> = pem.chain([der(ED25519), der(RSA)]).chain(text.clone()).collect();
    all.extend([
        ED25519.as_bytes().to_vec(),
        RSA.as_bytes().to_vec(),
        format!("# a comment\n\n{RSA}").into_bytes(),
    ]);
    all.extend([
        br#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#.to_vec(),
        br#"[ {"some":"settings of another program"} ]"#.to_vec(),
        b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
            .to_vec(),
        b"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none".to_vec(),
        b"<RSAKeyValue><Modulus>xA7SEU+e0yQH5rm9kbCDN9o3aPIo7</Modulus></RSAKeyValue>".to_vec(),
        [b"\xff\xfe".as_slice(), b"-\0-\0-\0-\0-\0B\0E\0G\0I\0N\0 \0P\0U\0B\0L\0I\0C\0 \0K\0E\0Y\0"].concat(),
        // As in an environment variable: on one line, or without the first line.
        RSA.trim().replace('\n', "\\n").into_bytes(),
        ED25519.lines().skip(1).collect::<Vec<_>>().join("\n").into_bytes(),
        RSA.lines().filter(|line| !line.starts_with('-')).collect::<Vec<_>>().join("\n").into_bytes(),
    ]);
    for contents in all {
        let encodings = [BASE64.encode(&contents), BASE64_MIME.encode(&contents), HEXLOWER.encode(&contents)];
        let encoded = encodings.map(String::into_bytes);
        for form in [contents.clone(), [&contents[..], b"\n"].concat()].iter().chain(&encoded) {
            let error = read_error(KeyFormat::Secret, form);
            assert!(error.starts_with("holds "), "{error}");
            assert!(!error.contains("guessed"), "the kind must be named, not the pattern: {error}");
        }
    }
    assert!(read_error(KeyFormat::Secret, RSA.as_bytes()).contains("name ends with .pem"));
    assert!(read_error(KeyFormat::Secret, b"").contains("nothing at all"));
}

#[test]
fn weak_and_published_keys_are_rejected() {
    let rsa_1024 = include_str!("../fixtures/rsa_1024.pem");
    assert!(read_error(KeyFormat::Pem, rsa_1024.as_bytes()).contains("an RSA key of 1024 bits; 2048"));
    let exponent = include_str!("../fixtures/rsa_exponent_3.pem");
    assert!(
        read_error(KeyFormat::Pem, exponent.as_bytes()).contains("the public exponent 3; at least 65537")
    );
    let rfc_8037 = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";
    let error = read_error(KeyFormat::Pem, rfc_8037.as_bytes());
    assert!(error.starts_with("is the sample key of a standard and publicly known"), "{error}");
    for (secret, expected) in [
        ("short".to_owned(), "an HS256 secret of 5 bytes"),
        ("x".repeat(31), "an HS256 secret of 31 bytes"),
        ("x".repeat(64), "can be guessed"),
        ("your-256-bit-secret-your-256-bit-secret".into(), "can be guessed"),
        ("a-string-secret-at-least-256-bits-long".into(), "can be guessed"),
        (
            "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow".into(),
            "printed in",
        ),
    ] {
        let error = read_error(KeyFormat::Secret, secret.as_bytes());
        assert!(error.contains(expected), "{secret}: {error}");
    }
}

#[test]
fn what_is_published_of_a_key_is_not_a_secret() {
    let key = Key::read(KeyFormat::Pem, ED25519.as_bytes()).unwrap();
    let public = serde_json::to_value(key.public.as_ref().unwrap()).unwrap();
    let x = public["x"].as_str().unwrap();
    let bytes = BASE64URL_NOPAD.decode(x.as_bytes()).unwrap();
    for secret in [
        x.as_bytes(),
        &bytes,
        BASE64.encode(&bytes).as_bytes(),
        HEXLOWER.encode(&bytes).as_bytes(),
        key.kid.as_bytes(),
    ] {
        assert!(key.publishes(secret), "{secret:?}");
        assert!(key.publishes(&[secret, b"\n"].concat()) || secret == bytes);
    }
    let other = KeyAlgorithm::HS256.generate().unwrap();
    assert!(!key.publishes(other.as_bytes()));
}
