//! Opens the stores of accounts and callers.

use std::sync::Arc;

use super::{SQLITE, password, scheme};
use crate::{
    config::Config,
    domain::ports::{Accounts, Callers, StoreError},
    metrics::store::StoreMetrics,
    store::{
        embedded::{self, Database},
        metered::{Metered, StoreNames},
        sql::{ExternalUsers, Lookup, Settings, SqlAccounts, SqlCallers},
    },
};

/// The URL of the database in the data directory.
const EMBEDDED: &str = "embedded:";

/// Connections to a database that holds only the callers.
const CALLER_CONNECTIONS: u32 = 4;

/// Checks the settings without connecting to a database.
pub(super) fn check(config: &Config) -> Result<(), String> {
    if config.accounts.url != EMBEDDED {
        let settings = settings(config)?;
        match lookup(config) {
            Some(lookup) => ExternalUsers::check(&settings, &lookup)?,
            None => settings.check().map_err(|error| format!("accounts.url {error}"))?,
        }
    }
    match callers_url(config) {
        Some(url) if url != EMBEDDED => {
            callers_settings(config, url).check().map_err(|error| format!("access.callers_url {error}"))
        }
        _ => Ok(()),
    }
}

/// Whether there are accounts; `None` if they belong to another system. Changes nothing.
pub(in crate::app) async fn exist(config: &Config) -> Result<Option<bool>, StoreError> {
    if config.accounts.url == EMBEDDED {
        return embedded::has_accounts(&config.data_dir.join("latchkey.db")).await.map(Some);
    }
    match (lookup(config), settings(config)) {
        (None, Ok(settings)) => SqlAccounts::any(&settings).await.map(Some),
        _ => Ok(None),
    }
}

/// Whether the database in the data directory has the accounts or the callers.
pub(in crate::app) fn is_database_used(config: &Config) -> bool {
    let has_callers = callers_url(config).map_or_else(|| lookup(config).is_some(), |url| url == EMBEDDED);
    config.accounts.url == EMBEDDED || has_callers
}

pub(in crate::app) async fn accounts_and_callers(
    config: &Config,
    database: &Database,
    metrics: &Arc<StoreMetrics>,
) -> Result<(Arc<dyn Accounts>, Arc<dyn Callers>), String> {
    let embedded = || -> Arc<dyn Callers> { Arc::new(SqlCallers::embedded(database)) };
    let (accounts, callers): (Arc<dyn Accounts>, _) = if config.accounts.url == EMBEDDED {
        (Arc::new(SqlAccounts::embedded(database)), embedded())
    } else if let Some(lookup) = lookup(config) {
        // The database belongs to another system, so the callers are in the embedded one.
        (Arc::new(ExternalUsers::open(&settings(config)?, &lookup).await?), embedded())
    } else {
        let accounts =
            SqlAccounts::open(&settings(config)?).await.map_err(|error| format!("accounts.url: {error}"))?;
        let callers: Arc<dyn Callers> = Arc::new(accounts.callers());
        (Arc::new(accounts), callers)
    };
    let callers = match callers_url(config) {
        None => callers,
        Some(EMBEDDED) => embedded(),
        Some(url) => {
            let callers = SqlCallers::open(&callers_settings(config, url)).await;
            Arc::new(callers.map_err(|error| format!("access.callers_url: {error}"))?)
        }
    };
    let system = match scheme(&config.accounts.url) {
        "postgres" | "postgresql" => "postgresql",
        "mysql" | "mariadb" => "mysql",
        _ => SQLITE,
    };
    let names = StoreNames { system, collection: "accounts" };
    Ok((Arc::new(Metered::new(accounts, metrics, names)), callers))
}

fn settings(config: &Config) -> Result<Settings, String> {
    let accounts = &config.accounts;
    Ok(Settings {
        url: accounts.url.clone(),
        password: password("accounts", &accounts.password, &accounts.password_file)?,
        max_connections: accounts.max_connections.get(),
        connect_timeout: accounts.connect_timeout,
        query_timeout: accounts.query_timeout,
    })
}

/// The settings of a database of accounts that is not the embedded one.
pub(in crate::app) fn external_settings(config: &Config) -> Option<Result<Settings, String>> {
    (config.accounts.url != EMBEDDED).then(|| settings(config))
}

/// The settings of a database for the callers alone.
pub(in crate::app) fn external_callers_settings(config: &Config) -> Option<Settings> {
    let url = callers_url(config).filter(|url| *url != EMBEDDED)?;
    Some(callers_settings(config, url))
}

fn callers_url(config: &Config) -> Option<&str> {
    Some(config.access.callers_url.0.as_str()).filter(|url| !url.is_empty())
}

fn callers_settings(config: &Config, url: &str) -> Settings {
    Settings {
        url: url.to_owned(),
        password: None,
        max_connections: CALLER_CONNECTIONS,
        connect_timeout: config.accounts.connect_timeout,
        query_timeout: config.accounts.query_timeout,
    }
}

pub(in crate::app) fn lookup(config: &Config) -> Option<Lookup> {
    let accounts = &config.accounts;
    let set = |text: &String| Some(text.clone()).filter(|text| !text.trim().is_empty());
    Some(Lookup {
        by_name: set(&accounts.lookup)?,
        by_id: set(&accounts.lookup_by_id),
        update_hash: set(&accounts.update_hash),
    })
}
