//! What a running stage sees of the world: its inputs, outputs, seed, threads, scratch folder, and who listens.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::{
    error::{Error, Result},
    marks::{MarkKind, Marks},
    stage::Artifact,
    task::{Event, Task},
};

/// One run of one stage, seen from inside.
pub struct Context {
    task: Task,
    listener: Box<dyn Listener>,
    told: Mutex<Told>,
}

/// What a stage tells of what it writes.
#[derive(Default)]
struct Told {
    marks: Marks,
    /// Input ports whose marks stay behind.
    named_only: BTreeSet<String>,
}

/// What a run computes on: the CPU, unless the workflow asked for GPUs and some were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU only.
    Cpu,
    /// GPUs: devices 0 to `count - 1` as CUDA shows them.
    Cuda {
        /// How many.
        count: usize,
    },
}

/// Who hears what a run tells, and may ask it to stop.
pub trait Listener: Send + Sync {
    /// Takes an event.
    fn emit(&self, event: &Event);
    /// Whether the run should stop.
    fn cancelled(&self) -> bool;
}

/// A listener that hears nothing and never cancels: for tests.
pub struct Silence;

impl Listener for Silence {
    fn emit(&self, _: &Event) {}
    fn cancelled(&self) -> bool {
        false
    }
}

impl Context {
    /// A context for a task; tests make their own with [`Silence`].
    pub fn new(task: Task, listener: Box<dyn Listener>) -> Self {
        Self { task, listener, told: Mutex::default() }
    }

    /// The artifact folders on an input port, in the order of the workflow; empty when not connected.
    pub fn inputs(&self, port: &str) -> &[PathBuf] {
        self.task.inputs.get(port).map_or(&[], Vec::as_slice)
    }

    /// The artifact folders on all input ports that are connected.
    pub fn inputs_by_port(&self) -> &BTreeMap<String, Vec<PathBuf>> {
        &self.task.inputs
    }

    /// Where all outputs go.
    pub fn outputs_by_port(&self) -> &BTreeMap<String, PathBuf> {
        &self.task.outputs
    }

    /// Reads the one artifact on an input port.
    ///
    /// # Errors
    /// If nothing is connected there or it cannot be read.
    pub fn read<A: Artifact>(&self, port: &str) -> Result<A> {
        self.read_optional(port)?.ok_or_else(|| Error::invalid(format!("input `{port}` is not connected")))
    }

