//! What a site says of its Slurm, and which allocation an action gets by that.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::workflow::{self, Execution};

/// `[slurm]` in `restage.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// How many allocations may be asked for at once; 100 if it is not said.
    at_most: Option<usize>,
    /// How often Slurm is asked how the jobs stand, at most; 30 s if it is not said.
    look: Option<Time>,
    /// How long an allocation that has nothing to do is kept for what comes next; 20 s if it is not said.
    idle: Option<Time>,
    /// Lines of shell that come before the work, e.g. `module load cuda`.
    pub(super) setup: Option<String>,
    /// Variables of the environment that go along, besides those that always do.
    pub(super) export: Vec<String>,
    /// The `restage` that the nodes have; this one if it is not said.
    pub(super) restage: Option<PathBuf>,
    /// Kinds of allocations; the first one that suits an action is taken.
    profile: Vec<Profile>,
}

/// A kind of allocation.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Profile {
    /// The partition; Slurm's default if it is not said.
    pub(super) partition: Option<String>,
    /// How long an allocation lasts; if it is not said as long as the stage's `timeout` asks for, or the partition gives.
    time: Option<Time>,
    /// What a GPU is called, e.g. `gpu` or `gpu:a100`; a profile without it has none.
    pub(super) gres: Option<String>,
    /// CPUs of an allocation that actions share; as many as one action needs if it is not said.
    cpus: Option<usize>,
    /// Memory of an allocation that actions share.
    memory: Option<Size>,
    /// Further arguments of `sbatch`, e.g. `--account=pathology`.
    args: Vec<Argument>,
}

/// An argument of `sbatch` that says nothing which restage says itself: Slurm believes the last one, so what stages ask for would
/// not count.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Argument(String);

const GPUS_INSTEAD: &str =
    "say what a GPU is called as `gres` of this profile, and how many as `resources: { gpus: … }` of a stage";

/// Arguments that restage gives, with their letters, and where to say what they say.
const GIVEN: [(&[&str], &str, &str); 8] = [
    (
        &["mem", "mem-per-cpu", "mem-per-gpu"],
        "",
        "say `memory` of this profile, for an allocation that actions share, or `resources: { memory: … }` of a stage",
    ),
    (
        &["cpus-per-task", "cpus-per-gpu"],
        "c",
        "say `cpus` of this profile, for an allocation that actions share, or `resources: { cpus: … }` of a stage",
    ),
    (&["time", "time-min"], "t", "say `time` of this profile"),
    (&["partition"], "p", "say `partition` of this profile"),
    (&["gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket"], "G", GPUS_INSTEAD),
    (&["export", "export-file"], "", "say names of variables as `export` of `[slurm]`"),
    (&["wrap"], "", "say lines of shell as `setup` of `[slurm]`"),
    (
        &[
            "array",
            "job-name",
            "output",
            "open-mode",
            "chdir",
            "nodes",
            "ntasks",
            "parsable",
            "wait",
            "test-only",
        ],
        "aJoDNnW",
        "restage says it itself, and finds its jobs again by that",
    ),
];

impl TryFrom<String> for Argument {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (name, value) = text.split_once('=').unwrap_or((&text, ""));
        let long = name.strip_prefix("--").filter(|long| !long.is_empty());
        let letter = name.strip_prefix('-').filter(|_| long.is_none()).and_then(|short| short.chars().next());
        // `sbatch` takes beginnings of names too.
        let is = |known: &&str| {
            long.is_some_and(|long| *known == long || long.len() > 2 && known.starts_with(long))
        };
        let given = GIVEN.iter().find(|(names, letters, _)| {
            names.iter().any(&is) || letter.is_some_and(|letter| letters.contains(letter))
        });
        if let Some((_, _, instead)) = given {
            return Err(format!("`{name}` would override what restage asks of `sbatch`: {instead}"));
        }
        match long {
            Some("gres") if value.is_empty() => Err("write it in one piece: `--gres=NAME:N`".into()),
            Some("gres") if value.contains("gpu") => {
                Err(format!("`{text}` asks for GPUs that no stage would see: {}", GPUS_INSTEAD))
            }
            _ => Ok(Self(text)),
        }
    }
}

/// Slurm believes the last argument of a name, so there may be one.
const GRES: &str = "--gres=";

/// A time as people write it: `4h`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Time(Duration);

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let time = humantime::parse_duration(&text).map(Self);
        time.map_err(|error| format!("expected a time with its unit, e.g. `30s` or `4h`: {error}"))
    }
}

/// A size as people write it: `16GiB`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Size(u64);

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        workflow::bytes(&text)
            .map(Self)
            .ok_or_else(|| "expected a size with its unit, e.g. `512MiB` or `16GiB`".to_owned())
    }
}

