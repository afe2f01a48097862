//! The attacks that are tried: what somebody does, the one code that comes of it, and the row that does it. Numbers are those of the list in the threat model; what is not tried says why.
//!
//! Rows ask this table for the code that they must get, so the table is what is tested, and not only what is written down. Several codes in one entry are several forms of one attack.

/// How an attack is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// By a row of the suite `broker`: evidence of a real TPM emulator, over TLS, to the broker's program.
    Wire(&'static str),
    /// By a row of the suite `vm`: a virtual machine.
    Machine(&'static str),
    /// By a unit test, because the real thing cannot be made to misbehave so.
    Unit(&'static str),
    /// Not at all; why.
    Not(&'static str),
}

/// An attack.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// Its number in the list.
    pub number: u8,
    /// What is done.
    pub what: &'static str,
    /// What comes of it: a code of the broker or of the agent, or a status of HTTP.
    pub codes: &'static [&'static str],
    /// Where.
    pub tried: Tried,
}

use Tried::{Machine, Not, Unit, Wire};

const fn attack(number: u8, what: &'static str, codes: &'static [&'static str], tried: Tried) -> Attack {
    Attack { number, what, codes, tried }
}

const SNP_AND_TDX: Tried = Not("no key is released on SNP or TDX evidence yet");

/// All of them.
pub const TABLE: &[Attack] = &[
    attack(
        1,
        "evidence is sent again: in the connection, to another broker, after a restart",
        &["SESSION_INVALID"],
        Wire("evidence_is_taken_once_by_all_brokers"),
    ),
    attack(
        2,
        "evidence is sent in another session",
        &["BINDER_MISMATCH"],
        Wire("evidence_proves_nothing_in_another_session"),
    ),
    attack(3, "one boot asks two brokers in the same moment", &["BOOT_LATCHED"], Wire("two_brokers_release_once")),
    attack(
        4,
        "an expired session, one with a bit flipped, one of another cluster",
        &["SESSION_INVALID"],
        Wire("a_session_is_of_one_connection_and_its_time"),
    ),
    attack(5, "a quote of another enrolled node's key", &["AK_MISMATCH"], Wire("a_quote_of_another_node_is_refused")),
    attack(
        6,
        "an attestation key that signs anything, or may leave its TPM; a quote forged with one",
        &["AK_ATTRIBUTES", "QUOTE_SIGNATURE"],
        Wire("a_key_that_signs_anything_is_none_for_attestation"),
    ),
    attack(
        7,
        "another structure than a quote: wrong magic, CERTIFY, TIME",
        &["QUOTE_TYPE"],
        Wire("what_is_no_quote_is_refused"),
    ),
    attack(
        8,
        "a quote over fewer, more, or no registers",
        &["PCR_SELECTION"],
        Wire("a_quote_is_over_all_registers_and_no_others"),
    ),
    attack(
        9,
        "a quote of SHA-1; a bank that the firmware never extended",
        &["PCR_BANK"],
        Wire("only_the_enrolled_bank_counts"),
    ),
    attack(
        10,
        "an endorsement key that nobody enrolled",
        &["EK_UNTRUSTED"],
        Wire("a_machine_that_nobody_enrolled_gets_nothing"),
    ),
    attack(
        11,
        "the endorsement key of one TPM, the attestation key of another",
        &["ACTIVATION_FAILED"],
        Wire("keys_of_two_tpms_are_no_node"),
    ),
    attack(
        12,
        "a name that is taken is enrolled with another endorsement key",
        &["IDENTITY_CONFLICT"],
        Wire("a_name_is_enrolled_once"),
    ),
    attack(
        13,
        "somebody between exchanges the key that the share is sealed to",
        &["BINDER_MISMATCH"],
        Wire("a_key_exchanged_on_the_way_gets_nothing"),
    ),
    attack(14, "one node asks for another's disk", &["DISK_NODE_MISMATCH"], Wire("a_node_opens_no_disk_but_its_own")),
    attack(
        15,
        "evidence is relayed through another TLS connection",
        &["BINDER_MISMATCH"],
        Wire("evidence_is_bound_to_its_connection"),
    ),
    attack(
        16,
        "versions are stripped on the way; none is spoken by both",
        &["BINDER_MISMATCH", "MALFORMED"],
        Wire("a_downgrade_is_noticed"),
    ),
    attack(
        17,
        "the log is cut at its end, in its middle, or says something twice",
        &["LOG_REPLAY"],
        Wire("a_log_must_lead_to_the_quote"),
    ),
    attack(18, "types of events are rewritten", &["LOG_GRAMMAR"], Wire("a_log_is_read_as_it_was_written")),
    attack(
        19,
        "one more EFI application before the UKI",
        &["LOG_UNEXPECTED_EVENT"],
        Wire("one_more_application_is_noticed"),
    ),
    attack(
        20,
        "a firmware log of no bytes",
        &["LOG_REPLAY"],
        Not("firmware of clouds that keeps no log comes with their machine references"),
    ),
    attack(
        21,
        "something added to the command line from outside",
        &["PCR_MISMATCH"],
        Wire("an_addition_to_the_command_line_is_noticed"),
    ),
    attack(22, "a UKI with one byte changed", &["PCR_MISMATCH"], Wire("another_uki_is_noticed")),
    attack(23, "Secure Boot with another key", &["PCR_MISMATCH"], Wire("another_secure_boot_is_noticed")),
    attack(24, "a quote after the boot was closed", &["BOOT_CAPPED"], Wire("a_closed_boot_gets_nothing")),
    attack(
        25,
        "one boot asks again with another key, before its report and after",
        &["BOOT_LATCHED"],
        Wire("a_boot_is_released_once"),
    ),
    attack(26, "an SNP report with the REPORT_ID of a release", &[], SNP_AND_TDX),
    attack(
        27,
        "an SNP guest that may be debugged or migrated, at another VMPL, without a signing key, with its chip hidden",
        &[],
        SNP_AND_TDX,
    ),
    attack(28, "an SNP firmware below the floor", &[], SNP_AND_TDX),
    attack(29, "a VCEK of another chip, a VLEK under another root, a revoked ASK", &[], SNP_AND_TDX),
    attack(30, "collateral that is too old", &[], SNP_AND_TDX),
    attack(31, "a TDX quote that is out of date, may be debugged, or was extended", &[], SNP_AND_TDX),
    attack(32, "a TEE's report for another TPM", &[], SNP_AND_TDX),
    attack(33, "registers of two releases", &["NO_SINGLE_RELEASE"], Wire("registers_of_two_releases_are_of_none")),
    attack(
        34,
        "evidence that is worth less than the cluster asks for",
        &["ASSURANCE_TOO_LOW"],
        Wire("evidence_is_worth_what_its_roots_are"),
    ),
    attack(
        35,
        "an older release: below the channel's least epoch, below what the node has run",
        &["EPOCH", "EPOCH_ROLLBACK"],
        Wire("a_lower_epoch_is_never_run_again"),
    ),
    attack(36, "a release revoked a moment ago", &["REVOKED"], Wire("a_revoked_release_is_refused_at_the_next_boot")),
    attack(
        37,
        "a release that is not in the log; an entry of another",
        &["BUNDLE_SCHEMA", "LEAF"],
        Wire("only_what_is_logged_is_allowed_in_production"),
    ),
    attack(
        38,
        "a wrong inclusion proof: index, size, a hash, the root",
        &["INCLUSION"],
        Wire("a_bundle_that_does_not_hold_is_refused_with_its_code"),
    ),
    attack(
        39,
        "a checkpoint of an unknown key, with too few witnesses; two roots for one size",
        &["CHECKPOINT_SIGNATURE", "WITNESS_QUORUM", "LOG_FORK"],
        Wire("a_bundle_that_does_not_hold_is_refused_with_its_code"),
    ),
    attack(
        40,
        "another signer; a time outside of the key's validity",
        &["KEY_UNKNOWN", "KEY_VALIDITY"],
        Wire("a_bundle_that_does_not_hold_is_refused_with_its_code"),
    ),
    attack(
        41,
        "an expired or older channel state",
        &["CHANNEL_EXPIRED", "CHANNEL_ROLLBACK"],
        Wire("an_older_or_expired_channel_state_says_nothing"),
    ),
    attack(
        42,
        "a header with a null cipher",
        &["HEADER_DIGEST", "HEADER_INVALID"],
        Machine("a_header_that_somebody_wrote_is_not_used"),
    ),
    attack(
        43,
        "a header with another segment",
        &["HEADER_INVALID"],
        Machine("a_header_that_somebody_wrote_is_not_used"),
    ),
    attack(
        44,
        "a header with one more keyslot or token, copies that differ, deep or huge JSON",
        &["HEADER_INVALID"],
        Machine("a_header_that_somebody_wrote_is_not_used"),
    ),
    attack(
        45,
        "an older header with a good keyslot",
        &["HEADER_DIGEST"],
        Machine("an_older_or_changed_disk_is_noticed_and_never_formatted"),
    ),
    attack(
        46,
        "two nodes' headers or disks exchanged",
        &["DISK_NODE_MISMATCH"],
        Machine("three_nodes_open_their_own_disks_and_a_retired_one_nothing"),
    ),
    attack(
        47,
        "a header that changes after it was read",
        &["COMMITTED", "HEADER_DIGEST"],
        Machine("a_header_that_changes_after_it_was_read_has_no_effect"),
    ),
    attack(
        48,
        "a header zeroed on a disk that holds data",
        &["DISK_EXPECTED"],
        Machine("an_older_or_changed_disk_is_noticed_and_never_formatted"),
    ),
    attack(
        49,
        "an older copy of the disk; one of the same generation, which is the documented limit",
        &["DISK_ROLLBACK", "COMMITTED"],
        Machine("an_older_or_changed_disk_is_noticed_and_never_formatted"),
    ),
    attack(
        50,
        "a table of the kernel that is not the one asked for",
        &["DISK_TABLE_MISMATCH"],
        Unit("every_other_table_is_refused_by_the_part_that_differs"),
    ),
    attack(
        51,
        "a root with a changed block, hash, or root hash",
        &["ROOT_VERIFY_FAILED"],
        Machine("a_flipped_byte_in_the_first_data_block"),
    ),
    attack(
        52,
        "a release with a flipped bit; refusals and messages of another signer, conversation or connection",
        &["RELEASE_INVALID", "COMMITTED"],
        Machine("lies_without_a_signature_delay_a_boot_and_signed_ones_end_it"),
    ),
    attack(
        53,
        "a broker that is down, a black hole beside one that works, no DHCP",
        &["COMMITTED"],
        Machine("a_black_hole_and_a_closed_port_beside_a_broker_delay_the_boot"),
    ),
    attack(
        54,
        "the broker is killed between any two steps",
        &["COMMITTED"],
        Wire("a_broker_killed_at_any_step_releases_once_and_loses_nothing"),
    ),
    attack(
        55,
        "power is cut while a disk is made",
        &["COMMITTED"],
        Machine("a_power_cut_while_the_disk_is_made_loses_nothing"),
    ),
    attack(56, "an older database", &["BROKER_BEHIND"], Machine("an_older_database_is_noticed")),
    attack(57, "clocks ten years off", &["COMMITTED"], Machine("clocks_ten_years_off_change_nothing")),
    attack(
        58,
        "messages out of order, or twice",
        &["STATE", "SESSION_INVALID", "SESSION_INVALID"],
        Wire("messages_have_their_order"),
    ),
    attack(
        59,
        "bodies that are too long, nested, no JSON, no UTF-8; a log of empty events",
        &["413", "MALFORMED", "LOG_REPLAY"],
        Wire("bombs_are_refused_and_memory_stays"),
    ),
    attack(
        60,
        "connections that say nothing, or a byte at a time",
        &["COMMITTED"],
        Wire("slow_connections_end_and_nodes_are_served"),
    ),
    attack(
        61,
        "a flood of hellos of one key, of one address, of keys that nobody knows",
        &["429"],
        Wire("floods_are_turned_away_and_keep_nothing"),
    ),
    attack(
        62,
        "a storm of nodes while a manufacturer's service is slow",
        &[],
        Not("no manufacturer's service is asked yet; `cargo xtask bench --only broker` has the storm"),
    ),
    attack(63, "recovery with too few or wrong shares", &[], Not("recovery by several keys together comes later")),
    attack(64, "a join token that is used twice", &[], Not("there are no join tokens")),
    attack(65, "a stranger compares denials of known and unknown nodes", &["403"], Wire("denials_look_alike")),
    attack(
        66,
        "secrets are looked for in logs, console, database, disk and memory",
        &["COMMITTED"],
        Machine("neither_share_nor_passphrase_is_anywhere"),
    ),
];

/// The codes of an attack, in the order of its forms.
///
/// # Panics
/// There is no such number: a row asks for what is not in the table.
pub fn codes(number: u8) -> &'static [&'static str] {
    TABLE.iter().find(|attack| attack.number == number).map_or(&[], |attack| attack.codes)
}

/// The only code of an attack.
pub fn code(number: u8) -> &'static str {
    codes(number).first().copied().unwrap_or("nothing")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_number_is_there_once_and_every_row_exists() {
        let numbers: Vec<u8> = TABLE.iter().map(|attack| attack.number).collect();
        assert_eq!(numbers, (1..=66).collect::<Vec<u8>>());
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let text = |folder: &str| {
            let mut text = String::new();
            crate::tests::sources(&checkout.join(folder), &mut text);
            text
        };
        let (wire, machine, unit) = (text("tests/tests/broker"), text("tests/tests/vm"), text("initrd-agent/src"));
        for Attack { number, what, codes, tried } in TABLE {
            assert!(!what.is_empty());
            let is_there = match tried {
                Wire(row) => wire.contains(&format!("\"{row}\"")),
                Machine(row) => machine.contains(&format!("\"{row}\"")),
                Unit(test) => unit.contains(&format!("fn {test}()")),
                Not(why) => !why.is_empty(),
            };
            assert!(is_there, "attack {number}: {tried:?}");
            assert!(matches!(tried, Not(_)) || !codes.is_empty(), "attack {number} has no code");
        }
    }
}
