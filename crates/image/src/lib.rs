//! Deterministic writers for the parts of an image: root tree, initrd, hash tree, UKI, ESP and disk.
//!
//! Each is a function of its arguments: same input, same bytes, on any machine, for any user. None needs root, a loop
//! device or a mount. Formats are frozen by digests in the tests and compared with independent tools.

pub mod cpio;
pub mod disk;
pub mod elf;
pub mod esp;
pub mod ids;
pub mod modules;
pub mod tree;
pub mod uki;
pub mod verity;
