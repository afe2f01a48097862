//! A published image is built again from what its statement names, and what is not the same is named.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cairn_tests::sources::{commit, head};
use measurements::document::image::ImageReference;
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::statement::{Statement, Subject};
use xtask::difference::{OUTPUTS, Outputs};
use xtask::digest::Sha256Digest;

use super::Row;
use cairn_tests::workshop::{Bench, Workshop, text_of};

pub fn rows() -> Vec<Row> {
    vec![Row::new("a_published_image_is_built_again_and_what_differs_is_named", rebuilt)]
}

/// The statement of the image in a folder, beside it.
fn publish(folder: &Path, change: impl FnOnce(&mut ImageReference)) -> Result<PathBuf> {
    let outputs = Outputs::in_folder(folder)?;
    let mut reference = ImageReference::parse(&outputs.read("reference.json")?)?;
    change(&mut reference);
    let mut files = Vec::new();
    fs::write(outputs.file("reference.json"), reference.to_bytes()?).context("Failed to write a reference")?;
    for (suffix, _) in OUTPUTS {
        let digest = Sha256Digest::of_file(&outputs.file(suffix))?.0;
        files.push(Subject::file(format!("{}.{suffix}", outputs.name()), *digest.as_bytes()));
    }
    let predicate =
        MeasuredBoot { not_after: 2, not_before: 1, previous: None, reference: Reference::Image(Box::new(reference)) };
    let path = folder.join("statement.json");
    fs::write(&path, Statement::measured_boot(files, predicate)?.write()?).context("Failed to write a statement")?;
    Ok(path)
}

/// The build of another commit is that commit's own, by cargo. Compiling it is left out: this one starts the program under test instead.
fn fake_cargo(bench: &Bench) -> Result<PathBuf> {
    let path = bench.folder.join("fake-cargo");
    let script = format!(
        "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec {} \"$@\"\n",
        bench.workshop.xtask.display()
    );
    fs::write(&path, script).context("Failed to write a script")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("chmod")?;
    Ok(path)
}

fn rebuilt(shop: &Workshop, row: &str) -> Result<()> {
    const DIFFERS: i32 = 3;
    let bench = shop.bench(row)?;
    bench.must_succeed(&mut bench.xtask(&["build-image", "--locked", "--out", "../published"]))?;
    let statement = publish(&bench.folder.join("published"), |_| ())?;
    let name = statement.display().to_string();
    let again = |name: &str| bench.xtask(&["rebuild", name, "--with-cache"]);
    let text = bench.must_succeed(&mut again(&name))?;
    ensure!(text.contains("SAME       9 outputs, ") && !text.contains(" 0 events"), "{text}");

    // Another commit, whose own tools build it: the same, once more.
    let first = head(&bench.checkout)?;
    bench.edit("os/root/etc/sysctl.d/99-cairn.conf", "", "# changed\n")?;
    let second = commit(&bench.checkout, "A change")?;
    let text = bench.must_succeed(again(&name).env("CARGO", fake_cargo(&bench)?))?;
    ensure!(text.contains("SAME       9 outputs, ") && text.contains(&first), "{text}");

    // An image that was built of something else than it says. With the published files there, the file is named.
    let lied = publish(&bench.folder.join("published"), |reference| reference.revision = second.clone())?;
    let alone = bench.folder.join("alone.json");
    fs::copy(&lied, &alone).context("Failed to copy a statement")?;
    for (statement, words) in [(&lied, "file /etc/sysctl.d/99-cairn.conf"), (&alone, "was published")] {
        let output = again(&statement.display().to_string()).output().context("Failed to start xtask")?;
        let text = text_of(&output);
        ensure!(output.status.code() == Some(DIFFERS), "{:?}: {text}", output.status);
        ensure!(text.contains("root.erofs (stage `root`)") && text.contains(words), "{text}");
        ensure!(text.contains("first event that differs: event"), "{text}");
    }

    // What cannot be built again is no success, and says why.
    for (text, from, to, words) in [
        (fs::read_to_string(&alone)?, second.clone(), "0".repeat(40), "git fetch"),
        (
            fs::read_to_string(&alone)?,
            Sha256Digest::of_file(&bench.checkout.join("os/packages.lock"))?.0.to_string(),
            "0".repeat(64),
            "was not built from that commit",
        ),
    ] {
        fs::write(&alone, text.replace(&from, &to)).context("Failed to write a statement")?;
        bench.must_fail(&mut again(&alone.display().to_string()), &[words])?;
        fs::copy(&lied, &alone).context("Failed to copy a statement")?;
    }
    bench.must_be_clean()
}
