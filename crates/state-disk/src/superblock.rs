//! The closed set of ext4 superblocks that a node mounts: the ones that mke2fs writes with [`FEATURES`], and the fields in them that the kernel and e2fsck change later (Linux
//! `Documentation/filesystems/ext4/super.rst`, `fs/ext4/ext4.h`).
//!
//! A running node writes its superblock through the mounted volume, so root of a node can have written every byte of it. Some fields name what is outside of the volume (a journal on another disk), others change how it
//! is mounted. They are refused before e2fsck or the kernel reads them; so is every field of a feature that is not in use.

use crate::filesystem::SUPERBLOCK_LENGTH;

/// Features of a state disk, as an argument of `mke2fs -O`. They are the same for all releases, whatever the defaults of mke2fs are.
pub const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,orphan_file,filetype,extent,64bit,flex_bg,\
                            metadata_csum_seed,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// A superblock that is not one of a state disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not 1024 bytes long.
    #[error("the superblock has {0} bytes instead of {SUPERBLOCK_LENGTH}")]
    Length(usize),
    /// A field has another value than mke2fs wrote.
    #[error("the superblock has another {field} than a state disk: {found}")]
    Field {
        /// Its name in Linux.
        field: &'static str,
        /// Its bytes, in hexadecimal.
        found: String,
    },
}

/// Values that a field may have; numbers are little-endian.
enum Values {
    /// Counts, times, names and errors, and places within the volume.
    Any,
    /// This number, and zeros behind it.
    Only(u32),
    /// All of the first bits, any of the second, no others.
    Bits(u32, u32),
}

use Values::{Any, Bits, Only};

/// Group descriptors are found by blocks of their own. The kernel changes the features so when it grows a file system beyond 2^32 blocks, and mke2fs leaves `resize_inode` out of one that begins with more.
const META_BG: u32 = 0x10;
const RESIZE_INODE: u32 = 0x10;
/// The journal is to be replayed.
const RECOVER: u32 = 0x4;
/// The orphan file is in use.
const ORPHAN_PRESENT: u32 = 0x1_0000;

const INCOMPATIBLE: usize = 0x60;
const FIRST_META_BG: usize = 0x104;