/// An allocation, as it is asked for. Actions that need the same share allocations.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Which profile of the site's, by its place.
    pub(super) profile: usize,
    pub(crate) cpus: usize,
    /// Bytes.
    pub(crate) memory: Option<u64>,
    pub(crate) gpus: usize,
    /// How many actions run in it side by side.
    pub(crate) places: usize,
    /// How long it lasts, where that is said.
    pub(crate) seconds: Option<u64>,
}

/// Slurm counts time in minutes.
const MINUTE: u64 = 60;

/// What a pilot and the hosts that wait take for themselves, besides what actions may have.
pub(crate) const PILOT: u64 = 128 << 20;

/// What an allocation lasts longer than its stage may take.
const SPARE: Duration = Duration::from_secs(120);

impl Profile {
    /// What the site wants to say to `sbatch` besides, with what it wants besides GPUs.
    pub(super) fn arguments(&self) -> (Vec<&str>, Vec<&str>) {
        let all = self.args.iter().map(|Argument(text)| &**text);
        let (gres, others): (Vec<_>, Vec<_>) = all.partition(|text| text.starts_with(GRES));
        (others, gres.into_iter().filter_map(|text| text.strip_prefix(GRES)).collect())
    }

    /// Memory of an allocation whose actions have so much: there is a pilot besides, but for where the site says how large
    /// its allocations are.
    pub(super) fn memory_for(&self, actions: u64) -> u64 {
        let is_said = self.memory.is_some_and(|Size(all)| all >= actions);
        if is_said { actions } else { actions.saturating_add(PILOT) }
    }
}

impl Settings {
    pub(super) fn at_most(&self) -> usize {
        self.at_most.unwrap_or(100).max(1)
    }

    pub(super) fn look(&self) -> Duration {
        self.look.map_or(Duration::from_secs(30), |time| time.0)
    }

    pub(super) fn idle(&self) -> Duration {
        self.idle.map_or(Duration::from_secs(20), |time| time.0)
    }

    pub(super) fn profile(&self, shape: &Shape) -> Profile {
        self.profile.get(shape.profile).cloned().unwrap_or_default()
    }

