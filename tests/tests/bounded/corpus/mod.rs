//! The corpus in `fuzz/corpus`: for every target the smallest valid inputs, and the damage that is worth naming.

mod documents;
mod evidence;
mod fat;
mod fv;
mod gpt;
mod json;
mod messages;
mod ovmf;
mod pe;
mod releases;
mod state_disk;
mod stores;
mod tcg_log;

use measurements::canonical::{self, Document};

/// Target, name of the file, content.
pub type File = (&'static str, String, Vec<u8>);

/// All files.
pub fn all() -> Vec<File> {
    let formats = [
        documents::files(),
        evidence::files(),
        fat::files(),
        fv::files(),
        gpt::files(),
        json::files(),
        messages::files(),
        ovmf::files(),
        pe::files(),
        releases::files(),
        state_disk::files(),
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

/// A text with `to` in place of the first `from`, which is in it.
fn changed(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1)
}

fn canonical<D: Document>(document: &D) -> String {
    String::from_utf8(canonical::write(document).unwrap()).unwrap()
}
