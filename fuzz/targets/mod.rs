//! Every parser of bytes that nobody has checked, one function each: it reads the bytes, and asks what was read for everything that it offers.
//!
//! `fuzz_targets/` hands these functions to libFuzzer; `tests/tests/bounded` runs them in plain `cargo test`. A target returns for every input: a panic is a defect of the parser. What checksums or signatures protect is read
//! once as it is, and once with those made right: they keep no attacker out that has the key, but every mutation.

mod evidence;
pub mod known;
mod measured;
mod messages;
mod releases;
mod state_disk;

pub use evidence::*;
pub use measured::*;
pub use messages::*;
pub use releases::*;
pub use state_disk::*;

/// A name and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// All targets; each has a file in `fuzz_targets/` and a folder in `corpus/`.
pub const TARGETS: &[Target] = &[
    ("air_gap", air_gap),
    ("boot_image", boot_image),
    ("bundle", bundle),
    ("cel", cel),
    ("channel", channel),
    ("checkpoint", checkpoint),
    ("cluster", cluster),
    ("envelope", envelope),
    ("fat", fat),
    ("fat_large", fat_large),
    ("fv", fv),
    ("generation", generation),
    ("gpt", gpt),
    ("http_response", http_response),
    ("image_reference", image_reference),
    ("krp_reply", krp_reply),
    ("krp_request", krp_request),
    ("luks2_header", luks2_header),
    ("machine", machine),
    ("ovmf", ovmf),
    ("pcrs", pcrs),
    ("pe", pe),
    ("recovery", recovery),
    ("runtime", runtime),
    ("smbios", smbios),
    ("snp_report", snp_report),
    ("statement", statement),
    ("superblock", superblock),
    ("tcg_log", tcg_log),
    ("timestamp", timestamp),
    ("tpm_key", tpm_key),
    ("tpm_quote", tpm_quote),
    ("trust_root", trust_root),
    ("uki", uki),
    ("unfinished", unfinished),
    ("variables", variables),
];

/// What was read; an error is asked for its words.
fn read<T, E: std::fmt::Display>(result: Result<T, E>) -> Option<T> {
    result.map_err(|error| assert!(!error.to_string().is_empty())).ok()
}
