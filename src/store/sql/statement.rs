//! Parses the named placeholders in statements of the operator.

use super::dialect::Dialect;

/// A statement with the placeholders of the database.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) text: String,
    /// The names of the values, in the order of the placeholders.
    pub(super) names: Vec<String>,
}

impl Statement {
    /// Parses a statement. An error continues the sentence that the name of the setting begins.
    ///
    /// A placeholder is `:name` outside of quotes and comments. The statement must have each of the `allowed` names
    /// and no other.
    pub(super) fn parse(dialect: Dialect, statement: &str, allowed: &[&str]) -> Result<Self, String> {
        let mut lexer = Lexer { dialect, rest: statement.trim(), text: String::new() };
        let mut names: Vec<String> = Vec::new();
        while let Some(token) = lexer.next()? {
            match token {
                Token::Verbatim(text) => lexer.text.push_str(text),
                Token::Placeholder(name) => {
                    if !allowed.contains(&name) {
                        let allowed: Vec<_> = allowed.iter().map(|name| format!(":{name}")).collect();
                        return Err(format!(
                            "has the unknown placeholder :{name}: use {}",
                            allowed.join(", ")
                        ));
                    }
                    if dialect == Dialect::Postgres {
                        let existing = names.iter().position(|existing| existing == name);
                        let index = existing.unwrap_or_else(|| {
                            names.push(name.to_owned());
                            names.len() - 1
                        });
                        lexer.text += &["$", &(index + 1).to_string()].concat();
                    } else {
                        names.push(name.to_owned());
                        lexer.text.push('?');
                    }
                }
            }
        }
        for name in allowed {
            if !names.iter().any(|existing| existing == name) {
                return Err(format!("must have the placeholder :{name}"));
            }
        }
        let text = lexer.text.trim_end().trim_end_matches(';').to_owned();
        Ok(Self { text, names })
    }
}

enum Token<'a> {
    Verbatim(&'a str),
    Placeholder(&'a str),
}

struct Lexer<'a> {
    dialect: Dialect,
    rest: &'a str,
    text: String,
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Result<Option<Token<'a>>, String> {
        let rest = self.rest;
        let Some(first) = rest.chars().next() else { return Ok(None) };
        let second = rest[first.len_utf8()..].chars().next();
        let length = match first {
            '\'' | '"' | '`' => self.quoted(first)?,
            '-' if second == Some('-') => line_length(rest),
            '#' if self.dialect == Dialect::MySql => line_length(rest),
            '/' if second == Some('*') => self.comment()?,
            '$' if self.dialect == Dialect::Postgres => self.dollar()?,
            '$' if self.dialect == Dialect::Sqlite && !self.in_word() => {
                return Err("holds a $ outside of quotes: write the placeholders as :name".into());
            }
            '?' if self.dialect != Dialect::Postgres => {
                return Err("holds a ? outside of quotes: write the placeholders as :name".into());
            }
            ':' if second == Some(':') => 2,
            ':' => match name_length(&rest[1..]) {
                // An array slice or an assignment.
                0 => 1,
                length => {
                    self.rest = &rest[1 + length..];
                    return Ok(Some(Token::Placeholder(&rest[1..=length])));
                }
            },
            other => other.len_utf8(),
        };
        self.rest = &rest[length..];
        Ok(Some(Token::Verbatim(&rest[..length])))
    }

    /// Whether the previous character is part of a word, as in `a$b`.
    fn in_word(&self) -> bool {
        self.text.chars().next_back().is_some_and(|last| last.is_alphanumeric() || last == '_')
    }

    /// Returns the length of a quoted token. A doubled quote does not end it. A backslash escapes in MySQL, and in
    /// PostgreSQL in strings with the prefix E.
    fn quoted(&self, quote: char) -> Result<usize, String> {
        let escape_string =
            self.text.ends_with(['e', 'E']) && !self.text[..self.text.len() - 1].ends_with(is_word);
        let escapes = match self.dialect {
            Dialect::MySql => quote != '`',
            Dialect::Postgres => quote == '\'' && escape_string,
            Dialect::Sqlite => false,
        };
        let mut characters = self.rest.char_indices().skip(1).peekable();
        while let Some((at, character)) = characters.next() {
            if character == '\\' && escapes {
                characters.next();
            } else if character == quote {
                if characters.peek().is_some_and(|(_, next)| *next == quote) {
                    characters.next();
                } else {
                    return Ok(at + 1);
                }
            }
        }
        Err(format!("has a {quote} that is never closed"))
    }

    /// Returns the length of a comment. Comments nest in PostgreSQL.
    fn comment(&self) -> Result<usize, String> {
        let (mut depth, mut at) = (1, 2);
        while let Some(next) = self.rest[at..].find(['*', '/']) {
            at += next;
            if self.rest[at..].starts_with("*/") {
                depth -= 1;
                at += 2;
            } else if self.rest[at..].starts_with("/*") && self.dialect == Dialect::Postgres {
                depth += 1;
                at += 2;
            } else {
                at += 1;
            }
            if depth == 0 {
                return Ok(at);
            }
        }
        Err("has a /* that is never closed".into())
    }

    /// Returns the length of a dollar-quoted string of PostgreSQL: `$tag$ ... $tag$`.
    fn dollar(&self) -> Result<usize, String> {
        if self.in_word() {
            return Ok(1);
        }
        if self.rest[1..].starts_with(|next: char| next.is_ascii_digit()) {
            return Err("holds a $ with a number outside of quotes: write the placeholders as :name".into());
        }
        let tag = self.rest[1..].find(|next| !is_word(next)).map(|end| end + 1);
        let Some(tag) = tag.filter(|end| self.rest[*end..].starts_with('$')) else { return Ok(1) };
        let tag = &self.rest[..=tag];
        match self.rest[tag.len()..].find(tag) {
            Some(end) => Ok(tag.len() * 2 + end),
            None => Err(format!("has a {tag} that is never closed")),
        }
    }
}

fn line_length(rest: &str) -> usize {
    rest.find('\n').map_or(rest.len(), |end| end + 1)
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Returns the length of the name at the start of the text.
fn name_length(text: &str) -> usize {
    if text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') {
        text.find(|next: char| !(next.is_ascii_alphanumeric() || next == '_')).unwrap_or(text.len())
    } else {
        0
    }
}

#[cfg(test)]
mod tests;
