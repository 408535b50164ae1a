//! The engine's side of a host process: starting it, talking to it, telling how it ended.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use restage_stage::{
    catalogue::Catalogue,
    task::{Event, Task},
};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, Command},
    sync::mpsc,
};

use super::{
    failure::{Failure, how_ended, outcome},
    output,
    protocol::{self, Request, Response},
    sandbox::{self, Access, Sandbox},
    serve::signal_group,
};
use crate::machine;

/// Hidden subcommand of the binary that makes a process a host.
pub(crate) const HOST_COMMAND: &str = "__host";

/// Environment that a host inherits; nothing else reaches a plugin, so nothing else can change its results.
const INHERITED: &[&str] = &[
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_PATH",
    "CUDA_HOME",
    "RUST_BACKTRACE",
    sandbox::SWITCH,
];

/// How glibc gives a stage its memory; a libc that does not know the wishes ignores them. Large pieces lie in huge pages where the
/// kernel has some to give, as NumPy asks for its own: taking a page is a tenth of what a stage does that only passes over its
/// data. And buffers that come and go with every chunk or batch, up to 32 MiB, are not given back to the kernel and asked for anew
/// each time: from the start, which glibc itself would learn bit by bit.
const MEMORY: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=8388608",
);

/// Why a host could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The process could not be started.
    #[error("cannot start a host process for {}", library.display())]
    Spawn {
        /// The plugin.
        library: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The library was refused, or its host died while loading it.
    #[error("cannot use the plugin {}: {message}", library.display())]
    Refused {
        /// The plugin.
        library: PathBuf,
        /// Why.
        message: String,
    },
}

/// A running host with its plugin loaded.
pub(crate) struct Host {
    child: Child,
    /// Its process group, which what its plugin starts belongs to; none once that was killed.
    group: Option<u32>,
    requests: OwnedWriteHalf,
    incoming: mpsc::Receiver<Incoming>,
}

/// What comes out of a host.
enum Incoming {
    Response(Response),
    /// A line that the plugin printed.
    Line(Event),
    /// The socket ended, well or not.
    End(Option<io::Error>),
}

/// This program. Where another version was installed in its place since it started, the kernel still has the one that runs: a
/// run ends with what it began with.
fn itself() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    Ok(if path.exists() { path } else { "/proc/self/exe".into() })
}

impl Host {
    /// Starts a host for a library that sees these GPUs, named by their UUIDs, and no others.
    pub(crate) async fn start(library: &Path, gpus: &[String]) -> Result<(Self, Catalogue), StartError> {
        Self::start_at(library, gpus, None).await
    }

    /// Starts a host with a working folder of its own, which sees no GPU.
    pub(crate) async fn start_in(library: &Path, folder: &Path) -> Result<(Self, Catalogue), StartError> {
        Self::start_at(library, &[], Some(folder)).await
    }

    async fn start_at(
        library: &Path,
        gpus: &[String],
        folder: Option<&Path>,
    ) -> Result<(Self, Catalogue), StartError> {
        let refused = |message: String| StartError::Refused { library: library.to_owned(), message };
        let mut host = Self::spawn(gpus, folder)
            .map_err(|source| StartError::Spawn { library: library.to_owned(), source })?;
        match host.ask(&Request::Load { library: library.to_owned() }).await {
            Ok(Response::Loaded { catalogue }) => Ok((host, catalogue)),
            Ok(Response::Refused { message }) => Err(refused(message)),
            Ok(other) => Err(refused(format!("unexpected answer {other:?}"))),
            Err(failure) => Err(refused(failure.to_string())),
        }
    }

