//! What a machine keeps and says of itself: variable stores, SMBIOS tables, registers as a tool prints them.

use super::{File, file, patched};

pub fn files() -> Vec<File> {
    [variables(), tables(), registers()].concat()
}

/// A store of OVMF with one variable.
fn store() -> Vec<u8> {
    let mut flash = vec![0; 0x48];
    flash[0x10..0x20].copy_from_slice(&hex::decode("8d2bf1ff96768b4ca9852747075b4f50").unwrap());
    flash[0x28..0x2c].copy_from_slice(b"_FVH");
    flash[0x30] = 0x48;
    flash.extend(hex::decode("782cf3aa7b949a43a1802e144ec37792").unwrap());
    flash.extend(512_u32.to_le_bytes());
    flash.extend([0x5a, 0xfe, 0, 0, 0, 0, 0, 0]);
    flash.extend([0xaa, 0x55, 0x3f, 0]);
    flash.extend([0; 32]);
    flash.extend(6_u32.to_le_bytes());
    flash.extend(3_u32.to_le_bytes());
    flash.extend([7; 16]);
    flash.extend(b"P\0K\0\0\0key\xff");
    flash.resize(0x48 + 512, 0xff);
    flash
}

fn variables() -> Vec<File> {
    let good = store();
    let first = 0x48 + 28;
    vec![
        file("variables", "one-variable", good.clone()),
        file("variables", "not-formatted", patched(&good, 0x48 + 20, &[0xff])),
        file("variables", "store-of-4-gib", patched(&good, 0x48 + 16, &[0xff; 4])),
        file("variables", "name-of-4-gib", patched(&good, first + 36, &[0xff; 4])),
        file("variables", "value-of-2-gib", patched(&good, first + 40, &[0xff, 0xff, 0xff, 0x7f])),
        file("variables", "deleted", patched(&good, first + 2, &[0x3c])),
        file("variables", "cut", &good[..first + 30]),
    ]
}

fn tables() -> Vec<File> {
    let mut good = vec![1, 27, 0, 1, 1, 2, 0, 3];
    good.extend([9; 16]);
    good.extend([6, 0, 0]);
    good.extend(b"maker\0product\0serial\0\0");
    good.extend([11, 5, 0, 2, 1]);
    good.extend(b"any\0\0");
    good.extend([127, 4, 0, 3, 0, 0]);
    vec![
        file("smbios", "three-structures", good.clone()),
        file("smbios", "structure-of-3-bytes", patched(&good, 1, &[3])),
        file("smbios", "structure-of-255-bytes", patched(&good, 1, &[255])),
        file("smbios", "string-that-does-not-exist", patched(&good, 7, &[200])),
        file("smbios", "type-that-is-not-modelled", patched(&good, 0, &[22])),
        file("smbios", "without-end", &good[..good.len() - 6]),
    ]
}

fn registers() -> Vec<File> {
    let digest = "ab".repeat(32);
    vec![
        file("pcrs", "two-registers", format!("  sha256:\n    0 : 0x{digest}\n    11: 0x{digest}\n")),
        file("pcrs", "register-twice", format!("sha256:\n0 : {digest}\n0 : {digest}\n")),
        file("pcrs", "register-99", format!("sha256:\n99 : {digest}\n")),
        file("pcrs", "no-bank", format!("0 : {digest}\n")),
        file("pcrs", "short-digest", "sha256:\n0 : 0xab\n"),
        file("pcrs", "binary", [0xff, 0, b':', 0xfe]),
    ]
}
