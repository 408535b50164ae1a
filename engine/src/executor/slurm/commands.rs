//! Slurm's programs: what they are asked, and what their answers mean.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command};

use super::settings::{Profile, Settings, Shape};

/// Jobs of ours are named so, with the nonce of their submission.
const PREFIX: &str = "restage-";

/// A controller that is away is waited for by Slurm's programs themselves; one that hangs is not, longer than this.
const PATIENCE: Duration = Duration::from_secs(90);

/// Variables that jobs always have, where they are set.
const EXPORTED: [&str; 18] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "PYTHONPATH",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "SLURM_CONF",
    "RESTAGE_LOG",
    "RESTAGE_SANDBOX",
    "RESTAGE_PYTHON",
];

/// What is submitted: some allocations of one shape.
pub(super) struct Order<'a> {
    pub(super) settings: &'a Settings,
    pub(super) profile: &'a Profile,
    pub(super) shape: &'a Shape,
    /// By which the job is found again, should the answer be lost.
    pub(super) nonce: &'a str,
    /// How many.
    pub(super) count: usize,
    /// How many of them at once.
    pub(super) at_once: usize,
    /// Where they say what happens to them.
    pub(super) logs: &'a Path,
    /// What each of them runs.
    pub(super) script: &'a str,
    /// How long before its end an allocation is told.
    pub(super) notice: Duration,
}

/// Why there is no job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Slurm will never take it: this is what it says.
    Never(String),
    /// It may take it later; or has taken it, and the answer was lost.
    NotNow(String),
}

/// What became of a job, as far as its state tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has not begun; or not again, where Slurm starts it a second time.
    Waiting,
    /// It runs, or ends.
    Live,
    /// It is over.
    Over,
    /// It is over, for it took more memory than it had.
    OutOfMemory,
    /// A state that is not known here: it is waited for, and told.
    Unknown,
}

impl Fate {
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Over | Self::OutOfMemory)
    }
}

/// A job, or one of an array, as `squeue` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// `7`, or `7_3` in an array.
    pub(super) id: String,
    pub(super) state: String,
    /// Why it waits.
    pub(super) reason: String,
    /// Nonce of its submission.
    pub(super) nonce: String,
}

impl Seen {
    /// All states of `JOB STATE CODES` in `squeue`'s manual.
    pub(super) fn fate(&self) -> Fate {
        match &*self.state {
            "PENDING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "RESV_DEL_HOLD" | "SPECIAL_EXIT" => {
                Fate::Waiting
            }
            "CONFIGURING" | "RUNNING" | "COMPLETING" | "SUSPENDED" | "STOPPED" | "RESIZING" | "SIGNALING"
            | "STAGE_OUT" | "POWER_UP_NODE" => Fate::Live,
            "BOOT_FAIL" | "CANCELLED" | "COMPLETED" | "DEADLINE" | "FAILED" | "NODE_FAIL" | "PREEMPTED"
            | "REVOKED" | "TIMEOUT" | "LAUNCH_FAILED" | "RECONFIG_FAIL" => Fate::Over,
            "OUT_OF_MEMORY" => Fate::OutOfMemory,
            _ => Fate::Unknown,
        }
    }

    /// Why it waits, where that may last for ever: others are before it, or have what it needs, is how a cluster is.
    pub(super) fn odd_reason(&self) -> Option<&str> {
        const ORDINARY: [&str; 10] = [
            "None",
            "Priority",
            "Resources",
            "BeginTime",
            "Cleaning",
            "Reservation",
            "Prolog",
            "JobArrayTaskLimit",
            "Dependency",
            "",
        ];
        let is_odd = self.fate() == Fate::Waiting && !ORDINARY.contains(&&*self.reason);
        is_odd.then_some(&*self.reason)
    }
}

