//! Registers without a log: they say that something differs. If another machine, release, configuration or point in time among the given ones has exactly these values, that is the answer; else the first
//! register that differs names the inputs that it follows from.

use std::collections::BTreeMap;

use super::cause::{OTHER_IMAGE, OTHER_MACHINE};
use super::{Mismatch, Verdict};
use crate::boot::Point;
use crate::compose::{Composition, MAX_FAILED_OPTIONS};
use crate::{Bank, Source};

/// Legal values of a register that are printed.
const MOST_SHOWN: usize = 3;

/// Values of registers, by bank and number.
pub type Registers = BTreeMap<Bank, BTreeMap<u8, Vec<u8>>>;

const POINTS: [(Point, &str); 3] = [
    (Point::Running, "in the running system"),
    (Point::Initrd, "in the initrd"),
    (Point::Firmware, "when the firmware handed over"),
];
/// The order in which a boot moves registers.
const ORDER: [u8; 16] = [0, 7, 1, 2, 3, 6, 5, 4, 11, 12, 13, 14, 8, 9, 10, 15];

/// Compares registers with a prediction; `others` are neighbours, each with a name for people.
pub fn registers(expected: &Composition, found: &Registers, others: &[(String, Composition)]) -> Verdict {
    let Some((bank, values)) = [Bank::Sha384, Bank::Sha256, Bank::Sha512, Bank::Sha1]
        .into_iter()
        .find_map(|bank| Some((bank, found.get(&bank)?)))
    else {
        return Verdict::CannotTell("there are no registers of a bank that is known here".into());
    };
    let compared: Vec<(Point, &str, Compared)> =
        POINTS.map(|(point, words)| (point, words, Compared::new(expected, point, 0, bank, values))).into();
    if let Some((failed, words, compared)) = fitting(expected, bank, values) {
        let after = match failed {
            0 => String::new(),
            1 => ", after 1 boot option that failed,".into(),
            _ => format!(", after {failed} boot options that failed,"),
        };
        let what = format!("{words}, {} registers ({bank}){after} are", compared.same);
        return Verdict::Match { compared: what, unknown: compared.unknown };
    }
    let Some((point, _, closest)) = compared
        .into_iter()
        .filter(|(_, _, it)| it.same + it.different.len() > 0)
        .min_by_key(|(_, _, it)| it.different.len())
    else {
        return Verdict::CannotTell("the prediction knows none of these registers: give a machine".into());
    };
    let neighbour = others.iter().find_map(|(name, other)| {
        fitting(other, bank, values).map(|(_, words, _)| format!("; all are those of {name} {words}"))
    });
    let register = ORDER.into_iter().find(|register| closest.different.contains(register)).unwrap_or_default();
    let (input, whose) = follows_from(register);
    let names: Vec<String> = closest.different.iter().map(u8::to_string).collect();
    let registers = expected.registers(point);
    let legal = registers.get(&register).map(|value| value.all_in_bank(bank)).unwrap_or_default();
    let shown: Vec<String> = legal.iter().take(MOST_SHOWN).map(hex::encode).collect();
    let more = if legal.len() > MOST_SHOWN { format!(" or {} more", legal.len() - MOST_SHOWN) } else { String::new() };
    let expected = (!shown.is_empty()).then(|| format!("{}{more}", shown.join(&format!(" or {}:", bank.name()))));
    Verdict::Mismatch(Box::new(Mismatch {
        event: None,
        register: format!("PCR {register}"),
        algorithm: bank.name(),
        expected,
        found: values.get(&register).map(hex::encode),
        cause: format!(
            "PCR {} differ{}: PCR {register} follows from {input}{}",
            names.join(", "),
            if names.len() == 1 { "s" } else { "" },
            neighbour.unwrap_or_default()
        ),
        whose,
        next: match whose {
            Source::Image => OTHER_IMAGE,
            Source::Machine => OTHER_MACHINE,
            Source::Configuration => "compare the node's cluster.json with the cluster's",
        },
    }))
}

/// The point in time, and the number of boot options that failed before, at which all registers are as predicted.
fn fitting(
    expected: &Composition,
    bank: Bank,
    values: &BTreeMap<u8, Vec<u8>>,
) -> Option<(usize, &'static str, Compared)> {
    let tried = (0..=MAX_FAILED_OPTIONS).flat_map(|failed| POINTS.map(|(point, words)| (failed, point, words)));
    let mut all =
        tried.map(|(failed, point, words)| (failed, words, Compared::new(expected, point, failed, bank, values)));
    all.find(|(_, _, compared)| compared.is_match())
}

/// What a register follows from, first the likeliest.
fn follows_from(register: u8) -> (&'static str, Source) {
    match register {
        0 => ("the firmware build (and, for some builds, memory and CPUs)", Source::Machine),
        1 => {
            ("the machine's tables, boot entries and order: memory, CPUs, devices, version of the VMM", Source::Machine)
        }
        2 | 3 | 6 => ("option ROMs of devices", Source::Machine),
        4 => ("the UKI, or one more image that was loaded", Source::Image),
        5 => ("the partition table of the disk", Source::Image),
        7 => ("Secure Boot's state and keys", Source::Machine),
        9 => ("command line and initrd as the kernel got them", Source::Image),
        10 => ("PCR 0 to 9, and a policy of the kernel's IMA", Source::Machine),
        11 => ("the sections of the UKI, and how far the boot came", Source::Image),
        12 => {
            ("the cluster's configuration, or something added to the boot from outside the UKI", Source::Configuration)
        }
        13 => ("system extensions beside the UKI", Source::Machine),
        15 => ("what the boot became: no cluster, a cluster's cap, or a failure", Source::Configuration),
        _ => ("a boot loader that this image does not have", Source::Machine),
    }
}

struct Compared {
    same: usize,
    different: Vec<u8>,
    unknown: Vec<u8>,
}

impl Compared {
    fn new(expected: &Composition, point: Point, failed: usize, bank: Bank, found: &BTreeMap<u8, Vec<u8>>) -> Self {
        let mut compared = Self { same: 0, different: Vec::new(), unknown: Vec::new() };
        for (register, value) in expected.registers_after(point, failed) {
            let Some(found) = found.get(&register) else { continue };
            match value.allows(bank, found) {
                Some(true) => compared.same += 1,
                Some(false) => compared.different.push(register),
                None => compared.unknown.push(register),
            }
        }
        compared
    }

    fn is_match(&self) -> bool {
        self.same > 0 && self.different.is_empty()
    }
}
