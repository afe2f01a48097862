//! Launch digests of the confidential firmwares that are locked. The expected values were calculated by `sev-snp-measure` 0.0.13 and by the crate `sev` 8.0.0, which agree (SNP, SEV), and by an independent
//! script (TDX). They hold for one build of the firmware: when the lock moves to another, the test says so.

use cairn_tests::machine::locked_file;
use measurements::Bank;
use ovmf_measure::Firmware;
use ovmf_measure::sev::{CpuSignature, KernelHashes, LaunchDigest, Memory, Vcpu, Vmm, sev, sev_es};
use ovmf_measure::tdx::{Order, mrtd};
use xtask::digest::Sha256Digest;

/// A file of a package of the suite that has the confidential firmwares.
fn firmware(package: &str, file: &str) -> Vec<u8> {
    locked_file(package, "forky", file).unwrap()
}

fn vcpu(vmm: Vmm, model: &str, features: u64) -> Vcpu {
    let signature = CpuSignature::of_model(model).unwrap();
    Vcpu { vmm, signature, features, legacy_fpu: false }
}

#[test]
fn sev_digests_are_those_of_other_programs() {
    let image = firmware("ovmf-amdsev", "usr/share/ovmf/OVMF.amdsev.fd");
    let built = "3e4fd0b3fe3b2dbe481c3d9e99418a034174f26cbe1f55aa212b0f18c12d2d6f";
    assert_eq!(Sha256Digest::of(&image).to_string(), built, "the lock has another build: record its values anew");
    let firmware = Firmware::parse(&image).unwrap();
    let null = KernelHashes::new(b"", b"", b"console=ttyS0 loglevel=7");
    let test = KernelHashes::new(b"KERNEL-TEST", b"INITRD-TEST", b"console=ttyS0");
    let rows = [
        (
            Vmm::Qemu,
            "EPYC-v4",
            1,
            1,
            None,
            "d74bd3ea40b240c3228edc5177ce6193561ebff633dbd0be76d6c143b876d65102425c0e2e8a930857c48daa5eacda58",
        ),
        (
            Vmm::Qemu,
            "EPYC-v4",
            1,
            1,
            Some(&null),
            "fbede50d3ee39abff62f75615d1913b0451bf18482902f20dbc00f9e509833cde0a69cc93b261d1b9c5594a951b90fb1",
        ),
        (
            Vmm::Qemu,
            "EPYC-v4",
            2,
            1,
            None,
            "a3c946257b3cef8f1e25dd03cb84f9f01313ae9135c32acc7e01f4204aa447aaa196530d5999be0f114462d2546cd02d",
        ),
        (
            Vmm::Qemu,
            "EPYC-v4",
            2,
            1,
            Some(&null),
            "cfc7791ccd421f4cf5c1f2f1a5d1195a4a43cd7ca975b9ec9291c47ef1c4bcbf873364a5ac5215a80f184b4085a1acb6",
        ),
        (
            Vmm::Qemu,
            "EPYC-v4",
            4,
            1,
            None,
            "13a6ae9fbaa31c91ade309c36bd5214729438abac318e01176e02a97b8bec11a4bce86b4d2b1fba2ec0481dd24ff525f",
        ),
        (
            Vmm::Qemu,
            "EPYC-v4",
            4,
            1,
            Some(&null),
            "e9efe1f1af52c0b7590ae2dc20c07b6750a9389e5cd9a50007fc87cc324eedf05d564d291a8a9a2159ab35cb4e16a23a",
        ),
        (
            Vmm::Qemu,
            "EPYC-v4",
            4,
            0x21,
            Some(&null),
            "646931f9df9eccc79472f1927f768568c3dda31639e936f0c0874334ee6634dcb227559e3a23b3fcdeba7fe71e059bf8",
        ),
        (
            Vmm::Qemu,
            "EPYC-v4",
            1,
            1,
            Some(&test),
            "eee7ce6cc705c6dab309a31c438be8520c22eb5755ac9ff6313a439d1453396136066df1c37733a964c93bebb1480b59",
        ),
        (
            Vmm::Qemu,
            "EPYC-Milan",
            1,
            1,
            None,
            "4a7f0dc0ad7c8fc19a056d1f78c6ccc2dda5c69aef1b063650d94598084b89a89a5e295aceb08223b8ddd027620dbe66",
        ),
        (
            Vmm::Qemu,
            "EPYC-Milan",
            1,
            1,
            Some(&null),
            "3b828866dbe17990e130b41f6df69d9316b3257cf48b447dcbe73017636b028f7d57048afcb7bcc9852f34be2ebe1e1d",
        ),
        (
            Vmm::Qemu,
            "EPYC-Milan",
            2,
            1,
            None,
            "54a8c0dd731ffacb4980b3bf926adcbfef705146fdf443ca2a03c3104610a8add28b31c86df235618a610a94797f056d",
        ),
        (
            Vmm::Qemu,
            "EPYC-Milan",
            2,
            1,
            Some(&null),
            "3a4cec0fc9f0c13bee62aa761c2a14f8ef60f6c4ba9ca83dbe44afcb0727564f3c2abe720221ff66d447e0a53e1a6017",
        ),
        (
            Vmm::Qemu,
            "EPYC-Milan",
            4,
            1,
            None,
            "c995d6122aacbc0434128f0c63783f03b7caec3f8f4292948522a00c0395ff126f1633d8346a20aa85f8dd3bd8739a38",
        ),
        (
            Vmm::Qemu,
            "EPYC-Milan",
            4,
            1,
            Some(&null),
            "52525c6cbfe25247224a3905f59391f8c5e40ac3d1778c4249eb8e6a3d8b74978d403537bbdcd0e80ee4babf6210c1fd",
        ),
        (
            Vmm::Ec2,
            "EPYC",
            1,
            1,
            None,
            "d32daa514f1f9f2380e00592ecaebac0f426148ba867b919b70737bbb4a406f6e508b30a083d10dad444b4b4648f4dd2",
        ),
        (
            Vmm::Ec2,
            "EPYC",
            4,
            1,
            None,
            "ef749be5d91ef69e32ba3aa64147faee140fbf0d2491dc68d514d785c601ac9031797cab53bff3fcd29421d6797adfc5",
        ),
        (
            Vmm::Gce,
            "EPYC",
            4,
            1,
            None,
            "0c82739b322f995ee85a729377e469887a4630d2bc1aa9de3c5afe6280f408c4d3384622b603e14bc84ff2ad99f2ade8",
        ),
    ];
    for (vmm, model, cpus, features, hashes, expected) in rows {
        let digest =
            Memory::measure(&firmware, hashes, vmm).unwrap().with_cpus(&vcpu(vmm, model, features), cpus).unwrap();
        assert_eq!(digest.to_string(), expected, "{vmm:?} {model} {cpus} {features:#x} {}", hashes.is_some());
    }
    assert_eq!(
        LaunchDigest::of_firmware(&firmware).to_string(),
        "9d0dd8be18c86e3fe3bf0038ed75ebf5340bee69fd2632c8ff9409964575960ae1f7e84be387d2e3467bc3508d1e4806"
    );
    let es = |cpus, hashes| hex::encode(sev_es(&firmware, hashes, &vcpu(Vmm::Qemu, "EPYC-v4", 0), cpus).unwrap());
    assert_eq!(es(1, None), "62f563dcde1a3fcde3e5ffd1a3ee7ff7e9bae00f74bada763587a311e2df5d7e");
    assert_eq!(es(4, None), "a3785f5a0490fd91a5b0369b8b4bb7dc0b15ccfa4a8c80ebe8cad03e621729ec");
    assert_eq!(es(1, Some(&null)), "71b8cc8ab67fc812584293b2d5b08b57223ab0e8c06a957cde6bb367fb8ced2d");
    assert_eq!(hex::encode(sev(&firmware, None).unwrap()), built);
    assert_eq!(
        hex::encode(sev(&firmware, Some(&null)).unwrap()),
        "8db76cb1a6cad99bf9874f06febdc05134b4d16bc4d067c7b0fc338f5a6a0eb7"
    );
}