/// Asks for allocations; the job's number.
pub(super) async fn submit(order: &Order<'_>) -> Result<u64, Refused> {
    let mut command = program("sbatch");
    command.args(arguments(order));
    let output = ask(command, Some(order.script)).await.map_err(|why| match why {
        Unanswered::NoProgram(message) => Refused::Never(message),
        Unanswered::Late(message) => Refused::NotNow(message),
    })?;
    if output.ok {
        // `7`, or `7;cluster`.
        let id = output.text.trim().split(';').next().and_then(|id| id.parse().ok());
        return id.ok_or_else(|| Refused::NotNow(format!("sbatch answered `{}`", output.text.trim())));
    }
    Err(refused(&output.complaint))
}

fn arguments(order: &Order<'_>) -> Vec<String> {
    let Order { settings, profile, shape, nonce, count, at_once, logs, notice, .. } = order;
    let mut arguments = vec![
        "--parsable".to_owned(),
        format!("--job-name={PREFIX}{nonce}"),
        "--nodes=1".into(),
        "--ntasks=1".into(),
        format!("--cpus-per-task={}", shape.cpus),
        "--no-requeue".into(),
        format!("--export={}", exported(settings)),
        "--open-mode=append".into(),
        format!("--chdir={}", logs.display()),
    ];
    let log = if *count > 1 { "%A_%a.log" } else { "%j.log" };
    // A `%` of the path is not Slurm's.
    arguments.push(format!("--output={}", logs.join("").display().to_string().replace('%', "%%") + log));
    if *count > 1 {
        arguments.push(format!("--array=0-{}%{}", count - 1, at_once));
    }
    arguments.extend(profile.partition.iter().map(|partition| format!("--partition={partition}")));
    arguments.extend(
        shape.memory.map(|memory| format!("--mem={}M", profile.memory_for(memory).div_ceil(1 << 20))),
    );
    match shape.seconds {
        // A pilot that knows its time sees to its end itself: Slurm's own notice may come most of a minute early.
        Some(seconds) => arguments.push(format!("--time={}", seconds / 60)),
        None => arguments.push(format!("--signal=B:TERM@{}", notice.as_secs())),
    }
    let (others, gres) = profile.arguments();
    let mut gres: Vec<String> = gres.into_iter().map(str::to_owned).collect();
    if let (Some(gpu), 1..) = (&profile.gres, shape.gpus) {
        gres.push(format!("{gpu}:{}", shape.gpus));
    }
    if !gres.is_empty() {
        arguments.push(format!("--gres={}", gres.join(",")));
    }
    arguments.extend(others.into_iter().map(str::to_owned));
    arguments
}

fn exported(settings: &Settings) -> String {
    let further = settings.export.iter().map(String::as_str);
    let names = EXPORTED.into_iter().chain(further).filter(|name| std::env::var_os(name).is_some());
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "NONE".to_owned() } else { names.join(",") }
}

/// Whether what Slurm says may change. What is not known to be final is tried again.
fn refused(complaint: &str) -> Refused {
    const FINAL: [&str; 13] = [
        "invalid",
        "configuration is not available",
        "memory specification",
        "cpu count",
        "node count",
        "time limit specification",
        "unrecognized option",
        "option requires",
        "mutually exclusive",
        "unable to open file",
        "not permitted",
        "permission denied",
        "more processors requested than permitted",
    ];
    // What `munge` and the directory of users say while they are away.
    const PASSING: [&str; 3] = ["credential", "authentication", "user id"];
    let mut lines = complaint.trim().lines();
    let line = lines.rfind(|line| !line.starts_with("Try ")).unwrap_or("it said nothing").to_owned();
    let complaint = complaint.to_lowercase();
    let is = |known: &&str| complaint.contains(*known);
    if FINAL.iter().any(is) && !PASSING.iter().any(is) { Refused::Never(line) } else { Refused::NotNow(line) }
}

/// All jobs of ours that Slurm knows of, those that ended lately too. An error says nothing about any job.
pub(super) async fn jobs() -> Result<Vec<Seen>, String> {
    let mut command = program("squeue");
    let user = format!("--user={}", rustix::process::getuid().as_raw());
    command.args(["--noheader", "--array", "--states=all", "--format=%i|%T|%r|%j"]).arg(user);
    let output = ask(command, None).await.map_err(Unanswered::message)?;
    if output.ok { Ok(seen(&output.text)) } else { Err(output.complaint.trim().to_owned()) }
}

