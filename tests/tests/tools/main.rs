//! The sandbox, the image writers and a built image, judged by independent tools of the build root.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod image;
mod launch;
mod sandbox;
mod writers;
