//! Quotes over PCR 0 to 15 (TPM2_Quote), with the values that they are over.

use std::collections::BTreeMap;

use measurements::Bank;
use tss_esapi::Context;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{AttestInfo, Data, PcrSelectionList, PcrSelectionListBuilder, PcrSlot, SignatureScheme};
use tss_esapi::traits::Marshall;

use crate::{Error, Keys, Quote, failed, wrong};

const SLOTS: [PcrSlot; 16] = [
    PcrSlot::Slot0,
    PcrSlot::Slot1,
    PcrSlot::Slot2,
    PcrSlot::Slot3,
    PcrSlot::Slot4,
    PcrSlot::Slot5,
    PcrSlot::Slot6,
    PcrSlot::Slot7,
    PcrSlot::Slot8,
    PcrSlot::Slot9,
    PcrSlot::Slot10,
    PcrSlot::Slot11,
    PcrSlot::Slot12,
    PcrSlot::Slot13,
    PcrSlot::Slot14,
    PcrSlot::Slot15,
];
/// TPM2_PCR_Read gives at most so many values at a time.
const AT_A_TIME: usize = 8;
/// Registers that go on moving are not attested.
const TRIES: usize = 5;

pub(crate) fn quote(
    context: &mut Context,
    keys: &Keys,
    session: AuthSession,
    bank: Bank,
    extra_data: &[u8; 32],
) -> Result<Quote, Error> {
    const WHAT: &str = "quoting";
    for _ in 0..TRIES {
        let data = Data::try_from(extra_data.as_slice()).map_err(failed(WHAT))?;
        let selection = selection(bank, &SLOTS).map_err(failed(WHAT))?;
        let (attest, signature) = context
            .execute_with_session(Some(session), |context| {
                context.quote(keys.ak, data, SignatureScheme::Null, selection)
            })
            .map_err(failed(WHAT))?;
        let registers = read(context, bank)?;
        let all: Vec<u8> = registers.values().flatten().copied().collect();
        // The attestation key signs with SHA-256, so the digest of the registers is one, too.
        let AttestInfo::Quote { info } = attest.attested() else { continue };
        if info.pcr_digest().as_slice() == Bank::Sha256.digest(&all) {
            return Ok(Quote {
                attest: attest.marshall().map_err(failed(WHAT))?,
                signature: signature.marshall().map_err(failed(WHAT))?,
                registers,
            });
        }
    }
    Err(Error { what: "quoting registers that do not stand still", source: wrong() })
}

/// PCR 0 to 15.
fn read(context: &mut Context, bank: Bank) -> Result<BTreeMap<u8, Vec<u8>>, Error> {
    const WHAT: &str = "reading the registers";
    let mut registers = BTreeMap::new();
    for slots in SLOTS.chunks(AT_A_TIME) {
        let selection = selection(bank, slots).map_err(failed(WHAT))?;
        let (_, _, values) = context.pcr_read(selection).map_err(failed(WHAT))?;
        for value in values.value() {
            registers.insert(registers.len() as u8, value.to_vec());
        }
    }
    if registers.len() == SLOTS.len() { Ok(registers) } else { Err(Error { what: WHAT, source: wrong() }) }
}

fn selection(bank: Bank, slots: &[PcrSlot]) -> tss_esapi::Result<PcrSelectionList> {
    let algorithm = match bank {
        Bank::Sha1 => HashingAlgorithm::Sha1,
        Bank::Sha256 => HashingAlgorithm::Sha256,
        Bank::Sha384 => HashingAlgorithm::Sha384,
        Bank::Sha512 => HashingAlgorithm::Sha512,
    };
    PcrSelectionListBuilder::new().with_selection(algorithm, slots).build()
}
