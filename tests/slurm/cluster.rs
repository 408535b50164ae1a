//! A sandbox, and a Slurm of its own.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Once,
};

use serde_json::Value;

use crate::{
    daemons::{Kind, Slurm, until},
    harness::{Ended, Sandbox},
};

/// A sandbox whose site says that stages run in Slurm's allocations.
pub(crate) struct Cluster {
    pub(crate) slurm: Slurm,
    pub(crate) sandbox: Sandbox,
}

/// Slurm is asked more often than a cluster's would be, so that tests do not wait.
pub(crate) const SITE: &str = "executor = \"slurm\"\n[slurm]\nlook = \"1s\"\n";

impl Cluster {
    pub(crate) fn start(more: &str) -> Option<Self> {
        Self::of(&Kind::default(), more)
    }

    pub(crate) fn of(kind: &Kind, more: &str) -> Option<Self> {
        let slurm = Slurm::start(kind)?;
        let sandbox = Sandbox::new();
        // What waits for something to happen does not wait for a compiler.
        static BUILT: Once = Once::new();
        BUILT.call_once(|| {
            sandbox.workflow("any.yaml", "stages: { any: { uses: test/write } }\n");
            sandbox.json(&["plan", "--json", "any.yaml"]);
        });
        sandbox.write("restage.toml", &format!("{SITE}{more}"));
        Some(Self { slurm, sandbox })
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.command(arguments);
        let path = std::env::var("PATH").expect("a path");
        command.env("PATH", format!("{}:{path}", self.sandbox.path("programs").display()));
        command.env("SLURM_CONF", self.slurm.configuration());
        command
    }

    /// Has the run meet this in the place of a program of Slurm's.
    pub(crate) fn instead_of(&self, program: &str, lines: &str) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(self.sandbox.path("programs")).expect("a folder");
        let script = self.sandbox.write(&format!("programs/{program}"), &format!("#!/bin/sh\n{lines}\n"));
        std::fs::set_permissions(script, std::fs::Permissions::from_mode(0o755)).expect("its own");
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        Ended(self.command(arguments).output().expect("the binary starts"))
    }

    /// Starts a run whose words go into the file `told`.
    pub(crate) fn begin(&self, arguments: &[&str]) -> Child {
        let told = std::fs::File::create(self.sandbox.path("told")).expect("a file");
        let mut command = self.command(arguments);
        command.stdout(Stdio::null()).stderr(told).spawn().expect("the binary starts")
    }

    pub(crate) fn told(&self) -> String {
        std::fs::read_to_string(self.sandbox.path("told")).unwrap_or_default()
    }

    /// Whether `steps` has left a checkpoint.
    pub(crate) fn has_begun(&self) -> bool {
        self.sandbox.scratch_has("steps")
    }

    /// The queue's folder, while a run waits.
    pub(crate) fn queue(&self) -> PathBuf {
        let folders = std::fs::read_dir(self.sandbox.path("store/slurm")).expect("a queue");
        folders.flatten().next().expect("a queue").path()
    }

    /// Those of them that live.
    pub(crate) fn working(&self) -> Vec<u32> {
        let lives = |pilot: &u32| std::path::Path::new("/proc").join(pilot.to_string()).exists();
        self.pilots().into_iter().filter(lives).collect()
    }

    /// Processes of pilots that have not said that they end.
    pub(crate) fn pilots(&self) -> Vec<u32> {
        let pilots = std::fs::read_dir(self.queue().join("pilots")).into_iter().flatten().flatten();
        pilots
            .filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
            .filter(|pilot: &Value| pilot["ended"].is_null())
            .filter_map(|pilot| pilot["process"].as_u64()?.try_into().ok())
            .collect()
    }

    pub(crate) fn has_no_job_left(&self) {
        until("no job is left", || {
            ["RUNNING", "PENDING", "COMPLETING"].iter().all(|state| self.slurm.in_state(state).is_empty())
        });
    }

    /// What `steps` said at the beginnings of its attempts, of all runs.
    pub(crate) fn beginnings(&self) -> Vec<u64> {
        fn logs(folder: PathBuf, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.path() {
                    path if path.is_dir() => logs(path, found),
                    path if path.extension().is_some_and(|extension| extension == "log") => found.push(path),
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        logs(self.sandbox.path("store/runs"), &mut found);
        found.sort();
        let texts = found.iter().map(|path| std::fs::read_to_string(path).expect("a log"));
        let text = texts.collect::<String>();
        let begun = text.lines().filter(|line| line.contains("begins"));
        begun.filter_map(|line| line.rsplit_once("done=")?.1.trim().parse().ok()).collect()
    }

    pub(crate) fn queue_is_left(&self) -> bool {
        std::fs::read_dir(self.sandbox.path("store/slurm")).is_ok_and(|mut queues| queues.next().is_some())
    }

    /// What is in the allocation's log that an error names.
    pub(crate) fn kept_log(&self, told: &str) -> String {
        let path = told.split("its log: ").find(|text| text.contains("/slurm/")).expect("it names one");
        let path = path.split(')').next().expect("it has an end");
        std::fs::read_to_string(path).unwrap_or_else(|error| format!("{path}: {error}"))
    }
}

/// As Ctrl-C does.
pub(crate) fn interrupt(run: &Child) {
    drop(Command::new("kill").args(["-INT", &run.id().to_string()]).status());
}
