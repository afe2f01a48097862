//! Mistakes in a checkout: each is named, with the next step.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};

use super::Row;
use cairn_tests::workshop::{Bench, Workshop};

/// An edit of a file in the clone, the arguments, and what the error must say.
type Case = (
    &'static str,
    Option<(&'static str, &'static str, &'static str)>,
    &'static [&'static str],
    &'static [&'static str],
);

const CASES: [Case; 9] = [
    (
        "unit_of_a_profile_without_a_definition_is_named",
        Some((
            "os/profiles/container/profile.toml",
            "\"containerd.service\"",
            "\"containerd.service\", \"absent.service\"",
        )),
        &["build-image", "--profile", "container"],
        &["absent.service", "nothing enables it", "no file defines it", "docs/profiles.md"],
    ),
    (
        "service_of_a_profile_without_its_program_is_named",
        Some(("os/profiles/container/profile.toml", "[\"containerd\", ", "[")),
        &["build-image", "--profile", "container"],
        &["containerd.service starts /usr/bin/containerd, which is not in the root", "`programs`"],
    ),
    (
        "an_unknown_profile_is_named_with_those_that_exist",
        None,
        &["build-image", "--profile", "nope"],
        &["nope", "container", "debug"],
    ),
    (
        "a_module_that_the_kernel_lacks_is_named",
        Some(("os/image.toml", "\"virtio_blk\",", "\"virtio_blk\", \"no_such_module\",")),
        &["build-image"],
        &["no_such_module"],
    ),
    (
        "a_uki_that_does_not_fit_the_esp_names_the_setting",
        Some(("os/image.toml", "esp_mib = 48", "esp_mib = 12")),
        &["build-image"],
        &["disk.esp_mib", "os/image.toml"],
    ),
    (
        "an_unknown_setting_is_named",
        Some(("os/image.toml", "[disk]", "[disk]\nesp_size = 1")),
        &["build-image"],
        &["os/image.toml", "esp_size"],
    ),
    (
        "a_lock_with_an_unknown_field_is_refused",
        Some(("os/packages.lock", "[[package]]", "[[package]]\nprefer = \"this\"")),
        &["build-image"],
        &["packages.lock", "prefer", "git checkout"],
    ),
    (
        "a_lock_of_another_format_is_refused",
        Some(("os/packages.lock", "version = 1\n", "version = 2\n")),
        &["build-image"],
        &["packages.lock", "version 2", "git checkout"],
    ),
    (
        "a_lock_that_does_not_answer_the_sets_is_refused_with_locked",
        Some(("os/packages.lock", "inputs = \"", "inputs = \"00000000")),
        &["build-image", "--locked"],
        &["packages.lock"],
    ),
];

pub fn rows() -> Vec<Row> {
    let mut rows = vec![
        Row::new("a_lock_out_of_order_is_refused", out_of_order),
        Row::new("a_way_in_fails_the_build", way_in),
        Row::new("a_module_that_is_not_listed_fails_the_build", module),
        Row::new("program_under_var_fails_the_build_by_its_name", program_under_var),
        Row::new("an_activation_that_is_not_listed_fails_the_build", activation),
        Row::new("a_damaged_stage_in_the_cache_is_made_again", damaged_stage),
    ];
    rows.extend(CASES.map(|(name, edit, arguments, words)| {
        Row::new(name, move |shop, row| {
            let bench = shop.bench(row)?;
            if let Some((path, from, to)) = edit {
                bench.edit(path, from, to)?;
            }
            bench.must_fail(&mut bench.xtask(arguments), words)?;
            nothing_made(&bench)
        })
    }));
    rows
}

fn nothing_made(bench: &Bench) -> Result<()> {
    let folder = bench.checkout.join("target/image");
    let left: Vec<_> = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    ensure!(left.is_empty() || left == [".lock"], "outputs are left: {left:?}");
    bench.must_be_clean()
}

fn out_of_order(shop: &Workshop, row: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    let path = bench.checkout.join("os/packages.lock");
    let text = fs::read_to_string(&path).context("Failed to read the lock")?;
    let mut parts: Vec<&str> = text.split("[[package]]").collect();
    parts.swap(1, 2);
    fs::write(&path, parts.join("[[package]]")).context("Failed to write the lock")?;
    bench.must_fail(&mut bench.xtask(&["build-image"]), &["packages.lock", "out of order", "git checkout"])
}

