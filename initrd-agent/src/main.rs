//! PID 1 of the initrd.

fn main() {}
