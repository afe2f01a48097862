//! Stage `debian-package`: a tree with a program, its man pages, completions and the files below `xtask/packages`, packed by
//! dpkg-deb of the build root (deb(5), deb-control(5), Debian Policy).

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::dependencies::Dependencies;
use crate::build::agent::Compiler;
use crate::build::stage::{Key, Made, Stages};
use crate::sandbox::{Sandbox, WORK};

/// Version of the workspace, whose crates all have it.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Build roots are of this architecture.
const ARCHITECTURE: &str = "amd64";
const MAINTAINER: &str = "Cairn <maintainers@cairn.invalid>";
/// Files for the packages, in the checkout.
const FILES: &str = "xtask/packages";
/// Script in [`FILES`] that makes a package.
const ASSEMBLE: &str = "assemble.sh";
/// Scripts of a package that dpkg runs.
const SCRIPTS: [&str; 4] = ["preinst", "postinst", "prerm", "postrm"];

/// A Debian package of one program.
pub(super) struct Package {
    /// Its name.
    pub name: &'static str,
    /// Its program, the package of the workspace with the same name.
    pub program: &'static str,
    /// Packages that its scripts need.
    scripts_need: &'static [&'static str],
    /// First line of the description.
    synopsis: &'static str,
    /// Further lines.
    description: &'static str,
}

/// All of them.
pub(super) const PACKAGES: [Package; 2] = [
    Package {
        name: "cairn",
        program: "cairn",
        scripts_need: &[],
        synopsis: "predict and verify measurements of Cairn images",
        description: " cairn predicts what a machine measures that boots an image, names the first\n \
                      measurement that differs, verifies releases and their logs without a\n \
                      network, follows a log, and appraises running nodes.\n",
    },
    Package {
        name: "cairn-key-broker",
        program: "key-broker",
        scripts_need: &["systemd"],
        synopsis: "release keys of disks to attested nodes",
        description: " key-broker verifies what a node has booted and sends the share of the key of\n \
                      its state disk only to nodes that run an allowed release. The package has a\n \
                      systemd unit, which is not started before the broker was initialized.\n",
    },
];

impl Package {
    /// Name of the file, as apt expects it.
    pub fn file_name(&self) -> String {
        format!("{}_{VERSION}_{ARCHITECTURE}.deb", self.name)
    }

    /// Makes it of the compiled programs.
    pub fn make(&self, compiler: &Compiler, stages: &Stages, programs: &Made, source_date: u64) -> Result<Made> {
        let files = compiler.checkout.join(FILES);
        let key = Key::new("debian-package", 1)
            .digest("build-root", &compiler.build_root.key)
            .digest("programs", &programs.key)
            .path("files", &files)?
            .text("package", self.name)
            .text("control", &self.control(&Dependencies::default()))
            .text("source-date", &source_date.to_string());
        stages.run("debian-package", key, |output| {
            let scratch = stages.store().scratch()?;
            let tree = scratch.path().join("root");
            let program = programs.join(self.program);
            let dependencies = Dependencies::of_program(compiler.tools, &program)?;
            self.lay_out(&tree, &program, &files, &dependencies)?;
            fs::copy(files.join(ASSEMBLE), scratch.path().join(ASSEMBLE)).context("cannot copy the script")?;
            let mut command = Sandbox::new(compiler.tools)
                .bind(scratch.path(), WORK)
                .env("SOURCE_DATE_EPOCH", source_date.to_string())
                .command("sh");
            command.args([&format!("{WORK}/{ASSEMBLE}"), self.program, &self.file_name()]).stdin(Stdio::null());
            let made = command.output().context("cannot start a shell in the build root")?;
            let errors = String::from_utf8_lossy(&made.stderr);
            ensure!(made.status.success(), "cannot pack {}: {}", self.name, errors.trim());
            let file = scratch.path().join(self.file_name());
            fs::copy(&file, output.join(self.file_name()))
                .with_context(|| format!("cannot copy {}", file.display()))?;
            Ok(())
        })
    }

    /// Puts the files in place that are not made by the program; owners, modes and times come later.
    fn lay_out(&self, tree: &Path, program: &Path, files: &Path, dependencies: &Dependencies) -> Result<()> {
        let own = files.join(self.name);
        copy_tree(&own.join("root"), tree)?;
        copy(program, &tree.join("usr/bin").join(self.program))?;
        copy(&files.join("copyright"), &tree.join("usr/share/doc").join(self.name).join("copyright"))?;
        let meta = tree.join("DEBIAN");
        for script in SCRIPTS {
            if own.join(script).exists() {
                copy(&own.join(script), &meta.join(script))?;
            }
        }
        write(&meta.join("control"), &self.control(dependencies))?;
        let conffiles = files_below(&tree.join("etc"), "/etc")?;
        if !conffiles.is_empty() {
            write(&meta.join("conffiles"), &(conffiles.join("\n") + "\n"))?;
        }
        Ok(())
    }

    /// deb-control(5); the script adds the size.
    fn control(&self, dependencies: &Dependencies) -> String {
        let Self { name, synopsis, description, .. } = self;
        let depends = dependencies.with(self.scripts_need);
        format!(
            "Package: {name}\nVersion: {VERSION}\nArchitecture: {ARCHITECTURE}\nMaintainer: {MAINTAINER}\n\
             Section: admin\nPriority: optional\nDepends: {depends}\nDescription: {synopsis}\n{description}"
        )
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    create_parent(path)?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    create_parent(to)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))
}

/// Copies the files below a directory, which may be missing.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for name in files_below(from, "")? {
        let name = name.trim_start_matches('/');
        copy(&from.join(name), &to.join(name))?;
    }
    Ok(())
}

/// Paths of the files below `folder`, with `prefix` in front, in bytewise order; none if it is missing.
fn files_below(folder: &Path, prefix: &str) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    if !folder.exists() {
        return Ok(paths);
    }
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let path = format!("{prefix}/{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true => paths.extend(files_below(&entry.path(), &path)?),
            false => paths.push(path),
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_etc_are_conffiles_and_scripts_are_not_in_the_tree() {
        let (files, folder) = (crate::checkout::Checkout::find().unwrap().join(FILES), tempfile::tempdir().unwrap());
        let program = folder.path().join("program");
        fs::write(&program, "ELF").unwrap();
        for package in &PACKAGES {
            let tree = folder.path().join(package.name);
            package.lay_out(&tree, &program, &files, &Dependencies::default()).unwrap();
            assert!(tree.join("usr/bin").join(package.program).is_file());
            assert!(tree.join("usr/share/doc").join(package.name).join("copyright").is_file());
            let conffiles = fs::read_to_string(tree.join("DEBIAN/conffiles")).unwrap_or_default();
            let in_etc = files_below(&tree.join("etc"), "/etc").unwrap();
            assert_eq!(conffiles.lines().collect::<Vec<_>>(), in_etc);
            assert_eq!(!conffiles.is_empty(), package.name == "cairn-key-broker");
            assert!(SCRIPTS.iter().all(|script| !tree.join(script).exists()));
        }
    }
}