    /// The allocation for an action. `memory` is what it gets where that is more than it asked for.
    pub(super) fn shape(&self, execution: &Execution, memory: Option<u64>) -> Shape {
        let (place, profile) = self.suiting(execution);
        let gpus = if profile.gres.is_some() { execution.gpus.count } else { 0 };
        let cpus = execution.cpus.unwrap_or(1).max(1);
        let memory = memory.or(execution.memory);
        let all_cpus = cpus.max(profile.cpus.unwrap_or(0));
        let all_memory = match (memory, profile.memory) {
            (Some(one), Some(Size(all))) => Some(one.max(all)),
            (one, all) => one.or(all.map(|all| all.0)),
        };
        let by_memory = match (memory, all_memory) {
            (Some(one), Some(all)) if one > 0 => usize::try_from(all / one).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        // GPUs are asked for action by action.
        let places = if gpus > 0 { 1 } else { (all_cpus / cpus).min(by_memory).max(1) };
        // Where only the stage says how long it may take, there is time for that and for its end.
        let lasts = profile.time.map(|time| time.0).or(execution.timeout.map(|time| time + SPARE));
        let seconds = lasts.map(|lasts| lasts.as_secs().div_ceil(MINUTE).max(1) * MINUTE);
        Shape { profile: place, cpus: all_cpus, memory: all_memory, gpus, places, seconds }
    }

    /// The first profile with GPUs for what wants them, and without for what does not, that lasts long enough; else the longest
    /// of those: with checkpoints an action goes from one allocation to the next. Else the first one.
    fn suiting(&self, execution: &Execution) -> (usize, Profile) {
        let wants_gpus = execution.gpus.count > 0;
        let of_kind = |with: bool| {
            let all = self.profile.iter().enumerate();
            all.filter(move |(_, profile)| profile.gres.is_some() == with).collect::<Vec<_>>()
        };
        let mut able = of_kind(wants_gpus);
        if able.is_empty() {
            able = of_kind(!wants_gpus);
        }
        let lasts = |profile: &Profile| profile.time.map_or(Duration::MAX, |time| time.0);
        let long_enough = able
            .iter()
            .find(|(_, profile)| execution.timeout.is_none_or(|timeout| timeout <= lasts(profile)));
        // Of equal ones `rev` makes the first the last, which `max_by_key` takes.
        let longest = able.iter().rev().max_by_key(|(_, profile)| lasts(profile));
        let found = long_enough.or(longest).map(|(place, profile)| (*place, (*profile).clone()));
        found.unwrap_or_default()
    }

    /// Whether some profile has GPUs.
    pub(crate) fn has_gpus(&self) -> bool {
        self.profile.iter().any(|profile| profile.gres.is_some())
    }
}

impl Shape {
    /// A name for its folder.
    pub(super) fn name(&self) -> String {
        let Self { profile, cpus, gpus, places, .. } = self;
        let mebibytes = self.memory.unwrap_or(0) >> 20;
        format!("p{profile}-{cpus}c-{mebibytes}m-{gpus}g-{places}x-{}s", self.seconds.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::Gpus;

    fn settings() -> Settings {
        toml::from_str(
            "at_most = 8
             [[profile]]
             partition = \"short\"
             time = \"30m\"
             cpus = 8
             memory = \"16GiB\"
             [[profile]]
             partition = \"long\"
             time = \"4h\"
             [[profile]]
             partition = \"gpu\"
             gres = \"gpu:a100\"
             time = \"90s\"",
        )
        .unwrap()
    }

    fn of(execution: &Execution) -> (Option<String>, Shape) {
        let shape = settings().shape(execution, None);
        (settings().profile(&shape).partition, shape)
    }

    #[test]
    fn an_action_gets_the_first_allocation_that_suits() {
        let (partition, shape) =
            of(&Execution { memory: Some(4 << 30), cpus: Some(3), ..Execution::default() });
        assert_eq!(partition.as_deref(), Some("short"));
        assert_eq!(
            (shape.cpus, shape.memory, shape.places, shape.seconds),
            (8, Some(16 << 30), 2, Some(1800))
        );

        let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
        for (asked, partition) in [(1, "long"), (24, "long")] {
            let execution = Execution { timeout: hours(asked), ..Execution::default() };
            assert_eq!(of(&execution).0.as_deref(), Some(partition), "{asked} hours");
        }

        let gpus = Gpus { count: 2, ..Gpus::default() };
        let (partition, shape) = of(&Execution { gpus: gpus.clone(), cpus: Some(4), ..Execution::default() });
        assert_eq!(partition.as_deref(), Some("gpu"));
        assert_eq!((shape.gpus, shape.cpus, shape.places, shape.seconds), (2, 4, 1, Some(120)));

        // What a pilot takes is asked for besides, where the site does not say how large an allocation is.
        let asked = |place: usize, gibibytes: u64| settings().profile[place].memory_for(gibibytes << 30);
        assert_eq!(
            (asked(0, 16), asked(0, 17), asked(1, 1)),
            (16 << 30, (17 << 30) + PILOT, (1 << 30) + PILOT)
        );

        let nothing = Settings::default();
        let shape = nothing.shape(&Execution { gpus, ..Execution::default() }, None);
        assert_eq!((shape.gpus, shape.cpus, shape.memory, shape.seconds), (0, 1, None, None));
        let shape = nothing.shape(&Execution { timeout: hours(2), ..Execution::default() }, None);
        assert_eq!(shape.seconds, Some(2 * 3600 + 120));
    }

    #[test]
    fn what_a_site_cannot_mean_is_told() {
        let told = |text: &str| toml::from_str::<Settings>(text).unwrap_err().to_string();
        assert!(told("look = \"soon\"").contains("e.g. `30s`"));
        assert!(told("[[profile]]\nmemory = \"much\"").contains("e.g. `512MiB`"));
        assert!(told("[[profile]]\npartitions = \"a\"").contains("`partition`"));
    }

    #[test]
    fn an_argument_that_overrides_what_stages_ask_for_is_told_with_its_place() {
        let told = |arguments: &str| {
            let text = format!("[[profile]]\nargs = [\"--account=lab\", {arguments}]");
            toml::from_str::<Settings>(&text).err().map(|error| error.to_string()).unwrap_or_default()
        };
        for (arguments, instead) in [
            ("\"--mem=4G\"", "`memory` of this profile"),
            ("\"--mem\", \"4G\"", "`resources: { memory: … }`"),
            ("\"--comment\", \"x\", \"--mem-per-cpu=2G\"", "`memory`"),
            ("\"-t10\"", "`time`"),
            ("\"--cpus-per-t=2\"", "`cpus`"),
            ("\"--gpus=1\"", "`gres`"),
            ("\"--gres=gpu:2\"", "`gres`"),
            ("\"--gres\", \"lscratch:20\"", "in one piece"),
            ("\"-Jmine\"", "itself"),
        ] {
            let told = told(arguments);
            assert!(told.contains("line 2") && told.contains(instead), "{arguments}: {told}");
        }
        for arguments in [
            "\"--exclusive\", \"--mem-bind=local\", \"--requeue\", \"-A\", \"x\", \"-C\", \"a100\"",
            "\"--gres=lscratch:20\"",
        ] {
            assert_eq!(told(arguments), "", "{arguments}");
        }
    }
}
