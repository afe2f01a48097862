//! Everything that a verifier without a network needs, in one file (`cairn.air-gap/1`): signed trust roots, each of which allows the next, bundles, and the state of a channel. Each is kept as the text of its own file, to the byte.
//!
//! The file vouches for nothing: whoever writes one chooses the trust roots in it. So they are believed only from an [`Anchor`] that came another way, and everything else is judged as if it stood alone.

use measurements::bytes::{Bytes32, at_most};
use measurements::canonical::{self, Document};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::trust_root::TrustRoot;
use crate::{Code, Refusal};

/// Most trust roots, and most bundles.
const MOST: usize = 64;
/// Longer names are none.
const LONGEST_NAME: usize = 255;

/// The document. Fields stand in the order of canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AirGap {
    /// Bundles, in the order of their names.
    #[serde(deserialize_with = "at_most::<MOST, _, _>")]
    bundles: Vec<NamedBundle>,
    /// The state of a channel, a bundle as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    /// Signed trust roots, the oldest first.
    #[serde(deserialize_with = "at_most::<MOST, _, _>")]
    roots: Vec<String>,
    /// `cairn.air-gap/1`.
    schema: String,
}

/// A bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedBundle {
    /// Name of its file.
    pub name: String,
    /// What the file holds.
    pub text: String,
}

/// Why the trust roots of a file may be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// SHA-256 of the first of them, as its publisher told it by another way.
    Digest(Bytes32),
    /// Trust roots that came by another way, the oldest first: those of the file that are newer have to follow.
    Roots(Vec<Vec<u8>>),
}

impl Document for AirGap {
    const NAME: &'static str = "air-gap file";
    const SCHEMA: &'static str = "cairn.air-gap/1";
}

impl AirGap {
    /// Puts signed trust roots, bundles and the state of a channel into one document. Whether they hold is not asked.
    ///
    /// # Errors
    /// [`Code::AirGap`] where it would not be read.
    pub fn new(roots: Vec<String>, mut bundles: Vec<NamedBundle>, channel: Option<String>) -> Result<Self, Refusal> {
        bundles.sort_by(|one, other| one.name.cmp(&other.name));
        Self { bundles, channel, roots, schema: Self::SCHEMA.into() }.checked()
    }

    /// Reads a document; nothing in it is believed yet.
    ///
    /// # Errors
    /// [`Code::AirGap`].
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        canonical::read::<Self>(bytes).map_err(|error| refuse(error.to_string()))?.checked()
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`Code::AirGap`] where they are too many to be read again.
    pub fn write(&self) -> Result<Vec<u8>, Refusal> {
        canonical::write(self).map_err(|error| refuse(error.to_string()))
    }

    /// Its bundles, in the order of their names.
    pub fn bundles(&self) -> &[NamedBundle] {
        &self.bundles
    }

    /// The state of a channel.
    pub fn channel(&self) -> Option<&str> {
        self.channel.as_deref()
    }

    /// SHA-256 of the first trust root, by which people compare it.
    pub fn first_root(&self) -> Bytes32 {
        Bytes32(Sha256::digest(self.roots.first().map_or("", String::as_str)).into())
    }

    /// The trust roots to believe, the oldest first: each must still allow the next.
    ///
    /// # Errors
    /// [`Code::TrustRootUnknown`] without an anchor, or with one for another file; those of [`TrustRoot::first`].
    pub fn roots(&self, anchor: Option<&Anchor>) -> Result<Vec<Vec<u8>>, Refusal> {
        let all = self.roots.iter().map(|root| root.clone().into_bytes());
        let digest = hex::encode(self.first_root().0);
        match anchor {
            None => {
                let found =
                    format!("nothing says that the first trust root of the file, sha256:{digest}, is to be believed");
                Err(Refusal::new(Code::TrustRootUnknown, found))
            }
            Some(Anchor::Digest(told)) if *told != self.first_root() => {
                let told = hex::encode(told.0);
                let found = format!("the first trust root of the file is sha256:{digest}, sha256:{told} was told");
                Err(Refusal::new(Code::TrustRootUnknown, found))
            }
            Some(Anchor::Digest(_)) => Ok(all.collect()),
            Some(Anchor::Roots(known)) => {
                let newest =
                    known.last().ok_or_else(|| Refusal::new(Code::TrustRootUnknown, "no trust root is given"))?;
                let newest = TrustRoot::first(newest)?.document().version;
                let mut roots = known.clone();
                for root in all {
                    if TrustRoot::first(&root)?.document().version > newest {
                        roots.push(root);
                    }
                }
                Ok(roots)
            }
        }
    }

    fn checked(self) -> Result<Self, Refusal> {
        if self.roots.is_empty() || self.roots.len() > MOST || self.bundles.len() > MOST {
            return Err(refuse(format!("it has no trust root, or more than {MOST} of them or of bundles")));
        }
        if let Some(bundle) = self.bundles.iter().find(|bundle| !is_name(&bundle.name)) {
            return Err(refuse(format!("{:?} is no name of a file: letters, digits and ._+~- are", bundle.name)));
        }
        if let Some(pair) = self.bundles.windows(2).find(|pair| pair[0].name >= pair[1].name) {
            return Err(refuse(format!("{:?} is there twice, or not in its place", pair[1].name)));
        }
        Ok(self)
    }
}

