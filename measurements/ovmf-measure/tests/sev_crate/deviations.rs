//! Where the crate `sev` 8.0.0 answers something else, one row each: what it says, and what is right. Right is, where that can be said, what the crate itself says of an
//! image that spells the same machine in a way that it understands.

use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures, VMMType, VMSA};
use sha2::{Digest as _, Sha256};

use super::*;

/// What somebody says of a case.
#[derive(Debug)]
enum Says {
    /// This digest.
    Digest(Vec<u8>),
    /// A digest that the peer cannot be brought to say.
    Another,
    /// A refusal with these words in it.
    Refuses(&'static str),
    Panics,
}
use Says::{Another, Digest, Panics, Refuses};

impl Says {
    fn holds(&self, answer: &Result<Vec<u8>, NoAnswer>) -> bool {
        match (self, answer) {
            (Digest(expected), Ok(digest)) => expected == digest,
            (Another, Ok(_)) | (Panics, Err(NoAnswer::Panic)) => true,
            (Refuses(words), Err(NoAnswer::Refusal(error))) => error.contains(words),
            _ => false,
        }
    }
}

struct Row {
    what: &'static str,
    case: Case,
    theirs: Says,
    ours: Says,
}

const MEMORY: [u32; 3] = [0x80_0000, 0x3000, 1];
const SECTIONS: [[u32; 3]; 4] = [MEMORY, [0x80_3000, 0x1000, 2], [0x80_4000, 0x1000, 3], [0x81_0000, 0x1000, 0x10]];

fn entries() -> Vec<(u128, Vec<u8>)> {
    vec![(RESET_BLOCK, numbers(&[0x80_b004])), (HASH_TABLE, numbers(&[0x81_0c00, 1024])), (METADATA, Vec::new())]
}

fn with_image(image: Vec<u8>) -> Case {
    let (mode, vmm, model) = (Mode::Snp, Vmm::Qemu, "EPYC-v4");
    Case { image, mode, vmm, model, cpus: 4, features: 1, kernel: None, in_two_steps: false }
}

fn with_sections(sections: &[[u32; 3]]) -> Case {
    with_image(images::image(7, 2, sections, &entries()))
}

fn with_entries(entries: &[(u128, Vec<u8>)]) -> Case {
    with_image(images::image(7, 2, &SECTIONS, entries))
}

/// One entry of the table replaced.
fn with_entry(guid: u128, data: &[u32]) -> Case {
    let replaced = entries().into_iter().map(|(found, old)| (found, if found == guid { numbers(data) } else { old }));
    with_entries(&replaced.collect::<Vec<_>>())
}

fn without_entry(guid: u128) -> Case {
    with_entries(&entries().into_iter().filter(|(found, _)| *found != guid).collect::<Vec<_>>())
}

/// A case that both answer alike.
fn usual() -> Case {
    with_sections(&SECTIONS)
}

fn with_kernel(case: Case, append: &str) -> Case {
    Case { kernel: Some(Kernel { kernel: b"kernel".into(), initrd: None, append: Some(append.into()) }), ..case }
}

/// What the peer says of `other` after the firmware of `case`.
fn peer_after(case: &Case, other: &Case) -> Says {
    // Not the peer's own: it reads the metadata even where only the firmware is hashed.
    let firmware = LaunchDigest::of_firmware(&Firmware::parse(&case.image).unwrap());
    Digest(peer::after(other, Some(firmware)).unwrap())
}

fn sections() -> Vec<Row> {
    let row = |what, sections: &[[u32; 3]], theirs: Result<&[[u32; 3]], Says>, ours: Result<&[[u32; 3]], Says>| {
        let case = with_sections(sections);
        let says = |answer: Result<&[[u32; 3]], Says>| {
            answer.map_or_else(|says| says, |sections| peer_after(&case, &with_sections(sections)))
        };
        Row { what, theirs: says(theirs), ours: says(ours), case }
    };
    let of_kind = |pages: u32, kind| [0x90_0000, 0x1000 * pages, kind];
    vec![
        row(
            "a section of unknown type is refused; QEMU loads zeros",
            &[MEMORY, of_kind(2, 0x77)],
            Err(Refuses("unsupported")),
            Ok(&[MEMORY, of_kind(2, 1)]),
        ),
        row(
            "the low byte of a type is taken for the type: 0x102 becomes SECRETS",
            &[MEMORY, of_kind(1, 0x102)],
            Ok(&[MEMORY, of_kind(1, 2)]),
            Ok(&[MEMORY, of_kind(1, 1)]),
        ),
        row(
            "of SECRETS one page is measured, however many there are",
            &[of_kind(2, 2)],
            Ok(&[of_kind(1, 2)]),
            Ok(&[of_kind(1, 2), [0x90_1000, 0x1000, 2]]),
        ),
        row(
            "of CPUID one page is measured, however many there are",
            &[of_kind(3, 3)],
            Ok(&[of_kind(1, 3)]),
            Ok(&[of_kind(1, 3), [0x90_1000, 0x1000, 3], [0x90_2000, 0x1000, 3]]),
        ),
        row(
            "an empty section is passed over; QEMU ends",
            &[MEMORY, [0, 0, 4]],
            Ok(&[MEMORY]),
            Err(Refuses("it is empty")),
        ),
        row(
            "a section may begin within a page",
            &[MEMORY, [0x90_0800, 0x1000, 1]],
            Ok(&[MEMORY, [0x90_0800, 0x1000, 1]]),
            Err(Refuses("whole pages")),
        ),
    ]
}

fn tables() -> Vec<Row> {
    let sha256 = |case: &Case| Digest(Sha256::digest(&case.image).to_vec());
    let plain = |case| Case { mode: Mode::Sev, ..case };
    let refused = |what, case: Case, words| Row { what, theirs: Refuses(words), ours: sha256(&case), case };
    let accepted = |what, case: Case, words| Row { what, theirs: sha256(&case), ours: Refuses(words), case };
    let panics = |what, case, words| Row { what, case, theirs: Panics, ours: Refuses(words) };
    let one_cpu = Case { cpus: 1, ..without_entry(RESET_BLOCK) };
    let twice = with_entries(&[vec![(RESET_BLOCK, numbers(&[0x80_8004]))], entries()].concat());
    let no_start = with_entry(RESET_BLOCK, &[0]);
    let mut without_table = noise(9, 8192);
    without_table[40..44].copy_from_slice(b"_FVH");
    // The length of the entry that lies lowest, which is the reset block.
    let mut overlong = usual().image;
    let end = overlong.len() - 32 - 18;
    overlong[end - (18 + 4) - (18 + 8) - 18] += 1;
    vec![
        refused("SEV needs no metadata", plain(without_entry(METADATA)), "SEV_METADATA"),
        refused("SEV needs no table", plain(with_image(without_table)), "GUID"),
        Row {
            what: "a first CPU alone needs no reset block",
            theirs: Refuses("RESET_BLOCK"),
            ours: peer_after(&one_cpu, &Case { cpus: 1, ..usual() }),
            case: one_cpu,
        },
        Row {
            what: "of two entries the one farther from the end counts; QEMU takes the first that it meets",
            theirs: peer_after(&twice, &with_entry(RESET_BLOCK, &[0x80_8004])),
            ours: peer_after(&twice, &usual()),
            case: twice,
        },
        Row {
            what: "where the reset block says 0, all CPUs but the first are left out",
            theirs: Digest(ours(&Case { cpus: 1, ..no_start.clone() }).unwrap()),
            ours: Another,
            case: no_start,
        },
        accepted("an entry may leave the table", plain(with_image(overlong)), "length of an entry"),
        accepted(
            "an image may have half a page",
            plain(with_image([noise(5, 2048), usual().image].concat())),
            "multiple of 4096",
        ),
        panics("no image at all", with_image(Vec::new()), "0 bytes"),
        panics("metadata before the image", with_entry(METADATA, &[0x10_0000]), "outside the image"),
    ]
}

fn kernels() -> Vec<Row> {
    let with_area = |base, size| with_kernel(with_entry(HASH_TABLE, &[base, size]), "quiet");
    let trimmed = with_kernel(usual(), " quiet ");
    let row = |what, case: Case, theirs: Option<&Case>, words| Row {
        what,
        theirs: theirs.map_or(Panics, |other| peer_after(&case, other)),
        ours: Refuses(words),
        case,
    };
    vec![
        Row {
            what: "blanks around the command line are cut off; QEMU hashes them",
            theirs: Digest(ours(&with_kernel(usual(), "quiet")).unwrap()),
            ours: Another,
            case: trimmed,
        },
        row(
            "an area at 0 is one; QEMU refuses",
            with_area(0, 1024),
            Some(&with_area(0x81_0000, 1024)),
            "does not verify kernel hashes",
        ),
        row("an area may be too small", with_area(0x81_0c00, 175), Some(&with_area(0x81_0c00, 1024)), "too small"),
        row(
            "a table that leaves its page is cut off",
            with_area(0x81_0fa0, 1024),
            Some(&with_area(0x81_0fa0, 1024)),
            "leave its page",
        ),
        row(
            "an area of two pages",
            with_kernel(with_sections(&[MEMORY, [0x81_0000, 0x2000, 0x10]]), "quiet"),
            None,
            "not exactly one page",
        ),
    ]
}

fn machines() -> Vec<Row> {
    let on = |vmm, mode| Case { vmm, mode, ..usual() };
    let row = |mode| Row {
        what: "EC2 puts 0 into rdx; since April 2026 it is 0x600",
        case: on(Vmm::Ec2, mode),
        theirs: Digest(ours(&on(Vmm::Ec2RdxZero, mode)).unwrap()),
        ours: Another,
    };
    let none = Case { cpus: 0, ..usual() };
    let theirs = peer_after(&none, &none);
    vec![
        row(Mode::Snp),
        row(Mode::SevEs),
        Row {
            what: "Google Compute Engine is not known",
            case: on(Vmm::Gce, Mode::Snp),
            theirs: Refuses("gce"),
            ours: Another,
        },
        Row { what: "a machine without CPUs has a digest", case: none, theirs, ours: Refuses("0 virtual CPUs") },
    ]
}

#[test]
fn where_the_crate_sev_says_something_else_it_is_known_why() {
    assert_eq!(ours(&with_kernel(usual(), "quiet")), peer::answer(&with_kernel(usual(), "quiet")), "the usual case");
    let rows = [sections(), tables(), kernels(), machines()];
    for Row { what, case, theirs, ours: right } in rows.into_iter().flatten() {
        let (said, own) = (peer::answer(&case), ours(&case));
        assert!(theirs.holds(&said), "{what}: the peer was to say {theirs:?}, it says {said:?}");
        assert!(right.holds(&own), "{what}: right is {right:?}, ours says {own:?}");
        assert_ne!(said, own, "{what}: no deviation");
    }
}

#[test]
fn what_the_crate_sev_cannot_be_asked_is_known() {
    assert!(CpuType::try_from(2_u8).is_err(), "EPYC-v2 by its number");
    assert!(CpuType::try_from(0xa1_0f11_i32).is_err(), "the signature of a real Genoa, as of -cpu host");
    // krun: every CPU is taken for one that is not the first, and its own start is overwritten again. Ours has no krun.
    let pages = VMSA::new(0x80_b004, CpuType::Epyc, VMMType::KRUN, Some(2), GuestFeatures(1)).pages(2).unwrap();
    assert_eq!(pages[0][0x330..0x338], [0; 8], "rsi of the first CPU, which krun sets to 0x7000");
    assert_eq!(pages[1][0x10..0x12], [0x00, 0xf0], "cs of the second CPU, which krun sets to 0x9100");
}
