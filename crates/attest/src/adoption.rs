//! A state disk for a broker that has no record of it: the disk's share, which a recovery key opened, and the statement that a broker of the cluster signed about the disk. `cairn recover` writes it and `key-broker disk adopt` reads it. It opens
//! the disk, like a passphrase.

use measurements::canonical::{self, Document};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::bytes::Bytes32;
use crate::cluster::Cluster;
use crate::recovery::{DiskStatement, SignedStatement};
use crate::{Code, Refusal};

/// Share and statement of one disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adoption {
    schema: String,
    share: Bytes32,
    /// The bytes of the [`SignedStatement`].
    statement: String,
}

impl Document for Adoption {
    const NAME: &'static str = "adoption document";
    const SCHEMA: &'static str = "cairn.disk-adoption/1";
    const LARGEST: usize = 16 << 10;
}

impl Drop for Adoption {
    fn drop(&mut self) {
        self.share.0.zeroize();
    }
}

fn malformed(error: impl ToString) -> Refusal {
    Refusal::new(Code::Malformed, error.to_string())
}

impl Adoption {
    /// Bytes of the document for a share and the [`SignedStatement`] of its disk.
    ///
    /// # Errors
    /// [`Code::Malformed`].
    pub fn write(share: &[u8; 32], statement: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let statement = String::from_utf8(statement.to_vec()).map_err(malformed)?;
        let document = Self { schema: Self::SCHEMA.to_owned(), share: Bytes32(*share), statement };
        canonical::write(&document).map(Zeroizing::new).map_err(malformed)
    }

    /// The share, and the statement if a broker of this cluster has signed it.
    ///
    /// # Errors
    /// As [`SignedStatement::verify`].
    pub fn verify(bytes: &[u8], cluster: &Cluster) -> Result<(Zeroizing<[u8; 32]>, DiskStatement), Refusal> {
        let document: Self = canonical::read(bytes).map_err(malformed)?;
        let statement = SignedStatement::verify(document.statement.as_bytes(), cluster)?;
        Ok((Zeroizing::new(document.share.0), statement))
    }
}
