//! Machines of `measurements/machines`: what a shape is made of (`<name>.toml`), what QEMU handed to the firmware on such a machine (the folder `<name>`, recorded once), and the reference that follows from
//! both (`<name>.machine.json`).

pub mod blobs;
pub mod config;
pub mod firmware;
pub mod record;
pub mod reference;
