//! Recognises key material of any kind, so that a file of one kind is never used as another.

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

/// A kind of key material.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Material {
    /// An unencrypted private key in PEM, as PKCS#8 or, for RSA, PKCS#1: what a `*.pem` file must hold.
    PrivateKey,
    /// Anything else, as a noun with its article, and how to make a `*.pem` file of it if that is known.
    Other(String, Option<&'static str>),
}

const PUBLISHED_ANYWAY: &str = "remove it, or put the private key in its place; the public keys are at /.well-known/jwks.json by themselves";
const DECRYPT: &str = "write it without a passphrase, with `openssl pkey -in FILE -out NEW.pem`";
const TO_PKCS8: &str = "convert it with `openssl pkcs8 -topk8 -nocrypt -in FILE -out NEW.pem`";
const TO_PEM: &str = "convert it with `openssl pkey -inform DER -in FILE -out NEW.pem`";

/// Recognises key material. Returns `None` for bytes that can be a secret.
pub(super) fn recognise(contents: &[u8]) -> Option<Material> {
    recognise_within(contents, 2)
}

/// Like [`recognise`], with a limit on nested encodings.
fn recognise_within(contents: &[u8], encodings: u32) -> Option<Material> {
    recognise_plain(contents).or_else(|| recognise_encoded(contents, encodings.checked_sub(1)?))
}

/// Recognises key material that is not encoded.
fn recognise_plain(contents: &[u8]) -> Option<Material> {
    let text = contents.strip_prefix(b"\xef\xbb\xbf").unwrap_or(contents).trim_ascii();
    let other = |what: &str| Some(Material::Other(what.to_owned(), None));
    if text.is_empty() {
        return other("nothing at all");
    }
    if contents.starts_with(b"\xff\xfe") || contents.starts_with(b"\xfe\xff") {
        return other("text in UTF-16");
    }
    if find(text, b"-----BEGIN ").is_some() {
        return Some(pem(text));
    }
    if find(text, b"-----END ").is_some() {
        return other("a part of a file in PEM");
    }
    if find(text, b"---- BEGIN SSH2 ").is_some() || openssh(text) {
        return Some(Material::Other("a public key of OpenSSH".into(), Some(PUBLISHED_ANYWAY)));
    }
    if text.starts_with(b"PuTTY-User-Key-File") {
        return other("a private key of PuTTY");
    }
    if text.starts_with(b"openssh-key-v1\0") {
        return other("a private key of OpenSSH");
    }
    if text.starts_with(b"AGE-SECRET-KEY-") {
        return other("a key of age");
    }
    if text.starts_with(b"<") && find(text, b"KeyValue>").is_some() {
        return other("a key in XML");
    }
    if contents.starts_with(b"\xfe\xed\xfe\xed") || contents.starts_with(b"\xce\xce\xce\xce") {
        return other("a key store of Java");
    }
    json(text).or_else(|| der(contents))
}

/// Recognises key material in base64 or hexadecimal, with or without white space.
fn recognise_encoded(contents: &[u8], encodings: u32) -> Option<Material> {
    let compact: Zeroizing<Vec<u8>> =
        Zeroizing::new(contents.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect());
    let decoders = [BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE];
    let decoded = decoders.iter().filter_map(|decoder| decoder.decode(&compact).ok()).map(Zeroizing::new);
    decoded.filter(|bytes| bytes.len() >= 16).find_map(|bytes| match recognise_within(&bytes, encodings)? {
        Material::PrivateKey => Some(Material::Other("a private key in PEM, encoded".into(), None)),
        Material::Other(what, _) => Some(Material::Other(format!("{what}, encoded"), None)),
    })
}

/// Recognises a file in PEM by its blocks. A private key must be the only block; text around it is ignored.
fn pem(text: &[u8]) -> Material {
    let text = String::from_utf8_lossy(text);
    let labels: Vec<_> = text
        .split("-----BEGIN ")
        .skip(1)
        .map(|block| {
            let label = block.split("-----").next().unwrap_or_default();
            (
                label,
                block.contains(&format!("-----END {label}-----")),
                block.contains("Proc-Type: 4,ENCRYPTED"),
            )
        })
        .collect();
    let other = |what: &str, remedy| Material::Other(what.to_owned(), remedy);
    match labels.as_slice() {
        [(_, false, _)] => other("a block in PEM that has no end", None),
        [(_, _, true) | ("ENCRYPTED PRIVATE KEY", ..)] => other("an encrypted private key", Some(DECRYPT)),
        [("PRIVATE KEY" | "RSA PRIVATE KEY", ..)] => Material::PrivateKey,
        [("EC PRIVATE KEY", ..)] | [("EC PARAMETERS", ..), ("EC PRIVATE KEY", ..)] => {
            other("a private key in the form SEC1", Some(TO_PKCS8))
        }
        [("PUBLIC KEY" | "RSA PUBLIC KEY" | "SSH2 PUBLIC KEY", ..)] => {
            other("a public key in PEM", Some(PUBLISHED_ANYWAY))
        }
        [("CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE", ..)] => {
            other("a certificate", Some("put the private key in its place, or remove it"))
        }
        [("CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST", ..)] => other("a certificate request", None),
        [("OPENSSH PRIVATE KEY", ..)] => other("a private key of OpenSSH", None),
        [(label, ..)] => {
            Material::Other(format!("a block in PEM of the kind \"{}\"", printable(label)), None)
        }
        _ => other(
            "more than one block in PEM",
            Some("keep only the private key: certificates and public keys do not belong here"),
        ),
    }
}

