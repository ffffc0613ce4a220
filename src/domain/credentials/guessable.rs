//! Detection of secrets that could be guessed or looked up, whatever their length.

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

/// Secrets of at least 32 bytes from standards, documentation and tutorials, which lists of known JWT secrets contain
/// and attack tools try first. Secrets made of words are found by [`WORDS`].
const PUBLISHED: &[&str] = &[
    // RFC 7515 appendix A.1, RFC 7520 section 3.5, RFC 9421 appendix B.1.5
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    "hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg",
    "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==",
    // Documentation of FastAPI, Flask, Hasura and JJWT
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",
    "3EK6FD+o0+c7tzBNVfjpMkNDi2yARAAKzQlk8O2IKoxQu4nF7EdAh8s3TwpHwrdWT6R",
    "Yn2kjibddFAWtnPJ2AFlL8WXmohJMCvigQggaEypa5E=",
    // Tutorials for Spring and ASP.NET
    "404E635266556A586E3272357538782F413F4428472B4B6250645367566B5970",
    "5367566B59703373367639792F423F4528482B4D6251655468576D5A71347437",
    "db3OIsj+BXE9NZDy0t8W3TcNekrF+2d/1sFnWG4HnV8TZY30iTOdtVWJG8abWvB1GlOgJuQZdcF2Luqm/hccMw==",
];

/// Words of placeholders and of secrets that people make up, in lower case.
const WORDS: &[&str] = &[
    "authentication",
    "authorization",
    "characters",
    "application",
    "placeholder",
    "confidential",
    "development",
    "environment",
    "production",
    "credential",
    "1234567890",
    "0123456789",
    "qwertyuiop",
    "asdfghjkl",
    "latchkey",
    "administrator",
    "supersecret",
    "passphrase",
    "signature",
    "shouldbe",
    "password",
    "changeme",
    "changeit",
    "insecure",
    "security",
    "sufficient",
    "complex",
    "example",
    "default",
    "private",
    "replace",
    "signing",
    "session",
    "service",
    "company",
    "instead",
    "outside",
    "minimum",
    "longest",
    "length",
    "public",
    "secret",
    "string",
    "random",
    "secure",
    "change",
    "please",
    "sample",
    "should",
    "strong",
    "really",
    "server",
    "create",
    "simple",
    "update",
    "access",
    "backend",
    "abcdef",
    "123456",
    "zxcvbnm",
    "qwerty",
    "letmein",
    "welcome",
    "hunter",
    "before",
    "deploy",
    "hs256",
    "hs384",
    "hs512",
    "token",
    "admin",
    "valid",
    "value",
    "super",
    "least",
    "bytes",
    "short",
    "which",
    "other",
    "login",
    "dummy",
    "local",
    "until",
    "never",
    "share",
    "every",
    "there",
    "where",
    "admin",
    "basic",
    "hello",
    "world",
    "test",
    "this",
    "that",
    "your",
    "mine",
    "some",
    "very",
    "long",
    "more",
    "than",
    "bits",
    "with",
    "from",
    "into",
    "keep",
    "safe",
    "must",
    "have",
    "user",
    "demo",
    "temp",
    "data",
    "base",
    "auth",
    "code",
    "make",
    "sure",
    "only",
    "prod",
    "hmac",
    "sha256",
    "todo",
    "here",
    "pass",
    "word",
    "text",
    "enough",
    "them",
    "then",
    "real",
    "need",
    "name",
    "key",
    "jwt",
    "the",
    "for",
    "and",
    "not",
    "use",
    "256",
    "384",
    "512",
    "bit",
    "our",
    "you",
    "are",
    "dev",
    "app",
    "api",
    "any",
    "all",
    "can",
    "new",
    "set",
    "one",
    "has",
    "was",
    "put",
    "out",
    "but",
    "too",
    "its",
    "xyz",
    "abc",
    "32",
    "64",
    "in",
    "is",
    "it",
    "to",
    "of",
    "at",
    "my",
    "do",
    "be",
    "as",
    "or",
    "so",
    "on",
    "an",
    "we",
    "by",
];

/// Explains why a secret can be guessed, as a clause for the end of a sentence. Returns `None` if no reason is found.
///
/// `min_remaining` is how many letters and digits must remain without dictionary words.
pub fn why_guessable(secret: &[u8], min_remaining: usize) -> Option<&'static str> {
    let forms = forms(secret);
    let published = PUBLISHED.iter().flat_map(|known| self::forms(known.as_bytes()));
    if published.into_iter().any(|known| forms.contains(&known)) {
        return Some("it is printed in a standard or in documentation");
    }
    // Decoded forms count too: the base64 of a placeholder is no better than the placeholder.
    forms.iter().find_map(|form| pattern(form).or_else(|| words(form, min_remaining)))
}

