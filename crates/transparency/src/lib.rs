//! Logs that only grow, and can show it: Merkle trees (RFC 6962) and signed checkpoints (C2SP tlog-checkpoint). Nothing is read or written here, and no clock is asked.

pub mod checkpoint;
pub mod tree;
