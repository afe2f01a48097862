//! The kernel modules that the initrd needs, in the order of `/etc/cairn/modules`: one absolute path a line, a first
//! line that starts with `#` is a remark. The build has resolved their dependencies, so there is no modprobe here.
//! Hardware that this machine lacks is no failure; everything else that the kernel refuses is.

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::clock::since_boot;
use crate::code::Code;
use crate::console;
use crate::failure::Failure;

const LIST: &str = "/etc/cairn/modules";
const LARGEST: u64 = 64 * 1024;
const MOST_MODULES: usize = 256;
const FOLDER: &str = "/usr/lib/modules/";

/// `MODULE_INIT_COMPRESSED_FILE` of Linux: the kernel unpacks the file itself. nix does not name it yet.
const COMPRESSED: ModuleInitFlags = ModuleInitFlags::from_bits_retain(4);

/// Drivers of a bus that most machines lack. Where the bus module finds no such bus, loading them would only fill the
/// console with unknown symbols.
const BUSES: [(&str, &[&str]); 1] = [("hv_vmbus", &["hv_storvsc", "pci-hyperv", "pci-hyperv-intf"])];

/// Loads all modules of the initrd.
///
/// # Errors
/// `MODULES_INVALID` or `MODULE_LOAD_FAILED`, with the line or the module.
pub fn load_all() -> Result<(), Failure> {
    let mut absent_buses: Vec<String> = Vec::new();
    for path in parse(&read_list()?)? {
        let name = module_name(&path);
        if absent_buses.iter().any(|bus| belongs_to(name, bus)) {
            continue;
        }
        let before = since_boot();
        match load(&path) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(Errno::ENODEV) => absent_buses.push(name.to_owned()),
            Err(error) => {
                return Err(Failure::new(Code::ModuleLoadFailed, format!("loading {path}: {error}")));
            }
        }
        console::detail(|| format!("module {name}: {} ms", (since_boot() - before).as_millis()));
    }
    Ok(())
}

fn load(path: &str) -> nix::Result<()> {
    let file = File::open(path).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
    let flags = if path.ends_with(".ko") { ModuleInitFlags::empty() } else { COMPRESSED };
    const NO_PARAMETERS: &CStr = c"";
    finit_module(file, NO_PARAMETERS, flags)
}

fn read_list() -> Result<String, Failure> {
    let invalid = |error: std::io::Error| Failure::new(Code::ModulesInvalid, format!("{LIST}: {error}"));
    let mut text = String::new();
    File::open(LIST).and_then(|file| file.take(LARGEST).read_to_string(&mut text)).map_err(invalid)?;
    Ok(text)
}

/// The paths of a list, in order.
fn parse(text: &str) -> Result<Vec<String>, Failure> {
    let invalid = |what: String| Failure::new(Code::ModulesInvalid, format!("{LIST}: {what}"));
    if !text.ends_with('\n') {
        return Err(invalid("cut off: the last line has no end".into()));
    }
    let lines = text.lines().enumerate().filter(|(index, line)| *index > 0 || !line.starts_with('#'));
    let mut paths = Vec::new();
    for (index, line) in lines {
        if !is_module_path(line) {
            return Err(invalid(format!("line {} is not the path of a module: {line}", index + 1)));
        }
        paths.push(line.to_owned());
    }
    if paths.len() > MOST_MODULES {
        return Err(invalid(format!("{} modules, of {MOST_MODULES} at most", paths.len())));
    }
    Ok(paths)
}

fn is_module_path(line: &str) -> bool {
    let file = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().any(|end| line.ends_with(end));
    let plain = line.bytes().all(|byte| byte.is_ascii_graphic()) && !line.split('/').any(|part| part == "..");
    line.starts_with(FOLDER) && file && plain
}

fn module_name(path: &str) -> &str {
    let file = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(path);
    file.split_once(".ko").map_or(file, |(name, _)| name)
}

fn belongs_to(module: &str, bus: &str) -> bool {
    BUSES.iter().any(|(name, drivers)| *name == bus && drivers.contains(&module))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_list_is_kept_and_its_remark_skipped() {
        let text = "# made from modules.dep\n/usr/lib/modules/6/kernel/b.ko.xz\n/usr/lib/modules/6/kernel/a.ko\n";
        assert_eq!(parse(text).unwrap(), ["/usr/lib/modules/6/kernel/b.ko.xz", "/usr/lib/modules/6/kernel/a.ko"]);
    }

    #[test]
    fn a_malformed_list_is_refused_with_its_line() {
        let rows = [
            ("cut off", "/usr/lib/modules/6/a.ko", "cut off"),
            ("empty", "", "cut off"),
            ("blank line", "/usr/lib/modules/6/a.ko\n\n", "line 2"),
            ("remark in the middle", "/usr/lib/modules/6/a.ko\n# x\n", "line 2"),
            ("relative", "a.ko\n", "line 1"),
            ("elsewhere", "/run/a.ko\n", "line 1"),
            ("climbing", "/usr/lib/modules/../../../run/a.ko\n", "line 1"),
            ("no module", "/usr/lib/modules/6/modules.dep\n", "line 1"),
            ("two on a line", "/usr/lib/modules/6/a.ko /usr/lib/modules/6/b.ko\n", "line 1"),
        ];
        for (case, text, place) in rows {
            let failure = parse(text).expect_err(case);
            assert_eq!(failure.code(), Code::ModulesInvalid);
            assert!(failure.to_string().contains(place), "{case}: {failure}");
        }
        let many = "/usr/lib/modules/6/a.ko\n".repeat(MOST_MODULES + 1);
        assert!(parse(&many).is_err());
    }

    #[test]
    fn drivers_of_an_absent_bus_are_known_by_name() {
        let storage = module_name("/usr/lib/modules/6/kernel/drivers/scsi/hv_storvsc.ko.xz");
        assert!(belongs_to(storage, "hv_vmbus"));
        assert!(!belongs_to("virtio_blk", "hv_vmbus"));
        assert!(!belongs_to("hv_storvsc", "sha256-ssse3"));
    }
}
