//! The key broker: it verifies what nodes show of themselves, and releases the shares of their disks' keys.

fn main() {}
