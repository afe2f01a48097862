//! The build root as every command needs it: for building, booting and testing.

use std::path::PathBuf;

use anyhow::Result;

use super::build_root;
use super::sources::Sources;
use super::stage::{Made, Stages};
use crate::checkout::Checkout;
use crate::config::image::ImageConfig;
use crate::lock::sets;

/// The build root.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The stage.
    pub made: Made,
    /// The tree: what programs see as `/`.
    pub tree: PathBuf,
}

impl Tools {
    /// Makes it, or takes it from the cache.
    pub fn get(checkout: &Checkout, image: &ImageConfig, sources: &Sources, stages: &Stages) -> Result<Self> {
        let packages = sources.set(sets::BUILD_ROOT)?;
        let configuration = checkout.join("xtask/build-root/mkosi.conf");
        let made = build_root::make(stages, &image.packages.suite, &configuration, &packages, &sources.files)?;
        Ok(Self { tree: made.join(build_root::TREE), made })
    }
}
