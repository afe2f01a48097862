//! What was measured is changed, as a host or an operator would change it: the quote is genuine, and the log goes with it or lies.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use attest::bytes::Hex;
use attest::message::Purpose;
use cairn_tests::attacks::code;
use cairn_tests::attester::Boot;
use cairn_tests::broker::Broker;
use cairn_tests::environment::program;
use cairn_tests::event_log;
use cairn_tests::node::Node as Machine;
use cairn_tests::suite::Suite;
use measurements::event::kind;
use measurements::parse::tcg_log::Log;
use measurements::{Event, Source};

use crate::Row;
use crate::scene::{Scene, ask, composition};

/// EV_UNUSED (TCG PC Client Platform Firmware Profile, section 10.4.1).
const UNUSED: u32 = 1;

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("a_log_must_lead_to_the_quote", damaged_logs),
        Row::new("a_log_is_read_as_it_was_written", rewritten_types),
        Row::new("one_more_application_is_noticed", one_more_application),
        Row::new("an_addition_to_the_command_line_is_noticed", command_line),
        Row::new("another_uki_is_noticed", another_uki),
        Row::new("event_log_of_a_refused_node_is_explained_by_the_printed_command", explained),
        Row::new("another_secure_boot_is_noticed", secure_boot),
        Row::new("a_closed_boot_gets_nothing", closed),
        Row::new("registers_of_two_releases_are_of_none", two_releases),
        Row::new("evidence_is_worth_what_its_roots_are", worth),
        Row::new("a_node_of_another_cluster_is_noticed", another_cluster),
    ]
}

fn damaged_logs(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let changes: [fn(&mut Log); 4] = [
        |log| {
            log.events.pop();
        },
        |log| {
            log.events.remove(log.events.len() / 2);
        },
        |log| log.events.push(log.events[log.events.len() - 1].clone()),
        |log| log.events.swap(1, 2),
    ];
    for change in changes {
        scene.must_refuse(code(17), |node, _, evidence| {
            let mut log = node.log.clone();
            change(&mut log);
            ensure!(log != node.log, "nothing was changed");
            evidence.event_log = Hex(event_log::write(&log));
            Ok(())
        })?;
    }
    // Cut in the middle of an event.
    scene.must_refuse(code(17), |_, _, evidence| {
        let half = evidence.event_log.0.len() / 2;
        evidence.event_log.0.truncate(half);
        Ok(())
    })?;
    scene.must_still_release().map(drop)
}

fn rewritten_types(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    for (from, to) in
        [(kind::APPLICATION, UNUSED), (kind::APPLICATION, kind::FIRMWARE_BLOB), (kind::VARIABLE, kind::IPL)]
    {
        scene.must_refuse(code(18), |node, _, evidence| {
            let mut log = node.log.clone();
            log.events.iter_mut().filter(|event| event.kind == from).for_each(|event| event.kind = to);
            ensure!(log != node.log, "nothing was changed");
            evidence.event_log = Hex(event_log::write(&log));
            Ok(())
        })?;
    }
    scene.must_still_release().map(drop)
}

/// The node boots like this, which must get this code, and then as it should.
fn must_notice(scene: &mut Scene, code: &str, words: &str, change: impl FnOnce(&mut Boot) -> Result<()>) -> Result<()> {
    let mut boot = scene.boot.clone();
    change(&mut boot)?;
    scene.node.reboot(&boot)?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Provision)?;
    scene.broker.must_refuse(&response, code)?;
    let refused: attest::message::Refused = scene.broker.decision(&response)?;
    let explained = scene.broker.admin(&["explain", &refused.request])?;
    let found = explained["found"].to_string();
    ensure!(found.contains(words), "the operator is told: {found}");
    scene.reboot()?;
    scene.must_still_release().map(drop)
}

fn event(register: u8, kind: u32, bytes: &[u8]) -> Event {
    Event::of(register, kind, Source::Machine, "a change of this test", bytes)
}