fn seen(text: &str) -> Vec<Seen> {
    let line = |line: &str| {
        let mut parts = line.trim().splitn(4, '|').map(str::to_owned);
        let (id, state, reason, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Seen { id, state, reason, nonce: name.strip_prefix(PREFIX)?.to_owned() })
    };
    text.lines().filter_map(line).collect()
}

/// How jobs are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cancelling {
    /// Those that have not begun.
    Waiting,
    /// Those that run are asked to end.
    Asked,
    /// All, now.
    All,
}

/// Ends jobs, by their numbers and by nonces of their submissions. A job that is not there is no error.
pub(super) async fn cancel(jobs: &[u64], nonces: &[&str], how: Cancelling) -> Result<(), String> {
    if !jobs.is_empty() {
        cancel_some(how, jobs.iter().map(u64::to_string).collect()).await?;
    }
    if !nonces.is_empty() {
        let names: Vec<String> = nonces.iter().map(|nonce| format!("{PREFIX}{nonce}")).collect();
        cancel_some(how, vec![format!("--name={}", names.join(","))]).await?;
    }
    Ok(())
}

async fn cancel_some(how: Cancelling, which: Vec<String>) -> Result<(), String> {
    let mut command = program("scancel");
    match how {
        Cancelling::Waiting => drop(command.arg("--state=PENDING")),
        Cancelling::Asked => drop(command.args(["--batch", "--signal=TERM"])),
        Cancelling::All => {}
    }
    command.arg("--quiet").args(which);
    let output = ask(command, None).await.map_err(Unanswered::message)?;
    // A job that is over, or not begun where it is signalled, makes it fail without a word.
    let complaint = output.complaint.trim();
    if output.ok || complaint.is_empty() { Ok(()) } else { Err(complaint.to_owned()) }
}

/// The most jobs that one array may have; 1,000 where Slurm does not tell.
pub(super) async fn most_in_array() -> usize {
    let mut command = program("scontrol");
    command.args(["show", "config"]);
    let told = ask(command, None).await.ok().filter(|output| output.ok).and_then(|output| {
        let line = output.text.lines().find(|line| line.starts_with("MaxArraySize"))?.to_owned();
        line.split_once('=')?.1.trim().parse::<usize>().ok()
    });
    told.unwrap_or(1001).saturating_sub(1).max(1)
}

/// What a program answered.
struct Output {
    ok: bool,
    text: String,
    complaint: String,
}

/// Why there is no answer.
enum Unanswered {
    NoProgram(String),
    Late(String),
}

impl Unanswered {
    fn message(self) -> String {
        match self {
            Self::NoProgram(message) | Self::Late(message) => message,
        }
    }
}

/// One of Slurm's programs. What an allocation in which we may be says of itself is not meant for the next one.
fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    for (variable, _) in std::env::vars_os() {
        let text = variable.to_string_lossy();
        if text.starts_with("SLURM_") && text != "SLURM_CONF" && text != "SLURM_CLUSTERS" {
            command.env_remove(&variable);
        }
    }
    command
}

