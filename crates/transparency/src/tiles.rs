//! A log as its readers see it (C2SP tlog-tiles): hashes in tiles of 256, entries in bundles of 256. From them come the proof of an entry that was logged before, and the tree itself, computed anew.
//!
//! Nothing that the files say is believed here: whoever reads them compares with a signed head.

use std::collections::BTreeMap;

use crate::proof::inclusion_ranges;
use crate::tree::{Hash, node};

/// Why a log cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(pub String);

type Result<T> = std::result::Result<T, Problem>;

fn problem(text: &str) -> Problem {
    Problem(text.to_owned())
}

/// Hashes in a whole tile, and entries in a whole bundle.
pub const WIDTH: u64 = 256;
/// No file of a log is longer: entries that have all the bytes that their two of length can say.
pub const LARGEST: usize = WIDTH as usize * (2 + u16::MAX as usize);
const HEIGHT: u32 = 8;

/// Whoever has the files of a log.
pub trait Files {
    /// The file at this path below the log's address.
    ///
    /// # Errors
    /// What is wrong, in words.
    fn file(&self, path: &str) -> Result<Vec<u8>>;
}

/// The tiles of a tree of this size.
pub struct Tiles<'a, F> {
    files: &'a F,
    size: u64,
    read: BTreeMap<(u32, u64), Vec<u8>>,
}

impl<'a, F: Files> Tiles<'a, F> {
    /// A tree that a checkpoint says to have this size.
    pub fn new(files: &'a F, size: u64) -> Self {
        Self { files, size, read: BTreeMap::new() }
    }

    /// The entry of this number.
    ///
    /// # Errors
    /// [`Problem`].
    pub fn entry(&self, index: u64) -> Result<Vec<u8>> {
        self.entries(index, index.saturating_add(1))?.pop().ok_or_else(|| problem("The log does not have this entry"))
    }

    /// The entries from `from` to before `to`, of one file of the log: at most those up to its end.
    ///
    /// # Errors
    /// [`Problem`].
    pub fn entries(&self, from: u64, to: u64) -> Result<Vec<Vec<u8>>> {
        let bundle = self.file("entries", self.size, from / WIDTH)?;
        let (mut rest, mut entries) = (&bundle[..], Vec::new());
        let to = to.min((from / WIDTH + 1) * WIDTH).min(self.size);
        for index in from / WIDTH * WIDTH..to {
            let (entry, after) = split_entry(rest)?;
            if index >= from {
                entries.push(entry.to_vec());
            }
            rest = after;
        }
        Ok(entries)
    }

    /// A tile as wide as the tree makes it, or the whole one: logs may forget a part once the whole is there.
    fn file(&self, level: &str, nodes: u64, number: u64) -> Result<Vec<u8>> {
        let path = path(level, nodes, number);
        self.files.file(&path).or_else(|error| match path.split_once(".p/") {
            Some((whole, _)) => self.files.file(whole),
            None => Err(error),
        })
    }

    /// The hashes from the entry of this number to the root.
    ///
    /// # Errors
    /// [`Problem`].
    pub fn proof(&mut self, index: u64) -> Result<Vec<Hash>> {
        inclusion_ranges(index, self.size).into_iter().map(|(from, to)| self.subtree(from, to)).collect()
    }

    /// The hash over the leaves from `from` to before `to`, as RFC 6962 splits them.
    fn subtree(&mut self, from: u64, to: u64) -> Result<Hash> {
        let count = to - from;
        if count.is_power_of_two() && from.is_multiple_of(count) {
            return self.perfect(count.trailing_zeros(), from / count);
        }
        let middle = from + count.next_power_of_two() / 2;
        Ok(node(&self.subtree(from, middle)?, &self.subtree(middle, to)?))
    }

    /// The hash of the perfect subtree of this height and number.
    fn perfect(&mut self, height: u32, number: u64) -> Result<Hash> {
        let above = height % HEIGHT;
        if above != 0 {
            let left = self.perfect(height - 1, 2 * number)?;
            return Ok(node(&left, &self.perfect(height - 1, 2 * number + 1)?));
        }
        let (level, tile) = (height / HEIGHT, number / WIDTH);
        let at = (number % WIDTH) as usize * 32;
        let hash = self.tile(level, tile)?.get(at..at + 32).and_then(|hash| hash.try_into().ok());
        hash.ok_or_else(|| problem("A tile of the log is shorter than its checkpoint says"))
    }

    fn tile(&mut self, level: u32, number: u64) -> Result<&[u8]> {
        if !self.read.contains_key(&(level, number)) {
            let nodes = self.size.checked_shr(level * HEIGHT).unwrap_or(0);
            let bytes = self.file(&level.to_string(), nodes, number)?;
            if bytes.len() % 32 != 0 {
                return Err(Problem(format!("A tile of the log has {} bytes", bytes.len())));
            }
            self.read.insert((level, number), bytes);
        }
        Ok(&self.read[&(level, number)])
    }
}

/// An entry bundle: each entry with its length before it, in two bytes, big-endian. None if an entry is longer than 65,535 bytes.
pub fn entry_bundle<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut bundle = Vec::new();
    for entry in entries {
        bundle.extend(u16::try_from(entry.len()).ok()?.to_be_bytes());
        bundle.extend(entry);
    }
    Some(bundle)
}