/// The first event of this register and type.
fn position(events: &[Event], register: u8, kind: u32) -> Result<usize> {
    let found = events.iter().position(|event| (event.register, event.kind) == (register, kind));
    found.ok_or_else(|| anyhow::anyhow!("PCR {register} has no event of type {kind:#x}"))
}

fn one_more_application(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    must_notice(&mut scene, code(19), "one more image", |boot| {
        let at = position(&boot.firmware, 4, kind::APPLICATION)?;
        boot.firmware.insert(at, event(4, kind::APPLICATION, b"a boot loader before the UKI"));
        Ok(())
    })
}

fn command_line(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    must_notice(&mut scene, code(21), "PCR 12", |boot| {
        let at = position(&boot.firmware, 11, kind::IPL)?;
        boot.firmware.insert(at, event(12, kind::IPL, b"i\0n\0i\0t\0=\0/\0b\0i\0n\0/\0s\0h\0\0\0"));
        Ok(())
    })
}

fn another_uki(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    must_notice(&mut scene, code(22), "PCR 4", |boot| {
        let application = position(&boot.firmware, 4, kind::APPLICATION)?;
        boot.firmware[application] = event(4, kind::APPLICATION, b"a UKI with one byte changed");
        let section = boot.firmware.iter().rposition(|event| (event.register, event.kind) == (11, kind::IPL));
        let section = section.ok_or_else(|| anyhow::anyhow!("the stub measures no section"))?;
        boot.firmware[section] = event(11, kind::IPL, b"an initrd with one byte changed");
        Ok(())
    })
}

/// As an operator works on the first refusal: the broker writes the log, and its hint is run as it is printed.
fn explained(suite: &Suite, _: &str) -> Result<()> {
    const MISMATCH: i32 = 3;
    let mut scene = Scene::new(suite)?;
    let folder = tempfile::tempdir()?;
    let explain = |scene: &Scene, request: &str, name: &str| -> Result<(bool, String)> {
        let file = folder.path().join(name).display().to_string();
        let output = scene.broker.command(&["explain", request, "--event-log", &file])?;
        Ok((output.status.success(), said(&output)))
    };
    let hinted = |text: &str| -> Result<std::process::Output> {
        let hint = text.lines().find_map(|line| line.strip_prefix("hint ")).context("no hint")?.trim().to_owned();
        let (name, rest) = hint.split_once(' ').context("no command")?;
        ensure!(name == "cairn", "{hint}");
        let command = format!("{} {rest}", program("cairn")?.display());
        Command::new("sh").args(["-c", &command]).output().context("Failed to start sh")
    };

    let mut boot = scene.boot.clone();
    let application = position(&boot.firmware, 4, kind::APPLICATION)?;
    boot.firmware[application] = event(4, kind::APPLICATION, b"a UKI with one byte changed");
    scene.node.reboot(&boot)?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Provision)?;
    scene.broker.must_refuse(&response, code(22))?;
    let refused: attest::message::Refused = scene.broker.decision(&response)?;
    let (is_written, text) = explain(&scene, &refused.request, "refused.log")?;
    ensure!(is_written && text.starts_with("time "), "{text}");
    let output = hinted(&text)?;
    let found = said(&output);
    ensure!(output.status.code() == Some(MISMATCH) && found.contains("PCR 4"), "{text}: {found}");
    let log = fs::read(folder.path().join("refused.log"))?;
    ensure!(log == event_log::write(&scene.node.log), "it is not the log that the node sent");
    let (is_written, text) = explain(&scene, &refused.request, "refused.log")?;
    ensure!(!is_written && text.contains("the file exists\nhint: "), "{text}");

    // A held node's log is as predicted; that of a stranger is not kept.
    let machine = Machine::machine_reference()?.display().to_string();
    let mut held = scene.stranger()?;
    let (_, response) = ask(&scene.broker, &mut held, Purpose::Provision)?;
    let stranger: attest::message::Refused = scene.broker.decision(&response)?;
    let (is_written, text) = explain(&scene, &stranger.request, "stranger.log")?;
    ensure!(!is_written && text.contains("logs of others are not kept\nhint: "), "{text}");
    let key = held.tpm.endorsement_key_digest();
    scene.broker.admin(&["node", "enrol", "held", "--ek", &key, "--machine", &machine, "--hold"])?;
    let (_, response) = ask(&scene.broker, &mut held, Purpose::Provision)?;
    let hold: attest::message::Hold = scene.broker.decision(&response)?;
    let (is_written, text) = explain(&scene, &hold.request, "held.log")?;
    let output = hinted(&text)?;
    ensure!(is_written && output.status.success(), "{text}: {}", said(&output));

    // However often it is refused, a node has four logs.
    for _ in 0..6 {
        scene.node.reboot(&boot)?;
        ask(&scene.broker, &mut scene.node, Purpose::Provision)?;
    }
    let kept = fs::read_dir(scene.broker.file("event-logs/node-one"))?.count();
    ensure!(kept == 4, "{kept} logs are kept");
    let (is_written, text) = explain(&scene, &refused.request, "late.log")?;
    ensure!(!is_written && text.contains("it is not kept"), "{text}");
    Ok(())
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn secure_boot(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    must_notice(&mut scene, code(23), "PCR 7", |boot| {
        let at = position(&boot.firmware, 7, kind::VARIABLE)?;
        boot.firmware[at] = event(7, kind::VARIABLE, b"db with another key");
        Ok(())
    })
}