    /// Reads the artifact on an input port that may be left out.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_optional<A: Artifact>(&self, port: &str) -> Result<Option<A>> {
        self.inputs(port).first().map(|path| A::read(path)).transpose()
    }

    /// Reads every artifact on an input port.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn read_all<A: Artifact>(&self, port: &str) -> Result<Vec<A>> {
        self.inputs(port).iter().map(|path| A::read(path)).collect()
    }

    /// Where an output goes: a folder that does not exist yet.
    ///
    /// # Errors
    /// If the stage type has no such output.
    pub fn output(&self, port: &str) -> Result<&Path> {
        self.task
            .outputs
            .get(port)
            .map(PathBuf::as_path)
            .ok_or_else(|| Error::invalid(format!("the stage type has no output `{port}`")))
    }

    /// Writes an output.
    ///
    /// # Errors
    /// If the stage type has no such output or it cannot be written.
    pub fn write<A: Artifact>(&self, port: &str, artifact: &A) -> Result<()> {
        artifact.write(self.output(port)?)
    }

    /// Tells that something is fitted on all of these spots, of which some may be tested on: every output says so, and what is
    /// made of it, as far as `classify/evaluate`, which calls results on sections of these spots transductive. `what` is
    /// for people, the stage type first: `visium/pca: components are fitted on all spots`.
    pub fn transductive<'a>(&self, what: &str, spots: impl IntoIterator<Item = &'a str>) {
        self.told().marks.add(MarkKind::Transductive, what, spots);
    }

    /// Tells that results on what this stage writes will be better than they would be on new tissue, as
    /// [`Context::transductive`] does.
    pub fn optimistic(&self, what: &str) {
        self.told().marks.add(MarkKind::Optimistic, what, []);
    }

    /// Tells that labels were shuffled, so that results on what this stage writes should be those of chance.
    pub fn permuted(&self, what: &str) {
        self.told().marks.add(MarkKind::Permuted, what, []);
    }

    /// Tells what a file from elsewhere says of how it came to be, which no input tells.
    pub fn marked(&self, marks: Marks) {
        self.told().marks.extend(marks);
    }

    /// Tells that of an input only names and places of spots matter to what is written: nothing that was fitted in its values
    /// gets any further, and its marks stay behind.
    pub fn named_only(&self, port: &str) {
        self.told().named_only.insert(port.to_owned());
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The marks of all inputs whose values matter, and those that this run has told.
    ///
    /// # Errors
    /// If the root of an input cannot be read.
    pub fn marks(&self) -> Result<Marks> {
        let told = self.told();
        let mut marks = told.marks.clone();
        let ports = self.task.inputs.iter().filter(|(port, _)| !told.named_only.contains(*port));
        for path in ports.flat_map(|(_, paths)| paths) {
            marks.extend(Marks::read(path)?);
        }
        Ok(marks)
    }

    /// Writes the marks into all outputs; without any, no byte is touched.
    pub(crate) fn mark_outputs(&self) -> Result<()> {
        let marks = self.marks()?;
        if marks.is_empty() {
            return Ok(());
        }
        for (port, path) in &self.task.outputs {
            if !marks.write(path)? {
                let words = marks.iter().map(|mark| mark.what).collect::<Vec<_>>().join("; ");
                tracing::warn!("output `{port}` is no folder and cannot keep what is known of it: {words}");
            }
        }
        Ok(())
    }

    /// The seed of the run.
    pub fn seed(&self) -> u64 {
        self.task.seed
    }

    /// Random numbers of one purpose, e.g. `"init"` or `"batches"`: streams of different names are independent,
    /// and the same seed and name give the same numbers on every machine. Of `"batches/3"`, the seed is that of `"batches"`.
    pub fn rng(&self, stream: &str) -> ChaCha8Rng {
        let purpose = stream.split('/').next().unwrap_or(stream);
        rng(self.seed_of(purpose), stream)
    }

    /// The seed of one stream, for a stage that draws from many of one purpose: `rng(ctx.seed_of("batches"), "view/3/spot")`.
    pub fn seed_of(&self, stream: &str) -> u64 {
        self.task.streams.get(stream).copied().unwrap_or(self.task.seed)
    }

    /// How many threads the run may use. A stage runs inside a rayon pool of that size.
    pub fn threads(&self) -> usize {
        self.task.threads
    }

    /// What the run computes on.
    pub fn device(&self) -> Device {
        match self.task.gpus {
            0 => Device::Cpu,
            count => Device::Cuda { count },
        }
    }

    /// A folder for checkpoints that outlives a killed run of the same action. It exists.
    pub fn scratch(&self) -> &Path {
        &self.task.scratch
    }

    /// Tells how far the run is.
    pub fn progress(&self, done: u64, total: u64, unit: &str) {
        self.listener.emit(&Event::Progress { done, total, unit: unit.into() });
    }

    /// Adds a point to a curve.
    pub fn metric(&self, name: &str, step: u64, value: f64) {
        let value = value.is_finite().then_some(value);
        self.listener.emit(&Event::Metric { name: name.into(), step, value });
    }

    /// Returns [`Error::Cancelled`] once the run should stop: call it in every long loop.
    ///
    /// # Errors
    /// That one.
    pub fn check_cancelled(&self) -> Result<()> {
        if self.listener.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Random numbers of one seed and purpose; see [`Context::rng`].
pub fn rng(seed: u64, stream: &str) -> ChaCha8Rng {
    // FNV-1a: spreads a handful of short stream names; no need of a cryptographic hash in every plugin.
    let name = stream.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(name);
    rng
}
