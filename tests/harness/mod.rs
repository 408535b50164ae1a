//! A folder with workflows and a store of its own, and the real binary to run in it.

#![expect(dead_code, reason = "each test binary uses its part")]
#![expect(clippy::expect_used, clippy::panic, reason = "a test tells what is wrong by panicking")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// The checkout.
pub(crate) fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("engine/ lies in the checkout").to_owned()
}

/// The folder with real sections, if it is there; says so if it is not.
pub(crate) fn shared() -> Option<PathBuf> {
    let path = std::env::var_os("RESTAGE_SHARED").map_or_else(|| checkout().join("../shared"), PathBuf::from);
    if path.join("data/her2st").is_dir() {
        return Some(path);
    }
    println!("skipped: no real sections at {} (set RESTAGE_SHARED)", path.display());
    None
}

/// A folder with workflows and a store of its own.
pub(crate) struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// In memory where there is room: for tests that write thousands of files and flush them.
    pub(crate) fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        let room = rustix::fs::statvfs(memory).map_or(0, |disk| disk.f_bavail * disk.f_frsize);
        if room < 1 << 30 {
            return Self::new();
        }
        Self { folder: tempfile::tempdir_in(memory).expect("a temporary folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        self.write_bytes(name, text.as_bytes())
    }

    /// Writes a file that need not be text.
    pub(crate) fn write_bytes(&self, name: &str, text: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("the sandbox takes files");
        path
    }

    /// Writes a workflow of `test` stages.
    pub(crate) fn workflow(&self, name: &str, rest: &str) -> PathBuf {
        let plugin = checkout().join("tests/plugin");
        self.write(name, &format!("restage: 1\nplugins: [{{ path: {} }}]\n{rest}", plugin.display()))
    }

    /// Writes a workflow of stages of these plugins, one a line, as they lie in the checkout.
    pub(crate) fn workflow_of(&self, name: &str, plugins: &[&str], rest: &str) -> PathBuf {
        let place = |path: &&str| format!("  - path: {}\n", checkout().join(path).display());
        let plugins: String = plugins.iter().map(place).collect();
        self.write(name, &format!("restage: 1\nplugins:\n{plugins}{rest}"))
    }

    /// The binary, in the sandbox, with its store.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_restage"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("RESTAGE_CACHE", self.path("store"))
            // What the machine's user has configured is not part of a test.
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env_remove("RESTAGE_REMOTE")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        Ended(self.command(arguments).output().expect("the binary starts"))
    }

    /// Runs the binary, which must succeed, and reads its JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let ended = self.run(arguments);
        assert_eq!(ended.code(), Some(0), "{arguments:?}: {}", ended.all());
        ended.json()
    }

    /// What `plan` decides: `stage` or `stage@variant` to decision.
    pub(crate) fn decisions(&self, arguments: &[&str]) -> Vec<(String, String)> {
        let plan = self.json(&[&["plan", "--json"], arguments].concat());
        let actions = plan["actions"].as_array().expect("actions");
        actions.iter().map(|action| (text(&action["stage"]), text(&action["decision"]))).collect()
    }

    /// How many actions ran.
    pub(crate) fn ran(&self, arguments: &[&str]) -> u64 {
        self.json(&[&["run", "--json"], arguments].concat())["ran"].as_u64().expect("a number")
    }

    /// Digests of all artifacts of a workflow's last run, by stage, variant, seed, place and port.
    pub(crate) fn digests(&self, workflow: &str) -> Vec<String> {
        let list = self.json(&["show", "--json", "--all", workflow]);
        let mut digests: Vec<String> = list
            .as_array()
            .expect("a list")
            .iter()
            .map(|artifact| {
                let [stage, at, variant, seed, port, digest] =
                    ["stage", "at", "variant", "seed", "port", "digest"].map(|key| &artifact[key]);
                format!("{stage} {at} {variant} {seed} {port} {digest}")
            })
            .collect();
        digests.sort();
        digests
    }

    /// The text that a `test` stage of the last run wrote.
    pub(crate) fn text(&self, workflow: &str, stage: &str) -> String {
        let list = self.json(&["show", "--json", workflow, stage]);
        text_of(&list[0])
    }

    /// The texts that a `test` stage of the last run wrote, in all variants and seeds, by variant.
    pub(crate) fn texts(&self, workflow: &str, stage: &str) -> Vec<(String, String)> {
        let list = self.json(&["show", "--json", "--all", workflow, stage]);
        let list = list.as_array().expect("artifacts");
        list.iter().map(|artifact| (text(&artifact["variant"]), text_of(artifact))).collect()
    }

    /// Starts the binary and waits until `ready` says so.
    pub(crate) fn start(&self, arguments: &[&str], mut ready: impl FnMut(u32) -> bool) -> Child {
        let mut command = self.command(arguments);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
        let deadline = Instant::now() + Duration::from_secs(600);
        while !ready(child.id()) {
            assert!(Instant::now() < deadline, "the run never got there");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    /// Bytes in all files below a folder.
    pub(crate) fn size(&self, folder: &str) -> u64 {
        fn of(path: &Path) -> u64 {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            let size = |entry: std::fs::DirEntry| match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => of(&entry.path()),
                Ok(metadata) => metadata.len(),
                Err(_) => 0,
            };
            entries.map(size).sum()
        }
        of(&self.path(folder))
    }

    /// Files with a name below the store's scratch folder.
    pub(crate) fn scratch_has(&self, name: &str) -> bool {
        fn find(folder: &Path, name: &str) -> bool {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.into_iter().any(|entry| {
                let path = entry.path();
                entry.file_name() == name || (path.is_dir() && find(&path, name))
            })
        }
        find(&self.path("store/v1/scratch"), name)
    }
}

