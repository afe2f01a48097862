//! What the end-to-end tests are made of: the images under test, copies of them with one thing changed, machines that are watched until there is a
//! verdict, and a small model of the registers, written apart from the build so that both must be right.

pub mod difference;
pub mod disk;
pub mod environment;
pub mod erofs;
pub mod harness;
pub mod image;
pub mod mirror;
pub mod pe;
pub mod registers;
pub mod settled;
pub mod shell;
pub mod suite;
pub mod uki;
pub mod watch;
