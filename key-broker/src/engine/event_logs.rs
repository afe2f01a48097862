//! Event logs that enrolled nodes sent with evidence that was refused or held, so that `cairn explain` has its input. They are files beside the database: a log is no part of any decision, and losing one loses nothing else.
//!
//! A log is kept only after the node's quote was verified. Each node has a maximum number of logs and bytes, and the newest replaces the oldest, so the size depends on the number of nodes and not on their boots.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use attest::bytes::Hex;
use nix::fcntl::OFlag;
use serde_json::json;

use super::admin::Outcome;
use super::audit;
use super::records::{self, Node, Release, get};
use super::{Answer, Engine};
use crate::store::{Error, Table};

/// Maximum number of logs of a node.
const MAX_LOGS: usize = 4;
/// Maximum size of a log. Logs of firmware that boots one image have 20 KiB to 60 KiB.
const MAX_LOG_BYTES: usize = 256 << 10;
const SUFFIX: &str = "log";
const HINT: &str = "boot the node again, and explain the new request";

/// The directory of the logs: a directory for each node, with a file for each request.
pub(super) struct EventLogs {
    directory: PathBuf,
}

impl EventLogs {
    /// Beside this database.
    pub fn of(database: &Path) -> Self {
        let database = fs::canonicalize(database).unwrap_or_else(|_| database.to_owned());
        Self { directory: database.with_file_name("event-logs") }
    }

    /// Names of nodes may be `.` and `..`.
    fn of_node(&self, node: &str) -> PathBuf {
        self.directory.join(format!("node-{node}"))
    }

    /// Keeps a log, unless it is too large or there already.
    fn keep(&self, node: &str, request: &str, log: &[u8]) -> std::io::Result<()> {
        if log.len() > MAX_LOG_BYTES || !is_request(request) {
            return Ok(());
        }
        let directory = self.of_node(node);
        let path = directory.join(request).with_extension(SUFFIX);
        // A held node asks every few seconds with the same log.
        if read_log(&path).is_ok_and(|kept| kept == log) {
            return Ok(());
        }
        fs::create_dir_all(&directory)?;
        make_room(&directory, &path)?;
        let partial = directory.join(request).with_extension("partial");
        // What a broker left that ended; a new file follows no link.
        if let Err(error) = fs::remove_file(&partial)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = fs::File::create_new(&partial)?;
        file.write_all(log)?;
        fs::rename(&partial, &path)
    }