#[test]
fn mrtd_is_that_of_an_independent_calculation() {
    let image = firmware("ovmf-inteltdx", "usr/share/ovmf/OVMF.inteltdx.ms.fd");
    let firmware = Firmware::parse(&image).unwrap();
    for (order, expected) in [
        (
            Order::SinglePass,
            "a7a1f751abc454f9cbab198ca8d2edb2821935df525c74182b5e776cb0929e8c59aefecce725b0d08a5e9d3d3183bd08",
        ),
        (
            Order::TwoPass,
            "b90b236113eb4c0d4df4ef590568c14e6028a3a31d7e8ac63dee9845df5008d3ebf82d4f5974e933798f65d7a279b9a9",
        ),
    ] {
        assert_eq!(hex::encode(mrtd(&firmware, order).unwrap()), expected, "{order:?}");
    }
    // QEMU refuses this image for SNP: two of its sections are empty.
    assert!(Memory::measure(&firmware, None, Vmm::Qemu).is_err());
    assert_eq!(
        configuration_volume(&firmware),
        "327d4a91229b3993a7f6f64740d94ff689d44b45edada6e255596d4c7aa287576a92fb1f5c350c287caf60670a5bad5a"
    );
}

/// SHA-384 of the variable store, which a trust domain measures into RTMR 0.
fn configuration_volume(firmware: &Firmware) -> String {
    const CFV: u32 = 1;
    let sections = firmware.tdx_sections().unwrap();
    let section = sections.iter().find(|section| section.kind == CFV).unwrap();
    assert!(!section.extended, "it is added to MRTD by its address only");
    hex::encode(Bank::Sha384.digest(section.data))
}

