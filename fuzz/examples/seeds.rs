//! Writes the inputs that the corpus of each target begins with: `cargo run -p latchkey-fuzz --example seeds -- DIRECTORY`.

use std::{env, fs, io, path::Path};

use latchkey_fuzz::TARGETS;

fn main() -> io::Result<()> {
    let directory =
        env::args_os().nth(1).ok_or_else(|| io::Error::other("name the directory to write to"))?;
    for target in TARGETS {
        let directory = Path::new(&directory).join(target.name);
        fs::create_dir_all(&directory)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            fs::write(directory.join(format!("seed-{number:02}")), seed)?;
        }
    }
    Ok(())
}
