//! Stage `kernel`: vmlinuz and modules out of the locked kernel package, which is unpacked and never installed, and the
//! module index that depmod makes of them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use cairn_image::modules;

use super::stage::{Key, Made, Stages};
use crate::deb;
use crate::lock::Package;
use crate::sandbox::Sandbox;

/// The kernel of an image.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The stage.
    pub made: Made,
    /// Release name: the folder below `usr/lib/modules`.
    pub release: String,
}

impl Kernel {
    /// The kernel image.
    pub fn vmlinuz(&self) -> PathBuf {
        self.made.join("vmlinuz")
    }

    /// The modules with their index.
    pub fn modules(&self) -> PathBuf {
        self.made.join("tree/usr/lib/modules").join(&self.release)
    }
}

/// Unpacks `package` (its file is `file`).
pub fn make(stages: &Stages, build_root: &Made, tools: &Path, package: &Package, file: &Path) -> Result<Kernel> {
    let key = Key::new("kernel", 1).digest("package", &package.sha256).digest("build-root", &build_root.key);
    let made = stages.run("kernel", key, |output| {
        let unpacked = output.join("unpacked");
        fs::create_dir(&unpacked).with_context(|| format!("Failed to make {}", unpacked.display()))?;
        deb::unpack(file, &unpacked)?;
        let release = only_name(&unpacked.join("usr/lib/modules"))?;
        let vmlinuz = unpacked.join("boot").join(format!("vmlinuz-{release}"));
        fs::rename(&vmlinuz, output.join("vmlinuz"))
            .with_context(|| format!("The package has no {}", vmlinuz.display()))?;
        let tree = output.join("tree/usr/lib/modules");
        fs::create_dir_all(&tree).with_context(|| format!("Failed to make {}", tree.display()))?;
        let modules = unpacked.join("usr/lib/modules").join(&release);
        fs::rename(&modules, tree.join(&release)).with_context(|| format!("Failed to move {}", modules.display()))?;
        crate::interrupt::remove_tree(&unpacked)?;
        // depmod looks in /lib.
        symlink("usr/lib", output.join("tree/lib")).context("Failed to link lib to usr/lib")?;
        depmod(tools, output, &release)
    })?;
    let release = only_name(&made.join("tree/usr/lib/modules"))?;
    Ok(Kernel { made, release })
}

/// The modules that a root has: those that are named, and what they depend on, with an index of their own.
pub fn subset(stages: &Stages, build_root: &Made, tools: &Path, kernel: &Kernel, wanted: &[String]) -> Result<Made> {
    let key = Key::new("modules", 1)
        .digest("kernel", &kernel.made.key)
        .digest("build-root", &build_root.key)
        .text("wanted", &wanted.join(" "));
    stages.run("modules", key, |output| {
        let from = kernel.modules();
        let to = output.join("tree/usr/lib/modules").join(&kernel.release);
        let lists = ["modules.builtin", "modules.builtin.modinfo", "modules.order"].map(PathBuf::from);
        for relative in modules::resolve(&from, wanted)?.into_iter().chain(lists) {
            let target = to.join(&relative);
            let folder = target.parent().context("a module without a folder")?;
            fs::create_dir_all(folder).with_context(|| format!("Failed to make {}", folder.display()))?;
            fs::copy(from.join(&relative), &target)
                .with_context(|| format!("Failed to copy {}", relative.display()))?;
        }
        symlink("usr/lib", output.join("tree/lib")).context("Failed to link lib to usr/lib")?;
        depmod(tools, output, &kernel.release)
    })
}

fn depmod(tools: &Path, output: &Path, release: &str) -> Result<()> {
    let answer = Sandbox::new(tools)
        .bind(output, "/tmp/work")
        .command("depmod")
        .args(["-b", "/tmp/work/tree", release])
        .output()
        .context("Failed to start depmod in the build root")?;
    ensure!(answer.status.success(), "depmod failed: {}", String::from_utf8_lossy(&answer.stderr).trim());
    Ok(())
}

fn only_name(folder: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("Failed to list {}", folder.display()))? {
        names.push(entry.with_context(|| format!("Failed to list {}", folder.display()))?.file_name());
    }
    ensure!(names.len() == 1, "{} should hold the modules of one kernel, it holds {names:?}", folder.display());
    names.remove(0).into_string().ok().context("The kernel's release name is not UTF-8")
}
