//! The same digests as the crate `sev` 8.0.0 on seeded random images, and, as rows of a table, every image and machine where that crate answers something else.
//!
//! Its functions for SEV and SEV-ES need OpenSSL; what they feed to SHA-256 does not, so the same pieces are put together here.

#![allow(clippy::unwrap_used)]

mod deviations;
#[path = "../images/mod.rs"]
mod images;
mod peer;

use images::{HASH_TABLE, METADATA, RESET_BLOCK, Random, noise, numbers};
use ovmf_measure::sev::{CpuSignature, KernelHashes, LaunchDigest, Memory, Vcpu, Vmm, sev, sev_es};
use ovmf_measure::{Error, Firmware};
use peer::NoAnswer;

/// Guest modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Sev,
    SevEs,
    Snp,
}

/// Kernel, initrd, command line.
#[derive(Clone, Debug)]
struct Kernel {
    kernel: Vec<u8>,
    initrd: Option<Vec<u8>>,
    append: Option<String>,
}

/// A machine.
#[derive(Clone, Debug)]
struct Case {
    image: Vec<u8>,
    mode: Mode,
    vmm: Vmm,
    model: &'static str,
    cpus: u32,
    features: u64,
    kernel: Option<Kernel>,
    /// Whether the digest of the image is calculated by itself and given to the rest.
    in_two_steps: bool,
}

/// Our answer.
fn ours(case: &Case) -> Result<Vec<u8>, NoAnswer> {
    measure(case).map_err(|error| NoAnswer::Refusal(error.to_string()))
}

fn measure(case: &Case) -> Result<Vec<u8>, Error> {
    let firmware = Firmware::parse(&case.image)?;
    let hashes = case.kernel.as_ref().map(|Kernel { kernel, initrd, append }| {
        let append = append.as_deref().unwrap_or_default();
        KernelHashes::new(kernel, initrd.as_deref().unwrap_or_default(), append.as_bytes())
    });
    let hashes = hashes.as_ref();
    let signature = CpuSignature::of_model(case.model).unwrap();
    let vcpu = Vcpu { vmm: case.vmm, signature, features: case.features, legacy_fpu: false };
    Ok(match case.mode {
        Mode::Sev => sev(&firmware, hashes)?.to_vec(),
        // The peer knows no features for SEV-ES.
        Mode::SevEs => sev_es(&firmware, hashes, &Vcpu { features: 0, ..vcpu }, case.cpus)?.to_vec(),
        Mode::Snp => {
            let memory = if case.in_two_steps {
                Memory::after_firmware(LaunchDigest::of_firmware(&firmware), &firmware, hashes, case.vmm)?
            } else {
                Memory::measure(&firmware, hashes, case.vmm)?
            };
            memory.with_cpus(&vcpu, case.cpus)?.0.to_vec()
        }
    })
}

fn random_case(seed: u64) -> Case {
    let mut random = Random(seed << 20);
    let mut below = |most: u64| random.number() % most;
    let mut pick = |numbers: &[u64]| numbers[below(numbers.len() as u64) as usize];
    let mut left = vec![1, 1, 1, 2, 3, 4, 0x10];
    let mut address = 0x1000 * (0x700 + pick(&[0, 1, 17, 256, 400]) as u32);
    let mut sections = Vec::new();
    for _ in 0..pick(&[1, 2, 3, 4, 5, 6, 7]) {
        let kind = left.remove(pick(&[0, 1, 2, 3, 4, 5, 6]) as usize % left.len());
        let size = if kind == 1 || kind == 4 { 0x1000 * pick(&[1, 2, 3, 13, 31]) as u32 } else { 0x1000 };
        sections.push([address, size, kind]);
        address += size + 0x1000 * pick(&[0, 0, 1, 5]) as u32;
    }
    let hash_page = sections.iter().find(|section| section[2] == 0x10).map(|section| section[0]);
    let area = hash_page.map_or(0, |page| page + pick(&[0, 0x10, 0x400, 0xc00, 0xf50]) as u32);
    let entries = [
        (RESET_BLOCK, numbers(&[0x80_0000 + pick(&[0xb004, 0x8004, 4, 0xfffc]) as u32])),
        (HASH_TABLE, numbers(&[area, 1024])),
        (METADATA, Vec::new()),
    ];
    let append = ["", "console=ttyS0", "a  b", "root=/dev/vda ro quiet loglevel=7"];
    let kernel = hash_page.filter(|_| pick(&[0, 1, 1]) == 1).map(|_| Kernel {
        kernel: noise(seed, pick(&[0, 1, 4096, 9001]) as usize),
        initrd: [None, Some(noise(!seed, 777))][pick(&[0, 1]) as usize].clone(),
        append: [None, Some(append[pick(&[0, 1, 2, 3]) as usize].to_owned())][pick(&[0, 1]) as usize].clone(),
    });
    Case {
        image: images::image(seed, pick(&[1, 2, 3, 8, 33, 65]) as usize, &sections, &entries),
        mode: [Mode::Snp, Mode::SevEs, Mode::Sev][pick(&[0, 0, 0, 1, 2]) as usize],
        vmm: [Vmm::Qemu, Vmm::Ec2RdxZero][pick(&[0, 0, 1]) as usize],
        model: peer::MODELS[(pick(&[0, 1, 2, 3, 4, 5]) + 6 * pick(&[0, 1, 2])) as usize].0,
        cpus: pick(&[1, 2, 3, 4, 8, 16, 64, 255]) as u32,
        features: pick(&[0, 1, 0x21, 0x3ff, 0xd7ff, u64::MAX]),
        kernel,
        in_two_steps: pick(&[0, 0, 1]) == 1,
    }
}

#[test]
fn random_images_have_the_digests_of_the_crate_sev() {
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..400 {
        let case = random_case(seed);
        let (ours, theirs) = (ours(&case).unwrap(), peer::answer(&case).unwrap());
        let Case { image, .. } = &case;
        let shown = || Case { image: image[..256].into(), ..case.clone() };
        assert_eq!(hex::encode(ours), hex::encode(theirs), "seed {seed}: {:?}", shown());
        *seen.entry(format!("{:?} {:?} kernel {}", case.mode, case.vmm, case.kernel.is_some())).or_insert(0) += 1;
    }
    // Three modes, two VMMs, with and without a kernel: each often enough.
    assert!(seen.len() == 12 && seen.values().all(|count| *count >= 4), "{seen:#?}");
}

#[test]
fn models_have_the_signatures_of_the_crate_sev() {
    for (name, model) in peer::MODELS {
        assert_eq!(CpuSignature::of_model(name), Some(CpuSignature(model.sig() as u32)), "{name}");
        assert_eq!(model.to_string(), name);
    }
}
