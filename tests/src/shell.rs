//! A root shell on the serial console of a debug image.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use xtask::vm::console::Found;

use crate::watch::Watched;

const TIMEOUT: Duration = Duration::from_secs(120);

/// A logged-in session.
pub struct Shell<'a> {
    watched: &'a mut Watched,
    /// How much of the console has been read.
    read: usize,
}

impl<'a> Shell<'a> {
    /// Logs in as root, without password.
    pub fn log_in(watched: &'a mut Watched) -> Result<Self> {
        let mut shell = Self { watched, read: 0 };
        shell.expect("login: ")?;
        shell.watched.vm.send("root\n")?;
        shell.expect("# ")?;
        // A plain shell without line editing, echo and prompt: what appears from now on is output.
        shell.watched.vm.send("exec env PS1= sh\n")?;
        shell.watched.vm.send("stty -echo; printf '%s\\n' rea'dy'\n")?;
        shell.expect("\nready\n")?;
        Ok(shell)
    }

    /// Runs a command line and returns its output; it must succeed.
    pub fn run(&mut self, command: &str) -> Result<String> {
        self.watched.vm.send(&format!("{{ {command} ; }} 2>&1; printf '\\n@@%s@@\\n' $?\n"))?;
        let begin = self.read;
        self.expect("\n@@")?;
        let end = self.read - "\n@@".len();
        let code = self.read;
        self.expect("@@\n")?;
        let text = self.watched.vm.console().text();
        let (output, code) = (text[begin..end].trim(), &text[code..self.read - "@@\n".len()]);
        ensure!(code == "0", "{command:?} ended with {code}: {output}");
        Ok(output.to_owned())
    }

    fn expect(&mut self, text: &str) -> Result<()> {
        match self.watched.vm.console().wait_for(&[text], self.read, TIMEOUT) {
            Found::Text(_, end) => self.read = end,
            Found::Closed => bail!("the machine ended before its console showed {text:?}{}", self.watched.last_lines()),
            Found::Timeout => {
                bail!("the console did not show {text:?} within {} s{}", TIMEOUT.as_secs(), self.watched.last_lines())
            }
        }
        Ok(())
    }
}