/// All fields: offset, name, values. Each ends where the next one begins.
#[rustfmt::skip]
const FIELDS: &[(usize, &str, Values)] = &[
    (0x000, "numbers of inodes and blocks", Any),
    (0x014, "s_first_data_block", Only(0)),
    (0x018, "s_log_block_size", Only(2)),
    (0x01c, "s_log_cluster_size", Only(2)),
    (0x020, "s_blocks_per_group", Only(32768)),
    (0x024, "s_clusters_per_group", Only(32768)),
    (0x028, "s_inodes_per_group, times and number of mounts", Any),
    (0x036, "s_max_mnt_count", Only(0xffff)),
    (0x038, "s_magic", Only(0xef53)),
    (0x03a, "s_state", Any),
    (0x03c, "s_errors", Only(1)),
    (0x03e, "s_minor_rev_level", Only(0)),
    (0x040, "s_lastcheck", Any),
    (0x044, "s_checkinterval", Only(0)),
    (0x048, "s_creator_os", Only(0)),
    (0x04c, "s_rev_level", Only(1)),
    (0x050, "s_def_resuid and s_def_resgid", Only(0)),
    (0x054, "s_first_ino", Only(11)),
    (0x058, "s_inode_size", Only(256)),
    (0x05a, "s_block_group_nr", Only(0)),
    (0x05c, "s_feature_compat", Bits(0x102c, RESIZE_INODE)),
    (INCOMPATIBLE, "s_feature_incompat", Bits(0x22c2, RECOVER | META_BG)),
    (0x064, "s_feature_ro_compat", Bits(0x46b, ORPHAN_PRESENT)),
    (0x068, "s_uuid, s_volume_name and s_last_mounted", Any),
    (0x0c8, "s_algorithm_usage_bitmap and preallocation", Only(0)),
    (0x0ce, "s_reserved_gdt_blocks", Any),
    (0x0d0, "s_journal_uuid", Only(0)),
    (0x0e0, "s_journal_inum", Only(8)),
    (0x0e4, "s_journal_dev", Only(0)),
    (0x0e8, "s_last_orphan and s_hash_seed", Any),
    (0x0fc, "s_def_hash_version", Only(1)),
    (0x0fd, "s_jnl_backup_type", Only(1)),
    (0x0fe, "s_desc_size", Only(64)),
    (0x100, "s_default_mount_opts", Only(0xc)),
    (FIRST_META_BG, "s_first_meta_bg", Any),
    (0x108, "s_mkfs_time, s_jnl_blocks and numbers of blocks", Any),
    (0x15c, "s_min_extra_isize", Only(32)),
    (0x15e, "s_want_extra_isize", Only(32)),
    (0x160, "s_flags", Only(1)),
    (0x164, "s_raid_stride", Any),
    (0x166, "s_mmp_update_interval and s_mmp_block", Only(0)),
    (0x170, "s_raid_stripe_width", Any),
    (0x174, "s_log_groups_per_flex", Only(4)),
    (0x175, "s_checksum_type", Only(1)),
    (0x176, "s_encryption_level", Only(0)),
    (0x178, "s_kbytes_written", Any),
    (0x180, "fields of snapshots", Only(0)),
    (0x194, "errors that were found", Any),
    (0x200, "s_mount_opts", Only(0)),
    (0x240, "s_usr_quota_inum and s_grp_quota_inum", Only(0)),
    (0x248, "s_overhead_clusters", Any),
    (0x24c, "s_backup_bgs", Only(0)),
    (0x254, "s_encrypt_algos and s_encrypt_pw_salt", Only(0)),
    (0x268, "s_lpf_ino", Only(0)),
    (0x26c, "s_prj_quota_inum", Only(0)),
    (0x270, "s_checksum_seed and times", Any),
    (0x27c, "s_encoding", Only(0)),
    (0x280, "s_orphan_file_inum", Only(12)),
    (0x284, "s_reserved", Only(0)),
    (0x3dc, "tag of the generation and s_checksum", Any),
];

/// Compares every field of a superblock.
///
/// # Errors
/// [`Error`], for the first field that no state disk has so.
pub fn check(superblock: &[u8]) -> Result<(), Error> {
    if superblock.len() != SUPERBLOCK_LENGTH {
        return Err(Error::Length(superblock.len()));
    }
    let ends = FIELDS.iter().skip(1).map(|(at, ..)| *at).chain([SUPERBLOCK_LENGTH]);
    for ((at, field, values), end) in FIELDS.iter().zip(ends) {
        let found = &superblock[*at..end];
        if !values.contain(found) {
            return Err(Error::Field { field, found: hex::encode(found) });
        }
    }
    let first_meta_bg = &superblock[FIRST_META_BG..FIRST_META_BG + 4];
    if superblock[INCOMPATIBLE] & META_BG as u8 == 0 && first_meta_bg != [0; 4] {
        return Err(Error::Field { field: "s_first_meta_bg", found: hex::encode(first_meta_bg) });
    }
    Ok(())
}

