//! The key broker: it verifies what nodes show of themselves, and releases the shares of their disks' keys (docs/protocol.md).

mod backup;
pub mod cli;
pub mod code;
mod config;
mod connections;
pub mod engine;
mod event_log;
mod fault;
mod harden;
mod init;
mod inputs;
mod monitoring;
mod pace;
mod passphrase;
mod restore;
mod seal;
mod serve;
mod server;
mod socket;
pub mod store;
mod table;
mod witness;
