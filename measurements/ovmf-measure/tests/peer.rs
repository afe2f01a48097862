//! The same digests as `sev-snp-measure` 0.0.13 on random images; `golden/record.py` made the answers and says what is left out.

#![allow(clippy::unwrap_used)]

use ovmf_measure::Firmware;
use ovmf_measure::Guid;
use ovmf_measure::sev::{CpuSignature, KernelHashes, Memory, Vcpu, Vmm, sev, sev_es};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    seed: u64,
    pages: usize,
    sections: Vec<[u32; 3]>,
    reset_eip: u32,
    hash_base: u32,
    mode: String,
    vmm: String,
    cpus: u32,
    signature: u32,
    features: u64,
    kernel: Option<String>,
    initrd: Option<String>,
    append: Option<String>,
    digest: String,
}

/// splitmix64, little-endian.
fn noise(mut seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn image(case: &Case) -> Vec<u8> {
    let mut image = noise(case.seed, case.pages * 4096);
    let count = case.sections.len() as u32;
    let mut block = b"ASEV".to_vec();
    block
        .extend([16 + 12 * count, 1, count].iter().chain(case.sections.iter().flatten()).flat_map(|n| n.to_le_bytes()));
    image[..block.len()].copy_from_slice(&block);
    let numbers = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let mut table = Vec::new();
    for (guid, entry) in [
        (0x00f771de_1a7e_4fcb_890e_68c77e2fb44e, numbers(&[case.reset_eip])),
        (0x7255371f_3a3b_4b04_927b_1da6efa8d454, numbers(&[case.hash_base, 1024])),
        (0xdc886566_984a_4798_a75e_5585a7bf67cc, numbers(&[image.len() as u32])),
    ] {
        table.extend(&entry);
        table.extend((entry.len() as u16 + 18).to_le_bytes());
        table.extend(Guid::from_digits(guid).stored());
    }
    table.extend((table.len() as u16 + 18).to_le_bytes());
    table.extend(Guid::from_digits(0x96b582de_1fb2_45f7_baea_a366c55a082d).stored());
    let end = image.len() - 32;
    image[end - table.len()..end].copy_from_slice(&table);
    image
}

fn digest(case: &Case) -> Vec<u8> {
    let image = image(case);
    let firmware = Firmware::parse(&image).unwrap();
    let bytes = |text: &Option<String>| hex::decode(text.as_deref().unwrap_or_default()).unwrap();
    let append = case.append.as_deref().unwrap_or_default();
    let hashes =
        case.kernel.as_ref().map(|_| KernelHashes::new(&bytes(&case.kernel), &bytes(&case.initrd), append.as_bytes()));
    let vmm = match case.vmm.as_str() {
        "QEMU" => Vmm::Qemu,
        "ec2" => Vmm::Ec2,
        _ => Vmm::Gce,
    };
    let vcpu = Vcpu { vmm, signature: CpuSignature(case.signature), features: case.features, legacy_fpu: false };
    match case.mode.as_str() {
        "sev" => sev(&firmware, hashes.as_ref()).unwrap().to_vec(),
        // The peer knows no features for SEV-ES.
        "seves" => sev_es(&firmware, hashes.as_ref(), &Vcpu { features: 0, ..vcpu }, case.cpus).unwrap().to_vec(),
        _ => {
            let memory = Memory::measure(&firmware, hashes.as_ref(), vmm).unwrap();
            let table = memory.up_to(&vcpu, 64).unwrap();
            let digest = memory.with_cpus(&vcpu, case.cpus).unwrap();
            assert_eq!(table[case.cpus as usize - 1], digest, "the table and the single digest differ");
            digest.0.to_vec()
        }
    }
}

#[test]
fn random_images_have_the_digests_of_sev_snp_measure() {
    let recorded = include_str!("golden/sev-snp-measure.jsonl");
    let cases: Vec<Case> = recorded.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(cases.len(), 400);
    for case in cases {
        assert_eq!(hex::encode(digest(&case)), case.digest, "seed {}, mode {}, {}", case.seed, case.mode, case.vmm);
    }
}
