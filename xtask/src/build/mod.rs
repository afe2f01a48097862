//! `cargo xtask build-image`: from the lock to a disk image, straight through.
//!
//! ```text
//! lock -> packages -> build-root -> packages.tar -> root.erofs -> verity -> initrd -> UKI -> disk
//!                               \-> kernel, agent ----------------------/
//! ```
//!
//! Each stage is cached by the digest of its inputs ([`stage`]). The agent compiles while the root is made.

pub mod activation;
pub mod agent;
mod agent_crates;
pub mod build_root;
mod command_line;
pub mod compiled;
pub mod document;
pub mod image;
pub mod initrd;
pub mod kernel;
pub mod lean;
pub mod mkosi;
pub mod outputs;
mod owners;
pub mod package_tree;
mod reference;
pub mod root_modules;
pub mod root_tree;
mod services;
pub mod sources;
pub mod stage;
pub mod toolchain;
pub mod tools;
pub mod var;
pub mod ways_in;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use cairn_image::ids::ReleaseSeed;
use clap::Args;

use crate::checkout::Checkout;
use crate::config::image::ImageConfig;
use crate::config::profile::{self, Profile};
use crate::lock::{Package, sets};
use crate::progress::Progress;
use crate::published;
use crate::store::Store;
use agent::Compiler;
use kernel::Kernel;
use sources::Sources;
use stage::{Made, Stages};
use toolchain::Toolchain;
use tools::Tools;

/// The variant of an image without a profile.
pub const PRODUCTION: &str = "production";
/// Trees of each stage that stay in the cache.
const KEEP: usize = 4;

/// Arguments of `build-image`.
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = "Example: cargo xtask build-image --profile debug\n\
    The mirror comes from this host's apt sources; CAIRN_DEBIAN_MIRROR replaces it. The cache is ${XDG_CACHE_HOME:-~/.cache}/cairn.")]
pub struct BuildArgs {
    /// Build a variant: a folder of os/profiles
    #[arg(long)]
    pub profile: Option<String>,
    /// Write the outputs here [default: target/image]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Build from os/packages.lock and the pinned toolchain or not at all
    #[arg(long)]
    pub locked: bool,
    /// JSON instead of text, one object a line
    #[arg(long)]
    pub json: bool,
}

/// Everything that a build starts from.
pub struct Inputs<'a> {
    /// The checkout.
    pub checkout: &'a Checkout,
    /// os/image.toml.
    pub image: ImageConfig,
    /// The profile, if any.
    pub profile: Option<Profile>,
    /// Packages.
    pub sources: Sources,
    /// Compiler.
    pub toolchain: Toolchain,
    /// Every time stamp.
    pub source_date: u64,
    /// Every id.
    pub seed: ReleaseSeed,
}

impl Inputs<'_> {
    /// `production` or the profile's name.
    pub fn variant(&self) -> &str {
        self.profile.as_ref().map_or(PRODUCTION, |profile| &profile.name)
    }

    /// `cairn_0.1.0`, or `cairn-debug_0.1.0` for a variant.
    pub fn base_name(&self) -> String {
        let ImageConfig { id, version, .. } = &self.image;
        self.profile.as_ref().map_or_else(|| format!("{id}_{version}"), |p| format!("{id}-{}_{version}", p.name))
    }

    /// The kernel command line.
    pub fn command_line(&self) -> String {
        let own = self.profile.iter().flat_map(|profile| &profile.config.command_line);
        self.image.command_line.iter().chain(own).cloned().collect::<Vec<_>>().join(" ")
    }

    /// The package set that the root is made of.
    pub fn root_set(&self) -> Result<String> {
        sets::of_profile(&self.sources.sets, self.profile.as_ref().map(|profile| profile.name.as_str()))
    }

    /// The locked kernel package.
    pub fn kernel_package(&self) -> Result<&Package> {
        let packages = self.sources.set(sets::KERNEL)?;
        ensure!(
            packages.len() == 1,
            "The lock has {} kernels, one is expected: run `cargo xtask lock`",
            packages.len()
        );
        Ok(packages[0])
    }

    /// os-release of the image (os-release(5)).
    pub fn os_release(&self) -> String {
        let ImageConfig { id, name, version, .. } = &self.image;
        let variant = self.variant();
        format!(
            "PRETTY_NAME=\"{name} {version} ({variant})\"\nNAME=\"{name}\"\nID={id}\nID_LIKE=debian\nVERSION_ID={version}\n\
             VARIANT_ID={variant}\nIMAGE_ID={id}\nIMAGE_VERSION={version}\n"
        )
    }
}

/// Runs the command.
pub fn run(args: &BuildArgs, progress: &Progress) -> Result<outputs::Built> {
    let built = run_in(&Checkout::find()?, &Store::open()?, args, progress)?;
    built.report(args.json, progress)?;
    Ok(built)
}