    fn read(&self, node: &str, request: &str) -> std::io::Result<Option<Vec<u8>>> {
        if !is_request(request) {
            return Ok(None);
        }
        match read_log(&self.of_node(node).join(request).with_extension(SUFFIX)) {
            Ok(log) => Ok(Some(log)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Reads a log: a regular file that is no larger than a log can be, and no link to another file of the broker.
fn read_log(path: &Path) -> std::io::Result<Vec<u8>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = fs::File::options().read(true).custom_flags(flags.bits()).open(path)?;
    let mut log = Vec::new();
    if file.metadata()?.is_file() {
        file.take(MAX_LOG_BYTES as u64 + 1).read_to_end(&mut log)?;
        if log.len() <= MAX_LOG_BYTES {
            return Ok(log);
        }
    }
    Err(std::io::Error::new(ErrorKind::InvalidData, "it is not an event log that the broker wrote: remove it"))
}

/// Whether these are 32 hexadecimal digits, as in every request of the broker.
fn is_request(request: &str) -> bool {
    request.len() == 32 && request.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Removes the oldest files, until one more is not too many; unfinished ones, too.
fn make_room(directory: &Path, next: &Path) -> std::io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.path() != next {
            files.push((entry.metadata()?.modified().unwrap_or(SystemTime::UNIX_EPOCH), entry.path()));
        }
    }
    files.sort();
    for (_, path) in files.iter().take((files.len() + 1).saturating_sub(MAX_LOGS)) {
        match fs::remove_file(path) {
            // Another broker with the same database has removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}

impl Engine {
    /// Keeps the log of a node that was refused or held, and passes its answer on. A log that cannot be kept changes no decision.
    pub(super) fn with_event_log(&self, node: &str, log: &Hex, answer: Answer) -> Answer {
        if let Answer::Refused { request } | Answer::Held { request, .. } = &answer
            && let Err(error) = self.event_logs.keep(node, request, &log.0)
        {
            eprintln!("key-broker: cannot keep the event log of request {request}: {error}");
        }
        answer
    }

    /// The log of a request, and the documents that it was compared with.
    pub(super) fn event_log(&self, request: &str) -> Outcome {
        let found = audit::of_request(&*self.store, &self.bundles, request).map_err(|problem| problem.to_string())?;
        let cannot = format!("cannot write the event log of request {request}");
        let leaf =
            found.ok_or_else(|| format!("{cannot}: the audit log has no such request\nhint: key-broker audit tail"))?;
        if leaf.node.is_empty() {
            return Err(format!(
                "{cannot}: it is not of an enrolled node, and logs of others are not kept\nhint: key-broker node enrol"
            ));
        }
        let log = self.event_logs.read(&leaf.node, &leaf.request).map_err(|error| format!("{cannot}: {error}"))?;
        let log = log.ok_or_else(|| {
            format!(
                "{cannot}: it is not kept; a log is kept with a refusal or a hold, if it has at most {MAX_LOG_BYTES} bytes, until {MAX_LOGS} newer ones of node {} follow\nhint: {HINT}",
                leaf.node
            )
        })?;
        let (machine, reference) = self.compared(&leaf.node, &leaf.found).map_err(|error| error.to_string())?;
        Ok(json!({"node": leaf.node, "event_log": Hex(log), "machine": machine, "reference": reference}))
    }

    /// The machine reference of a node, and the image reference that the refusal names; or else that of its last boot, or of the only release.
    fn compared(&self, name: &str, found: &str) -> Result<(Option<String>, Option<String>), Error> {
        let (mut machine, mut reference) = (None, None);
        self.store.look(&mut |transaction| {
            let Some(node) = get::<Node>(transaction, Table::Nodes, name.as_bytes())? else { return Ok(()) };
            let releases = records::all::<Release>(transaction, Table::Releases)?;
            let is_named = |release: &Release| found.contains(&format!("compared with {} on ", release.name));
            let is_last = |release: &Release| node.release.as_ref() == Some(&release.name);
            let mut all = releases.iter().map(|(_, release)| release);
            let chosen = all.clone().find(|release| is_named(release)).or_else(|| all.clone().find(|r| is_last(r)));
            reference = chosen.or_else(|| all.next()).map(|release| release.reference.clone());
            machine = transaction.get(Table::Machines, &node.machine.0)?;
            Ok(())
        })?;
        Ok((machine.and_then(|machine| String::from_utf8(machine).ok()), reference))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(logs: &EventLogs, node: &str) -> usize {
        fs::read_dir(logs.of_node(node)).map_or(0, Iterator::count)
    }

    #[test]
    fn newest_logs_of_a_node_are_kept_and_the_oldest_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let logs = EventLogs::of(&folder.path().join("database"));
        let request = |number: usize| format!("{number:032x}");
        for number in 0..20 {
            logs.keep("..", &request(number), format!("log {number}").as_bytes()).unwrap();
            // Times of files are as exact as the kernel's tick.
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        logs.keep("a", &request(1), b"another node's").unwrap();
        assert_eq!(files(&logs, ".."), MAX_LOGS);
        for number in 0..20 {
            let expected = (number >= 20 - MAX_LOGS).then(|| format!("log {number}").into_bytes());
            assert_eq!(logs.read("..", &request(number)).unwrap(), expected, "{number}");
        }
        assert_eq!(logs.read("a", &request(1)).unwrap(), Some(b"another node's".to_vec()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is written elsewhere");
    }

    #[test]
    fn repeated_request_replaces_its_log_and_a_large_log_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let logs = EventLogs::of(&folder.path().join("database"));
        let request = "0".repeat(32);
        for log in [&b"first"[..], b"first", b"second"] {
            logs.keep("a", &request, log).unwrap();
        }
        assert_eq!((files(&logs, "a"), logs.read("a", &request).unwrap()), (1, Some(b"second".to_vec())));
        logs.keep("b", &request, &vec![0; MAX_LOG_BYTES]).unwrap();
        logs.keep("c", &request, &vec![0; MAX_LOG_BYTES + 1]).unwrap();
        logs.keep("c", "../../b", b"not a request").unwrap();
        assert_eq!((files(&logs, "b"), files(&logs, "c")), (1, 0));
    }

    #[test]
    fn file_that_is_no_log_is_neither_read_nor_followed() {
        let folder = tempfile::tempdir().unwrap();
        let logs = EventLogs::of(&folder.path().join("database"));
        let (request, secret) = ("0".repeat(32), folder.path().join("tls.key"));
        fs::write(&secret, "secret").unwrap();
        fs::create_dir_all(logs.of_node("a")).unwrap();
        let path = logs.of_node("a").join(&request).with_extension(SUFFIX);
        let make: [&dyn Fn(); 3] = [
            &|| std::os::unix::fs::symlink(&secret, &path).unwrap(),
            &|| nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            &|| fs::File::create(&path).unwrap().set_len(MAX_LOG_BYTES as u64 + 1).unwrap(),
        ];
        for make in make {
            make();
            logs.read("a", &request).unwrap_err();
            // What a broker left in the place of the new file is not written through.
            let partial = path.with_extension("partial");
            std::os::unix::fs::symlink(&secret, &partial).unwrap();
            logs.keep("a", &request, b"log").unwrap();
            assert_eq!(logs.read("a", &request).unwrap().as_deref(), Some(&b"log"[..]));
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(fs::read(&secret).unwrap(), b"secret");
    }
}
