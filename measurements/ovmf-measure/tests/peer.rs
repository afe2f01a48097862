//! The same digests as `sev-snp-measure` 0.0.13 on random images; `golden/record.py` made the answers and says what is left out.

#![allow(clippy::unwrap_used)]

mod images;

use images::{HASH_TABLE, METADATA, RESET_BLOCK, numbers};
use ovmf_measure::Firmware;
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

fn image(case: &Case) -> Vec<u8> {
    let entries = [
        (RESET_BLOCK, numbers(&[case.reset_eip])),
        (HASH_TABLE, numbers(&[case.hash_base, 1024])),
        (METADATA, Vec::new()),
    ];
    images::image(case.seed, case.pages, &case.sections, &entries)
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
