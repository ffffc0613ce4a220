use proptest::prelude::*;

use super::{Dialect, Statement};

const ALL: [Dialect; 3] = [Dialect::Sqlite, Dialect::Postgres, Dialect::MySql];

fn parsed(dialect: Dialect, statement: &str) -> (String, Vec<String>) {
    let Statement { text, names } = Statement::parse(dialect, statement, &["a", "b"]).unwrap();
    (text, names)
}

fn error(dialect: Dialect, statement: &str) -> String {
    Statement::parse(dialect, statement, &["a"]).unwrap_err()
}

#[test]
fn named_placeholders_become_those_of_the_database() {
    let statement = "SELECT x FROM t WHERE a = :a AND b IN (:b,:a);";
    let (text, names) = parsed(Dialect::Postgres, statement);
    assert_eq!(text, "SELECT x FROM t WHERE a = $1 AND b IN ($2,$1)");
    assert_eq!(names, ["a", "b"]);
    for dialect in [Dialect::Sqlite, Dialect::MySql] {
        let (text, names) = parsed(dialect, statement);
        assert_eq!(text, "SELECT x FROM t WHERE a = ? AND b IN (?,?)");
        assert_eq!(names, ["a", "b", "a"]);
    }
}

#[test]
fn text_that_only_looks_like_a_placeholder_stays() {
    for text in [
        "':a :x' ':x''s :x'",
        "\":x\" \"a\"\":x\"",
        "`:x`",
        "id::text a :: text",
        "arr[1:2]",
        "/* :x ' */",
        "/* it's */",
        "1 - 1 -- :x '\n",
        "'ü:x' ü",
        "x := 1",
    ] {
        for dialect in ALL {
            let (text_left, _) = parsed(dialect, &format!("{text} :a :b"));
            let marks = if dialect == Dialect::Postgres { "$1 $2" } else { "? ?" };
            assert_eq!(text_left, format!("{text} {marks}"), "{dialect:?}");
        }
    }
    for (dialect, text) in [
        (Dialect::Postgres, "$$ :x ' $$ $tag$ :x $$ $tag$"),
        (Dialect::Postgres, r"E'it\'s :x' e'\\' '\'"),
        (Dialect::Postgres, "a$b$c"),
        (Dialect::Postgres, "/* /* :x */ :x */"),
        (Dialect::Postgres, "j ? 'x'"),
        (Dialect::MySql, r#"'it\'s :x' "\":x""#),
        (Dialect::MySql, "# :x '\n"),
        (Dialect::Sqlite, r"'\'"),
    ] {
        let (text_left, names) = parsed(dialect, &format!("{text} :a :b"));
        assert!(text_left.starts_with(text), "{dialect:?} {text_left}");
        assert_eq!(names, ["a", "b"], "{dialect:?} {text}");
    }
}

#[test]
fn invalid_statements_are_rejected() {
    for dialect in ALL {
        assert!(error(dialect, "SELECT :x, :a").contains(":x"));
        assert!(error(dialect, "SELECT 1").contains("must have the placeholder :a"));
        assert!(error(dialect, "SELECT ':a'").contains("must have the placeholder :a"));
        assert!(error(dialect, "SELECT ' :a").contains("never closed"));
        assert!(error(dialect, "SELECT /* :a").contains("never closed"));
    }
    assert!(error(Dialect::Postgres, "SELECT $1, :a").contains('$'));
    assert!(error(Dialect::Postgres, "SELECT $x$ :a").contains("never closed"));
    assert!(error(Dialect::MySql, "SELECT ?, :a").contains('?'));
    assert!(error(Dialect::Sqlite, "SELECT ?, :a").contains('?'));
    assert!(error(Dialect::Sqlite, "SELECT $x, :a").contains('$'));
}

/// Pieces of SQL without a placeholder, whatever precedes or follows them.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z ,()=<>+*0-9\n]{0,8}",
        "[^'\\\\]{0,8}".prop_map(|text| format!(" '{text}' ")),
        "[^\"\\\\]{0,8}".prop_map(|text| format!(" \"{text}\" ")),
        "[^*/]{0,8}".prop_map(|text| format!(" /*{text}*/ ")),
        "[^\n]{0,8}".prop_map(|text| format!(" --{text}\n")),
        Just("::text".to_owned()),
    ]
}

proptest! {
    #[test]
    fn only_placeholders_are_replaced(pieces in proptest::collection::vec((piece(), any::<bool>()), 1..12)) {
        for dialect in ALL {
            let (mut statement, mut expected, mut names) = ("x ".to_owned(), "x ".to_owned(), Vec::new());
            let mut number = 0;
            for (piece, is_a) in &pieces {
                let name = if *is_a { "a" } else { "b" };
                statement += &[piece, " :", name, " "].concat();
                let known = names.iter().position(|known| known == name);
                if dialect == Dialect::Postgres {
                    let index = known.map_or_else(|| { number += 1; number }, |index| index + 1);
                    if known.is_none() { names.push(name.to_owned()); }
                    expected += &[piece, " $", &index.to_string(), " "].concat();
                } else {
                    names.push(name.to_owned());
                    expected += &[piece, " ? "].concat();
                }
            }
            statement.push_str(":a :b x");
            let parsed = Statement::parse(dialect, &statement, &["a", "b"]).unwrap();
            prop_assert!(parsed.text.starts_with(expected.trim_end()), "{} {}", parsed.text, expected);
            prop_assert_eq!(&parsed.names[..names.len()], &names[..]);
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(statement in "[:'\"`$?/*\\-#aE\n üx1]{0,24}") {
        for dialect in ALL {
            let _ = Statement::parse(dialect, &statement, &["a"]);
        }
    }
}
