//! Checks who else can read or change a secret. Errors name the command that corrects the permissions.
//!
//! The group may read, because it does so for secrets that Kubernetes mounts. It may write only on a volume that
//! belongs to it; Kubernetes marks such volumes (`fsGroup`) by the set-group-ID bit of their directories.

use std::{
    fs::Metadata,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::{
    fs::{StatVfsMountFlags, statvfs},
    process::{getegid, geteuid, getgroups},
};

const SET_GROUP_ID: u32 = 0o2000;
const GROUP_WRITES: u32 = 0o020;
const OTHERS: u32 = 0o007;
const OTHERS_WRITE: u32 = 0o002;

/// Fails if others can read or change the file.
pub(super) fn check_file(path: &Path, metadata: &Metadata) -> Result<(), String> {
    let parent = path.parent().and_then(|parent| parent.metadata().ok());
    let is_on_group_volume =
        parent.is_some_and(|parent| parent.mode() & SET_GROUP_ID != 0 && parent.gid() == metadata.gid());
    check(path, &Permissions::of(path, metadata, is_on_group_volume))
}

/// Fails if others can write to a directory of keys. They may list it, which only shows names; the files are checked
/// one by one.
pub(super) fn check_directory(path: &Path, metadata: &Metadata) -> Result<(), String> {
    check(path, &Permissions::of(path, metadata, metadata.mode() & SET_GROUP_ID != 0))
}

/// The permissions of a file or directory, and the user of this process.
#[derive(Clone, Copy)]
struct Permissions {
    mode: u32,
    owner: u32,
    is_directory: bool,
    /// It is on a volume that belongs to a group of this process.
    is_on_own_group_volume: bool,
    /// It is mounted read-only.
    is_read_only: bool,
    user: u32,
}

impl Permissions {
    fn of(path: &Path, metadata: &Metadata, is_on_group_volume: bool) -> Self {
        let group = metadata.gid();
        let is_member = getegid().as_raw() == group
            || getgroups().is_ok_and(|groups| groups.iter().any(|member| member.as_raw() == group));
        Self {
            mode: metadata.permissions().mode() & 0o7777,
            owner: metadata.uid(),
            is_directory: metadata.is_dir(),
            is_on_own_group_volume: is_on_group_volume && is_member,
            is_read_only: statvfs(path).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY)),
            user: geteuid().as_raw(),
        }
    }
}

fn check(path: &Path, permissions: &Permissions) -> Result<(), String> {
    let Permissions { mode, owner, is_directory, is_on_own_group_volume, is_read_only, user } = *permissions;
    let path = path.display();
    let by_group = mode & GROUP_WRITES != 0 && !is_read_only && !is_on_own_group_volume;
    let by_others = match (is_directory, is_read_only) {
        (true, true) => 0,
        (true, false) => mode & OTHERS_WRITE,
        (false, _) => mode & OTHERS,
    };
    let who = if by_others != 0 { "everybody" } else { "its group" };
    if by_others != 0 || by_group {
        let what = match (by_others & 0o004 != 0, by_others & OTHERS_WRITE != 0, by_group) {
            (true, true, _) => "read and written",
            (true, false, _) => "read",
            (false, true, _) | (false, false, true) => "written",
            (false, false, false) => "used",
        };
        let remedy = if is_read_only {
            "set its mode where it is mounted, which in Kubernetes is `defaultMode: 0440` of the volume"
                .to_owned()
        } else {
            // The process reads a file of root through its group.
            let mode = match (owner == user, is_directory) {
                (true, true) => 700,
                (true, false) => 600,
                (false, true) => 750,
                (false, false) => 640,
            };
            format!("run `chmod {mode} {path}`")
        };
        return Err(format!("{path} can be {what} by {who} (mode {mode:04o}): {remedy}"));
    }
    if owner != user && owner != 0 {
        return Err(format!(
            "{path} belongs to the user {owner}, who can change it; it must belong to the user that runs Latchkey ({user}) or to root: run `chown {user} {path}`"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Permissions = Permissions {
        mode: 0o600,
        owner: 1000,
        is_directory: false,
        is_on_own_group_volume: false,
        is_read_only: false,
        user: 1000,
    };
    const DIRECTORY: Permissions = Permissions { mode: 0o700, is_directory: true, ..FILE };

    fn error(permissions: Permissions) -> String {
        check(Path::new("/keys"), &permissions).err().unwrap_or_default()
    }

    #[test]
    fn a_secret_belongs_to_the_process_or_root_and_is_closed_to_others() {
        for mode in [0o400, 0o440, 0o600, 0o640] {
            assert_eq!(error(Permissions { mode, ..FILE }), "", "{mode:o}");
            assert_eq!(error(Permissions { mode, owner: 0, ..FILE }), "", "{mode:o}");
        }
        for (mode, what) in [
            (0o644, "/keys can be read by everybody (mode 0644): run `chmod 600 /keys`"),
            (0o666, "/keys can be read and written by everybody (mode 0666): run `chmod 600 /keys`"),
            (0o602, "/keys can be written by everybody (mode 0602)"),
            (0o660, "/keys can be written by its group (mode 0660): run `chmod 600 /keys`"),
            (0o601, "/keys can be used by everybody (mode 0601)"),
        ] {
            assert!(
                error(Permissions { mode, ..FILE }).starts_with(what),
                "{}",
                error(Permissions { mode, ..FILE })
            );
        }
        assert!(error(Permissions { mode: 0o644, owner: 0, ..FILE }).ends_with("run `chmod 640 /keys`"));
        assert!(error(Permissions { owner: 1001, ..FILE }).ends_with("run `chown 1000 /keys`"));
        assert!(
            error(Permissions { owner: 1000, user: 0, ..FILE }).ends_with("run `chown 0 /keys`"),
            "also for a process of root"
        );
    }

    #[test]
    fn a_directory_of_keys_is_not_writable_by_others() {
        for mode in [0o500, 0o700, 0o750, 0o755, 0o2750] {
            assert_eq!(error(Permissions { mode, ..DIRECTORY }), "", "{mode:o}");
        }
        for mode in [0o777, 0o1777, 0o770, 0o702] {
            assert!(error(Permissions { mode, ..DIRECTORY }).ends_with("run `chmod 700 /keys`"), "{mode:o}");
        }
        assert!(error(Permissions { mode: 0o777, owner: 0, ..DIRECTORY }).ends_with("run `chmod 750 /keys`"));
        assert!(error(Permissions { owner: 1001, ..DIRECTORY }).contains("belongs to the user 1001"));
    }

    #[test]
    fn volumes_and_secrets_of_kubernetes_are_accepted() {
        // Kubernetes sets these modes on a volume with `fsGroup` at each start.
        assert_eq!(error(Permissions { mode: 0o2770, is_on_own_group_volume: true, ..DIRECTORY }), "");
        assert_eq!(error(Permissions { mode: 0o660, is_on_own_group_volume: true, ..FILE }), "");
        assert!(!error(Permissions { mode: 0o666, is_on_own_group_volume: true, ..FILE }).is_empty());
        // Kubernetes mounts a secret read-only, and it belongs to root.
        let mounted = Permissions { owner: 0, is_read_only: true, ..DIRECTORY };
        assert_eq!(error(Permissions { mode: 0o1777, ..mounted }), "");
        assert_eq!(error(Permissions { mode: 0o440, is_directory: false, ..mounted }), "");
        assert!(
            error(Permissions { mode: 0o644, is_directory: false, ..mounted })
                .contains("`defaultMode: 0440`")
        );
    }
}
