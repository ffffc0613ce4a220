//! Another wall clock and a disk that cannot be written for one process, through `LD_PRELOAD`.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::skip::find_program;

/// No space left on the device.
pub const ENOSPC: i64 = 28;
/// Read-only file system.
pub const EROFS: i64 = 30;

pub struct Preload {
    library: PathBuf,
    control: PathBuf,
    _dir: TempDir,
}

impl Preload {
    /// Compiles the library. Returns `None` and reports the skipped test without a C compiler.
    pub fn build() -> Option<Self> {
        let compiler = find_program("cc", "LATCHKEY_TEST_CC")?;
        let dir = tempfile::tempdir().unwrap();
        let (library, control) = (dir.path().join("preload.so"), dir.path().join("control"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/preload.c");
        let output =
            Command::new(compiler).args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).status();
        assert!(output.unwrap().success());
        let preload = Self { library, control, _dir: dir };
        preload.set(0, 0);
        Some(preload)
    }

    /// Returns the variables with which a program loads the library.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", self.library.clone()), ("FAULTS_CONTROL", self.control.clone())]
    }

    /// Moves the clock by this many seconds against the real one, and fails writes with this error unless it is 0.
    pub fn set(&self, clock_offset_seconds: i64, write_error: i64) {
        let bytes = [clock_offset_seconds.to_ne_bytes(), write_error.to_ne_bytes()].concat();
        // The processes have mapped the file, so it must not be replaced or truncated.
        let file = fs::File::options().write(true).create(true).truncate(false).open(&self.control).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
    }
}
