//! What a run is doing at this moment, and how long it will take: what a terminal and `restage serve` show.
//!
//! [`Board`] is kept up to date event by event; [`Now`] is how it stands at a moment. It lies beside the journal as
//! `now.json` while the run goes on, as progress is in no journal.

use std::collections::{BTreeMap, HashMap};

use petgraph::graph::NodeIndex;
use serde::{Deserialize, Serialize};

use super::event::{ActionId, Event, How};
use crate::plan::Plan;

/// How long an action must have told of its progress before it is believed, in milliseconds.
const BELIEVED: u64 = 2_000;

/// How a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Now {
    /// How many actions the plan has.
    pub(crate) actions: usize,
    /// How many ran.
    pub(crate) ran: usize,
    /// How many were in the store or the remote.
    pub(crate) reused: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
    /// Since it began, in milliseconds.
    pub(crate) elapsed: u64,
    /// How long it will still take, if there is anything to tell it by.
    pub(crate) left: Option<Left>,
    /// Actions that run or wait, those that began first at first.
    pub(crate) doing: Vec<Doing>,
}

/// How long a run will still take: as long as its longest chain of actions that read each other, and not less than all that is left
/// takes those who share it: as many as ran at once at most so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Left {
    pub(crate) milliseconds: u64,
    /// It will be longer: some stages never ran, and what they will take is not in it.
    pub(crate) at_least: bool,
}

/// An action that runs, or waits for another run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Doing {
    pub(crate) action: ActionId,
    pub(crate) name: String,
    /// For how long, in milliseconds.
    pub(crate) elapsed: u64,
    /// Who computes it, if that is another run.
    pub(crate) waits_for: Option<String>,
    pub(crate) steps: Option<Steps>,
    /// The last point of its loss, or of the first curve that it told of.
    pub(crate) metric: Option<(String, f64)>,
    /// How long it will still take, in milliseconds.
    pub(crate) left: Option<u64>,
}

/// How far an action is, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Steps {
    pub(crate) done: u64,
    pub(crate) total: u64,
    pub(crate) unit: String,
}

/// Follows a run. Times are milliseconds since it began.
pub(crate) struct Board {
    names: Vec<String>,
    /// Per action its stage: what takes about as long in every variant and seed.
    stages: Vec<String>,
    /// Per stage how many of its actions may have to run and have not begun.
    pending: BTreeMap<String, usize>,
    is_pending: Vec<bool>,
    now: Now,
    /// Per action those whose outputs it reads.
    reads: Vec<Vec<ActionId>>,
    /// All actions, each after those that it reads.
    order: Vec<ActionId>,
    running: BTreeMap<ActionId, Running>,
    /// How many ran at once at most.
    lanes: u64,
    /// What stages took in this run.
    took: HashMap<String, Took>,
    /// What they took in earlier ones.
    took_before: HashMap<String, Took>,
}

/// An action that runs or waits.
struct Running {
    since: u64,
    waits_for: Option<String>,
    /// When it first told how far it is, and how far it was: what was done before is not this try's pace.
    first: Option<(u64, u64)>,
    steps: Option<Steps>,
    metric: Option<(String, f64)>,
}

/// A mean, on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Took {
    pub(crate) milliseconds: u64,
    pub(crate) times: u64,
}

impl Took {
    pub(crate) fn add(&mut self, milliseconds: u64) {
        self.milliseconds += milliseconds;
        self.times += 1;
    }

    fn mean(self) -> Option<u64> {
        self.milliseconds.checked_div(self.times)
    }
}

impl Board {
    /// Of a plan, given what stages took in earlier runs.
    pub(crate) fn new(plan: &Plan, took_before: HashMap<String, Took>) -> Self {
        let stage =
            |action: &crate::plan::Action| (action.step.stage.to_string(), !action.decision.is_known());
        let mut board = Self::of(plan.labels(), plan.graph.node_weights().map(stage).collect(), took_before);
        let order = petgraph::algo::toposort(&plan.graph, None).unwrap_or_default();
        board.order = order.into_iter().map(NodeIndex::index).collect();
        for edge in plan.graph.raw_edges() {
            board.reads[edge.target().index()].push(edge.source().index());
        }
        board
    }