/// Builds from `checkout` with the cache `store`.
pub fn run_in(checkout: &Checkout, store: &Store, args: &BuildArgs, progress: &Progress) -> Result<outputs::Built> {
    let out = match &args.out {
        Some(folder) => folder.clone(),
        None => checkout.target().join("image"),
    };
    // Before anything costs time.
    published::refuse(&out)?;
    let stages = Stages::new(store, progress);
    let image = ImageConfig::read(&checkout.join("os/image.toml"))?;
    let profile = args.profile.as_deref().map(|name| profile::read(checkout.root(), name)).transpose()?;
    let toolchain = pinned_toolchain(checkout, args.locked, progress)?;

    let root_set = sets::of_profile(&sets::read(checkout.root())?, args.profile.as_deref())?;
    let wanted = [sets::BUILD_ROOT, sets::KERNEL, &root_set];
    let sources = Sources::get(checkout, &wanted, args.locked, store, progress)?;
    let source_date = sources.lock.source_date()?;
    let variant = profile.as_ref().map_or(PRODUCTION, |profile| &profile.name);
    let seed = ReleaseSeed::new(&image.id, &image.version, variant);
    let inputs = Inputs { checkout, image, profile, sources, toolchain, source_date, seed };

    if !inputs.profile.as_ref().is_some_and(|profile| profile.config.debug) {
        command_line::check(&inputs.command_line())?;
    }
    let built = build(&inputs, &stages, &out)?;
    store.prune(KEEP)?;
    Ok(built)
}

/// Makes the image of `inputs` in the folder `out`.
pub fn build(inputs: &Inputs, stages: &Stages, out: &std::path::Path) -> Result<outputs::Built> {
    let tools = Tools::get(inputs.checkout, &inputs.image, &inputs.sources, stages)?;
    let verbose = inputs.profile.as_ref().is_some_and(|profile| profile.config.verbose_agent);
    // The compiler waits for memory, mkosi for the disk: side by side they take as long as the longer one.
    let (agent, packages) = std::thread::scope(|scope| {
        let agent = scope.spawn(|| {
            let compiler = Compiler {
                build_root: &tools.made,
                tools: &tools.tree,
                toolchain: &inputs.toolchain,
                checkout: inputs.checkout,
            };
            compiler.make(stages, verbose)
        });
        let packages = make_packages(inputs, stages, &tools);
        (agent.join(), packages)
    });
    let agent = agent.map_err(|_| anyhow::anyhow!("The thread that compiles the agent panicked"))?;
    let (kernel, packages) = packages?;
    let agent = agent?;
    let own = inputs.profile.iter().flat_map(|profile| &profile.config.modules);
    let wanted: Vec<String> = inputs.image.root.modules.iter().chain(own).cloned().collect();
    let modules = kernel::subset(stages, &tools.made, &tools.tree, &kernel, &wanted)?;
    let root = root_tree::make(
        stages,
        &root_tree::Inputs {
            checkout: inputs.checkout,
            image: &inputs.image,
            profile: inputs.profile.as_ref(),
            build_root: &tools.made,
            tools: &tools.tree,
            packages: &packages,
            kernel: &kernel,
            modules: &modules,
            wanted_modules: &wanted,
            agent: &agent,
            os_release: &inputs.os_release(),
            source_date: inputs.source_date,
            seed: &inputs.seed,
        },
    )?;
    image::make(inputs, stages, &image::Parts { tools: &tools, kernel: &kernel, agent: &agent, root: &root }, out)
}

/// The kernel, and the packages of the root.
fn make_packages(inputs: &Inputs, stages: &Stages, tools: &Tools) -> Result<(Kernel, Made)> {
    let Inputs { checkout, image, sources, source_date, .. } = inputs;
    let package = inputs.kernel_package()?;
    let file = sources.files.get(&package.sha256).context("The kernel package was not fetched")?;
    let kernel = kernel::make(stages, &tools.made, &tools.tree, package, file)?;

    let root_set = inputs.root_set()?;
    let base = checkout.join("mkosi.conf");
    let own = inputs.profile.as_ref().map(|profile| profile.folder.join("mkosi.conf")).filter(|path| path.exists());
    let configurations: Vec<&std::path::Path> = std::iter::once(base.as_path()).chain(own.as_deref()).collect();
    let packages = package_tree::make(
        stages,
        &package_tree::Inputs {
            build_root: &tools.made,
            tools: &tools.tree,
            suite: &image.packages.suite,
            configurations: &configurations,
            checkout: checkout.root(),
            profile: inputs.profile.as_ref(),
            packages: &sources.set(&root_set)?,
            files: &sources.files,
            source_date: *source_date,
        },
    )?;
    Ok((kernel, packages))
}

/// The toolchain, which must be the pinned one: another compiler makes other bytes.
pub(crate) fn pinned_toolchain(checkout: &Checkout, must_be_locked: bool, progress: &Progress) -> Result<Toolchain> {
    let toolchain = Toolchain::find(checkout.root())?;
    let pinned = Toolchain::pinned(checkout.root())?;
    if toolchain.release != pinned {
        let text = format!(
            "rustc is {}, rust-toolchain.toml pins {pinned}: the agent will have other bytes",
            toolchain.release
        );
        ensure!(!must_be_locked, "{text}. Install the pinned toolchain: rustup toolchain install {pinned}");
        progress.warn(&text);
    }
    Ok(toolchain)
}
