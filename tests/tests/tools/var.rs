//! What the build writes for `/var`, read by the systemd-tmpfiles of the build root.

use std::fs;

use cairn_image::tree::{Entry, Tree};
use cairn_tests::environment::{output_of, sandbox};
use xtask::build::var;
use xtask::sandbox::WORK;

#[test]
fn systemd_tmpfiles_creates_what_packages_have_under_var_and_keeps_what_is_there() {
    let mut tree = Tree::new();
    for (path, entry) in [
        ("usr", Entry::directory(0o755)),
        ("var", Entry::directory(0o755)),
        ("var/lib", Entry::directory(0o755)),
        ("var/lib/own", Entry::directory(0o750)),
        ("var/lib/own/100%.txt", Entry::file("of the package", 0o640)),
        ("var/lib/own/kept.txt", Entry::file("of the package", 0o640)),
        ("var/link", Entry::symlink("lib/own")),
    ] {
        tree.insert(path, entry).unwrap();
    }
    var::create_at_boot(&mut tree).unwrap();
    let folder = tempfile::tempdir().unwrap();
    tree.write_tar(fs::File::create(folder.path().join("root.tar")).unwrap(), 0).unwrap();
    // By its name: a path would be that of the build root.
    let file = var::FILE.rsplit('/').next().unwrap();
    let script = format!(
        "mkdir root; tar -xf root.tar -C root; test -z \"$(ls root/var)\"; \
         mkdir -p -m 700 root/var/lib/own; echo of an earlier boot > root/var/lib/own/kept.txt; \
         for i in 1 2; do SYSTEMD_LOG_LEVEL=warning systemd-tmpfiles --create --root={WORK}/root {file}; done; \
         cd root/var; stat -c '%n %a %F' lib/own lib/own/* link; readlink link; cat lib/own/*"
    );
    let tools = sandbox().unwrap().bind(folder.path(), WORK).work_dir(WORK);
    let shown = output_of(tools.command("sh").args(["-ec", &script])).unwrap();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(
        lines,
        [
            "lib/own 750 directory",
            "lib/own/100%.txt 640 regular file",
            "lib/own/kept.txt 640 regular file",
            "link 777 symbolic link",
            "lib/own",
            "of the packageof an earlier boot",
        ]
    );
}