/// Names of bundles are shown on terminals, and become names of files again.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+~-".contains(&byte);
    !name.is_empty() && name.len() <= LONGEST_NAME && !name.starts_with(['.', '-']) && name.bytes().all(plain)
}

fn refuse(found: impl Into<String>) -> Refusal {
    Refusal::new(Code::AirGap, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(name: &str) -> NamedBundle {
        NamedBundle { name: name.into(), text: "{\"a\u{2014}b\":\"\\n\"}\n".into() }
    }

    fn good() -> AirGap {
        AirGap::new(vec!["{}".into()], vec![bundle("b.json"), bundle("a.json")], Some("{}\n".into())).unwrap()
    }

    #[test]
    fn texts_are_kept_to_the_byte() {
        let bytes = good().write().unwrap();
        assert!(bytes.starts_with(b"{\"bundles\":[{\"name\":\"a.json\",\"text\":\"{\\\"a\xe2\x80\x94b\\\":"));
        let read = AirGap::read(&bytes).unwrap();
        assert_eq!((&read, &read.bundles()[0]), (&good(), &bundle("a.json")));
        let without = AirGap { channel: None, ..good() };
        assert_eq!(AirGap::read(&without.write().unwrap()), Ok(without));
    }

    #[test]
    fn a_document_is_written_in_one_way_and_is_not_endless() {
        let text = String::from_utf8(good().write().unwrap()).unwrap();
        let swapped = text.replace("a.json", "z.json");
        let many = format!("\"roots\":[{}", "\"\",".repeat(MOST));
        let cases = [
            (text.replacen(":[", ": [", 1), "not canonical"),
            (text.replace("gap/1", "gap/2"), "is understood"),
            (text.replace("\"{}\"]", "\"{}\"],\"more\":1"), "unknown field"),
            (text.replace("[\"{}\"]", "[]"), "no trust root"),
            (text.replace("\"roots\":[", &many), "more than 64"),
            (swapped, "not in its place"),
            (text.replace("b.json", "a.json"), "there twice"),
            (text.replace("a.json", "../a"), "no name"),
            (text.replace("a.json", ""), "no name"),
            (text.replace("a.json", "-a"), "no name"),
            (text.replace("a.json", "a\u{2014}"), "no name"),
        ];
        for (changed, words) in cases {
            assert_ne!(changed, text, "{words}");
            let refusal = AirGap::read(changed.as_bytes()).unwrap_err();
            assert!(refusal.code == Code::AirGap && refusal.found.contains(words), "{words}: {refusal}");
        }
        let large = bundle(&"a".repeat(256));
        assert!(AirGap::new(vec![String::new()], vec![large], None).is_err());
        let full = AirGap::new(vec![" ".repeat(AirGap::LARGEST)], vec![], None).unwrap();
        assert!(full.write().unwrap_err().found.contains("at most"));
    }

    #[test]
    fn without_a_word_from_elsewhere_no_root_is_believed() {
        let refused = |anchor: Option<Anchor>| good().roots(anchor.as_ref()).unwrap_err();
        let digest = hex::encode(good().first_root().0);
        let alone = refused(None);
        assert!(alone.code == Code::TrustRootUnknown && alone.found.contains(&digest), "{alone}");
        let other = refused(Some(Anchor::Digest(Bytes32([7; 32]))));
        assert!(other.code == Code::TrustRootUnknown && other.found.contains(&digest), "{other}");
        assert_eq!(refused(Some(Anchor::Roots(vec![]))).code, Code::TrustRootUnknown);
        assert_eq!(refused(Some(Anchor::Roots(vec![b"{}".to_vec()]))).code, Code::TrustRoot);
        assert_eq!(good().roots(Some(&Anchor::Digest(good().first_root()))), Ok(vec![b"{}".to_vec()]));
    }
}