/// A command that ended.
pub(crate) struct Ended(pub(crate) Output);

impl Ended {
    pub(crate) fn code(&self) -> Option<i32> {
        self.0.status.code()
    }

    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    pub(crate) fn all(&self) -> String {
        format!("{}\n{}", self.out(), self.err())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.0.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.all()))
    }
}

/// What is in a `test` stage's artifact, given its entry of `show`.
fn text_of(artifact: &Value) -> String {
    let path = artifact["path"].as_str().expect("an artifact");
    std::fs::read_to_string(Path::new(path).join("text")).expect("a text")
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// Tells its port, and ends when nobody is left to talk to.
const SERVE: &str = "
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
";

/// An S3 server with one bucket, called `bucket`.
pub(crate) struct Moto {
    child: Child,
    pub(crate) port: u16,
}

impl Moto {
    /// `None`, said aloud, where it is not installed.
    pub(crate) fn start() -> Option<Self> {
        let python = std::env::var("RESTAGE_MOTO_PYTHON").unwrap_or_else(|_| "python3".into());
        let mut command = Command::new(&python);
        command.args(["-c", SERVE]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(mut child) = command.spawn() else {
            println!("skipped: there is no {python}");
            return None;
        };
        let mut line = String::new();
        let told = child.stdout.as_mut().map(|out| BufReader::new(out).read_line(&mut line));
        told.expect("a pipe").expect("a line, or the end");
        let Ok(port) = line.trim().parse() else {
            child.wait().expect("it ended");
            println!("skipped: {python} has no moto (pip install 'moto[server]')");
            return None;
        };
        let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        let request = "PUT /bucket HTTP/1.1\r\nHost: s3.amazonaws.com\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        socket.write_all(request.as_bytes()).expect("it takes it");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Some(Self { child, port })
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Processes that a process started and that live.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let list = std::fs::read_to_string(path).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The same, whichever of its threads started them.
pub(crate) fn children_of_all(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |thread: std::fs::DirEntry| {
        std::fs::read_to_string(thread.path().join("children")).unwrap_or_default()
    };
    threads
        .flat_map(|thread| {
            of(thread).split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// Hosts among the children of the engine: not the cargo that it may have started first.
pub(crate) fn hosts(engine: u32) -> Vec<u32> {
    let is_host = |pid: &u32| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.windows(6).any(|part| part == b"__host"))
    };
    children(engine).into_iter().filter(is_host).collect()
}

/// Kills a process as nothing can prevent, if it has not ended by itself.
pub(crate) fn kill(pid: u32) {
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).output().expect("kill is there");
    assert!(killed.status.success() || ends(pid));
}

/// Whether a process ends soon. A zombie has ended.
pub(crate) fn ends(pid: u32) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if state.is_empty() || state.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
