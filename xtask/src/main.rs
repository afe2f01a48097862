//! Cairn build tool.

fn main() {}