    fn spawn(gpus: &[String], folder: Option<&Path>) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(itself()?);
        if let Some(folder) = folder {
            command.current_dir(folder);
        }
        let mut child = command
            .arg(HOST_COMMAND)
            .env_clear()
            .envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env(MEMORY.0, MEMORY.1)
            .env(machine::VISIBLE, gpus.join(","))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (responses, requests) = UnixStream::from_std(ours)?.into_split();
        // Bounded: a flooding plugin waits, the engine's memory does not grow.
        let (sender, incoming) = mpsc::channel(64);
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(output::lines(stdout, "stdout", sender.clone(), Incoming::Line));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(output::lines(stderr, "stderr", sender.clone(), Incoming::Line));
        }
        tokio::spawn(forward_responses(responses, sender));
        Ok(Self { group: child.id(), child, requests, incoming })
    }

    /// Canonical params, or what is wrong with them, one answer for each.
    pub(crate) async fn check(
        &mut self,
        stage: &str,
        params: &[&serde_json::Value],
    ) -> Vec<Result<serde_json::Value, Vec<String>>> {
        /// A round trip for each would cost more than the checks; a frame has its limit.
        const AT_ONCE: usize = 256;
        let mut all = Vec::with_capacity(params.len());
        for some in params.chunks(AT_ONCE) {
            let request = Request::Check {
                stage: stage.to_owned(),
                params: some.iter().map(|params| (*params).clone()).collect(),
            };
            let wrong = match self.ask(&request).await {
                Ok(Response::Checked { answers }) if answers.len() == some.len() => {
                    all.extend(answers);
                    continue;
                }
                Ok(other) => format!("unexpected answer of the plugin's host: {other:?}"),
                Err(failure) => failure.to_string(),
            };
            all.extend(some.iter().map(|_| Err(vec![wrong.clone()])));
        }
        all
    }

    /// Canonical params of one stage, or what is wrong with them; a failure if the host gave no answer.
    pub(crate) async fn canonical(
        &mut self,
        stage: &str,
        params: &serde_json::Value,
    ) -> Result<Result<serde_json::Value, Vec<String>>, Failure> {
        let request = Request::Check { stage: stage.to_owned(), params: vec![params.clone()] };
        match self.ask(&request).await? {
            Response::Checked { mut answers } if answers.len() == 1 => Ok(answers.remove(0)),
            other => Err(Failure::Protocol { message: format!("unexpected answer {other:?}") }),
        }
    }

    /// Runs a task; its events go to `events`. The host survives only some failures:
    /// see [`Failure::host_survives`].
    pub(crate) async fn run(
        &mut self,
        task: Task,
        access: Access,
        events: &mpsc::Sender<Event>,
    ) -> Result<Sandbox, Failure> {
        self.send(&Request::Run { task: Box::new(task), access }).await?;
        loop {
            match self.receive().await? {
                // A closed receiver means that nobody listens; the task goes on.
                Heard::Event(event) => drop(events.send(event).await),
                Heard::Answer(Response::Finished { status, messages, sandbox }) => {
                    return outcome(status, messages, sandbox);
                }
                Heard::Answer(other) => {
                    return Err(Failure::Protocol { message: format!("unexpected answer {other:?}") });
                }
            }
        }
    }

    /// Asks the running task to stop; the caller goes on with [`Host::finish`].
    pub(crate) async fn cancel(&mut self) -> Result<(), Failure> {
        self.send(&Request::Cancel).await
    }

    /// Waits for the end of a task that was asked to stop.
    pub(crate) async fn finish(&mut self) -> Result<Sandbox, Failure> {
        loop {
            if let Heard::Answer(Response::Finished { status, messages, sandbox }) = self.receive().await? {
                return outcome(status, messages, sandbox);
            }
        }
    }

    /// The process, while it lives.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Tells the host, and what its plugin started, to end.
    pub(crate) fn terminate(&self) {
        if let Some(pid) = self.child.id() {
            signal_group(pid, Signal::TERM);
        }
    }

    async fn ask(&mut self, request: &Request) -> Result<Response, Failure> {
        self.send(request).await?;
        loop {
            if let Heard::Answer(response) = self.receive().await? {
                return Ok(response);
            }
        }
    }

    async fn send(&mut self, request: &Request) -> Result<(), Failure> {
        let frame = protocol::encode(request).map_err(broken)?;
        match self.requests.write_all(&frame).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.death().await),
        }
    }

    async fn receive(&mut self) -> Result<Heard, Failure> {
        /// For what a host that has ended said last.
        const LAST_WORDS: Duration = Duration::from_millis(100);
        let incoming = tokio::select! {
            biased;
            incoming = self.incoming.recv() => incoming,
            // Its socket need not end with it: what its plugin started may have inherited it.
            _ = self.child.wait() => {
                tokio::time::timeout(LAST_WORDS, self.incoming.recv()).await.unwrap_or(None)
            }
        };
        match incoming {
            Some(Incoming::Response(Response::Event { event }) | Incoming::Line(event)) => {
                Ok(Heard::Event(event))
            }
            Some(Incoming::Response(response)) => Ok(Heard::Answer(response)),
            Some(Incoming::End(Some(error))) => Err(broken(error)),
            Some(Incoming::End(None)) | None => Err(self.death().await),
        }
    }

    /// The socket is closed, or the process has ended: tells how, and sees to it that all of it has.
    async fn death(&mut self) -> Failure {
        const GRACE: Duration = Duration::from_secs(2);
        let unknown = |how: String| Failure::Died { how, signal: None };
        let death = match tokio::time::timeout(GRACE, self.child.wait()).await {
            Ok(Ok(status)) => how_ended(status),
            Ok(Err(error)) => unknown(format!("was lost ({error})")),
            Err(_) => unknown("closed its connection".to_owned()),
        };
        self.kill_group();
        death
    }

    /// Ends the host and what its plugin started, which has nobody else to end it.
    fn kill_group(&mut self) {
        if let Some(group) = self.group.take() {
            signal_group(group, Signal::KILL);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill_group();
    }
}

enum Heard {
    Event(Event),
    Answer(Response),
}

fn broken(error: io::Error) -> Failure {
    Failure::Protocol { message: error.to_string() }
}

async fn forward_responses(mut socket: OwnedReadHalf, sender: mpsc::Sender<Incoming>) {
    loop {
        let incoming = match next_response(&mut socket).await {
            Ok(Some(response)) => Incoming::Response(response),
            Ok(None) => Incoming::End(None),
            Err(error) => Incoming::End(Some(error)),
        };
        let end = matches!(incoming, Incoming::End(_));
        if sender.send(incoming).await.is_err() || end {
            return;
        }
    }
}

async fn next_response(socket: &mut OwnedReadHalf) -> io::Result<Option<Response>> {
    let mut prefix = [0; 4];
    match socket.read_exact(&mut prefix).await {
        // A host that dies with unread requests resets the connection: that is its death, not a broken stream.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) =>
        {
            return Ok(None);
        }
        other => other?,
    };
    let mut frame = vec![0; protocol::frame_len(prefix)?];
    match socket.read_exact(&mut frame).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    Ok(Some(serde_json::from_slice(&frame)?))
}
