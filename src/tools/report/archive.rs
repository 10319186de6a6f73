//! The archive: a compressed tape archive, which every system can read.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, Header};

use super::Entry;

/// Writes the entries to a file that only its owner may read. `time` is their time, in seconds since the Unix epoch.
///
/// # Errors
/// The file cannot be written.
pub fn write(file: &Path, folder: &str, entries: &[Entry], time: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    let mut archive = Builder::new(GzEncoder::new(file, Compression::default()));
    for Entry { name, text, .. } in entries {
        let mut header = Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(time);
        archive.append_data(&mut header, format!("{folder}/{name}"), text.as_bytes())?;
    }
    let mut file = archive.into_inner()?.finish()?;
    file.flush()
}
