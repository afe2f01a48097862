//! Images that run workloads, made as the pages of `docs/how-to` tell: containers, and a package with a service.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cairn_tests::environment::output_of;
use cairn_tests::suite::Suite;
use cairn_tests::watch::Watched;
use cairn_tests::workshop::{Bench, Workshop};
use cairn_tests::{how_to, oci};
use xtask::sandbox::WORK;
use xtask::vm::Machine;

use crate::Row;
use crate::nodes::{PATIENCE, free_port};

const PROGRAM: &str = include_str!("workload.c");
const PROFILE: &str = "os/profiles/hello";
/// The name in docs/how-to/run-a-container.md.
const IMAGE: &str = "docker.io/library/hello:1";

/// Units of the test alone: a container that fails, and the node itself, which runs copies of a program from all places that can be written.
const UNITS: [(&str, &str); 2] = [
    (
        "failing.service",
        "After=containerd.service hello.service\n[Service]\nType=oneshot\nExecStart=/usr/bin/ctr run --rm docker.io/library/hello:1 failing /hello fail\n",
    ),
    (
        "probe.service",
        "After=containerd.service failing.service hello-measured.service\n[Service]\nType=oneshot\nExecStart=/usr/share/containers/hello/hello probe\n\
         StandardOutput=journal+console\n",
    ),
];

/// Where the node can write; the last two are the containers'.
const PLACES: [&str; 6] =
    ["/var/lib/copy", "/run/copy", "/tmp/copy", "/dev/shm/copy", "/run/containerd/copy", "/var/lib/containerd/copy"];

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("containers_of_the_measured_root_run_and_report_their_end", containers).in_full(),
        Row::new("package_with_a_service_that_a_profile_adds_answers_requests", package).in_full(),
    ]
}

/// Follows a page in a clone; `before_build` adds what the page leaves to the reader.
fn follow(bench: &Bench, page: &str, before_build: impl Fn() -> Result<()>) -> Result<()> {
    let path = bench.checkout.join("docs/how-to").join(page);
    let page = fs::read_to_string(&path).with_context(|| format!("Failed to read {}", path.display()))?;
    how_to::follow(&page, &bench.checkout, |arguments| {
        if arguments.first() == Some(&"build-image") {
            before_build()?;
        }
        bench.must_succeed(&mut bench.xtask(arguments)).map(drop)
    })
}

fn containers(suite: &Suite, row: &str) -> Result<()> {
    let shop = Workshop::open()?;
    let bench = shop.bench(row)?;
    follow(&bench, "run-a-container.md", || add_containers(&bench))?;
    let image = bench.image()?;
    let mut watched = Watched::start(suite, row, &suite.machine(&[image.file("raw")]))?;
    watched.must_run()?;
    let text = watched.vm.console().text();
    let words = [
        "Started containerd.service",
        // The exception: an overlay with execution.
        "WORKLOAD mount overlay / overlay rw,",
        "WORKLOAD copy in the root: ran",
        "Finished hello.service",
        "/ erofs ro,",
        "WORKLOAD copy in the root: Read-only file system",
        "WORKLOAD measured, /run/copy: refused",
        "WORKLOAD measured, /dev/copy: refused",
        "WORKLOAD measured, /dev/shm/copy: refused",
        // containerd's own mounts, for comparison.
        "WORKLOAD show, /run/copy: ran",
        "PROBE CRI: off",
        "Finished hello-measured.service",
        "Failed to start failing.service",
    ];
    let refused = PLACES.map(|place| format!("PROBE {place}: refused"));
    for word in words.into_iter().chain(refused.iter().map(String::as_str)) {
        ensure!(text.contains(word), "the console does not show {word:?}{}", watched.last_lines());
    }
    let mut roots: Vec<Vec<&str>> = text
        .lines()
        .filter_map(|line| line.split("WORKLOAD pid 1, root: ").nth(1))
        .map(|names| names.split_whitespace().collect())
        .collect();
    roots.iter_mut().for_each(|names| names.sort_unstable());
    let own = ["dev", "hello", "proc", "run", "sys"];
    ensure!(roots.len() == 2 && roots.iter().all(|names| names[..] == own), "the containers are in {roots:?}");
    for word in ["Failed to start hello", "Finished failing.service"] {
        watched.must_not_show(word)?;
    }
    watched.must_not_prompt()
}

/// The same program as an archive and as a directory, and the units of the test.
fn add_containers(bench: &Bench) -> Result<()> {
    let program = compile(bench)?;
    let folder = bench.checkout.join(PROFILE).join("root/usr/share/containers");
    fs::copy(&program, folder.join("hello/hello")).context("Failed to copy the program")?;
    oci::write(&folder.join("hello.tar"), IMAGE, &fs::read(&program).context("Failed to read the program")?)?;
    let units = bench.checkout.join(PROFILE).join("root/etc/systemd/system");
    let mut listed = String::from("\"hello-measured.service\"");
    for (name, text) in UNITS {
        fs::write(units.join(name), format!("[Unit]\n{text}")).context("Failed to write a unit")?;
        let link = units.join("multi-user.target.wants").join(name);
        std::os::unix::fs::symlink(Path::new("/etc/systemd/system").join(name), link).context("Failed to link")?;
        listed += &format!(", \"{name}\"");
    }
    bench.edit(&format!("{PROFILE}/profile.toml"), "\"hello-measured.service\"", &listed)
}

/// The program, linked statically by the build root.
fn compile(bench: &Bench) -> Result<std::path::PathBuf> {
    let folder = bench.folder.join("program");
    fs::create_dir_all(&folder).context("Failed to make a folder")?;
    fs::write(folder.join("workload.c"), PROGRAM).context("Failed to write the program")?;
    let tools = bench.workshop.sandbox.clone().bind(&folder, WORK).work_dir(WORK);
    output_of(tools.command("gcc").args(["-static", "-O2", "-Wall", "-o", "hello", "workload.c"]))?;
    Ok(folder.join("hello"))
}

/// nginx does not start without /var/log/nginx and /var/lib/nginx, and its own page is below /var: all three are the package's.
fn package(suite: &Suite, row: &str) -> Result<()> {
    let shop = Workshop::open()?;
    let bench = shop.bench(row)?;
    follow(&bench, "add-a-package.md", || Ok(()))?;
    let image = bench.image()?;
    let port = free_port()?;
    let machine = suite.machine(&[image.file("raw")]);
    let machine = Machine { network: true, forwarded: vec![(port, 80)], ..machine };
    let mut watched = Watched::start(suite, row, &machine)?;
    watched.must_run()?;
    for (path, status, words) in [
        ("/measured.html", "200", "<p>A page of the measured root.</p>"),
        ("/index.nginx-debian.html", "200", "Welcome to nginx!"),
        ("/absent", "404", "Not Found"),
    ] {
        let answer = get(port, path)?;
        let first = answer.lines().next().unwrap_or_default();
        let is_expected = first.starts_with("HTTP/1.") && first.contains(&format!(" {status} "));
        ensure!(is_expected && answer.contains(words), "{path}: {answer}{}", watched.last_lines());
    }
    watched.must_not_show("Failed to start")?;
    watched.must_not_prompt()
}

fn get(port: u16, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).context("the node does not answer")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(socket, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).with_context(|| format!("no answer to {path}"))?;
    Ok(answer)
}