struct Whole {
    package: &'static str,
    suite: &'static str,
    sha256: &'static str,
    snp: &'static str,
    mrtd: Option<&'static str>,
}

/// The firmwares of machines without confidential hardware, as whole images. Debian's 2025.02 and 2026.08 have the same variable store, whose digest stands in public logs of trust domains, too.
const WHOLE: [Whole; 3] = [
    Whole {
        package: "ovmf",
        suite: "bookworm",
        sha256: "7b456907",
        snp: "11570979c77a0adb515761a702527c8b9e11554e730552621d950988613a3a75c6ff1703f540bd22a9beede8fe7a97e3",
        mrtd: None,
    },
    Whole {
        package: "ovmf",
        suite: "trixie",
        sha256: "14954040",
        snp: "6eef547a9fcf5720c5c04883fe85788d29de46b55a51e554467029b554a3352e66d2f3c71b84cea937d19a1a6c41596f",
        mrtd: Some("bdc6fb145880f06f30c8b346b8dce2a99d9351b56892df22f80fcf6574caa9f9c31df8e8576d53b4d0cd1c3f28910e11"),
    },
    Whole {
        package: "ovmf-generic",
        suite: "forky",
        sha256: "6a3e8f43",
        snp: "9c34160d53ca50dbd63466ca885159fc089c1c3f8d6854d4bd37f2818b8e4e34b404e02a00ac0e19c11cade9dbe2f986",
        mrtd: Some("ab742989d480d040f178cf83c3ae0734f923dbddb7325b4a826e0d87c30cb299aff85beb23ad30a1c6f975a8d0ce3e7a"),
    },
];

#[test]
fn whole_images_of_every_suite_have_the_digests_of_other_programs() {
    for Whole { package, suite, sha256, snp, mrtd: expected } in WHOLE {
        let image = locked_file(package, suite, "usr/share/ovmf/OVMF.fd").unwrap();
        let built = Sha256Digest::of(&image).to_string();
        assert!(built.starts_with(sha256), "{package} of {suite} is another build: record its values anew");
        let firmware = Firmware::parse(&image).unwrap();
        let memory = Memory::measure(&firmware, None, Vmm::Qemu).unwrap();
        let digest = memory.with_cpus(&vcpu(Vmm::Qemu, "EPYC-v4", 1), 1).unwrap();
        assert_eq!(digest.to_string(), snp, "{suite}");
        let Some(expected) = expected else { continue };
        assert_eq!(hex::encode(mrtd(&firmware, Order::SinglePass).unwrap()), expected, "{suite}");
        assert_eq!(
            configuration_volume(&firmware),
            "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790",
            "{suite}"
        );
    }
}
