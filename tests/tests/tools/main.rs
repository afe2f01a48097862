//! The sandbox, the image writers and a built image, judged by independent tools of the build root.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod explain;
mod image;
mod launch;
mod references;
mod sandbox;
mod stubs;
mod var;
mod writers;
