//! From PID 1 to the switch to the verified root, in the same machine: our agent, and systemd in the peer's initrd.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Bench;
use super::builds::Images;
use super::report::Measure;
use crate::sandbox::Sandbox;
use crate::vm::console::Found;
use crate::vm::{Accelerator, Machine, Vm};

const TIMEOUT: Duration = Duration::from_secs(400);

pub(super) fn measure(bench: &Bench, images: &Images) -> Result<Vec<Measure>> {
    bench.progress.note("bench: boots ...");
    let sandbox = Sandbox::new(&bench.tools.tree);
    let ours = console_until(&sandbox, &images.ours, " ms")?;
    let ours = between(&ours, "handing over after ", " ms").context("our agent names no time")?;
    let theirs = console_until(&sandbox, &images.theirs, "(userspace)")?;
    let theirs = initrd_time(&theirs).context("the peer's systemd names no time")?;
    Ok(vec![Measure {
        what: "PID 1 to switch-root".into(),
        against: "systemd's initrd".into(),
        unit: "s".into(),
        ours: ours.parse::<f64>().context("not a number of milliseconds")? / 1000.0,
        theirs,
        goal: 1.0 / 8.0,
    }])
}

fn console_until(sandbox: &Sandbox, image: &Path, end: &str) -> Result<String> {
    let machine = Machine { accelerator: Accelerator::detect(sandbox), ..Machine::with_disk(image) };
    let vm = Vm::start(sandbox, &machine, Box::new(|_, _| {}))?;
    let marker = if end == " ms" { "handing over after " } else { "Startup finished in " };
    let Found::Text(_, at) = vm.console().wait_for(&[marker], 0, TIMEOUT) else {
        bail!("the console of {} does not show {marker:?}:\n{}", image.display(), vm.console().transcript());
    };
    // The line may not be complete yet.
    let _ = vm.console().wait_for(&[end], at, Duration::from_secs(5));
    Ok(vm.console().text())
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}

/// From `Startup finished in 2.1s (kernel) + 8.5s (initrd) + ...`, seconds.
fn initrd_time(text: &str) -> Option<f64> {
    let words = between(text, "Startup finished in ", "(initrd)")?;
    let last = words.rsplit('+').next()?;
    let mut seconds = 0.0;
    for word in last.split_whitespace() {
        seconds += match word {
            word if word.ends_with("min") => word.trim_end_matches("min").parse::<f64>().ok()? * 60.0,
            word if word.ends_with("ms") => word.trim_end_matches("ms").parse::<f64>().ok()? / 1000.0,
            word => word.trim_end_matches('s').parse::<f64>().ok()?,
        };
    }
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_initrd_is_found_in_every_form() {
        for (time, seconds) in [("8.512s", 8.512), ("1min 2.5s", 62.5), ("640ms", 0.64)] {
            let text = format!("x\nStartup finished in 2.1s (kernel) + {time} (initrd) + 9s (userspace) = 20s.\n");
            assert_eq!(initrd_time(&text), Some(seconds), "{time}");
        }
        assert_eq!(initrd_time("Startup finished in 2.1s (kernel)"), None);
    }
}
