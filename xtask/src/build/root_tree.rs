//! Stage `root`: packages, kernel modules, our service and our own files become one tree, which is checked for ways in and packed by
//! mkfs.erofs. A change below os/root runs this stage and what follows, but not the package manager.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use cairn_image::ids::ReleaseSeed;
use cairn_image::modules;
use cairn_image::tree::{Entry, Kind, Tree};

use super::activation::Activation;
use super::agent;
use super::kernel::Kernel;
use super::lean;
use super::package_tree::ACCOUNTS;
use super::root_modules;
use super::services;
use super::stage::{Key, Made, Stages};
use super::var;
use super::ways_in;
use crate::checkout::Checkout;
use crate::config::image::ImageConfig;
use crate::config::profile::{self, Profile, ProfileConfig};
use crate::config::tree::{self, TreeConfig};
use crate::sandbox::Sandbox;

/// Name of the output.
pub const EROFS: &str = "root.erofs";

/// Inputs of the stage.
pub struct Inputs<'a> {
    /// The checkout.
    pub checkout: &'a Checkout,
    /// os/image.toml.
    pub image: &'a ImageConfig,
    /// The variant, if it is not the plain image.
    pub profile: Option<&'a Profile>,
    /// Stage of the build root.
    pub build_root: &'a Made,
    /// Its tree.
    pub tools: &'a Path,
    /// Stage of the packages.
    pub packages: &'a Made,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Stage of the kernel modules that the root has.
    pub modules: &'a Made,
    /// Their names, without those that they depend on.
    pub wanted_modules: &'a [String],
    /// Stage of the agent, with the service beside it.
    pub agent: &'a Made,
    /// os-release of the image.
    pub os_release: &'a str,
    /// Time stamps.
    pub source_date: u64,
    /// Ids.
    pub seed: &'a ReleaseSeed,
}

/// Makes the EROFS image.
pub fn make(stages: &Stages, inputs: &Inputs) -> Result<Made> {
    let uuid = inputs.seed.uuid("root file system").to_string();
    let root = &inputs.image.root;
    let mut key = Key::new("root", 3)
        .digest("build-root", &inputs.build_root.key)
        .digest("packages", &inputs.packages.key)
        .digest("modules", &inputs.modules.key)
        .path("service", &inputs.agent.join(agent::SERVICE))?
        .path("os/root", &inputs.checkout.join("os/root"))?
        .path("os/tree.toml", &inputs.checkout.join("os/tree.toml"))?
        .path("os/activation.toml", &inputs.checkout.join("os/activation.toml"))?
        .text("denied modules", &root.denied.join(" "))
        .text("os-release", inputs.os_release)
        .text("source date", &inputs.source_date.to_string())
        .text("uuid", &uuid)
        .text("packing", &format!("{} {} {}", root.compression, root.cluster, root.features));
    if let Some(profile) = inputs.profile {
        key = key.path("profile", &profile.folder)?;
    }
    stages.run("root", key, |output| {
        let tree = assemble(inputs)?;
        pack(&tree, inputs, &uuid, output)
    })
}

/// The tree of the root, checked.
fn assemble(inputs: &Inputs) -> Result<Tree> {
    let config = TreeConfig::read(&inputs.checkout.join("os/tree.toml"))?;
    let mut tree = Tree::read_tar(&inputs.packages.join("packages.tar"))?;
    check_accounts(&tree, inputs)?;
    let plain = ProfileConfig::default();
    let profile = inputs.profile.map_or(&plain, |profile| &profile.config);
    for pattern in config.drop.iter().chain(&profile.drop) {
        tree.remove(pattern);
    }
    for folder in &config.empty {
        tree.empty(folder);
    }
    let modules_folder = format!("usr/lib/modules/{}", inputs.kernel.release);
    for folder in ["usr/lib/modules", &modules_folder] {
        tree.insert(folder, Entry::directory(0o755))?;
    }
    tree.overlay(&inputs.modules.join("tree").join(&modules_folder), &modules_folder)?;
    tree.overlay(&inputs.checkout.join("os/root"), "")?;
    if let Some(profile) = inputs.profile {
        let own = profile.folder.join("root");
        if own.is_dir() {
            tree.overlay(&own, "")?;
        }
    }
    let service = inputs.agent.join(agent::SERVICE);
    let service = fs::read(&service).with_context(|| format!("Failed to read {}", service.display()))?;
    tree.insert("usr/lib/cairn", Entry::directory(0o755))?;
    tree.insert(&format!("usr/lib/cairn/{}", agent::SERVICE), Entry::file(service, 0o755))?;
    tree.insert("usr/lib/os-release", Entry::file(inputs.os_release, 0o644))?;
    tree.insert("etc/machine-id", Entry::file("uninitialized\n", 0o444))?;
    for (path, mode) in tree::mode_table(&config.modes)?.into_iter().chain(tree::mode_table(&profile.modes)?) {
        tree.set_mode(&path, mode)?;
    }
    let mut owners = tree::owner_table(&config.owners)?;
    owners.extend(tree::owner_table(&profile.owners)?);
    tree.set_owners(&owners)?;
    if !profile.full {
        lean::make(&mut tree, &config.lean, profile);
    }
    ways_in::check(&tree, &config.allow, profile)?;
    services::check(&tree, &profile.units)?;
    var::create_at_boot(&mut tree)?;
    if !profile.full {
        lean::check(&tree, &config.lean, profile)?;
    }
    let expected = modules::resolve(&inputs.kernel.modules(), inputs.wanted_modules)?;
    root_modules::check(&tree, &modules_folder, &expected, &inputs.image.root.denied)?;
    let activation = Activation::read(&inputs.checkout.join("os/activation.toml"))?.with_units(&profile.units);
    activation.check(&tree, &profile.activation)?;
    Ok(tree)
}

