//! Prevents a start without keys if there are accounts. New keys would log all users out or lock the
//! operators out, and hide that the old ones are lost or not mounted.

use super::{Errors, accounts};
use crate::{config::Config, store::key_files};

enum Accounts {
    None,
    Some,
    /// They cannot be read now, or belong to another system.
    Unknown,
}

/// Adds an error if a signing key or the admin key is missing and accounts depend on it.
pub(in crate::app) async fn check_missing_keys(config: &Config, errors: &mut Errors) {
    let settings = ["token", "access", "accounts", "data_dir"];
    let is_known = |error: &String| settings.iter().any(|setting| error.starts_with(setting));
    if !errors.0.iter().any(is_known)
        && let Err(error) = check(config).await
    {
        errors.0.push(error);
    }
}

async fn check(config: &Config) -> Result<(), String> {
    let keys = config.keys_dir();
    let admin_key = config.admin_key_file();
    let no_keys = config.token.keys_dir.is_empty() && !key_files::exist(&keys)?;
    let no_admin_key = !admin_key.exists();
    if config.allow_new_keys || !(no_keys || no_admin_key) {
        return Ok(());
    }
    let served_before = config.data_dir.join("latchkey.db").exists();
    let found = match accounts::exist(config).await {
        Ok(Some(true)) => Accounts::Some,
        Ok(Some(false)) => Accounts::None,
        Ok(None) | Err(_) => Accounts::Unknown,
    };
    let why = match found {
        Accounts::Some => "there are accounts already",
        Accounts::Unknown if served_before => "data_dir was used before",
        Accounts::None | Accounts::Unknown => return Ok(()),
    };
    let keys = keys.display();
    let admin_key = admin_key.display();
    let (what, lost, elsewhere) = match (no_keys, no_admin_key) {
        (true, false) => (
            format!("there are no signing keys in {keys}"),
            "everybody has to log in again",
            "token.keys_dir",
        ),
        (false, _) => (
            format!("there is no admin key in {admin_key}"),
            "the old one no longer counts",
            "access.admin_key_file",
        ),
        (true, true) => (
            format!("there are no signing keys in {keys} and no admin key in {admin_key}"),
            "everybody has to log in again, and the old admin key no longer counts",
            "token.keys_dir and access.admin_key_file",
        ),
    };
    Err(format!(
        "{what}, and {why}: restore them from a backup, name with {elsewhere} where they are, or make new ones with `latchkey serve --allow-new-keys`, after which {lost}"
    ))
}
