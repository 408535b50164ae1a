//! A Slurm of the test's own: one node or several on this machine, loopback only, no service of the machine's; all of it goes
//! when it is dropped. Whoever runs the test owns it: root, or an ordinary user.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Nodes `n1`, `n2`, … with four CPUs each, whatever the machine has, and two GPUs that are none.
pub(crate) struct Slurm {
    folder: tempfile::TempDir,
    controller: Option<Child>,
    nodes: Vec<Option<Child>>,
    /// What the names of its nodes begin with.
    prefix: String,
    munge: Child,
}

/// What differs from one Slurm to the other.
pub(crate) struct Kind {
    pub(crate) nodes: usize,
    /// How it knows which processes are a job's.
    pub(crate) tracking: Tracking,
    /// Further lines of its configuration.
    pub(crate) more: &'static str,
}

/// How Slurm knows which processes are a job's, and what it signals and counts by that.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tracking {
    /// Those of one process group: a pilot without its hosts.
    Group,
    /// Whatever comes of a job's first process.
    Tree,
    /// A control group, whose memory is limited. For root, where the kernel's memory controller is there.
    ControlGroup,
}

impl Default for Kind {
    fn default() -> Self {
        Self { nodes: 1, tracking: Tracking::Group, more: "" }
    }
}

/// The first of these that is there.
fn program(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
}

/// Where control groups are, of the kernel's controllers that Slurm uses.
const GROUPS: [&str; 2] = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/freezer"];

/// Whether the control groups that Slurm needs can be made here.
fn makes_groups() -> bool {
    GROUPS.iter().all(|groups| {
        let group = format!("{groups}/restage-{}", std::process::id());
        std::fs::create_dir(&group).and_then(|()| std::fs::remove_dir(&group)).is_ok()
    })
}

/// So many ports that nobody has.
fn ports(count: usize) -> Vec<u16> {
    let free: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    free.iter().map(|free| free.local_addr().expect("an address").port()).collect()
}

impl Slurm {
    /// Starts it; `None`, said aloud, where there is none.
    pub(crate) fn start(kind: &Kind) -> Option<Self> {
        if ["munged", "slurmctld", "slurmd", "sbatch"].iter().any(|name| program(name).is_none()) {
            println!("skipped: no Slurm here (slurmctld, slurmd, slurm-client, munge)");
            return None;
        }
        if kind.tracking == Tracking::ControlGroup && !makes_groups() {
            println!("skipped: this Slurm limits memory only for root, and where control groups can be made");
            return None;
        }
        // Control groups are the machine's, and called after the node.
        let is_shared = kind.tracking == Tracking::ControlGroup;
        let prefix = if is_shared { format!("n{}x", std::process::id()) } else { "n".to_owned() };
        // Sockets have short paths.
        let folder = tempfile::tempdir_in("/tmp").expect("a temporary folder");
        let root = folder.path();
        for name in ["etc", "run", "log", "state", "spool", "munge"] {
            std::fs::create_dir(root.join(name)).expect("a folder");
        }
        for node in 1..=kind.nodes {
            std::fs::create_dir(root.join(format!("spool/{prefix}{node}"))).expect("a folder");
        }
        let (user, host) = (said("id", "-un"), said("hostname", "-s"));
        std::fs::write(root.join("munge/munge.key"), key()).expect("a key");
        private(&root.join("munge"));
        private(&root.join("munge/munge.key"));
        std::fs::write(root.join("etc/slurm.conf"), configuration(root, kind, &prefix, &user, &host))
            .expect("a configuration");
        let gpus = format!("NodeName={prefix}[1-{}] Name=gpu Type=fake File=/dev/tty[1-2]\n", kind.nodes);
        std::fs::write(root.join("etc/gres.conf"), gpus).expect("a configuration");
        let groups = "CgroupPlugin=autodetect\nConstrainRAMSpace=yes\n";
        std::fs::write(root.join("etc/cgroup.conf"), groups).expect("a configuration");
        let at = |name: &str| root.join(name).into_os_string();
        let munge = Command::new(program("munged")?)
            .args(["--foreground", "--force", "--num-threads=2", "--key-file"])
            .arg(at("munge/munge.key"))
            .arg("--socket")
            .arg(at("run/munge.socket"))
            .arg("--pid-file")
            .arg(at("munge/munged.pid"))
            .arg("--log-file")
            .arg(at("munge/munged.log"))
            .arg("--seed-file")
            .arg(at("munge/munged.seed"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("munged starts");
        let mut slurm = Self { folder, controller: None, nodes: Vec::new(), prefix, munge };
        until("munge has a socket", || slurm.path("run/munge.socket").exists());
        slurm.start_controller();
        for node in 1..=kind.nodes {
            slurm.start_node(node);
        }
        until("the nodes are idle", || {
            let states = slurm.ask("sinfo", &["--noheader", "--Node", "--partition=test", "--format=%T"]);
            let idle =
                String::from_utf8_lossy(&states.stdout).lines().filter(|state| *state == "idle").count();
            idle == kind.nodes
        });
        Some(slurm)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where Slurm's programs find it.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.path("etc/slurm.conf")
    }

    /// Starts the controller.
    pub(crate) fn start_controller(&mut self) {
        self.controller = Some(self.daemon("slurmctld", &[]));
    }

    /// Starts a node.
    pub(crate) fn start_node(&mut self, node: usize) {
        self.nodes.resize_with(node.max(self.nodes.len()), || None);
        self.nodes[node - 1] = Some(self.daemon("slurmd", &["-N", &format!("{}{node}", self.prefix)]));
    }

    /// Kills the controller as nothing can prevent.
    pub(crate) fn kill_controller(&mut self) {
        end(self.controller.take());
    }

    /// Kills a node's daemon; what runs on the node runs on.
    pub(crate) fn kill_node(&mut self, node: usize) {
        end(self.nodes[node - 1].take());
    }

    /// The controller is told that a node is down, as it finds out by itself after some minutes.
    pub(crate) fn lose_node(&self, node: usize) {
        let node = format!("nodename={}{node}", self.prefix);
        let told = self.ask("scontrol", &["update", &node, "state=down", "reason=lost"]);
        assert!(told.status.success(), "{told:?}");
    }

    fn daemon(&self, name: &str, arguments: &[&str]) -> Child {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("log/{name}{}.log", arguments.concat())))
            .expect("a log");
        Command::new(program(name).expect("it was there"))
            .arg("-D")
            .args(arguments)
            .arg("-f")
            .arg(self.configuration())
            .env("SLURM_CONF", self.configuration())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the daemon starts")
    }