/// Each rule has its unit test; this one shows that the build obeys.
fn way_in(shop: &Workshop, row: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    let units = bench.checkout.join("os/root/etc/systemd/system");
    fs::write(units.join("backdoor.service"), "[Service]\nExecStart=/usr/bin/true\n")
        .context("Failed to write a unit")?;
    let wanted = units.join("multi-user.target.wants/backdoor.service");
    std::os::unix::fs::symlink("/etc/systemd/system/backdoor.service", wanted).context("Failed to enable a unit")?;
    bench.must_fail(&mut bench.xtask(&["build-image"]), &["backdoor.service", "os/tree.toml"])?;
    nothing_made(&bench)
}

/// Each difference has its unit test; this one shows that the build obeys.
fn module(shop: &Workshop, row: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    let folder = bench.checkout.join("os/root/usr/lib/modules/updates");
    fs::create_dir_all(&folder).context("Failed to make a folder")?;
    fs::write(folder.join("virtio_console.ko.xz"), "a module").context("Failed to write a module")?;
    let words = ["/usr/lib/modules/updates/virtio_console.ko.xz is not listed", "is denied", "os/image.toml"];
    bench.must_fail(&mut bench.xtask(&["build-image"]), &words)?;
    nothing_made(&bench)
}

/// What is created at boot is in the suites `tools` and `vm`; this one shows that the build obeys.
fn program_under_var(shop: &Workshop, row: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    let folder = bench.checkout.join("os/root/var/lib/own");
    fs::create_dir_all(&folder).context("Failed to make a folder")?;
    let program = folder.join("tool");
    fs::write(&program, "a program").context("Failed to write a program")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).context("chmod")?;
    let words = ["/var/lib/own/tool: a program, and /var is mounted without execution", "hint: ", "profile.toml"];
    bench.must_fail(&mut bench.xtask(&["build-image"]), &words)?;
    nothing_made(&bench)
}

/// Each place and kind has its unit test; this one shows that the build obeys.
fn activation(shop: &Workshop, row: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    for (path, text) in [
        ("usr/lib/udev/rules.d/99-evil.rules", "KERNEL==\"vda\" IMPORT{file}=\"/evil\"\n"),
        ("etc/systemd/system/basic.target.d/evil.conf", "[Unit]\nOnFailure=initrd-cleanup.service\n"),
        ("usr/lib/x86_64-linux-gnu/ossl-modules/evil.so", "a module"),
    ] {
        let path = bench.checkout.join("os/root").join(path);
        fs::create_dir_all(path.parent().context("a path with a folder")?).context("Failed to make a folder")?;
        fs::write(path, text).context("Failed to write a file")?;
    }
    let words = [
        "udev: \"IMPORT{file} /evil\" is not listed",
        "udev_rules: \"usr/lib/udev/rules.d/99-evil.rules\" is not listed",
        "units: \"initrd-cleanup.service\" is not listed (OnFailure= of /etc/systemd/system/basic.target.d/evil.conf)",
        "units_of_etc: \"etc/systemd/system/basic.target.d/evil.conf\" is not listed",
        "plug_ins: \"usr/lib/x86_64-linux-gnu/ossl-modules/evil.so\" is not listed",
        "os/activation.toml",
    ];
    bench.must_fail(&mut bench.xtask(&["build-image"]), &words)?;
    nothing_made(&bench)
}

fn damaged_stage(shop: &Workshop, row: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    for link in bench.stages(&["verity"])? {
        let original = fs::canonicalize(&link)?;
        fs::remove_file(&link)?;
        fs::create_dir(&link)?;
        for entry in fs::read_dir(original)?.flatten() {
            fs::copy(entry.path(), link.join(entry.file_name()))?;
        }
        let path = link.join("root.verity");
        let mut bytes = fs::read(&path)?;
        bytes[5000] ^= 1;
        fs::write(&path, bytes)?;
    }
    let text = bench.must_succeed(&mut bench.xtask(&["build-image"]))?;
    ensure!(text.contains("the cached stage verity is damaged"), "{text}");
    ensure!(bench.image()?.document.root_hash == shop.image.document.root_hash, "another root hash");
    ensure!(bench.image()?.read("root.verity")? == shop.image.read("root.verity")?, "the damage is in the output");
    Ok(())
}
