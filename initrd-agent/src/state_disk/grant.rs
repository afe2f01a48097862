//! What the broker's grant of a disk must be, whoever signed it.

use attest::message::{DiskGrant, Purpose};
use state_disk::id;

use crate::code::Code;
use crate::failure::Failure;

/// The id of a disk whose grant is for this slot and purpose.
///
/// # Errors
/// `GRANT_INVALID`.
pub fn check(grant: &DiskGrant, slot: &str, purpose: Purpose) -> Result<[u8; 16], Failure> {
    let invalid = |what: &str| Failure::new(Code::GrantInvalid, format!("the grant for disk {}: {what}", grant.id));
    let id = id::parse(&grant.id).ok_or_else(|| invalid("its id is not a UUID in lower case"))?;
    if grant.slot != slot {
        return Err(invalid("it is for another slot"));
    }
    if grant.generation == u64::MAX || (purpose == Purpose::Provision && grant.generation != 0) {
        return Err(invalid("its generation cannot be"));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grant_that_contradicts_its_request_is_rejected() {
        let id = "0b5f6c6e-0a00-4000-8000-00000000000f";
        let grant = |id: &str, slot: &str, generation: u64| DiskGrant {
            generation,
            headers: vec![],
            id: id.into(),
            overwrite: false,
            recovery: None,
            slot: slot.into(),
        };
        let judged = |grant: &DiskGrant, purpose| check(grant, "state", purpose).map_err(|failure| failure.code());
        for (grant, purpose) in [(grant(id, "state", 0), Purpose::Provision), (grant(id, "state", 7), Purpose::Unlock)]
        {
            assert_eq!(judged(&grant, purpose).ok(), id::parse(id), "{grant:?}");
        }
        for (grant, purpose) in [
            (grant(&id.to_uppercase(), "state", 0), Purpose::Provision),
            (grant("", "state", 0), Purpose::Provision),
            (grant(id, "other", 0), Purpose::Provision),
            (grant(id, "state", 1), Purpose::Provision),
            (grant(id, "state", u64::MAX), Purpose::Unlock),
        ] {
            assert_eq!(judged(&grant, purpose), Err(Code::GrantInvalid), "{grant:?}");
        }
    }
}
