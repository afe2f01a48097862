//! A root shell on the serial console of a debug image.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::Vm;
use super::console::Found;

const TIMEOUT: Duration = Duration::from_secs(120);
/// From power-on to the login, where instructions are emulated on a busy host.
const BOOT_TIMEOUT: Duration = Duration::from_secs(600);
/// Lines of the console in an error.
const LINES: usize = 25;

/// A logged-in session.
pub struct Shell<'a> {
    vm: &'a mut Vm,
    /// How much of the console has been read.
    read: usize,
}

impl<'a> Shell<'a> {
    /// Logs in as root, without password.
    pub fn log_in(vm: &'a mut Vm) -> Result<Self> {
        let mut shell = Self { vm, read: 0 };
        shell.expect_within("login: ", BOOT_TIMEOUT)?;
        shell.vm.send("root\n")?;
        shell.expect("# ")?;
        // A plain shell without line editing, echo and prompt: what appears from now on is output.
        shell.vm.send("exec env PS1= sh\n")?;
        shell.vm.send("stty -echo; printf '%s\\n' rea'dy'\n")?;
        shell.expect("\nready\n")?;
        Ok(shell)
    }

    /// Runs a command line and returns its output; it must succeed.
    pub fn run(&mut self, command: &str) -> Result<String> {
        self.vm.send(&format!("{{ {command} ; }} 2>&1; printf '\\n@@%s@@\\n' $?\n"))?;
        let begin = self.read;
        self.expect("\n@@")?;
        let end = self.read - "\n@@".len();
        let code = self.read;
        self.expect("@@\n")?;
        let text = self.vm.console().text();
        let (output, code) = (text[begin..end].trim(), &text[code..self.read - "@@\n".len()]);
        ensure!(code == "0", "{command:?} ended with {code}: {output}");
        Ok(output.to_owned())
    }

    /// The content of a file.
    pub fn read_file(&mut self, path: &str) -> Result<Vec<u8>> {
        let text = self.run(&format!("od -An -v -tx1 {path}"))?;
        let digits: String = text.split_whitespace().collect();
        Ok(hex::decode(digits)?)
    }

    fn expect(&mut self, text: &str) -> Result<()> {
        self.expect_within(text, TIMEOUT)
    }

    fn expect_within(&mut self, text: &str, timeout: Duration) -> Result<()> {
        match self.vm.console().wait_for(&[text], self.read, timeout) {
            Found::Text(_, end) => self.read = end,
            Found::Closed => bail!("the machine ended before its console showed {text:?}; {}", self.last_lines()),
            Found::Timeout => {
                bail!("the console did not show {text:?} within {} s; {}", timeout.as_secs(), self.last_lines())
            }
        }
        Ok(())
    }

    fn last_lines(&self) -> String {
        let transcript = self.vm.console().transcript();
        let lines: Vec<&str> = transcript.lines().collect();
        format!("it ends with\n{}", lines[lines.len().saturating_sub(LINES)..].join("\n"))
    }
}
