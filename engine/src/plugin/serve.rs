//! The host process: loads one plugin and serves the engine that started it, over the socket on its standard input.

use std::{
    io,
    os::{
        fd::AsFd,
        unix::{fs::MetadataExt, net::UnixStream},
    },
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use restage_stage::task::Event;
use rustix::{
    fs::Mode,
    process::{Pid, Signal},
};

use super::{
    load::Loaded,
    protocol::{self, Request, Response},
    sandbox::{self, Access},
};

/// Events longer than this are cut: a plugin's log line is not a way to fill the engine's memory.
const MAX_EVENT: usize = 64 << 10;

/// What a plugin's callbacks reach, from any thread.
pub(crate) struct Listener {
    engine: Mutex<UnixStream>,
    cancelled: AtomicBool,
}

impl Listener {
    /// Passes a plugin's event on. What is not an event, or cannot be sent, is dropped: a plugin cannot break the
    /// stream.
    pub(crate) fn emit(&self, event: &[u8]) {
        let Ok(mut event) = serde_json::from_slice::<Event>(event) else { return };
        if let Event::Log { message, .. } = &mut event
            && message.len() > MAX_EVENT
        {
            message.truncate(message.floor_char_boundary(MAX_EVENT));
            message.push_str(" … (cut)");
        }
        let _ = self.answer(&Response::Event { event });
    }

    /// Whether the running task should stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    fn answer(&self, response: &Response) -> io::Result<()> {
        protocol::write(&*self.engine.lock().unwrap_or_else(PoisonError::into_inner), response)
    }
}

/// Serves until the engine closes the socket.
///
/// # Errors
/// If the socket breaks.
pub(crate) fn serve() -> io::Result<()> {
    // A plugin's crash is reported; its core would fill a student's quota.
    let no_core = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, no_core)?;
    // A stage that takes too much memory is to be the one that the kernel chooses, not the engine.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");

    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let listener: &'static Listener = Box::leak(Box::new(Listener {
        engine: Mutex::new(socket.try_clone()?),
        cancelled: AtomicBool::new(false),
    }));

    // Requests are read on a thread of their own, so that `Cancel` and the engine's death are seen while a task runs. A
    // signal at the engine's death would be quicker, and would leave alone what the plugin started.
    let (sender, requests) = mpsc::channel();
    std::thread::spawn(move || {
        loop {
            match protocol::read::<Request>(&socket) {
                Ok(Some(Request::Cancel)) => listener.cancelled.store(true, Ordering::Relaxed),
                Ok(Some(request)) => {
                    if sender.send(request).is_err() {
                        end();
                    }
                }
                Ok(None) | Err(_) => end(),
            }
        }
    });

    let mut plugin = None;
    for request in requests {
        listener.answer(&respond(&mut plugin, request, listener))?;
    }
    Ok(())
}

/// The engine is gone: so is this host, with whatever the plugin started.
fn end() -> ! {
    // The host leads its own process group; the signal reaches the host too.
    let _ = rustix::process::kill_process_group(rustix::process::getpid(), Signal::KILL);
    std::process::abort()
}

fn respond(plugin: &mut Option<Loaded>, request: Request, listener: &'static Listener) -> Response {
    let refused = |message: String| Response::Refused { message };
    match (request, plugin.as_ref()) {
        (Request::Load { library }, None) => match Loaded::open(&library, listener) {
            Ok(loaded) => match loaded.describe() {
                Ok(catalogue) => {
                    *plugin = Some(loaded);
                    Response::Loaded { catalogue }
                }
                Err(error) => refused(error.to_string()),
            },
            Err(error) => refused(error.to_string()),
        },
        (Request::Check { stage, params }, Some(loaded)) => {
            let check = |params: &serde_json::Value| loaded.check(&stage, params.to_string().as_bytes());
            Response::Checked { answers: params.iter().map(check).collect() }
        }
        (Request::Run { task, access }, Some(loaded)) => {
            listener.cancelled.store(false, Ordering::Relaxed);
            share_checkpoints(&task.scratch);
            match serde_json::to_vec(&task) {
                Ok(task) => run(loaded, &task, &access).unwrap_or_else(refused),
                Err(error) => refused(error.to_string()),
            }
        }
        (request, _) => refused(format!("unexpected request {request:?}")),
    }
}

/// Where a group shares the store, another user goes on from the checkpoints of a run that died: they are the group's, whatever
/// this user's umask is. A stage writes nothing else that keeps its mode.
fn share_checkpoints(scratch: &Path) {
    const OF_THE_GROUP: u32 = 0o2020;
    if std::fs::metadata(scratch).is_ok_and(|meta| meta.mode() & OF_THE_GROUP == OF_THE_GROUP) {
        rustix::process::umask(Mode::WOTH);
    }
}

/// Runs a task on a thread of its own, which the sandbox confines for good.
fn run(loaded: &Loaded, task: &[u8], access: &Access) -> Result<Response, String> {
    /// What the main thread of a program has, so that a plugin in C may count on it.
    const STACK: usize = 8 << 20;
    let confined = || {
        let sandbox =
            sandbox::confine(access).map_err(|error| format!("cannot confine the stage: {error}"))?;
        let (status, messages) = loaded.run(task);
        Ok(Response::Finished { status, messages, sandbox })
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("stage".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, confined);
        let thread = thread.map_err(|error| format!("cannot start the stage's thread: {error}"))?;
        thread.join().unwrap_or_else(|_| Err("the host has a bug: its thread panicked".to_owned()))
    })
}

/// Sends a signal to a host and everything that it started.
pub(super) fn signal_group(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may be gone already.
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}
