//! What a process has used so far (proc_pid_stat(5), proc_pid_status(5)).

use std::time::Duration;

use anyhow::{Context, Result};

/// Ticks of the CPU times in a second: USER_HZ, which is 100 on every x86.
const TICKS: u64 = 100;

/// A process of this host.
#[derive(Clone, Copy, Debug)]
pub struct Process(u32);

impl Process {
    /// The process with this id.
    pub fn of(id: u32) -> Self {
        Self(id)
    }

    /// This one.
    pub fn this() -> Self {
        Self(std::process::id())
    }

    /// CPU time of all its threads, in user space and in the kernel.
    pub fn cpu(self) -> Result<Duration> {
        let text = self.read("stat")?;
        // The name in parentheses may hold anything; behind it, utime and stime are the fields 14 and 15.
        let fields = text.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().skip(11).take(2));
        let ticks = fields.context("the statistics of a process have no name")?.map(str::parse::<u64>);
        let ticks: u64 = ticks.sum::<std::result::Result<_, _>>().context("a CPU time is no number")?;
        Ok(Duration::from_millis(ticks * 1000 / TICKS))
    }

    /// Memory that it holds, in bytes (VmRSS).
    pub fn memory(self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// The most that it ever held, in bytes (VmHWM).
    pub fn most_memory(self) -> Result<u64> {
        self.status("VmHWM:")
    }

    fn status(self, name: &str) -> Result<u64> {
        let text = self.read("status")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{name} is no number"))?;
        Ok(kib << 10)
    }

    fn read(self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.0);
        std::fs::read_to_string(&path).with_context(|| format!("Failed to read {path}: the process has ended"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_uses_grows() {
        let (this, before) = (Process::this(), Process::this().cpu().unwrap());
        let memory = this.memory().unwrap();
        assert!(memory > 1 << 20 && this.most_memory().unwrap() >= memory);
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(200) {
            std::hint::black_box(ring::digest::digest(&ring::digest::SHA256, &[0; 1 << 16]));
        }
        let used = this.cpu().unwrap() - before;
        assert!(used > Duration::from_millis(20), "{used:?}");
        assert!(Process::of(u32::MAX).cpu().is_err());
    }
}