fn printable(label: &str) -> String {
    label.chars().filter(|character| character.is_ascii_graphic() || *character == ' ').take(40).collect()
}

fn openssh(text: &[u8]) -> bool {
    // The key type at the start of the line, or the start of its base64 anywhere.
    let begins =
        [&b"ssh-"[..], b"ecdsa-sha2-", b"sk-ssh-", b"sk-ecdsa-"].iter().any(|kind| text.starts_with(kind));
    let has = [&b"AAAAB3NzaC1"[..], b"AAAAC3NzaC1", b"AAAAE2VjZHNhLXNoYTI"]
        .iter()
        .any(|kind| find(text, kind).is_some());
    // The decoded base64.
    let blob = text.starts_with(b"\0\0\0")
        && [&b"ssh-"[..], b"ecdsa-sha2-"].iter().any(|kind| text[4..].starts_with(kind));
    begins || has || blob
}

/// Recognises JSON, such as key sets, and JWTs.
fn json(text: &[u8]) -> Option<Material> {
    let found = |what: &str| Some(Material::Other(what.to_owned(), None));
    if text.starts_with(b"{") || text.starts_with(b"[") {
        let is_key = [&b"\"kty\""[..], b"\"keys\""].iter().any(|member| find(text, member).is_some());
        if is_key {
            return found("a key in JSON (JWK)");
        }
        if serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok() {
            return found("JSON");
        }
    }
    let mut parts = text.split(|byte| *byte == b'.');
    let header = BASE64URL_NOPAD.decode(parts.next()?).ok()?;
    let is_token = parts.count() == 2 && header.starts_with(b"{") && find(&header, b"\"alg\"").is_some();
    if is_token { found("a token (JWT)") } else { None }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

// The ASN.1 tags of DER that key files consist of.
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// Recognises DER: a SEQUENCE of complete elements that spans the file. A random secret has this form with a negligible
/// probability.
fn der(contents: &[u8]) -> Option<Material> {
    let (tag, body, rest) = element(contents)?;
    if tag != SEQUENCE || !rest.trim_ascii().is_empty() {
        return None;
    }
    let parts = elements(body)?;
    let tags: Vec<_> = parts.iter().map(|(tag, _)| *tag).collect();
    let other = |what: &str, remedy| Some(Material::Other(what.to_owned(), remedy));
    match tags.as_slice() {
        [SEQUENCE, BIT_STRING] | [INTEGER, INTEGER] => other("a public key in DER", Some(PUBLISHED_ANYWAY)),
        [SEQUENCE, OCTET_STRING] => other("an encrypted private key in DER", Some(DECRYPT)),
        [INTEGER, SEQUENCE, OCTET_STRING, ..] | [INTEGER, OCTET_STRING, ..] => {
            other("a private key in DER", Some(TO_PEM))
        }
        [INTEGER, ..] if tags.len() == 9 && tags.iter().all(|tag| *tag == INTEGER) => {
            other("a private key in DER", Some(TO_PEM))
        }
        [SEQUENCE, SEQUENCE, BIT_STRING] => other("a certificate in DER", None),
        [INTEGER, SEQUENCE, ..] => other("a key store (PKCS#12)", None),
        [_, _, ..] => other("data in DER", None),
        _ => None,
    }
}

/// Splits off the first element: its tag, its contents, and the remaining bytes.
pub(super) fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let length = match first {
        0..=0x7f => usize::from(first),
        0x81..=0x84 => {
            let (length, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            rest = after;
            length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

/// Splits bytes into elements. Returns `None` if they are anything else.
pub(super) fn elements(mut bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (tag, contents, rest) = element(bytes)?;
        found.push((tag, contents));
        bytes = rest;
    }
    Some(found)
}