    /// Asks one of Slurm's programs.
    pub(crate) fn ask(&self, name: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program(name).unwrap_or_else(|| name.into()));
        command.args(arguments).env("SLURM_CONF", self.configuration()).output().expect("it starts")
    }

    /// Jobs and places in arrays, with their states: those that are over too.
    pub(crate) fn jobs(&self) -> Vec<(String, String)> {
        let told = self.ask("squeue", &["--noheader", "--array", "--states=all", "--format=%i %T"]);
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        text.lines()
            .filter_map(|line| line.trim().split_once(' '))
            .map(|(id, state)| (id.to_owned(), state.to_owned()))
            .collect()
    }

    /// One field of `squeue` of a job.
    pub(crate) fn told(&self, job: &str, format: &str) -> String {
        let format = format!("--format={format}");
        let told = self.ask("squeue", &["--noheader", "--states=all", "--jobs", job, &format]);
        String::from_utf8_lossy(&told.stdout).trim().to_owned()
    }

    /// Jobs in a state.
    pub(crate) fn in_state(&self, wanted: &str) -> Vec<String> {
        self.jobs().into_iter().filter(|(_, state)| state == wanted).map(|(id, _)| id).collect()
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        if self.controller.is_some() {
            drop(self.ask("scancel", &["--quiet", "--user", &said("id", "-un")]));
        }
        self.nodes.iter_mut().for_each(|node| end(node.take()));
        end(self.controller.take());
        // What nodes started outlives them, and has nobody left to tell how it ended.
        let conf = format!("SLURM_CONF={}", self.configuration().display());
        let left = processes().filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == conf.as_bytes())
        });
        for pid in left {
            drop(Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status());
        }
        for (groups, node) in
            GROUPS.iter().flat_map(|groups| (1..=self.nodes.len()).map(move |node| (groups, node)))
        {
            drop(std::fs::remove_dir(format!("{groups}/slurm_{}{node}", self.prefix)));
        }
        drop(self.munge.kill());
        drop(self.munge.wait());
    }
}

/// All processes of this machine.
fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        drop(child.kill());
        drop(child.wait());
    }
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn said(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output().expect("it is there");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// No secret: its socket is in a folder of the test's.
fn key() -> Vec<u8> {
    (0..1024_u32).map(|place| (place * 7 % 251) as u8).collect()
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its own");
}

fn configuration(root: &Path, kind: &Kind, prefix: &str, user: &str, host: &str) -> String {
    let (root, more, ports) = (root.display(), kind.more, ports(kind.nodes + 1));
    let (tracking, task) = match kind.tracking {
        Tracking::Group => ("pgid", "none"),
        Tracking::Tree => ("linuxproc", "none"),
        Tracking::ControlGroup => ("cgroup", "cgroup"),
    };
    let limits = if kind.tracking == Tracking::Group { "CR_CPU" } else { "CR_CPU_Memory" };
    let gather = if kind.tracking == Tracking::Tree { "linux" } else { "none" };
    let controller = ports[0];
    let node = |(place, port): (usize, &u16)| {
        format!(
            "NodeName={prefix}{} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=2000 Gres=gpu:fake:2 State=UNKNOWN\n",
            place + 1
        )
    };
    let nodes: String = ports.iter().skip(1).enumerate().map(node).collect();
    format!(
        "ClusterName=restage-test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/run/munge.socket
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.%n.pid
ProctrackType=proctrack/{tracking}
TaskPlugin=task/{task}
JobAcctGatherType=jobacct_gather/{gather}
JobAcctGatherFrequency=task=1
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=100000
MinJobAge=300
KillWait=2
PriorityType=priority/basic
SelectType=select/cons_tres
SelectTypeParameters={limits}
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
{nodes}PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=1
{more}"
    )
}
