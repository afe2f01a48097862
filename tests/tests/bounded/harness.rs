//! Runs a target over many inputs and holds each call to its bounds: no panic, so much memory at once, so much time. Memory is counted by the allocator of the whole
//! process, so whatever measures runs alone; the threads of the test program itself add less than a KiB.

use std::panic::catch_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;

use crate::targets::Target;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;
static ALONE: Mutex<()> = Mutex::new(());

/// An input and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The file, and the number of the mutation.
    pub name: String,
    /// What the target gets.
    pub bytes: Vec<u8>,
}

/// What one call may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of memory at once, for each byte of input.
    pub factor: usize,
    /// Bytes of memory at once, whatever the input.
    pub constant: usize,
    /// Time; only a hang takes longer.
    pub time: Duration,
}

/// What the calls took.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Number of calls.
    pub calls: usize,
    /// Most memory that one call had at once, in bytes.
    pub memory: usize,
    /// The longest call.
    pub longest: Duration,
    /// Memory that each input took, in the order of the inputs.
    pub each: Vec<usize>,
}

/// The call that runs now.
type Current = Arc<Mutex<(Input, Instant)>>;

/// No other test of this program runs while the guard lives.
pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls `target` with every input; the first that leaves the bounds is the error, in words.
pub fn run(target: Target, inputs: Vec<Input>, bounds: Bounds) -> Result<Figures, String> {
    let first = Input { name: "nothing".into(), bytes: Vec::new() };
    let current = Arc::new(Mutex::new((first, Instant::now())));
    let worker = thread::spawn({
        let current = Arc::clone(&current);
        move || calls(target, inputs, bounds, &current)
    });
    while !worker.is_finished() {
        let now = lock(&current);
        if now.1.elapsed() > bounds.time {
            // The worker is left behind: there is no way to stop it.
            return Err(report(target, &now.0, &format!("it has not returned after {:?}", bounds.time)));
        }
        drop(now);
        thread::sleep(Duration::from_millis(5));
    }
    worker.join().unwrap_or_else(|_| Err("the harness itself panicked".into()))
}

fn calls(target: Target, inputs: Vec<Input>, bounds: Bounds, current: &Current) -> Result<Figures, String> {
    // What a target keeps from one call to the next, it allocates now.
    target.1(&[]);
    let mut figures = Figures::default();
    for input in inputs {
        *lock(current) = (input.clone(), Instant::now());
        MEMORY.reset_peak_usage();
        let (before, start) = (MEMORY.current_usage(), Instant::now());
        let result = catch_unwind(|| target.1(&input.bytes));
        let (time, memory) = (start.elapsed(), MEMORY.peak_usage().saturating_sub(before));
        if let Err(panic) = result {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without words");
            return Err(report(target, &input, &format!("it panicked: {words}")));
        }
        let most = bounds.factor * input.bytes.len() + bounds.constant;
        if memory > most {
            let problem = format!("it had {memory} bytes of memory at once for {} of input", input.bytes.len());
            return Err(report(target, &input, &format!("{problem}; {most} are its bound")));
        }
        figures.calls += 1;
        figures.memory = figures.memory.max(memory);
        figures.longest = figures.longest.max(time);
        figures.each.push(memory);
    }
    Ok(figures)
}

fn lock(current: &Current) -> MutexGuard<'_, (Input, Instant)> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names target and input, and keeps the input as a file.
fn report((target, _): Target, input: &Input, problem: &str) -> String {
    let file = format!("{target}-{}", input.name.replace(|character: char| !character.is_ascii_alphanumeric(), "-"));
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
    let kept = match std::fs::write(&path, &input.bytes) {
        Ok(()) => format!("the input is in {}", path.display()),
        Err(error) => format!("the input could not be written to {}: {error}", path.display()),
    };
    format!("target {target}, input {}: {problem} ({kept})", input.name)
}