    /// Of actions with these names that read nothing of each other; per action its stage, and whether it may have to run.
    fn of(names: Vec<String>, actions: Vec<(String, bool)>, took_before: HashMap<String, Took>) -> Self {
        let mut pending = BTreeMap::new();
        for (stage, _) in actions.iter().filter(|(_, may_run)| *may_run) {
            *pending.entry(stage.clone()).or_default() += 1;
        }
        let now = Now { actions: actions.len(), ..Now::default() };
        let (reads, order) = (vec![Vec::new(); actions.len()], (0..actions.len()).collect());
        let (stages, is_pending) = actions.into_iter().unzip();
        let (running, took) = (BTreeMap::new(), HashMap::new());
        Self { names, stages, pending, is_pending, now, reads, order, running, lanes: 0, took, took_before }
    }

    /// An action's name for people.
    pub(crate) fn name(&self, action: ActionId) -> &str {
        self.names.get(action).map_or("?", String::as_str)
    }

    /// Takes what happened at a time.
    pub(crate) fn take(&mut self, event: &Event, at: u64) {
        match event {
            Event::Waiting { action, holder, .. } => {
                self.begins(*action, at).waits_for = Some(holder.clone());
            }
            Event::Running { action, .. } => {
                self.begins(*action, at);
                let lanes =
                    self.running.values().filter(|running| running.waits_for.is_none()).count() as u64;
                self.lanes = self.lanes.max(lanes);
            }
            Event::Progress { action, done, total, unit } => {
                if let Some(running) = self.running.get_mut(action) {
                    let steps = Steps { done: *done, total: *total, unit: unit.clone() };
                    // Another unit is another piece of work.
                    if running
                        .steps
                        .as_ref()
                        .is_none_or(|before| before.unit != steps.unit || before.done > *done)
                    {
                        running.first = Some((at, *done));
                    }
                    running.steps = Some(steps);
                }
            }
            Event::Metric { action, name, value: Some(value), .. } => {
                if let Some(running) = self.running.get_mut(action) {
                    let is_told =
                        running.metric.as_ref().is_none_or(|(told, _)| told == name || name == "loss");
                    if is_told {
                        running.metric = Some((name.clone(), *value));
                    }
                }
            }
            Event::Done { action, how, .. } => {
                self.ends(*action);
                match how {
                    How::Ran { milliseconds } => {
                        self.now.ran += 1;
                        if let Some(stage) = self.stages.get(*action) {
                            self.took.entry(stage.clone()).or_default().add(*milliseconds);
                        }
                    }
                    How::Cached | How::Fetched => self.now.reused += 1,
                }
            }
            Event::Failed { action, .. } => {
                self.ends(*action);
                self.now.failed += 1;
            }
            Event::Skipped { action, .. } => {
                self.ends(*action);
                self.now.skipped += 1;
            }
            Event::Retrying { action, .. } => drop(self.running.remove(action)),
            Event::Started(_)
            | Event::Metric { .. }
            | Event::Log { .. }
            | Event::Notice { .. }
            | Event::Finished { .. } => {}
        }
    }

    fn begins(&mut self, action: ActionId, at: u64) -> &mut Running {
        self.not_pending(action);
        let running = Running { since: at, waits_for: None, first: None, steps: None, metric: None };
        let entry = self.running.entry(action).or_insert(running);
        entry.waits_for = None;
        entry
    }

    fn ends(&mut self, action: ActionId) {
        self.not_pending(action);
        self.running.remove(&action);
    }

    fn not_pending(&mut self, action: ActionId) {
        if let Some(is_pending) = self.is_pending.get_mut(action)
            && std::mem::take(is_pending)
            && let Some(count) = self.stages.get(action).and_then(|stage| self.pending.get_mut(stage))
        {
            *count -= 1;
        }
    }

