//! `cargo xtask`: compiles what the command needs and becomes it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use cargo_xtask::compile::compile;
use cargo_xtask::program::{Program, without_package_of_cargo_run};
use cargo_xtask::progress::{Progress, Style};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let program = Program::of_command(&arguments);
    let executable = match compile(&program, Path::new("."), Progress::new(Style::of_arguments(&arguments))) {
        Ok(executable) => executable,
        Err(failed) => {
            eprintln!("error: {failed}");
            return ExitCode::FAILURE;
        }
    };
    let mut command = Command::new(&executable);
    without_package_of_cargo_run(&mut command);
    // Returns only if it fails.
    let error = command.args(&arguments).exec();
    eprintln!("error: cannot start {}: {error}", executable.display());
    ExitCode::FAILURE
}
