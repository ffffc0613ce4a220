//! The data directory, the keys and the certificates.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use rustix::fs::statvfs;

use super::Findings;
use crate::{
    app::components::admin_key,
    config::Config,
    domain::{
        ports::Clock as _,
        rotation::{KeyFile, signing_periods},
        types::Timestamp,
    },
    store::{clock::SystemClock, key_files},
    transport::tls,
};

const MIB: u64 = 1024 * 1024;
/// Below this the database may fail to commit soon.
const MIN_FREE: u64 = 64 * MIB;
const LITTLE_FREE: u64 = 1024 * MIB;
/// How long before its end a certificate is reported, or a third of its lifetime if that is shorter.
const RENEWAL: Duration = Duration::from_hours(24 * 21);

pub(super) fn data_directory(config: &Config, found: &mut Findings) {
    let dir = &config.data_dir;
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
    if let Some(existing) = absolute.ancestors().find(|path| path.exists()) {
        match statvfs(existing) {
            Ok(disk) => {
                let free = disk.f_bavail.saturating_mul(disk.f_frsize);
                let what = format!("{} has {} MiB free", existing.display(), free / MIB);
                let remedy = "free space, or move data_dir to a larger disk";
                match free {
                    ..MIN_FREE => found.error("disk_space", what, remedy),
                    MIN_FREE..LITTLE_FREE => found.warning("disk_space", what, remedy),
                    _ => found.ok("disk_space", what),
                }
            }
            Err(error) => {
                let why = format!("{}: {error}", existing.display());
                found.not_checked("disk_space", why, "look at the disk of data_dir");
            }
        }
    }
    let Ok(metadata) = fs::metadata(dir) else {
        return found
            .ok("data_dir", format!("{} does not exist yet: the first start creates it", dir.display()));
    };
    let before = found.0.len();
    // The database holds password hashes.
    for name in ["latchkey.db", "latchkey.db-wal", "latchkey.db-shm"] {
        let path = dir.join(name);
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o007 != 0 {
            let what = format!("{} can be used by everybody (mode {mode:04o})", path.display());
            found.error("data_dir", what, format!("run `chmod 600 {}`", path.display()));
        }
        let user = rustix::process::geteuid();
        if metadata.uid() != user.as_raw() && !user.is_root() {
            let what = format!(
                "{} belongs to the user {}, not to {}",
                path.display(),
                metadata.uid(),
                user.as_raw()
            );
            found.warning("data_dir", what, "run this command and the server as the same user");
        }
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o007 != 0 {
        let what = format!("{} can be entered or listed by everybody (mode {mode:04o})", dir.display());
        found.warning("data_dir", what, format!("run `chmod 700 {}`", dir.display()));
    }
    if found.0.len() == before {
        found.ok("data_dir", format!("{} is private (mode {mode:04o})", dir.display()));
    }
}

pub(super) fn keys(config: &Config, found: &mut Findings) {
    let (dir, admin) = (config.keys_dir(), config.admin_key_file());
    // Keys that are missing beside accounts, and those that are invalid, are errors of the configuration.
    match key_files::exist(&dir) {
        Ok(true) => {
            if let Ok(files) = key_files::check(&dir) {
                signing_key(config, &files, found);
            }
        }
        _ => found.ok(
            "signing_keys",
            format!("there is no signing key in {} yet: the first start makes one", dir.display()),
        ),
    }
    if admin.exists() {
        if admin_key(config).is_ok() {
            found.ok("admin_key", format!("{} is private and cannot be guessed", admin.display()));
        }
    } else {
        found.ok("admin_key", format!("there is no {} yet: the first start makes it", admin.display()));
    }
}

fn signing_key(config: &Config, files: &[KeyFile], found: &mut Findings) {
    let count = files.len();
    let named = config.signing_key();
    let Some(newest) = files.iter().rfind(|file| named.is_none_or(|name| file.name == name)) else { return };
    let now = SystemClock.now();
    let periods = signing_periods(files, now, config.token.activation_delay());
    let activation = periods.last().map(|period| period.from).filter(|from| named.is_none() && *from > now);
    let what = match activation {
        Some(at) => format!("keys that verify tokens: {count}; {} signs from {}", newest.name, date(at)),
        None => format!("keys that verify tokens: {count}; {} signs", newest.name),
    };
    found.ok("signing_keys", what);
}

pub(super) fn certificates(config: &Config, found: &mut Findings) {
    let (tls, sessions) = (&config.tls, &config.sessions);
    let files = [
        ("tls.certificate_file", &tls.certificate_file),
        ("tls.client_ca_file", &tls.client_ca_file),
        ("sessions.tls_ca_file", &sessions.tls_ca_file),
        ("sessions.tls_certificate_file", &sessions.tls_certificate_file),
    ];
    if files.iter().all(|(_, file)| file.is_empty()) {
        return found.ok("certificates", "no certificates are configured");
    }
    let now = SystemClock.now();
    for (setting, file) in files.into_iter().filter(|(_, file)| !file.is_empty()) {
        // A file that cannot be read is an error of the configuration.
        let Ok(contents) = fs::read(Path::new(file)) else { continue };
        let validity = tls::validity(&contents);
        let Some((first, _)) = validity.iter().max_by_key(|(first, _)| *first) else {
            found.not_checked(
                "certificates",
                format!("{setting}: {file} has no certificate that can be read"),
                "look at it with `openssl x509 -text`",
            );
            continue;
        };
        let Some((_, last)) = validity.iter().min_by_key(|(_, last)| *last) else { continue };
        let name = |what: String| format!("{setting}: a certificate in {file} {what}");
        if now > *last {
            found.error(
                "certificates",
                name(format!("has expired at {}", date(*last))),
                "replace it: the server reads it again without a restart",
            );
        } else if now < *first {
            found.error(
                "certificates",
                name(format!("is not valid before {}", date(*first))),
                "replace it, or set the clock of this machine",
            );
        } else if last.since(now) < RENEWAL.min(last.since(*first) / 3) {
            let what = name(format!("expires at {}", date(*last)));
            found.warning("certificates", what, "renew it: the server reads it again without a restart");
        } else {
            found.ok(
                "certificates",
                format!("{setting}: the certificates in {file} are valid until {}", date(*last)),
            );
        }
    }
}

fn date(at: Timestamp) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(at.as_secs())).to_string()
}