    /// How it stands at a time.
    pub(crate) fn now(&self, at: u64) -> Now {
        let mut doing: Vec<Doing> =
            self.running.iter().map(|(id, running)| self.doing(*id, running, at)).collect();
        doing.sort_by_key(|doing| (std::cmp::Reverse(doing.elapsed), doing.action));
        let left = self.left(&doing);
        Now { elapsed: at, left, doing, ..self.now.clone() }
    }

    fn doing(&self, action: ActionId, running: &Running, at: u64) -> Doing {
        let elapsed = at.saturating_sub(running.since);
        Doing {
            action,
            name: self.name(action).to_owned(),
            elapsed,
            waits_for: running.waits_for.clone(),
            steps: running.steps.clone(),
            metric: running.metric.clone(),
            left: running.left(at),
        }
    }

    /// What a stage's action takes, as far as anything is known.
    fn takes(&self, stage: &str) -> Option<u64> {
        let mean = |took: &HashMap<String, Took>| took.get(stage).copied().and_then(Took::mean);
        mean(&self.took).or_else(|| mean(&self.took_before))
    }

    /// How long all that is left will take. What nobody knows of takes no time in it.
    fn left(&self, doing: &[Doing]) -> Option<Left> {
        let (mut work, mut known, mut at_least) = (0, false, false);
        let mut own: BTreeMap<ActionId, u64> = BTreeMap::new();
        for doing in doing {
            let takes = || Some(self.takes(self.stages.get(doing.action)?)?.saturating_sub(doing.elapsed));
            match doing.left.or_else(takes) {
                Some(left) => {
                    known = true;
                    // Another run's work is only waited for.
                    work += if doing.waits_for.is_none() { left } else { 0 };
                    own.insert(doing.action, left);
                }
                None => at_least = true,
            }
        }
        let mut takes: HashMap<&str, u64> = HashMap::new();
        for (stage, count) in self.pending.iter().filter(|(_, count)| **count > 0) {
            match self.takes(stage) {
                Some(time) => {
                    known = true;
                    work += time * *count as u64;
                    takes.insert(stage, time);
                }
                None => at_least = true,
            }
        }
        // When each would end if nothing had to wait for a place.
        let mut ends: Vec<u64> = vec![0; self.order.len()];
        for &action in &self.order {
            let time = match own.get(&action) {
                Some(left) => *left,
                None if self.is_pending[action] => {
                    takes.get(self.stages[action].as_str()).copied().unwrap_or(0)
                }
                None if self.running.contains_key(&action) => 0,
                None => continue,
            };
            let begins = self.reads[action].iter().map(|read| ends[*read]).max().unwrap_or(0);
            ends[action] = begins + time;
        }
        let milliseconds = (work / self.lanes.max(1)).max(ends.into_iter().max().unwrap_or(0));
        (known && milliseconds > 0).then_some(Left { milliseconds, at_least })
    }
}

impl Running {
    /// By its pace so far. What says that its total is the most that it may be, cannot be told.
    fn left(&self, at: u64) -> Option<u64> {
        let (steps, (since, before)) = (self.steps.as_ref()?, self.first?);
        let (spent, done) = (at.saturating_sub(since), steps.done.checked_sub(before)?);
        if done == 0 || spent < BELIEVED || steps.unit.ends_with("at most") {
            return None;
        }
        let left = u128::from(steps.total.saturating_sub(steps.done)) * u128::from(spent) / u128::from(done);
        u64::try_from(left).ok()
    }
}

#[cfg(test)]
mod tests {
    use restage_cache::{ActionKey, Digest};

    use super::*;
    use crate::plan::PastAction;

    fn board(stages: &[&str], before: &[(&str, u64)]) -> Board {
        let names = stages.iter().enumerate().map(|(id, stage)| format!("{stage} seed {id}")).collect();
        let before = before
            .iter()
            .map(|(stage, takes)| (stage.to_string(), Took { milliseconds: 3 * takes, times: 3 }));
        Board::of(names, stages.iter().map(|stage| (stage.to_string(), true)).collect(), before.collect())
    }

