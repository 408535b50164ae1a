//! The engine's side of a host process: starting it, talking to it, telling how it ended.

use std::{
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use restage_stage::{
    abi::Status,
    catalogue::Catalogue,
    task::{Event, Task},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, Command},
    sync::mpsc,
};

use super::{
    protocol::{self, Request, Response},
    serve::kill_group,
};

/// Hidden subcommand of the binary that makes a process a host.
pub(crate) const HOST_COMMAND: &str = "__host";

/// Environment that a host inherits; nothing else reaches a plugin, so nothing else can change its results.
const INHERITED: &[&str] =
    &["PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "RUST_BACKTRACE"];

/// A line of a plugin's own output longer than this is cut into pieces.
const MAX_LINE: u64 = 8 << 10;

/// How a stage did not finish, by the one to blame.
#[derive(Clone, Debug, thiserror::Error, serde::Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub(crate) enum Failure {
    /// The stage said that it could not.
    #[error("{}", messages.join(": "))]
    Failed {
        /// The error and its causes.
        messages: Vec<String>,
    },
    /// The stage panicked: a bug in the plugin.
    #[error("the stage panicked: {}", messages.join(": "))]
    Panicked {
        /// The panic's message and place.
        messages: Vec<String>,
    },
    /// It stopped because it was asked to.
    #[error("cancelled")]
    Cancelled,
    /// It was stopped because it took too long.
    #[error("it took longer than its timeout of {}, and was stopped", humantime::format_duration(*after))]
    TimedOut {
        /// The timeout.
        after: Duration,
    },
    /// The host process died under it.
    #[error("the plugin's process {how} before the stage finished")]
    Died {
        /// `was killed by SIGSEGV`, `exited with status 0`.
        how: String,
    },
    /// The plugin or its host broke the protocol.
    #[error("the plugin broke its contract: {message}")]
    Protocol {
        /// How.
        message: String,
    },
}

impl Failure {
    /// Whether the host may serve another task.
    pub(crate) fn host_survives(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

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

impl Host {
    /// Starts a host for a library.
    pub(crate) async fn start(library: &Path) -> Result<(Self, Catalogue), StartError> {
        let refused = |message: String| StartError::Refused { library: library.to_owned(), message };
        let mut host =
            Self::spawn().map_err(|source| StartError::Spawn { library: library.to_owned(), source })?;
        match host.ask(&Request::Load { library: library.to_owned() }).await {
            Ok(Response::Loaded { catalogue }) => Ok((host, catalogue)),
            Ok(Response::Refused { message }) => Err(refused(message)),
            Ok(other) => Err(refused(format!("unexpected answer {other:?}"))),
            Err(failure) => Err(refused(failure.to_string())),
        }
    }

    fn spawn() -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg(HOST_COMMAND)
            .env_clear()
            .envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
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
            tokio::spawn(forward_lines(stdout, "stdout", sender.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(forward_lines(stderr, "stderr", sender.clone()));
        }
        tokio::spawn(forward_responses(responses, sender));
        Ok(Self { child, requests, incoming })
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

    /// Runs a task; its events go to `events`. The host survives only some failures:
    /// see [`Failure::host_survives`].
    pub(crate) async fn run(&mut self, task: Task, events: &mpsc::Sender<Event>) -> Result<(), Failure> {
        self.send(&Request::Run { task: Box::new(task) }).await?;
        loop {
            match self.receive().await? {
                // A closed receiver means that nobody listens; the task goes on.
                Heard::Event(event) => drop(events.send(event).await),
                Heard::Answer(Response::Finished { status, messages }) => return outcome(status, messages),
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
    pub(crate) async fn finish(&mut self) -> Result<(), Failure> {
        loop {
            if let Heard::Answer(Response::Finished { status, messages }) = self.receive().await? {
                return outcome(status, messages);
            }
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
        match self.incoming.recv().await {
            Some(Incoming::Response(Response::Event { event }) | Incoming::Line(event)) => {
                Ok(Heard::Event(event))
            }
            Some(Incoming::Response(response)) => Ok(Heard::Answer(response)),
            Some(Incoming::End(Some(error))) => Err(broken(error)),
            Some(Incoming::End(None)) | None => Err(self.death().await),
        }
    }

    /// The socket is closed: tells how the process ended, and sees to it that it has.
    async fn death(&mut self) -> Failure {
        const GRACE: Duration = Duration::from_secs(2);
        let how = match tokio::time::timeout(GRACE, self.child.wait()).await {
            Ok(Ok(status)) => how_ended(status),
            Ok(Err(error)) => format!("was lost ({error})"),
            Err(_) => "closed its connection".to_owned(),
        };
        Failure::Died { how }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // What the plugin started goes with it. A host that was waited for has no id any more.
        if let Some(pid) = self.child.id() {
            kill_group(pid);
        }
    }
}

enum Heard {
    Event(Event),
    Answer(Response),
}

fn broken(error: io::Error) -> Failure {
    Failure::Protocol { message: error.to_string() }
}

fn outcome(status: u32, messages: Vec<String>) -> Result<(), Failure> {
    match Status::from_raw(status) {
        Some(Status::Ok) => Ok(()),
        Some(Status::Failed) => Err(Failure::Failed { messages }),
        Some(Status::Panicked) => Err(Failure::Panicked { messages }),
        Some(Status::Cancelled) => Err(Failure::Cancelled),
        Some(Status::Unsupported) | None => {
            Err(Failure::Protocol { message: format!("status {status}: {}", messages.join(": ")) })
        }
    }
}

fn how_ended(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by {}", signal_name(signal)),
        (None, Some(code)) => format!("exited with status {code}"),
        (None, None) => "ended".to_owned(),
    }
}

fn signal_name(signal: i32) -> String {
    use rustix::process::Signal;
    let known = [
        (Signal::SEGV, "SIGSEGV (it touched memory that is not its own)"),
        (Signal::ABORT, "SIGABRT (it aborted)"),
        (Signal::BUS, "SIGBUS"),
        (Signal::ILL, "SIGILL"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL (by someone, or for want of memory)"),
        (Signal::TERM, "SIGTERM"),
    ];
    let name = known.iter().find(|(known, _)| known.as_raw() == signal).map(|(_, name)| *name);
    name.map_or_else(|| format!("signal {signal}"), str::to_owned)
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

/// Passes what a plugin prints on as log lines, in pieces of bounded length.
async fn forward_lines(stream: impl AsyncRead + Unpin, name: &'static str, sender: mpsc::Sender<Incoming>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut stream).take(MAX_LINE).read_until(b'\n', &mut line).await {
            Ok(1..) => {}
            _ => return,
        }
        let message = String::from_utf8_lossy(&line).trim_end().to_owned();
        let event = Event::Log { level: "INFO".into(), target: name.into(), message };
        if sender.send(Incoming::Line(event)).await.is_err() {
            return;
        }
    }
}
