//! Files that commands write.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

/// Writes a file, or replaces it, in one step.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = || format!("Failed to write {}", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let partial = folder.join(format!(".{}.partial", path.file_name().unwrap_or_default().to_string_lossy()));
    let mut file = fs::File::create(&partial).with_context(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(failed)?;
    fs::rename(&partial, path).with_context(failed)
}
