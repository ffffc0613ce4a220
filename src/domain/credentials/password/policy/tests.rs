use super::*;

fn checked(policy: &PasswordPolicy, text: &str, username: &str) -> Result<(), String> {
    let username = Username::parse(username).unwrap();
    match policy.check(NewPassword::new("new_password", text.into()), &username) {
        Ok(password) => {
            assert_eq!(password.as_bytes(), text.as_bytes(), "exactly as typed");
            Ok(())
        }
        Err(violation) => {
            assert_eq!(violation.field, "new_password");
            Err(violation.description)
        }
    }
}

#[test]
fn length_is_counted_in_code_points_and_nothing_is_trimmed() {
    let policy = PasswordPolicy::default();
    let check = |text: &str| checked(&policy, text, "alice");
    assert_eq!(check("a horse, a hors"), Ok(()));
    assert_eq!(check("a horse, a hor").unwrap_err(), "must be at least 15 code points");
    assert_eq!(check("              1"), Ok(()));
    assert_eq!(check(&"ü".repeat(15)), Ok(()));
    assert!(check(&"ü".repeat(14)).is_err());
    assert_eq!(check(&"𝄞".repeat(256)), Ok(()));
    assert_eq!(check(&"𝄞".repeat(257)).unwrap_err(), "must be at most 256 code points");
    assert_eq!(check("").unwrap_err(), "is missing");

    let longer = PasswordPolicy::new(64, []);
    assert_eq!(checked(&longer, &"x".repeat(63), "alice").unwrap_err(), "must be at least 64 code points");
    assert_eq!(checked(&longer, &"x".repeat(64), "alice"), Ok(()));
    // Only for tests.
    assert_eq!(checked(&PasswordPolicy::new(0, []), "x", "alice"), Ok(()));
}

#[test]
fn a_common_password_is_rejected_as_a_whole_and_in_any_case() {
    let policy = PasswordPolicy::new(8, []);
    let check = |text: &str| checked(&policy, text, "alice");
    for common in ["password", "PassWord", "1q2w3e4r5t6y7u8i9o0p", "manchesterunited", "ｐａｓｓｗｏｒｄ"]
    {
        let violation = check(common).unwrap_err();
        assert_eq!(violation, "is one of the most common passwords: choose another", "{common}");
    }
    for uncommon in ["password and more", " password", "my password"] {
        assert_eq!(check(uncommon), Ok(()), "{uncommon}");
    }
    assert!(checked(&PasswordPolicy::default(), "manchesterunited", "alice").is_err());
}

#[test]
fn the_username_and_the_service_name_are_rejected() {
    let policy = PasswordPolicy::new(8, ["Latchkey", "login.example.com"]);
    for username in ["Zoë@example.com", "zoe\u{308}@EXAMPLE.com"] {
        let violation = checked(&policy, username, "zoë@example.com").unwrap_err();
        assert_eq!(violation, "must not be the username");
    }
    assert_eq!(checked(&policy, "zoë@example.com", "alice"), Ok(()));
    assert_eq!(checked(&policy, "zoë@example.com!", "zoë@example.com"), Ok(()));
    for name in ["latchkey", "LATCHKEY", "Login.Example.com"] {
        assert_eq!(checked(&policy, name, "alice").unwrap_err(), "must not be the name of this service");
    }
    assert!(checked(&PasswordPolicy::default(), "latchkey", "alice").is_err());
}

#[test]
fn the_blocklist_of_the_operator_is_compared_with_whole_passwords() {
    let policy = PasswordPolicy::new(8, []).with_blocklist([" Acme Stationery ", "Zoë's shop"]);
    for forbidden in ["acme stationery", "ACME STATIONERY", "zoe\u{308}'s SHOP"] {
        let violation = checked(&policy, forbidden, "alice").unwrap_err();
        assert_eq!(violation, "is on the blocklist of this service: choose another");
    }
    assert_eq!(checked(&policy, "acme stationery of 1974", "alice"), Ok(()));
}

#[test]
fn there_are_no_rules_of_composition() {
    let policy = PasswordPolicy::default();
    for text in ["aaaaaaaaaaaaaaaaaa", "eighteen small letters", "987234987239487", "♞♘♞♘♞♘♞♘♞♘♞♘♞♘♞"]
    {
        assert_eq!(checked(&policy, text, "alice"), Ok(()), "{text}");
    }
}

#[test]
fn debug_shows_no_secret() {
    assert!(!format!("{:?}", NewPassword::new("password", "hunter2".into())).contains("hunter2"));
}
