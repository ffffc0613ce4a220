//! The client credential: a caller key, by HTTP Basic as OAuth spells it, or in `x-latchkey-key`.

use data_encoding::{BASE64, BASE64_NOPAD};
use http::{HeaderMap, HeaderValue, header};
use percent_encoding::percent_decode;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::grpc::{pb::KEY_HEADER, status};

const SCHEME: &[u8] = b"basic ";

/// Makes the credential in `authorization` the caller key of the request.
///
/// One that cannot be read becomes an empty key, which is not the key of any caller: the dispatcher answers and audits
/// it like any other wrong key.
pub(super) fn translate(headers: &mut HeaderMap) -> Result<(), Status> {
    let mut credentials = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(credential), another) = (credentials.next(), credentials.next()) else { return Ok(()) };
    // RFC 6749 section 2.3 forbids it, because it would not be clear which of them counts.
    if another.is_some() || headers.contains_key(KEY_HEADER) {
        let message = "there are several client credentials: send one, by HTTP Basic or in x-latchkey-key";
        return Err(status::not_served(Code::InvalidArgument, message));
    }
    let mut key = password(credential.as_bytes())
        .and_then(|password| HeaderValue::from_bytes(&password).ok())
        .unwrap_or(HeaderValue::from_static(""));
    key.set_sensitive(true);
    headers.remove(header::AUTHORIZATION);
    headers.insert(KEY_HEADER, key);
    Ok(())
}

/// Returns the password of HTTP Basic. The user is not compared with the name of the caller: the key says who it is.
fn password(credential: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (scheme, encoded) = credential.split_at_checked(SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return None;
    }
    let encoded = encoded.trim_ascii();
    let decoded = BASE64.decode(encoded).or_else(|_| BASE64_NOPAD.decode(encoded));
    let decoded = Zeroizing::new(decoded.ok()?);
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(form_decoded(&decoded[colon + 1..]))
}

/// Decodes a value of a form, because OAuth encodes both parts of the credential (RFC 6749 section 2.3.1). That changes
/// no key that Latchkey has generated.
fn form_decoded(value: &[u8]) -> Zeroizing<Vec<u8>> {
    let spaces = value.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte });
    let spaces = Zeroizing::new(spaces.collect::<Vec<_>>());
    Zeroizing::new(percent_decode(&spaces).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(values: &[(&'static str, &str)]) -> Result<HeaderMap, Status> {
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        translate(&mut headers).map(|()| headers)
    }

    fn basic(credential: &str) -> String {
        format!("Basic {}", BASE64.encode(credential.as_bytes()))
    }

    #[test]
    fn the_password_is_the_key() {
        for (credential, key) in [
            ("shop:lkc_a-b_c", "lkc_a-b_c"),
            (":lkc_x", "lkc_x"),
            ("shop:", ""),
            ("shop:a:b", "a:b"),
            ("prod%2Fshop:lkc%5Fx%2Dy", "lkc_x-y"),
            ("shop%3A1:%C3%A9", "é"),
            ("shop:a+b%2B", "a b+"),
            ("shop:100%", "100%"),
            // No caller has such a key.
            ("shop", ""),
            ("shop:a%0d%0ab", ""),
        ] {
            let headers = translated(&[("authorization", &basic(credential))]).unwrap();
            assert_eq!(headers[KEY_HEADER].as_bytes(), key.as_bytes(), "{credential}");
            assert!(headers[KEY_HEADER].is_sensitive() && !headers.contains_key("authorization"));
        }
        let unpadded = basic("ab:lkc_x").replace('=', "");
        for value in [unpadded.replace("Basic ", "bAsIc  "), unpadded] {
            assert_eq!(translated(&[("authorization", &value)]).unwrap()[KEY_HEADER], "lkc_x", "{value}");
        }
        for value in ["", "Basic", "Basic ", "Basic ????", "Bearer lkc_x", "lkc_x"] {
            assert_eq!(translated(&[("authorization", value)]).unwrap()[KEY_HEADER], "", "{value}");
        }
    }

    #[test]
    fn a_request_has_at_most_one_credential() {
        assert!(translated(&[]).unwrap().is_empty());
        assert_eq!(translated(&[("x-latchkey-key", "lkc_x")]).unwrap()[KEY_HEADER], "lkc_x");
        let one = basic("shop:lkc_x");
        for twice in [
            &[("authorization", one.as_str()), ("authorization", one.as_str())][..],
            &[("authorization", &one), ("x-latchkey-key", "lkc_x")],
        ] {
            assert_eq!(translated(twice).unwrap_err().code(), Code::InvalidArgument);
        }
    }
}
