//! What references know beyond digests: words of the command line, files of the initrd, shapes of machines. A digest that differs is recognised when it is that of another release or machine, or of a
//! command line that differs by one word.

use std::collections::BTreeMap;

use crate::boot::Machine;
use crate::document::image::{ImageReference, InitrdFile};
use crate::parse::tcg_log::{Log, LogEvent, NO_ACTION};
use crate::{Bank, Event};

/// Files that are named one by one.
const MOST_FILES: usize = 5;
/// What a stub's section may have behind the words.
const ENDS: [&str; 3] = ["", "\0", "\n"];
/// Words that people and attackers add.
const WORDS: [&str; 24] = [
    "debug",
    "quiet",
    "rw",
    "ro",
    "nokaslr",
    "single",
    "emergency",
    "rescue",
    "init=/bin/sh",
    "init=/bin/bash",
    "rd.break",
    "rd.shell",
    "loglevel=7",
    "ignore_loglevel",
    "mitigations=off",
    "module.sig_enforce=0",
    "selinux=0",
    "apparmor=0",
    "systemd.debug-shell=1",
    "systemd.debug_shell",
    "systemd.unit=emergency.target",
    "systemd.unit=rescue.target",
    "systemd.log_level=debug",
    "console=ttyS0",
];

/// The release that was expected, and what the machine may be or may have booted instead, each with a name for people.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    /// The reference of the expected image.
    pub own: Option<ImageReference>,
    /// Other releases.
    pub others: Vec<(String, ImageReference)>,
    /// Other machines.
    pub machines: Vec<(String, Machine)>,
}

impl Neighbours {
    /// The machine whose measurements the log begins with.
    pub(super) fn machine(&self, log: &Log, bank: Bank) -> Option<&str> {
        let is = |machine: &Machine| {
            let logged = log.events.iter().filter(|event| event.kind != NO_ACTION);
            let same = |(event, logged): (&Event, &LogEvent)| {
                let digest = logged.digests.iter().find(|(found, _)| *found == bank);
                u32::from(event.register) == logged.register
                    && digest.is_some_and(|(_, digest)| event.allows(bank, digest))
            };
            !machine.events().is_empty()
                && log.events.len() > machine.events().len()
                && machine.events().iter().zip(logged).all(same)
        };
        self.machines.iter().find(|(_, machine)| is(machine)).map(|(name, _)| name.as_str())
    }

    /// What is known of a digest that was found in the place of `event`.
    pub(super) fn recognise(&self, event: &Event, bank: Bank, found: &[u8]) -> Option<String> {
        let own = self.own.as_ref()?;
        for (name, other) in &self.others {
            if is_of(other, event, bank, found) {
                let change = match section(event) {
                    Some(".cmdline") => words(&own.command_line, &other.command_line),
                    Some(".initrd") => files(&own.initrd, &other.initrd),
                    _ => None,
                };
                let change = change.map(|change| format!(", {change}")).unwrap_or_default();
                return Some(format!("it is that of {} {} ({name}){change}", other.id, other.version));
            }
        }
        (section(event) == Some(".cmdline")).then(|| one_word(own, event, bank, found)).flatten()
    }
}

fn section(event: &Event) -> Option<&str> {
    event.input.strip_prefix("content of section ")?.split(' ').next()
}

fn is_of(other: &ImageReference, event: &Event, bank: Bank, found: &[u8]) -> bool {
    let found = hex::encode(found);
    let same = other.events.boot.iter().filter(|record| (record.pcr, &record.input) == (event.register, &event.input));
    same.flat_map(|record| &record.digests).any(|digests| digests.get(&bank) == Some(&found))
}

/// The command line with one word more or less that has this digest.
fn one_word(own: &ImageReference, event: &Event, bank: Bank, found: &[u8]) -> Option<String> {
    let is = |line: &str, end: &str, digest: &[u8]| bank.digest(format!("{line}{end}").as_bytes()) == digest;
    let end =
        ENDS.into_iter().find(|end| event.digest(bank).is_some_and(|digest| is(&own.command_line, end, digest)))?;
    let line: Vec<&str> = own.command_line.split(' ').collect();
    for index in 0..line.len() {
        let without = [&line[..index], &line[index + 1..]].concat().join(" ");
        if is(&without, end, found) {
            return Some(format!("the word {:?} is missing", line[index]));
        }
    }
    for word in WORDS {
        for index in [line.len(), 0] {
            let with = [&line[..index], &[word], &line[index..]].concat().join(" ");
            if is(&with, end, found) {
                return Some(format!("the word {word:?} was added"));
            }
        }
    }
    None
}

/// The first words that two command lines do not share.
fn words(own: &str, other: &str) -> Option<String> {
    let only_in = |text: &str, other: &str| {
        let words = text.split_whitespace().filter(|word| !other.split_whitespace().any(|found| found == *word));
        words.map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
    };
    changes(only_in(other, own), only_in(own, other), "another order of words")
}

/// The first files that two initrds do not share.
fn files(own: &[InitrdFile], other: &[InitrdFile]) -> Option<String> {
    let map = |files: &'_ [InitrdFile]| -> BTreeMap<String, String> {
        files.iter().map(|file| (file.path.clone(), file.sha256.clone())).collect()
    };
    let (own, other) = (map(own), map(other));
    let list = |paths: Vec<&String>| {
        let shown: Vec<String> = paths.iter().take(MOST_FILES).map(|path| path.to_string()).collect();
        let more = paths.len().saturating_sub(MOST_FILES);
        if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
    };
    let changed: Vec<&String> = own
        .iter()
        .filter(|(path, digest)| other.get(*path).is_some_and(|found| found != *digest))
        .map(|(path, _)| path)
        .collect();
    if !changed.is_empty() {
        return Some(format!("with other content of {}", list(changed)));
    }
    let more = list(other.keys().filter(|path| !own.contains_key(*path)).collect());
    let less = list(own.keys().filter(|path| !other.contains_key(*path)).collect());
    changes(more, less, "the same files packed in another way")
}

fn changes(more: String, less: String, else_words: &str) -> Option<String> {
    Some(match (more.is_empty(), less.is_empty()) {
        (false, false) => format!("with {more} and without {less}"),
        (false, true) => format!("with {more}"),
        (true, false) => format!("without {less}"),
        (true, true) => format!("with {else_words}"),
    })
}
