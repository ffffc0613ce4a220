//! Who besides us can read or change a secret: what must not be is refused with the command that mends it.
//!
//! The group may read, as it does a secret that Kubernetes mounts. It may write only on a volume that belongs to it,
//! which Kubernetes marks (`fsGroup`) by the set-group-ID bit of its directories.

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

/// Refuses a file that others can read or change.
pub(super) fn check_file(path: &Path, metadata: &Metadata) -> Result<(), String> {
    let parent = path.parent().and_then(|parent| parent.metadata().ok());
    let volume =
        parent.is_some_and(|parent| parent.mode() & SET_GROUP_ID != 0 && parent.gid() == metadata.gid());
    judge(path, &Facts::of(path, metadata, volume))
}

/// Refuses a directory of keys that others can put files into. That they can list it shows them names only: its files
/// are looked at by themselves.
pub(super) fn check_directory(path: &Path, metadata: &Metadata) -> Result<(), String> {
    judge(path, &Facts::of(path, metadata, metadata.mode() & SET_GROUP_ID != 0))
}

/// What is known of a file or directory, and of us.
#[derive(Clone, Copy)]
struct Facts {
    mode: u32,
    owner: u32,
    is_directory: bool,
    /// It belongs to a volume of a group that is ours.
    is_of_our_volume: bool,
    /// It is mounted so that nobody can write.
    is_read_only: bool,
    user: u32,
}

impl Facts {
    fn of(path: &Path, metadata: &Metadata, volume: bool) -> Self {
        let group = metadata.gid();
        let ours = getegid().as_raw() == group
            || getgroups().is_ok_and(|groups| groups.iter().any(|ours| ours.as_raw() == group));
        Self {
            mode: metadata.permissions().mode() & 0o7777,
            owner: metadata.uid(),
            is_directory: metadata.is_dir(),
            is_of_our_volume: volume && ours,
            is_read_only: statvfs(path).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY)),
            user: geteuid().as_raw(),
        }
    }
}

fn judge(path: &Path, facts: &Facts) -> Result<(), String> {
    let Facts { mode, owner, is_directory, is_of_our_volume, is_read_only, user } = *facts;
    let path = path.display();
    let by_group = mode & GROUP_WRITES != 0 && !is_read_only && !is_of_our_volume;
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
            // What root has put there for us is ours by the group.
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

    const FILE: Facts = Facts {
        mode: 0o600,
        owner: 1000,
        is_directory: false,
        is_of_our_volume: false,
        is_read_only: false,
        user: 1000,
    };
    const DIRECTORY: Facts = Facts { mode: 0o700, is_directory: true, ..FILE };

    fn said(facts: Facts) -> String {
        judge(Path::new("/keys"), &facts).err().unwrap_or_default()
    }

    #[test]
    fn a_secret_is_ours_or_roots_and_others_neither_read_nor_write_it() {
        for mode in [0o400, 0o440, 0o600, 0o640] {
            assert_eq!(said(Facts { mode, ..FILE }), "", "{mode:o}");
            assert_eq!(said(Facts { mode, owner: 0, ..FILE }), "", "{mode:o}");
        }
        for (mode, what) in [
            (0o644, "/keys can be read by everybody (mode 0644): run `chmod 600 /keys`"),
            (0o666, "/keys can be read and written by everybody (mode 0666): run `chmod 600 /keys`"),
            (0o602, "/keys can be written by everybody (mode 0602)"),
            (0o660, "/keys can be written by its group (mode 0660): run `chmod 600 /keys`"),
            (0o601, "/keys can be used by everybody (mode 0601)"),
        ] {
            assert!(said(Facts { mode, ..FILE }).starts_with(what), "{}", said(Facts { mode, ..FILE }));
        }
        assert!(said(Facts { mode: 0o644, owner: 0, ..FILE }).ends_with("run `chmod 640 /keys`"));
        assert!(said(Facts { owner: 1001, ..FILE }).ends_with("run `chown 1000 /keys`"));
        assert!(said(Facts { owner: 1000, user: 0, ..FILE }).ends_with("run `chown 0 /keys`"), "root's, too");
    }

    #[test]
    fn others_put_nothing_into_a_directory_of_keys() {
        for mode in [0o500, 0o700, 0o750, 0o755, 0o2750] {
            assert_eq!(said(Facts { mode, ..DIRECTORY }), "", "{mode:o}");
        }
        for mode in [0o777, 0o1777, 0o770, 0o702] {
            assert!(said(Facts { mode, ..DIRECTORY }).ends_with("run `chmod 700 /keys`"), "{mode:o}");
        }
        assert!(said(Facts { mode: 0o777, owner: 0, ..DIRECTORY }).ends_with("run `chmod 750 /keys`"));
        assert!(said(Facts { owner: 1001, ..DIRECTORY }).contains("belongs to the user 1001"));
    }

    #[test]
    fn volumes_and_secrets_of_kubernetes_are_taken_as_they_are_mounted() {
        // A volume with `fsGroup`, which gets these modes at each start.
        assert_eq!(said(Facts { mode: 0o2770, is_of_our_volume: true, ..DIRECTORY }), "");
        assert_eq!(said(Facts { mode: 0o660, is_of_our_volume: true, ..FILE }), "");
        assert!(!said(Facts { mode: 0o666, is_of_our_volume: true, ..FILE }).is_empty());
        // A secret, which is mounted read-only and belongs to root.
        let mounted = Facts { owner: 0, is_read_only: true, ..DIRECTORY };
        assert_eq!(said(Facts { mode: 0o1777, ..mounted }), "");
        assert_eq!(said(Facts { mode: 0o440, is_directory: false, ..mounted }), "");
        assert!(said(Facts { mode: 0o644, is_directory: false, ..mounted }).contains("`defaultMode: 0440`"));
    }
}
