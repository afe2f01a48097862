//! What a program depends on: the libraries and symbol versions that its ELF names, and the packages of the build root that
//! have them (deb-symbols(5), as dpkg-shlibdeps(1) does).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::sandbox::Sandbox;

/// Packages and the minimum version of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dependencies(BTreeMap<String, String>);

impl Dependencies {
    /// Those of an ELF program, in the build root `tools`.
    pub fn of_program(tools: &Path, program: &Path) -> Result<Self> {
        let mut command = Sandbox::new(tools).bind_read_only(program, "/tmp/program").command("objdump");
        let output = command.args(["-p", "/tmp/program"]).output().context("cannot start objdump in the build root")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cannot read {}: {}", program.display(), errors.trim());
        let libraries = libraries(&String::from_utf8_lossy(&output.stdout));
        Self::of_libraries(&libraries, &symbol_files(tools)?)
    }

    fn of_libraries(libraries: &BTreeMap<String, BTreeSet<String>>, symbols: &[String]) -> Result<Self> {
        let mut packages = BTreeMap::new();
        for (library, versions) in libraries {
            let found = symbols.iter().find_map(|text| section(text, library));
            let Some((package, lines)) = found else {
                bail!("cannot name the package of {library}: no package of the build root lists its symbols")
            };
            let minimum: &mut String = packages.entry(package.to_owned()).or_default();
            for version in versions {
                let marker = format!(" {version}@{version} ");
                let since = lines.iter().find_map(|line| line.strip_prefix(&marker)?.split(' ').next());
                let since = since.with_context(|| format!("{package} does not list {version} of {library}"))?;
                if numbers(since) > numbers(minimum) {
                    *minimum = since.to_owned();
                }
            }
        }
        Ok(Self(packages))
    }

    /// The field `Depends`, with further packages.
    pub fn with(&self, others: &[&str]) -> String {
        let own = self.0.iter().map(|(package, minimum)| match minimum.as_str() {
            "" => package.clone(),
            _ => format!("{package} (>= {minimum})"),
        });
        own.chain(others.iter().map(|other| (*other).to_owned())).collect::<Vec<_>>().join(", ")
    }
}

/// Libraries that `objdump -p` names, each with the versions of symbols that are needed of it.
fn libraries(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut libraries: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["NEEDED", library] => drop(libraries.entry(library.to_owned()).or_default()),
            ["required", "from", library] => current = Some(library.trim_end_matches(':').to_owned()),
            [hash, _, _, version] if hash.starts_with("0x") => {
                if let Some(library) = &current {
                    libraries.entry(library.clone()).or_default().insert(version.to_owned());
                }
            }
            _ => current = None,
        }
    }
    libraries
}

/// The package and the lines about one library in a file `*.symbols`.
fn section<'a>(text: &'a str, library: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let mut lines = text.lines().skip_while(|line| line.split(' ').next() != Some(library));
    let package = lines.next()?.split(' ').nth(1)?;
    Some((package, lines.take_while(|line| line.starts_with([' ', '*', '|'])).collect()))
}

fn symbol_files(tools: &Path) -> Result<Vec<String>> {
    let folder = tools.join("var/lib/dpkg/info");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|kind| kind == "symbols")).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display())))
        .collect()
}

/// Versions of symbols are numbers with dots between them.
fn numbers(version: &str) -> Vec<u64> {
    version.split('.').filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJDUMP: &str = "
Dynamic Section:
  NEEDED               libgcc_s.so.1
  NEEDED               libc.so.6
  INIT                 0x0000000000001000

Version References:
  required from libgcc_s.so.1:
    0x0b792650 0x00 05 GCC_3.0
  required from libc.so.6:
    0x069691b9 0x00 03 GLIBC_2.39
    0x09691a75 0x00 02 GLIBC_2.4

private flags = 0x0:
    0x1 0x2 03 GLIBC_9
";
    const SYMBOLS: &str = "libc.so.6 libc6 #MINVER#\n* Build-Depends-Package: libc6-dev\n GLIBC_2.39@GLIBC_2.39 2.39\n \
                           GLIBC_2.4@GLIBC_2.4 2.4\nlibm.so.6 libc6 #MINVER#\n GLIBC_9@GLIBC_9 9\n";
    const OF_GCC: &str = "libgcc_s.so.1 libgcc-s1 #MINVER#\n GCC_3.0@GCC_3.0 3.0\n";

    #[test]
    fn package_of_each_library_is_named_with_the_newest_version_that_is_needed() {
        let symbols = [SYMBOLS.to_owned(), OF_GCC.to_owned()];
        let found = Dependencies::of_libraries(&libraries(OBJDUMP), &symbols).unwrap();
        assert_eq!(found.with(&["systemd"]), "libc6 (>= 2.39), libgcc-s1 (>= 3.0), systemd");
    }

    #[test]
    fn library_or_version_that_no_package_lists_is_an_error() {
        let library = Dependencies::of_libraries(&libraries(OBJDUMP), &[SYMBOLS.to_owned()]).unwrap_err();
        assert!(library.to_string().contains("cannot name the package of libgcc_s.so.1"), "{library}");
        let older = [SYMBOLS.replace("2.39", "2.38"), OF_GCC.to_owned()];
        let version = Dependencies::of_libraries(&libraries(OBJDUMP), &older).unwrap_err();
        assert!(version.to_string().contains("GLIBC_2.39"), "{version}");
    }
}