    fn done(action: ActionId, how: How) -> Event {
        let past = PastAction {
            stage: String::new(),
            at: BTreeMap::new(),
            uses: String::new(),
            identity: Digest::of(b""),
            keyed_params: serde_json::Value::Null,
            stream: None,
            seed: None,
            inputs: BTreeMap::new(),
        };
        let (outputs, metrics) = (BTreeMap::new(), BTreeMap::new());
        let key = ActionKey::derive("test", &[]);
        Event::Done { action, how, key, outputs, past: Box::new(past), metrics }
    }

    fn ran(action: ActionId, milliseconds: u64) -> Event {
        done(action, How::Ran { milliseconds })
    }

    fn progress(action: ActionId, done: u64, total: u64, unit: &str) -> Event {
        Event::Progress { action, done, total, unit: unit.into() }
    }

    fn metric(action: ActionId, name: &str, value: f64) -> Event {
        Event::Metric { action, name: name.into(), step: 0, value: Some(value), time: 0 }
    }

    fn running(action: ActionId) -> Event {
        Event::Running { action, time: 0 }
    }

    #[test]
    fn everything_is_counted_once() {
        let mut board = board(&["load", "train", "train", "test", "test"], &[]);
        for event in [done(0, How::Cached), running(1), running(2), ran(1, 50)] {
            board.take(&event, 10);
        }
        board.take(&Event::Failed { action: 2, message: "no".into(), milliseconds: 9 }, 60);
        board.take(&Event::Skipped { action: 3, because: 2 }, 60);
        board.take(&running(4), 70);
        let now = board.now(100);
        assert_eq!((now.actions, now.ran, now.reused, now.failed, now.skipped), (5, 1, 1, 1, 1));
        assert_eq!(
            now.doing.iter().map(|doing| (doing.action, doing.elapsed)).collect::<Vec<_>>(),
            [(4, 30)]
        );
        assert_eq!(board.name(4), "test seed 4");
    }

    #[test]
    fn an_action_that_goes_on_from_a_checkpoint_is_timed_from_there() {
        let mut board = board(&["train"], &[]);
        board.take(&running(0), 0);
        board.take(&progress(0, 40, 100, "epochs"), 1_000);
        board.take(&progress(0, 50, 100, "epochs"), 2_000);
        assert_eq!(board.now(2_000).doing[0].left, None, "a second is too short to tell");
        board.take(&progress(0, 60, 100, "epochs"), 3_000);
        // 20 epochs in 2 s, 40 to come.
        assert_eq!(board.now(3_000).doing[0].left, Some(4_000));
        board.take(&progress(0, 60, 100, "iterations at most"), 4_000);
        board.take(&progress(0, 80, 100, "iterations at most"), 9_000);
        assert_eq!(board.now(9_000).doing[0].left, None, "it may end at any time");
    }

    #[test]
    fn the_loss_is_told_rather_than_what_came_first() {
        let mut board = board(&["train"], &[]);
        board.take(&running(0), 0);
        let mut told = |name, value| {
            board.take(&metric(0, name, value), 1);
            board.now(1).doing[0].metric.clone()
        };
        assert_eq!(told("objective", 3.0), Some(("objective".into(), 3.0)));
        assert_eq!(told("norm", 9.0), Some(("objective".into(), 3.0)));
        assert_eq!(told("loss", 2.0), Some(("loss".into(), 2.0)));
        assert_eq!(told("objective", 1.0), Some(("loss".into(), 2.0)));
    }