/// Every account that a package made must be in the image's own account files with the same ids: nothing chooses an id at build time.
fn check_accounts(tree: &Tree, inputs: &Inputs) -> Result<()> {
    for name in ACCOUNTS {
        let path = profile::account_file(inputs.checkout.root(), inputs.profile, name);
        let ours = fs::read_to_string(&path).with_context(|| format!("Failed to read {}", path.display()))?;
        let ours = ids(&ours);
        let Some(Kind::File { content, .. }) = tree.get(name).map(|entry| &entry.kind) else {
            anyhow::bail!("The packages brought no /{name}");
        };
        let theirs = String::from_utf8(content.read()?).with_context(|| format!("/{name} is not UTF-8"))?;
        for (account, id) in ids(&theirs) {
            ensure!(
                ours.get(account) == Some(&id),
                "A package made the account {account} with id {id}: add it to {} (and to shadow beside it)",
                path.display()
            );
        }
    }
    Ok(())
}

fn ids(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            Some((fields.next()?, fields.nth(1)?))
        })
        .collect()
}

/// mkfs.erofs reads the tar stream from its standard input; a failing one leaves a huge sparse file, which goes away
/// with the stage's folder.
fn pack(tree: &Tree, inputs: &Inputs, uuid: &str, output: &Path) -> Result<()> {
    let root = &inputs.image.root;
    let errors = output.join("mkfs.log");
    let log = File::create(&errors).with_context(|| format!("Failed to write {}", errors.display()))?;
    let mut command = Sandbox::new(inputs.tools).bind(output, "/tmp/work").work_dir("/tmp/work").command("mkfs.erofs");
    command.args(["-U", uuid, "-T", &inputs.source_date.to_string(), "--quiet"]);
    command.arg(format!("-z{}", root.compression)).arg(format!("-C{}", root.cluster));
    if !root.features.is_empty() {
        command.arg(format!("-E{}", root.features));
    }
    let mut child = command
        .args(["--tar=f", EROFS])
        .stdin(Stdio::piped())
        .stdout(log.try_clone().context("Failed to duplicate the log's descriptor")?)
        .stderr(log)
        .spawn()
        .context("Failed to start mkfs.erofs in the build root")?;
    let input = child.stdin.take().context("mkfs.erofs has no standard input")?;
    let mut stream = BufWriter::with_capacity(1 << 20, input);
    let written = tree.write_tar(&mut stream, inputs.source_date).map_err(anyhow::Error::from);
    let written = written.and_then(|()| stream.flush().context("Failed to write to mkfs.erofs"));
    drop(stream);
    let status = child.wait().context("Failed to wait for mkfs.erofs")?;
    // If mkfs.erofs died, that is the cause, and the broken pipe its effect.
    ensure!(status.success(), "mkfs.erofs failed ({status}): {}", super::mkosi::tail(&errors, 10));
    written?;
    fs::remove_file(&errors).with_context(|| format!("Failed to remove {}", errors.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_lines_give_name_and_id() {
        let found = ids("root:x:0:0:root:/root:/bin/sh\ntss:x:100:101::/:/bin/false\nbroken\n");
        assert_eq!(found, BTreeMap::from([("root", "0"), ("tss", "100")]));
    }
}