async fn ask(mut command: Command, input: Option<&str>) -> Result<Output, Unanswered> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // Ctrl-C is for restage, which then has something to ask of Slurm.
    command.process_group(0);
    let no_program = |error: std::io::Error| {
        Unanswered::NoProgram(format!("`{name}` cannot be started ({error}): is Slurm installed here?"))
    };
    let answer = async {
        let mut child = command.spawn().map_err(no_program)?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // One that does not listen says why by its end.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await.map_err(|error| Unanswered::Late(format!("`{name}`: {error}")))
    };
    let late = |_| Unanswered::Late(format!("`{name}` gave no answer in {} s", PATIENCE.as_secs()));
    let output = tokio::time::timeout(PATIENCE, answer).await.map_err(late)??;
    Ok(Output {
        ok: output.status.success(),
        text: String::from_utf8_lossy(&output.stdout).into_owned(),
        complaint: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_what_sbatch_takes() {
        let settings: Settings = toml::from_str(
            "[[profile]]\npartition = \"gpu\"\ngres = \"gpu:fake\"\ntime = \"4h\"\nargs = [\"--account=lab\", \"--gres=lscratch:20\"]",
        )
        .unwrap();
        let shape =
            Shape { profile: 0, cpus: 4, memory: Some(3 << 29), gpus: 1, places: 1, seconds: Some(14_400) };
        let profile = settings.profile(&shape);
        let order = |count| Order {
            settings: &settings,
            profile: &profile,
            shape: &shape,
            nonce: "n1",
            count,
            at_once: 8,
            logs: Path::new("/store/50%/logs"),
            script: "",
            notice: Duration::from_secs(15),
        };
        let many = arguments(&order(200));
        for wanted in [
            "--job-name=restage-n1",
            "--cpus-per-task=4",
            "--mem=1664M",
            "--time=240",
            "--gres=lscratch:20,gpu:fake:1",
            "--array=0-199%8",
            "--partition=gpu",
            "--account=lab",
            "--no-requeue",
            "--output=/store/50%%/logs/%A_%a.log",
        ] {
            assert!(many.iter().any(|argument| argument == wanted), "{wanted} in {many:?}");
        }
        assert!(!many.iter().any(|argument| argument.starts_with("--signal")));
        assert!(!arguments(&order(1)).iter().any(|argument| argument.starts_with("--array")));
    }

    #[test]
    fn every_state_has_a_fate_and_one_that_is_not_known_is_waited_for() {
        let seen =
            |state: &str, reason: &str| super::seen(&format!("7|{state}|{reason}|restage-a")).pop().unwrap();
        assert_eq!(seen("RUNNING", "None").fate(), Fate::Live);
        assert_eq!(seen("NODE_FAIL", "None").fate(), Fate::Over);
        assert_eq!(seen("OUT_OF_MEMORY", "OutOfMemory").fate(), Fate::OutOfMemory);
        assert_eq!(seen("DREAMING", "None").fate(), Fate::Unknown);
        assert_eq!(seen("PENDING", "Resources").odd_reason(), None);
        assert_eq!(seen("PENDING", "QOSMaxMemoryPerJob").odd_reason(), Some("QOSMaxMemoryPerJob"));
        assert_eq!(seen("NODE_FAIL", "NodeDown").odd_reason(), None);
    }

    #[test]
    fn what_will_never_be_taken_is_told_from_what_may() {
        let never = "sbatch: error: Batch job submission failed: Invalid partition name specified";
        assert!(matches!(refused(never), Refused::Never(line) if line == never));
        let unavailable =
            "sbatch: error: Batch job submission failed: Requested node configuration is not available";
        assert!(matches!(refused(unavailable), Refused::Never(_)));
        let option = "sbatch: unrecognized option '--foo=3'\nTry \"sbatch --help\" for more information\n";
        assert_eq!(refused(option), Refused::Never("sbatch: unrecognized option '--foo=3'".into()));
        // Slurm 22.05's words.
        for why in [
            "Batch job submission failed: Invalid feature specification",
            "Batch job submission failed: Requested reservation is invalid",
            "Batch job submission failed: Invalid node name specified",
            "Batch job submission failed: Invalid license specification",
            "Invalid --begin specification",
            "Unable to open file extra",
        ] {
            assert!(matches!(refused(&format!("sbatch: error: {why}")), Refused::Never(_)), "{why}");
        }
        for later in [
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            "sbatch: error: QOSMaxSubmitJobPerUserLimit",
            "sbatch: error: Batch job submission failed: Invalid authentication credential",
            "",
        ] {
            assert!(matches!(refused(later), Refused::NotNow(_)), "{later}");
        }
    }

    #[test]
    fn only_our_jobs_are_seen() {
        let text =
            "7_3|RUNNING|None|restage-a1\n8|PENDING|Resources|other\n9|PENDING|Priority|restage-b|2\nodd\n";
        let seen = seen(text);
        let ids: Vec<_> = seen.iter().map(|seen| (&*seen.id, &*seen.nonce)).collect();
        assert_eq!(ids, [("7_3", "a1"), ("9", "b|2")]);
    }
}
