//! Stages that misbehave on purpose: always, or at first.

use restage_stage::{Context, Error, Ports, Result, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::Text;

/// Misbehaves.
pub(crate) struct Misbehave;

/// Params of `test/misbehave`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// How.
    how: How,
    /// A file that is none of its business. Default none.
    #[serde(default)]
    path: std::path::PathBuf,
}

/// Ways to misbehave.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum How {
    Fail,
    Panic,
    PanicInThread,
    Segfault,
    Abort,
    ExitZero,
    StackOverflow,
    NoOutput,
    Flood,
    EndlessLine,
    EndlessEvent,
    Hang,
    Spin,
    IgnoreTermination,
    CloseDescriptors,
    MemoryHog,
    ReadUndeclared,
    WriteOutside,
    StartChild,
}

impl Stage for Misbehave {
    const NAME: &'static str = "misbehave";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new("Misbehaves.")
            .optional::<Text>("text", "Not read.")
            .output::<Text>("text", "Rarely written.")
    }

    #[expect(clippy::panic, reason = "that is what it is for")]
    fn run(params: Params, ctx: &Context) -> Result<()> {
        match params.how {
            How::Fail => return Err(Error::invalid("the slide is empty; scan it again")),
            How::Panic => panic!("a bug on purpose"),
            How::PanicInThread => {
                let thread = std::thread::spawn(|| panic!("a bug in a thread"));
                thread.join().map_err(|_| Error::invalid("a thread of the stage panicked"))?;
            }
            How::Segfault => segfault(),
            How::Abort => std::process::abort(),
            How::ExitZero => std::process::exit(0),
            How::StackOverflow => drop(overflow(0)),
            How::NoOutput => return Ok(()),
            How::Flood => {
                for line in 0..200_000_u64 {
                    println!("line {line}");
                    ctx.progress(line, 200_000, "lines");
                }
            }
            How::EndlessLine => print(1 << 30),
            How::EndlessEvent => tracing::info!("{}", "x".repeat(256 << 20)),
            How::Hang => hang(),
            How::Spin => loop {
                std::hint::spin_loop();
            },
            How::IgnoreTermination => {
                ignore_termination();
                hang()
            }
            How::CloseDescriptors => {
                close_descriptors();
                hang()
            }
            How::MemoryHog => hog(),
            How::ReadUndeclared => {
                let path = &params.path;
                let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
                return ctx.write("text", &Text(text));
            }
            How::WriteOutside => std::fs::write(&params.path, "mine").map_err(Error::io(&params.path))?,
            How::StartChild => {
                let child = std::process::Command::new("sleep").arg("1000").spawn();
                let child = child.map_err(Error::other("cannot start sleep"))?;
                ctx.progress(u64::from(child.id()), 1, "children");
                hang()
            }
        }
        ctx.write("text", &Text("survived".into()))
    }
}

/// Fails at first.
pub(crate) struct FailFirst;

/// Params of `test/fail-first`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FailFirstParams {
    /// How many times it fails before it works.
    times: usize,
}

impl Stage for FailFirst {
    const NAME: &'static str = "fail-first";
    type Params = FailFirstParams;

    fn ports() -> Ports {
        Ports::new("Fails at first.").output::<Text>("text", "How often it was tried.")
    }

    fn run(params: FailFirstParams, ctx: &Context) -> Result<()> {
        let path = ctx.scratch().join("tries");
        let tries = std::fs::read(&path).map_or(0, |bytes| bytes.len()) + 1;
        std::fs::write(&path, vec![b'x'; tries]).map_err(Error::io(&path))?;
        if tries <= params.times {
            return Err(Error::invalid("not yet"));
        }
        ctx.write("text", &Text(tries.to_string()))
    }
}

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

/// Prints so many bytes as one line.
fn print(bytes: usize) {
    use std::io::Write;
    let piece = [b'x'; 1 << 16];
    let mut out = std::io::stdout().lock();
    for _ in 0..bytes / piece.len() {
        // Whoever reads has gone.
        if out.write_all(&piece).is_err() {
            return;
        }
    }
}

/// Takes memory, and touches it, until it is stopped: more than any test allows, and less than a small machine has.
fn hog() -> ! {
    let mut held = Vec::new();
    for _ in 0..128 {
        held.push(std::hint::black_box(vec![1_u8; 16 << 20]));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    hang()
}

#[expect(unsafe_code, reason = "signals and descriptors of the process are not in std")]
mod c {
    unsafe extern "C" {
        pub(super) fn signal(signal: i32, handler: usize) -> usize;
        pub(super) fn close(descriptor: i32) -> i32;
    }
}

#[expect(unsafe_code, reason = "as above")]
fn ignore_termination() {
    // SAFETY: 15 is SIGTERM and 1 is SIG_IGN.
    unsafe { c::signal(15, 1) };
}

#[expect(unsafe_code, reason = "as above")]
fn close_descriptors() {
    for descriptor in 0..1024 {
        // SAFETY: none. Others own them; that is what this is for.
        unsafe { c::close(descriptor) };
    }
}

#[expect(unsafe_code, reason = "a segmentation fault cannot be had otherwise")]
fn segfault() {
    // SAFETY: none. Writing to address 8 is what this is for; it runs in a host process of a test.
    unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) }
}

#[expect(unconditional_recursion, reason = "overflows the stack on purpose")]
fn overflow(depth: u64) -> [u64; 64] {
    let mut frame = overflow(std::hint::black_box(depth + 1));
    frame[0] += 1;
    frame
}