impl Values {
    fn contain(&self, field: &[u8]) -> bool {
        let (number, rest) = field.split_at(field.len().min(4));
        let number = number.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
        match self {
            Any => true,
            Only(value) => number == *value && rest.iter().all(|byte| *byte == 0),
            Bits(all, any) => number & all == *all && number & !(all | any) == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As mke2fs 1.47.2 wrote it: 64 MiB in blocks of 4096 bytes, with [`FEATURES`].
    const RECORDED: &[u8] = include_bytes!("../tests/recorded/ext4-superblock.bin");

    fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut superblock = RECORDED.to_vec();
        superblock[at..at + bytes.len()].copy_from_slice(bytes);
        superblock
    }

    #[test]
    fn superblock_of_mke2fs_and_what_the_kernel_changes_in_it_is_accepted() {
        let rows: [(&str, usize, &[u8]); 9] = [
            ("as mke2fs wrote it", 0, &RECORDED[..1]),
            ("in use", 0x60, &[0xc6, 0x22]),
            ("with files that are open and have no name", 0x64, &[0x6b, 0x04, 0x01]),
            ("after an error", 0x3a, &[3]),
            ("mounted", 0x88, b"/sysroot/var"),
            ("with a label", 0x78, b"state"),
            ("with errors that were found", 0x194, &[7; 0x6c]),
            ("beyond 2^32 blocks, by mke2fs", 0x5c, &[0x2c, 0x10]),
            ("of a volume with stripes", 0x164, &[16, 0]),
        ];
        for (case, at, bytes) in rows {
            assert_eq!(check(&with(at, bytes)), Ok(()), "{case}");
        }
        let mut grown = with(0x5c, &[0x2c, 0x10, 0, 0, 0xd2]);
        grown[FIRST_META_BG] = 9;
        assert_eq!(check(&grown), Ok(()), "beyond 2^32 blocks, by the kernel");
    }

    #[test]
    fn each_field_that_leads_out_of_the_volume_or_changes_how_it_is_mounted_is_refused() {
        let rows: [(&str, usize, &[u8]); 33] = [
            ("s_magic", 0x38, &[0]),
            ("s_journal_uuid", 0xd0, &[1]),
            ("s_journal_uuid", 0xdf, &[1]),
            ("s_journal_inum", 0xe0, &[0]),
            ("s_journal_inum", 0xe0, &[12]),
            ("s_journal_dev", 0xe4, &[0x20, 0xfe]),
            ("s_jnl_backup_type", 0xfd, &[0]),
            // data=journal, data=writeback, and without acl.
            ("s_default_mount_opts", 0x100, &[0x2c]),
            ("s_default_mount_opts", 0x100, &[0x6c]),
            ("s_default_mount_opts", 0x100, &[0x04]),
            ("s_mount_opts", 0x200, b"journal_path=/dev/vdc"),
            ("s_mount_opts", 0x23f, b"x"),
            ("s_errors", 0x3c, &[3]),
            ("s_def_resuid and s_def_resgid", 0x52, &[1]),
            ("s_feature_compat", 0x5c, &[0x38]),
            ("s_feature_compat", 0x5d, &[0x14]),
            // A journal device, encryption, MMP, casefold.
            ("s_feature_incompat", 0x60, &[0xca]),
            ("s_feature_incompat", 0x62, &[0x01]),
            ("s_feature_incompat", 0x61, &[0x23]),
            ("s_feature_incompat", 0x62, &[0x02]),
            ("s_feature_incompat", 0x60, &[0x82]),
            // Quota, verity, and without checksums.
            ("s_feature_ro_compat", 0x65, &[0x05]),
            ("s_feature_ro_compat", 0x65, &[0x84]),
            ("s_feature_ro_compat", 0x65, &[0x00]),
            ("s_checksum_type", 0x175, &[2]),
            ("s_first_meta_bg", 0x104, &[1]),
            ("s_mmp_update_interval and s_mmp_block", 0x168, &[9]),
            ("s_backup_bgs", 0x24c, &[1]),
            ("s_encrypt_algos and s_encrypt_pw_salt", 0x254, &[1]),
            ("s_usr_quota_inum and s_grp_quota_inum", 0x244, &[4]),
            ("s_encoding", 0x27c, &[1]),
            ("s_orphan_file_inum", 0x280, &[13]),
            ("s_reserved", 0x3db, &[1]),
        ];
        for (name, at, bytes) in rows {
            let found = check(&with(at, bytes));
            assert!(matches!(found, Err(Error::Field { field, .. }) if field == name), "{name}: {found:?}");
        }
        assert_eq!(check(&RECORDED[..1023]), Err(Error::Length(1023)));
    }

    #[test]
    fn fields_cover_the_superblock_in_order() {
        assert_eq!(FIELDS[0].0, 0);
        assert!(FIELDS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