fn closed(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    scene.provision()?;
    // The same boot again, by whatever runs now; then the next boot, closed by a failure.
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    scene.broker.must_refuse(&response, code(24))?;
    scene.reboot()?;
    scene.node.say("failed:DISK_MISSING")?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    scene.broker.must_refuse(&response, code(24))?;
    scene.reboot()?;
    scene.must_still_unlock()
}

fn two_releases(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    scene.broker.allow(&suite.debug.file("reference.json"))?;
    let other = Boot::of(&composition(&suite.debug, &scene.broker)?);
    let mut mixed = scene.boot.clone();
    let of_stub = |event: &Event| event.register == 11;
    ensure!(
        mixed.firmware.iter().filter(|event| of_stub(event)).ne(other.firmware.iter().filter(|event| of_stub(event))),
        "both images measure the same into PCR 11"
    );
    mixed.firmware.retain(|event| !of_stub(event));
    mixed.firmware.extend(other.firmware.iter().filter(|event| of_stub(event)).cloned());
    scene.node.reboot(&mixed)?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Provision)?;
    scene.broker.must_refuse(&response, code(33))?;
    // Each of the two for itself is fine, the other one, too.
    scene.node.reboot(&other)?;
    scene.must_still_release().map(drop)
}

fn worth(suite: &Suite, _: &str) -> Result<()> {
    let mut broker = Broker::of_assurance("tpm-virtual", "")?;
    broker.run()?;
    // The operator learns it before a node does.
    let reference = suite.image.file("reference.json").display().to_string();
    let allow = ["release", "allow", "--unsigned-development", &reference];
    let said = broker.admin(&allow)?;
    let warns = said["warning"].as_str().is_some_and(|text| text.contains(code(34)) && text.contains("--bundle"));
    ensure!(warns, "no warning: {said}");
    let said = Broker::start()?.admin(&allow)?;
    ensure!(said.get("warning").is_none(), "a warning where nothing is wrong: {said}");
    let mut scene = Scene::with(suite, broker)?;
    scene.must_refuse(code(34), |_, _, _| Ok(()))
}

fn another_cluster(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let other = Broker::start()?;
    let theirs = Boot::of(&composition(&suite.image, &other)?);
    must_notice(&mut scene, code(21), "PCR 12", |boot| {
        ensure!(*boot.later.last().unwrap_or(&event(0, 0, b"")) != theirs.later[theirs.later.len() - 1], "one cluster");
        *boot = theirs;
        Ok(())
    })
}
