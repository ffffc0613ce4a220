//! Converts text to the type of a placeholder in a statement of the operator.

use sqlx::{
    Encode, MySql, Postgres, Sqlite, Type, TypeInfo as _,
    encode::IsNull,
    error::BoxDynError,
    mysql::MySqlTypeInfo,
    postgres::{PgArgumentBuffer, PgTypeInfo},
    sqlite::{SqliteArgumentsBuffer, SqliteTypeInfo},
};

/// A text for a placeholder. SQLite and MySQL convert it themselves; PostgreSQL only accepts the type of the
/// placeholder.
#[derive(Clone, Copy)]
pub(super) struct Typed<'a> {
    pub(super) text: &'a str,
    pub(super) parameter: Option<&'a PgTypeInfo>,
}

impl Typed<'_> {
    /// Whether text can be converted to this type.
    pub(super) fn is_supported(parameter: &PgTypeInfo) -> bool {
        let name = parameter.name();
        matches!(name, "INT2" | "INT4" | "INT8" | "UUID") || is_text(name)
    }

    /// Returns the value in PostgreSQL's binary format, or `None` if the text is not a value of the type.
    pub(super) fn binary(&self) -> Option<Vec<u8>> {
        match self.parameter.map(PgTypeInfo::name) {
            Some("INT2") => Some(self.text.parse::<i16>().ok()?.to_be_bytes().into()),
            Some("INT4") => Some(self.text.parse::<i32>().ok()?.to_be_bytes().into()),
            Some("INT8") => Some(self.text.parse::<i64>().ok()?.to_be_bytes().into()),
            Some("UUID") => uuid(self.text),
            _ => Some(self.text.as_bytes().into()),
        }
    }
}

/// Whether the binary format of this type of PostgreSQL is the text itself.
pub(super) fn is_text(name: &str) -> bool {
    let name = name.trim_matches('"');
    // CITEXT is the type of an extension for text that is compared without regard to case.
    ["TEXT", "VARCHAR", "CHAR", "NAME", "UNKNOWN", "CITEXT"]
        .iter()
        .any(|text| name.eq_ignore_ascii_case(text))
        || name.to_ascii_lowercase().ends_with(".citext")
}

fn uuid(text: &str) -> Option<Vec<u8>> {
    let hex: String = text.chars().filter(|character| *character != '-').collect();
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?;
    (bytes.len() == 16).then_some(bytes)
}

impl Type<Postgres> for Typed<'_> {
    fn type_info() -> PgTypeInfo {
        <str as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Typed<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend(self.binary().ok_or("the text is not a value of the type")?);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        self.parameter.cloned()
    }
}

impl Type<MySql> for Typed<'_> {
    fn type_info() -> MySqlTypeInfo {
        <str as Type<MySql>>::type_info()
    }
}

impl Encode<'_, MySql> for Typed<'_> {
    fn encode_by_ref(&self, buffer: &mut Vec<u8>) -> Result<IsNull, BoxDynError> {
        <&str as Encode<MySql>>::encode_by_ref(&self.text, buffer)
    }
}

impl Type<Sqlite> for Typed<'_> {
    fn type_info() -> SqliteTypeInfo {
        <str as Type<Sqlite>>::type_info()
    }
}

impl Encode<'_, Sqlite> for Typed<'_> {
    fn encode_by_ref(&self, buffer: &mut SqliteArgumentsBuffer) -> Result<IsNull, BoxDynError> {
        <String as Encode<Sqlite>>::encode(self.text.to_owned(), buffer)
    }
}
