//! The steps of a page in `docs/how-to`, so that a test does what the page tells: files whose path stands before a block, and commands of `console` blocks.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// One step of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A file with this path and content.
    File(String, String),
    /// A command, without `$ `.
    Command(String),
}

/// The steps of a page in order. A block is a file if the last line before it ends in its path and a colon: `` `os/x`: ``.
pub fn steps(page: &str) -> Vec<Step> {
    let (mut steps, mut path) = (Vec::new(), None::<&str>);
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let Some(language) = line.trim_start().strip_prefix("```") else {
            if !line.trim().is_empty() {
                path = line.strip_suffix("`:").and_then(|start| start.rsplit('`').next());
            }
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| !line.trim_start().starts_with("```")).collect();
        let block = block.iter().map(|line| line.get(indent..).unwrap_or_default());
        match path.take() {
            Some(path) => steps.push(Step::File(path.to_owned(), block.map(|line| format!("{line}\n")).collect())),
            None if language == "console" => {
                let commands = block.filter_map(|line| line.strip_prefix("$ "));
                steps.extend(commands.map(|command| Step::Command(command.to_owned())));
            }
            None => {}
        }
    }
    steps
}

/// Does the steps in a checkout until the first `cargo xtask boot`, with `xtask` for `cargo xtask`. Commands of other programs than those of a
/// page about profiles are an error.
pub fn follow(page: &str, checkout: &Path, xtask: impl Fn(&[&str]) -> Result<()>) -> Result<()> {
    for step in steps(page) {
        match step {
            Step::File(path, text) => {
                let path = checkout.join(path);
                let folder = path.parent().context("a file without a folder")?;
                fs::create_dir_all(folder).with_context(|| format!("Failed to make {}", folder.display()))?;
                fs::write(&path, text).with_context(|| format!("Failed to write {}", path.display()))?;
            }
            Step::Command(command) => {
                let words: Vec<&str> = command.split_whitespace().collect();
                match &words[..] {
                    ["cargo", "xtask", "boot", ..] => return Ok(()),
                    ["cargo", "xtask", arguments @ ..] => xtask(arguments)?,
                    [program @ ("cp" | "ln" | "mkdir"), arguments @ ..] => {
                        let mut command = std::process::Command::new(program);
                        crate::environment::output_of(command.args(arguments).current_dir(checkout))?;
                    }
                    _ => ensure!(false, "the page has a command that no test runs: {command}"),
                }
            }
        }
    }
    anyhow::bail!("the page does not boot what it builds")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
Text, `os/a`:

```toml
a = 1
```

1. `os/b`:

   ```ini
   [B]
     c
   ```

   ```console
   $ cargo xtask lock
   printed
   $ mkdir d
   ```

   Not `a file`.

   ```toml
   x = 1
   ```
";

    #[test]
    fn files_and_commands_of_a_page_are_read_in_order() {
        let file = |path: &str, text: &str| Step::File(path.into(), text.into());
        let command = |text: &str| Step::Command(text.into());
        let expected =
            [file("os/a", "a = 1\n"), file("os/b", "[B]\n  c\n"), command("cargo xtask lock"), command("mkdir d")];
        assert_eq!(steps(PAGE), expected);
    }
}
