//! A program that runs: what it says is passed on while it does, and it ends when it is asked to.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError, SyncSender},
    time::{Duration, Instant},
};

use restage_stage::{Context, Error, Result};
use rustix::process::{Pid, Signal};

use crate::told::Told;

/// How often it is looked whether the run should stop.
const POLL: Duration = Duration::from_millis(50);

/// How long a program may take to end when it is asked to, e.g. to write a checkpoint: less than what restage gives the stage.
const GRACE: Duration = Duration::from_secs(8);

/// How long what it has said may take to arrive after its end: something that it started may hold the pipe for ever.
const AFTER: Duration = Duration::from_millis(500);

/// A longer line comes in pieces.
const MAX_LINE: u64 = 16 << 10;

/// How many of its last lines a failure tells.
const LAST_LINES: usize = 20;

enum Said {
    Event(String),
    Error(String),
}

/// Runs a program, which messages call by `name`, to its end. Its standard output is the stage's; of its errors the last lines are in the stage's error.
///
/// # Errors
/// If it cannot be started, ends with another status than 0, or was asked to stop.
pub(crate) fn run(mut command: Command, name: &str, ctx: &Context) -> Result<()> {
    let (ours, theirs) = UnixStream::pair().map_err(Error::other("cannot make a socket"))?;
    // Its events come back through its standard input: handing over another descriptor needs unsafe code.
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stderr(Stdio::piped()).env("RESTAGE_EVENTS_FD", "0");
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = Guarded(command.spawn().map_err(Error::other(format!("cannot start `{program}`")))?);
    // The command holds the program's end of the socket, which would keep it open.
    drop(command);
    // Who has nothing to say reads the end at once.
    let _ = ours.shutdown(std::net::Shutdown::Write);
    let (sender, said) = mpsc::sync_channel(64);
    if let Some(errors) = child.0.stderr.take() {
        listen(errors, sender.clone(), Said::Error);
    }
    listen(ours, sender, Said::Event);

    let mut last_lines = VecDeque::with_capacity(LAST_LINES);
    let mut hear = |said: Said| match said {
        Said::Event(line) => Told::read(&line).tell(ctx),
        Said::Error(line) => {
            eprintln!("{line}");
            if last_lines.len() == LAST_LINES {
                last_lines.pop_front();
            }
            last_lines.push_back(line);
        }
    };
    let mut asked: Option<Instant> = None;
    let status = loop {
        match said.recv_timeout(POLL) {
            Ok(said) => hear(said),
            Err(RecvTimeoutError::Timeout) => {}
            // It has closed all that it speaks through, and may yet run.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(POLL / 10),
        }
        if let Some(status) = child.0.try_wait().map_err(Error::other("cannot wait for the program"))? {
            break status;
        }
        match asked {
            None if ctx.check_cancelled().is_err() => {
                asked = Some(Instant::now());
                child.signal(Signal::TERM);
            }
            Some(then) if then.elapsed() > GRACE => child.signal(Signal::KILL),
            _ => {}
        }
    };
    let until = Instant::now() + AFTER;
    while let Ok(said) = said.recv_timeout(until.saturating_duration_since(Instant::now())) {
        hear(said);
    }
    match (status.success(), asked) {
        (true, _) => Ok(()),
        (false, Some(_)) => Err(Error::Cancelled),
        (false, None) => Err(failure(name, status, last_lines.make_contiguous())),
    }
}

fn failure(name: &str, status: ExitStatus, last_lines: &[String]) -> Error {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => {
            let known = [(6, "SIGABRT"), (7, "SIGBUS"), (9, "SIGKILL"), (11, "SIGSEGV"), (15, "SIGTERM")];
            let name = known.iter().find(|(number, _)| *number == signal).map(|(_, name)| (*name).to_owned());
            format!("was killed by {}", name.unwrap_or_else(|| format!("signal {signal}")))
        }
        (None, None) => "ended".to_owned(),
    };
    let said = last_lines.join("\n");
    Error::invalid(if said.is_empty() {
        format!("`{name}` {how}")
    } else {
        format!("`{name}` {how}:\n{said}")
    })
}

/// A child that does not outlive the stage, however that ends.
struct Guarded(Child);

impl Guarded {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // It may just have ended.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Hands on the lines of a stream, on a thread of its own.
fn listen(stream: impl Read + Send + 'static, sender: SyncSender<Said>, wrap: fn(String) -> Said) {
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while let Ok(1..) = (&mut stream).take(MAX_LINE).read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(wrap(text)).is_err() {
                return;
            }
            line.clear();
        }
    });
}