/// The secret itself, and its contents decoded from base64 and hexadecimal.
fn forms(secret: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let decoders = [BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE];
    let decoded = decoders.iter().filter_map(|decoder| decoder.decode(secret).ok());
    [secret.to_vec()]
        .into_iter()
        .chain(decoded.filter(|bytes| !bytes.is_empty()))
        .map(Zeroizing::new)
        .collect()
}

fn pattern(secret: &[u8]) -> Option<&'static str> {
    let mut distinct = Zeroizing::new(secret.to_vec());
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() < if secret.len() < 32 { 6 } else { 8 } {
        return Some("it repeats a few characters");
    }
    if (1..=secret.len() / 2)
        .any(|period| secret.iter().zip(&secret[period..]).all(|(one, other)| one == other))
    {
        return Some("it repeats one pattern");
    }
    let steps = secret.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 1).count();
    (steps * 3 >= (secret.len() - 1) * 2).then_some("it is a sequence of consecutive characters")
}

/// Checks how much of a text remains without dictionary words.
fn words(secret: &[u8], min_remaining: usize) -> Option<&'static str> {
    let text = std::str::from_utf8(secret).ok().filter(|text| text.chars().all(|c| !c.is_control()))?;
    let mut remaining = Zeroizing::new(text.to_ascii_lowercase());
    remaining.retain(|character| !character.is_ascii_punctuation() && character != ' ');
    for word in WORDS {
        // The space keeps the parts around the word from forming a new word.
        *remaining = remaining.replace(word, " ");
    }
    let count = remaining.chars().filter(|character| character.is_alphanumeric()).count();
    (count < min_remaining).then_some("it consists of words that are common in placeholders")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::types::random;

    fn guessable(secret: &str) -> bool {
        why_guessable(secret.as_bytes(), 20).is_some()
    }

    #[test]
    fn published_secrets_are_guessable_in_every_encoding() {
        for known in PUBLISHED {
            for form in forms(known.as_bytes()) {
                assert!(why_guessable(&form, 20).is_some(), "{known}");
                assert!(guessable(&BASE64.encode(&form)), "{known}");
            }
        }
    }

    #[test]
    fn placeholders_and_patterns_are_guessable() {
        for secret in [
            "your-256-bit-secret",
            "a-string-secret-at-least-256-bits-long",
            "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
            "your-super-secret-jwt-token-with-at-least-32-characters-long",
            "my-secret-token-to-change-in-production-and-to-keep-in-a-secure-place",
            "bXktc2VjcmV0LXRva2VuLXRvLWNoYW5nZS1pbi1wcm9kdWN0aW9uLWFuZC10by1rZWVwLWluLWEtc2VjdXJlLXBsYWNl",
            "SecretKey012345678901234567890123456789012345678901234567890123456789",
            "U2VjcmV0S2V5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODk=",
            "DO NOT USE THIS VALUE. INSTEAD, CREATE A COMPLEX SECRET AND KEEP IT SAFE OUTSIDE OF THE SOURCE CODE.",
            "CHANGE_ME_TO_A_COMPLEX_RANDOM_SECRET",
            "reallyreallyreallyreallyverysafe",
            "example_key_of_sufficient_length",
            "ThisIsMySuperSecretKeyForJwtAuthentication2024!",
            "changemechangemechangemechangeme",
            "secretsecretsecretsecretsecretsecret",
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "0123456789abcdef0123456789abcdef",
            "abcdefghijklmnopqrstuvwxyz0123456789",
            "qwertyuiopasdfghjklzxcvbnm123456",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "000000000000000000000000000000000000000000000000000000000000000a",
        ] {
            assert!(guessable(secret), "{secret}");
        }
    }

    #[test]
    fn random_secrets_are_not_guessable_in_any_encoding() {
        for _ in 0..2000 {
            let bytes = random::<32>();
            assert_eq!(why_guessable(&bytes, 20), None, "{bytes:?}");
            for text in [
                BASE64.encode(&bytes),
                BASE64URL_NOPAD.encode(&bytes),
                data_encoding::HEXLOWER.encode(&bytes),
            ] {
                assert!(!guessable(&text), "{text}");
                assert!(!guessable(&format!("prod-secret-{text}")), "{text}");
            }
            let short = data_encoding::HEXLOWER.encode(&random::<16>());
            assert!(!guessable(&short), "{short}");
        }
        assert!(!guessable("f3b9o5WmVnX0b3mXh1S0bq3wT1yQe8jJr2k7c6d5e4f3g2h1"));
    }
}
