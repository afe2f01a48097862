//! Boots a machine and watches its console until there is a verdict. Every console is also searched for prompts.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use xtask::sandbox::{Network, Sandbox};
use xtask::vm::console::Found;
use xtask::vm::{Ending, Machine, Vm};

use crate::suite::Suite;

/// What systemd says when everything that was asked for runs.
pub const RUNNING: &str = "Reached target multi-user.target";

/// Texts that only somebody waiting for a person would print.
const PROMPTS: [&str; 9] = [
    "login:",
    "assword:",
    "Press Enter",
    "emergency mode",
    "rescue mode",
    "sulogin",
    "Control-D",
    "\n# ",
    "(initramfs)",
];

/// The agent's last line: the broker has acknowledged the open disk, and systemd starts.
pub const HANDING_OVER: &str = "cairn: handing over after";

/// The guest's kernel prints this after QEMU has lost one of its timer interrupts; the guest does not recover.
const LOST_TIMER: &str = "kthread timer wakeup didn't happen";

/// What a watch of the console ends with, whichever comes first; [`GOOD`] and [`TIMER_LOST`] are places in it.
fn ends(good: &str) -> [&str; 4] {
    [good, LOST_TIMER, "cairn: FAILED code=", "Kernel panic - not syncing"]
}

const GOOD: usize = 0;
const TIMER_LOST: usize = 1;

/// No boot takes longer; a machine that has not decided by then hangs.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(600);
/// From the announcement of a failure to power-off.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// How far a boot came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the multi-user target, or as far as was asked.
    Running,
    /// It ended before that.
    Ended(Ending),
}

/// A machine that is being watched. Its transcript is written when it is dropped.
pub struct Watched {
    /// The machine.
    pub vm: Vm,
    transcript: PathBuf,
}

impl Watched {
    /// Powers a machine on; `row` names the transcript.
    pub fn start(suite: &Suite, row: &str, machine: &Machine) -> Result<Self> {
        Self::start_in(suite, suite.sandbox.clone(), row, machine)
    }

    /// The same in this sandbox, which shows QEMU further files.
    pub fn start_in(suite: &Suite, sandbox: Sandbox, row: &str, machine: &Machine) -> Result<Self> {
        // A network card reaches the host's loopback, where brokers of tests are.
        let network = if machine.network { Network::Host } else { Network::None };
        let vm = Vm::start(&sandbox.network(network), machine, Box::new(|_, _| {}))?;
        Ok(Self { vm, transcript: suite.transcripts.join(format!("{row}.console")) })
    }

    /// Waits until the system runs or has ended. A guest that names its failure must also power off.
    pub fn verdict(&mut self) -> Result<Verdict> {
        self.verdict_at(RUNNING)
    }

    /// Waits until the console shows `good`, or the machine has ended.
    fn verdict_at(&mut self, good: &str) -> Result<Verdict> {
        match self.vm.console().wait_for(&ends(good), 0, VERDICT_TIMEOUT) {
            Found::Text(GOOD, _) => Ok(Verdict::Running),
            Found::Text(TIMER_LOST, _) => {
                Err(EmulatorFailed(format!("the guest waits for a timer{}", self.last_lines())).into())
            }
            Found::Timeout => bail!("no verdict within {} s{}", VERDICT_TIMEOUT.as_secs(), self.last_lines()),
            _ => self.ending().map(Verdict::Ended),
        }
    }

    /// Waits for the end.
    pub fn ending(&mut self) -> Result<Ending> {
        match self.vm.wait_exit(END_TIMEOUT)? {
            Some(Ending::EmulatorFailed { message }) => Err(EmulatorFailed(message).into()),
            Some(ending) => Ok(ending),
            None => bail!("the machine did not end within {} s{}", END_TIMEOUT.as_secs(), self.last_lines()),
        }
    }

    /// Requires a running system.
    pub fn must_run(&mut self) -> Result<()> {
        self.must_reach(RUNNING)
    }

    /// Requires that the agent has done its part: for rows that ask nothing of the system after it.
    pub fn must_hand_over(&mut self) -> Result<()> {
        self.must_reach(HANDING_OVER)
    }

    fn must_reach(&mut self, good: &str) -> Result<()> {
        match self.verdict_at(good)? {
            Verdict::Running => Ok(()),
            Verdict::Ended(ending) => bail!("the machine did not come to {good:?}: {ending}{}", self.last_lines()),
        }
    }

    /// Requires that nobody was asked for anything.
    pub fn must_not_prompt(&self) -> Result<()> {
        let text = self.vm.console().text();
        let prompt = PROMPTS.iter().find(|prompt| text.contains(**prompt));
        ensure!(prompt.is_none(), "the console shows {:?}{}", prompt.unwrap_or(&""), self.last_lines());
        Ok(())
    }

    /// Requires that the console does not show `text`.
    pub fn must_not_show(&self, text: &str) -> Result<()> {
        ensure!(!self.vm.console().text().contains(text), "the console shows {text:?}{}", self.last_lines());
        Ok(())
    }

    /// The end of the console, for messages.
    pub fn last_lines(&self) -> String {
        let transcript = self.vm.console().transcript();
        let lines: Vec<&str> = transcript.lines().collect();
        let from = lines.len().saturating_sub(25);
        format!("; the console ends with\n{}\n(all of it: {})", lines[from..].join("\n"), self.transcript.display())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // A transcript that cannot be written is no reason to fail.
        let _ = std::fs::write(&self.transcript, self.vm.console().transcript()).context("transcript");
    }
}

/// QEMU itself failed: the row says nothing and is run once more.
#[derive(Debug, thiserror::Error)]
#[error("QEMU failed: {0}")]
pub struct EmulatorFailed(pub String);

#[cfg(test)]
mod tests {
    use xtask::vm::console::earliest;

    use super::*;

    /// Recorded from the row `an_older_or_changed_disk_is_noticed_and_never_formatted`, on a host with a busy processor.
    const RECORDED: &str = "\
[  195.634261]  </TASK>
[  195.634792] rcu: rcu_preempt kthread timer wakeup didn't happen for 5251 jiffies! g-983 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x402
[  195.638509] rcu: \tPossible timer handling issue on cpu=1 timer-softirq=10
[  195.638601] rcu: rcu_preempt kthread starved for 5252 jiffies! g-983 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x402 ->cpu=1
";
    /// The same kernel on a slow host: its threads wait for the processor, and the boot goes on.
    const SLOW: &str = "\
[  195.638601] rcu: rcu_preempt kthread starved for 5252 jiffies! g-983 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x402 ->cpu=1
";

    fn first(console: &str) -> Option<usize> {
        earliest(&ends(RUNNING), console).map(|(index, _)| index)
    }

    #[test]
    fn lost_timer_of_the_emulator_is_told_from_what_a_guest_does() {
        let running = format!("[  OK  ] {RUNNING}.\n");
        let failed = "[    4.1] cairn: FAILED code=ROOT_NOT_FOUND no partition with ...\n";
        for (console, expected) in [
            (RECORDED.to_owned(), Some(TIMER_LOST)),
            (format!("{RECORDED}{running}"), Some(TIMER_LOST)),
            (SLOW.to_owned(), None),
            (format!("{SLOW}{running}"), Some(GOOD)),
            // A machine that has reached what was asked for, or named its failure, has its verdict.
            (format!("{running}{RECORDED}"), Some(GOOD)),
            (format!("{failed}{RECORDED}"), Some(2)),
        ] {
            assert_eq!(first(&console), expected, "{console}");
        }
    }
}
