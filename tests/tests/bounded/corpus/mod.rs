//! The corpus in `fuzz/corpus`: for every target the smallest valid inputs, and the damage that is worth naming.

mod fat;
mod fv;
mod gpt;
mod json;
mod ovmf;
mod pe;
mod stores;
mod tcg_log;

/// Target, name of the file, content.
pub type File = (&'static str, String, Vec<u8>);

/// All files.
pub fn all() -> Vec<File> {
    let formats = [
        fat::files(),
        fv::files(),
        gpt::files(),
        json::files(),
        ovmf::files(),
        pe::files(),
        stores::files(),
        tcg_log::files(),
    ];
    formats.into_iter().flatten().collect()
}

fn file(target: &'static str, name: &str, bytes: impl Into<Vec<u8>>) -> File {
    (target, name.into(), bytes.into())
}

/// `bytes` with these at `at`.
fn patched(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}