    #[test]
    fn what_is_left_is_told_as_far_as_it_can_be() {
        let left = |board: &Board, at| board.now(at).left.map(|left| (left.milliseconds, left.at_least));
        let mut board = board(&["train", "train", "train", "train", "test"], &[]);
        assert_eq!(left(&board, 0), None, "nothing ever ran");
        board.take(&running(0), 0);
        board.take(&running(1), 0);
        assert_eq!(left(&board, 50), None);
        board.take(&ran(0, 100), 100);
        board.take(&running(2), 100);
        // One has run over what the first took, one has 100 left, one has not begun; two at a time. The test is unknown.
        assert_eq!(left(&board, 100), Some((100, true)));
        board.took_before.insert("test".into(), Took { milliseconds: 80, times: 2 });
        assert_eq!(left(&board, 100), Some((120, false)));
        // What this run took counts for more than what earlier ones did.
        board.took_before.insert("train".into(), Took { milliseconds: 9_999, times: 1 });
        assert_eq!(left(&board, 100), Some((120, false)));
        for event in [ran(1, 100), ran(2, 100), done(3, How::Cached), running(4)] {
            board.take(&event, 200);
        }
        assert_eq!(left(&board, 230), Some((10, false)));
        assert_eq!(left(&board, 300), None, "it takes longer than ever, and nobody knows");
    }

    #[test]
    fn what_reads_each_other_takes_its_time_however_many_run_at_once() {
        let left = |board: &Board, at| board.now(at).left.map(|left| (left.milliseconds, left.at_least));
        // Six short ones, of which four run at once; and one chain: prepare, train, test.
        let stages = ["load", "load", "load", "load", "load", "load", "prepare", "train", "test"];
        let mut board = board(&stages, &[("load", 100), ("prepare", 50), ("train", 1_000), ("test", 30)]);
        (board.reads[7], board.reads[8]) = (vec![6], vec![7]);
        board.order = vec![0, 6, 1, 7, 2, 8, 3, 4, 5];
        for action in [0, 1, 2, 6] {
            board.take(&running(action), 0);
        }
        // 3 x 100 + 3 x 100 + 50 + 1,000 + 30 are 1,680, a fourth of which is less than the chain.
        assert_eq!(left(&board, 0), Some((1_080, false)));
        assert_eq!(left(&board, 20), Some((1_060, false)), "as time goes by");
        for action in [0, 1, 2, 6] {
            board.take(&ran(action, 100), 100);
        }
        for action in [3, 4, 5, 7] {
            board.take(&running(action), 100);
        }
        assert_eq!(left(&board, 300), Some((830, false)), "what is done takes no more time");
        board.take(&ran(7, 40), 140);
        assert_eq!(left(&board, 150), Some((50, false)), "without it the rest is wider than it is long");
    }

    #[test]
    fn as_many_share_what_is_left_as_ran_at_once() {
        let mut board = board(&["load"; 9], &[("load", 100)]);
        for action in [0, 1, 2] {
            board.take(&running(action), 0);
        }
        for action in [0, 1, 2] {
            board.take(&ran(action, 100), 100);
        }
        board.take(&running(3), 100);
        let left = board.now(100).left.map(|left| left.milliseconds);
        assert_eq!(left, Some(200), "six of them, three at a time, though but one has begun");
    }

    #[test]
    fn who_waits_takes_no_lane_and_runs_when_its_turn_comes() {
        let mut board = board(&["train", "train"], &[("train", 1_000)]);
        board.take(&running(0), 0);
        board.take(&Event::Waiting { action: 1, holder: "anna@lab".into(), since: 0 }, 0);
        let now = board.now(500);
        assert_eq!(now.doing[1].waits_for.as_deref(), Some("anna@lab"));
        assert_eq!(now.left, Some(Left { milliseconds: 500, at_least: false }));
        board.take(&running(1), 600);
        assert_eq!(board.now(700).doing[1].waits_for, None);
    }

    #[test]
    fn now_is_read_back_as_it_was_written() {
        let mut board = board(&["train"], &[("train", 10_000)]);
        board.take(&running(0), 0);
        board.take(&progress(0, 1, 5, "epochs"), 1);
        board.take(&metric(0, "loss", 0.25), 2);
        let now = board.now(1_000);
        assert_eq!(serde_json::from_str::<Now>(&serde_json::to_string(&now).unwrap()).unwrap(), now);
    }
}