/// The entries of a bundle.
///
/// # Errors
/// [`Problem`].
pub fn split_bundle(mut bytes: &[u8]) -> Result<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (entry, rest) = split_entry(bytes)?;
        entries.push(entry);
        bytes = rest;
    }
    Ok(entries)
}

/// The first entry of these, and those after it: each has its length before it, in two bytes.
fn split_entry(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk().ok_or_else(|| problem("The log's entries end before this one"))?;
    let split = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)));
    split.ok_or_else(|| problem("The log's entries are cut off"))
}

/// `tile/<level>/x001/x234/067`, with `.p/<width>` where a level of `nodes` fills only a part of it. `level` is a number, or `entries`.
pub fn path(level: &str, nodes: u64, number: u64) -> String {
    let mut text = format!("{:03}", number % 1000);
    let mut rest = number / 1000;
    while rest > 0 {
        text = format!("x{:03}/{text}", rest % 1000);
        rest /= 1000;
    }
    let width = nodes.saturating_sub(number.saturating_mul(WIDTH)).min(WIDTH);
    let part = if width < WIDTH { format!(".p/{width}") } else { String::new() };
    format!("tile/{level}/{text}{part}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::proof::root_of;
    use crate::tree::{Frontier, leaf};

    struct Written(HashMap<String, Vec<u8>>);

    impl Files for Written {
        fn file(&self, path: &str) -> Result<Vec<u8>> {
            self.0.get(path).cloned().ok_or_else(|| Problem(format!("no file {path}")))
        }
    }

    fn root(hashes: &[Hash]) -> Hash {
        let mut frontier = Frontier::default();
        hashes.iter().for_each(|hash| frontier.append(*hash));
        frontier.root()
    }

    /// A log of so many leaves, each its number in decimal.
    fn written(size: u64) -> (Written, Vec<Hash>) {
        let leaves: Vec<Hash> = (0..size).map(|number| leaf(number.to_string().as_bytes())).collect();
        let mut files = HashMap::new();
        let (mut level, mut hashes) = (0, leaves.clone());
        while !hashes.is_empty() {
            for (number, tile) in hashes.chunks(256).enumerate() {
                files.insert(path(&level.to_string(), hashes.len() as u64, number as u64), tile.concat());
            }
            hashes = hashes.chunks_exact(256).map(root).collect();
            level += 1;
        }
        for number in 0..size.div_ceil(256) {
            let texts: Vec<String> =
                (number * 256..size.min((number + 1) * 256)).map(|entry| entry.to_string()).collect();
            let entries = entry_bundle(texts.iter().map(String::as_bytes)).unwrap();
            files.insert(path("entries", size, number), entries);
        }
        (Written(files), leaves)
    }

    #[test]
    fn a_proof_from_tiles_leads_to_the_root() {
        for size in [1, 2, 3, 255, 256, 257, 700, 66_000] {
            let (files, leaves) = written(size);
            let expected = root(&leaves);
            let mut tiles = Tiles::new(&files, size);
            for index in [0, 1, 2, 100, 255, 256, 500, 65_535, 65_999, size - 1].into_iter().filter(|it| *it < size) {
                assert_eq!(tiles.entry(index).unwrap(), index.to_string().as_bytes());
                let proof = tiles.proof(index).unwrap();
                assert_eq!(
                    root_of(leaf(index.to_string().as_bytes()), index, size, &proof),
                    Some(expected),
                    "{index} of {size}"
                );
            }
            assert!(tiles.entry(size).is_err());
        }
    }

    #[test]
    fn a_whole_tile_serves_for_a_part() {
        let ((mut files, leaves), (new, _)) = (written(300), written(512));
        files.0.retain(|path, _| !path.ends_with(".p/44"));
        files.0.extend(new.0);
        let proof = Tiles::new(&files, 300).proof(299).unwrap();
        assert_eq!(root_of(leaf(b"299"), 299, 300, &proof), Some(root(&leaves)));
        assert_eq!(Tiles::new(&files, 300).entry(299).unwrap(), b"299");
    }

    #[test]
    fn a_tile_that_is_cut_off_is_an_error() {
        let (mut files, _) = written(300);
        for cut in ["tile/0/001.p/44", "tile/entries/001.p/44"] {
            files.0.get_mut(cut).unwrap().truncate(32);
        }
        assert!(Tiles::new(&files, 300).proof(299).is_err());
        assert!(Tiles::new(&files, 300).entry(299).is_err());
    }

    #[test]
    fn bundle_has_the_length_of_each_entry_before_it() {
        let long = [7; 300];
        let bundle = entry_bundle([&b"ab"[..], b"", &long]).unwrap();
        assert_eq!(bundle[..8], [0, 2, b'a', b'b', 0, 0, 1, 44]);
        assert_eq!(split_bundle(&bundle), Ok(vec![&b"ab"[..], b"", &long]));
        assert!(split_bundle(&bundle[..9]).is_err());
        assert_eq!(entry_bundle([&[0; 65_536][..]]), None);
    }

    #[test]
    fn paths_are_those_of_the_specification() {
        assert_eq!(path("0", 1_234_068 * 256, 1_234_067), "tile/0/x001/x234/067");
        assert_eq!(path("entries", 300, 1), "tile/entries/001.p/44");
        assert_eq!(path("1", 1, 0), "tile/1/000.p/1");
    }
}
