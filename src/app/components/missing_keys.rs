//! Prevents a start without keys if there are accounts. New keys would log all users out or lock the
//! operators out, and hide that the old ones are lost or not mounted.

use super::{Errors, accounts};
use crate::{config::Config, store::key_files};

/// Adds an error if a signing key or the admin key is missing and accounts depend on it. A start, unlike a check of the
/// settings, also fails if it is unknown whether there are accounts.
pub(in crate::app) async fn check_missing_keys(config: &Config, is_start: bool, errors: &mut Errors) {
    let settings = ["token", "access", "accounts", "data_dir"];
    let is_known = |error: &String| settings.iter().any(|setting| error.starts_with(setting));
    if !errors.0.iter().any(is_known)
        && let Err(error) = check(config, is_start).await
    {
        errors.0.push(error);
    }
}

async fn check(config: &Config, is_start: bool) -> Result<(), String> {
    let keys = config.keys_dir();
    let admin_key = config.admin_key_file();
    let no_keys = config.token.keys_dir.is_empty() && !key_files::exist(&keys)?;
    let no_admin_key = !admin_key.exists();
    if config.allow_new_keys || !(no_keys || no_admin_key) {
        return Ok(());
    }
    let served_before = config.data_dir.join("latchkey.db").exists();
    let (why, first) = match accounts::exist(config).await {
        Ok(Some(true)) => ("there are accounts already".to_owned(), ""),
        // The accounts cannot be read now, or belong to another system.
        Ok(None) | Err(_) if served_before => ("data_dir was used before".to_owned(), ""),
        Err(error) if is_start => (
            format!("whether there are accounts is unknown ({error})"),
            "start again when the accounts can be read, ",
        ),
        _ => return Ok(()),
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
        "{what}, and {why}: {first}restore them from a backup, name with {elsewhere} where they are, or make new ones with `latchkey serve --allow-new-keys`, after which {lost}"
    ))
}
