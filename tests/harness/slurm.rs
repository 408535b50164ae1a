//! A Slurm of the test's own: one node, loopback only, no service of the machine's; all of it goes when it is dropped.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// One node with four CPUs, whatever the machine has, and two GPUs that are none.
pub(crate) struct Slurm {
    folder: tempfile::TempDir,
    controller: Option<Child>,
    node: Option<Child>,
    munge: Child,
}

/// The first of these that is there.
fn program(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
}

fn port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    free.local_addr().expect("an address").port()
}

impl Slurm {
    /// Starts it; `None`, said aloud, where there is none.
    pub(crate) fn start() -> Option<Self> {
        if ["munged", "slurmctld", "slurmd", "sbatch"].iter().any(|name| program(name).is_none()) {
            println!("skipped: no Slurm here (slurmctld, slurmd, slurm-client, munge)");
            return None;
        }
        // Sockets have short paths.
        let folder = tempfile::tempdir_in("/tmp").expect("a temporary folder");
        let root = folder.path();
        for name in ["etc", "run", "log", "state", "spool", "munge"] {
            std::fs::create_dir(root.join(name)).expect("a folder");
        }
        let (user, host) = (said("id", "-un"), said("hostname", "-s"));
        std::fs::write(root.join("munge/munge.key"), key()).expect("a key");
        private(&root.join("munge"));
        private(&root.join("munge/munge.key"));
        std::fs::write(root.join("etc/slurm.conf"), configuration(root, &user, &host))
            .expect("a configuration");
        let gpus = format!("NodeName={host} Name=gpu Type=fake File=/dev/tty[1-2]\n");
        std::fs::write(root.join("etc/gres.conf"), gpus).expect("a configuration");
        std::fs::write(root.join("etc/cgroup.conf"), "CgroupPlugin=autodetect\n").expect("a configuration");
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
        let mut slurm = Self { folder, controller: None, node: None, munge };
        until("munge has a socket", || slurm.path("run/munge.socket").exists());
        slurm.start_controller();
        slurm.start_node();
        until("the node is idle", || {
            let state = slurm.ask("sinfo", &["--noheader", "--format=%T"]);
            String::from_utf8_lossy(&state.stdout).trim() == "idle"
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
        self.controller = Some(self.daemon("slurmctld"));
    }

    /// Starts the node.
    pub(crate) fn start_node(&mut self) {
        self.node = Some(self.daemon("slurmd"));
    }

    /// Kills the controller as nothing can prevent.
    pub(crate) fn kill_controller(&mut self) {
        end(self.controller.take());
    }

    /// Kills the node's daemon; what runs on the node runs on.
    pub(crate) fn kill_node(&mut self) {
        end(self.node.take());
    }

    fn daemon(&self, name: &str) -> Child {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("log/{name}.log")))
            .expect("a log");
        Command::new(program(name).expect("it was there"))
            .arg("-D")
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
        end(self.node.take());
        end(self.controller.take());
        drop(self.munge.kill());
        drop(self.munge.wait());
    }
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

fn configuration(root: &Path, user: &str, host: &str) -> String {
    let (root, controller, node) = (root.display(), port(), port());
    format!(
        "ClusterName=restage-test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller}
SlurmdPort={node}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/run/munge.socket
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
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
SelectTypeParameters=CR_CPU
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName={host} NodeAddr=127.0.0.1 Port={node} CPUs=4 RealMemory=2000 Gres=gpu:fake:2 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"
    )
}
