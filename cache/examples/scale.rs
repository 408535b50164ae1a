//! Where one store saturates: 1,000 students with 100,000 actions each, on 500 nodes, hour by hour through a term.
//!
//! A fluid model without random numbers: what is wanted in an hour, less what somebody has or computes already, goes through
//! the narrowest of nodes and file server; the rest waits. What an action costs is measured by `tests/bench/operations.py`;
//! rates of servers and habits of students are assumed, and each is halved in turn. `engine/README.md` quotes what this prints:
//! `cargo run --release -p restage-cache --example scale`.

use std::fmt::{self, Write};

/// Requests to a file server, as `operations.py` counts them.
#[derive(Clone, Copy, Default)]
struct Requests {
    /// `stat`, `open` of what is there and of what is not, lists.
    look: f64,
    /// `create`, `mkdir`, `link`, `rename`, `unlink`, `chmod`, `utimensat`.
    change: f64,
}

/// Measured, for an artifact of twelve files. An action that runs:
const COLD: Requests = Requests { look: 192.0, change: 61.0 };
/// One that is looked up and there:
const WARM: Requests = Requests { look: 19.0, change: 0.0 };
/// A second of one run waiting for one action: as it was, and as it is after ten seconds: the claim and its time, and the
/// record that is not there, once in two seconds.
const WAIT_THEN: Requests = Requests { look: 59.0, change: 22.0 };
const WAIT_NOW: Requests = Requests { look: 2.0, change: 0.0 };
/// A claim is touched once in 15 s.
const BEAT: f64 = 1.0 / 15.0;
/// Counted in the code: what giving an artifact of twelve files and its record to a bucket asks, of which written; a plan asks
/// once for each action that is not here.
const GIVE: [f64; 2] = [32.0, 15.0];

/// A file system, and how many requests a second its servers answer.
#[derive(Clone, Copy)]
struct Server {
    name: &'static str,
    looks: f64,
    changes: f64,
    /// Names a second of a listing.
    names: f64,
}

const NFS: Server = Server { name: "NFS server", looks: 20_000.0, changes: 5_000.0, names: 100_000.0 };
const LUSTRE: Server =
    Server { name: "Lustre, one MDT", looks: 300_000.0, changes: 20_000.0, names: 300_000.0 };

/// Who asks for what, and with what it is computed.
#[derive(Clone, Copy)]
struct Site {
    students: f64,
    /// Actions that each wants in a term.
    actions: f64,
    nodes: f64,
    /// Actions at once on a node.
    places: f64,
    /// Seconds that one takes.
    seconds: f64,
    /// How often an action is looked up again: edits, further plans.
    again: f64,
    /// Of a student's actions, those of the course's own variants, and those that all four of a group want.
    of_course: f64,
    of_group: f64,
    /// Different actions that the course's variants have; how often each is wanted falls as 1/rank.
    variants: f64,
    /// The last three days ask so many times as much as others.
    rush: f64,
}

const SITE: Site = Site {
    students: 1_000.0,
    actions: 100_000.0,
    nodes: 500.0,
    places: 8.0,
    seconds: 30.0,
    again: 10.0,
    of_course: 0.5,
    of_group: 0.3,
    variants: 200_000.0,
    rush: 4.0,
};

const GROUP: f64 = 4.0;
const DAYS: usize = 21;
const HOURS: usize = DAYS * 24;
const HOUR: f64 = 3_600.0;

/// What a term was like.
struct Term {
    /// Actions that ran.
    ran: f64,
    /// Requests per second in the worst hour.
    peak: Requests,
    /// Actions that waited at most, and hours after the deadline until the last was done.
    backlog: f64,
    late: f64,
}

impl Site {
    /// How the hours of the term share what is wanted: working hours, few at night, a rush at the end.
    fn hours(&self) -> Vec<f64> {
        let of_hour = |hour: usize| match hour % 24 {
            9..=17 => 1.0,
            18..=22 => 0.5,
            _ => 0.05,
        };
        let of_day = |day: usize| if day + 3 >= DAYS { self.rush } else { 1.0 };
        let all: Vec<f64> = (0..HOURS).map(|hour| of_hour(hour) * of_day(hour / 24)).collect();
        let total: f64 = all.iter().sum();
        all.iter().map(|part| part / total).collect()
    }

    /// How many of the course's actions are different after so many were drawn: rank by rank, in blocks of ranks.
    fn different(&self, drawn: f64) -> f64 {
        let norm = self.variants.ln() + 0.5772;
        let mut found = 0.0;
        let mut rank = 1.0;
        while rank <= self.variants {
            let last = (rank * 1.05_f64).floor().max(rank).min(self.variants);
            let middle = f64::midpoint(rank, last);
            found += (last - rank + 1.0) * -(-drawn / (middle * norm)).exp_m1();
            rank = last + 1.0;
        }
        found
    }

    /// How many of what these students want after a part of the term have to run in one store.
    fn distinct(&self, students: f64, part: f64) -> f64 {
        let wanted = students * self.actions * part;
        let own = 1.0 - self.of_course - self.of_group;
        self.different(wanted * self.of_course) + wanted * (self.of_group / GROUP + own)
    }

    /// A term in which `stores` stores lie on one server. With a remote, what one store has is fetched by others, and not
    /// computed: that is written down like a result, and is quick.
    fn term(&self, server: Server, stores: f64, remote: bool) -> Term {
        let compute = self.nodes * self.places / self.seconds;
        let beats = self.nodes * self.places * BEAT;
        let of_hours = self.hours();
        let mut term = Term { ran: 0.0, peak: Requests::default(), backlog: 0.0, late: 0.0 };
        let (mut part, mut waiting, mut hour) = (0.0, 0.0, 0);
        let (mut in_stores, mut in_all) = (0.0, 0.0);
        while (hour < HOURS || waiting > 0.5) && hour < 40 * HOURS {
            let asked = of_hours.get(hour).copied().unwrap_or(0.0);
            part += asked;
            let (stores_had, all_had) = (in_stores, in_all);
            in_stores = stores * self.distinct(self.students / stores, part);
            in_all = if remote { self.distinct(self.students, part) } else { in_stores };
            let fetched = ((in_stores - stores_had) - (in_all - all_had)).max(0.0) / HOUR;
            waiting += in_all - all_had;
            // Looking comes first, as a plan is made before anything runs; a fifth of the server is the runs' in any case.
            let planned = self.students * self.actions * asked * (1.0 + self.again) / HOUR;
            let first = Requests {
                look: planned * WARM.look + fetched * COLD.look,
                change: beats + fetched * COLD.change,
            };
            let left = Requests {
                look: (server.looks - first.look).max(server.looks / 5.0),
                change: (server.changes - first.change).max(server.changes / 5.0),
            };
            let wanted = compute.min(waiting / HOUR);
            term.peak.look = term.peak.look.max(first.look + wanted * COLD.look);
            term.peak.change = term.peak.change.max(first.change + wanted * COLD.change);
            let ran = wanted.min(left.look / COLD.look).min(left.change / COLD.change) * HOUR;
            waiting -= ran;
            term.ran += ran;
            term.backlog = term.backlog.max(waiting);
            hour += 1;
        }
        term.late = hour.saturating_sub(HOURS) as f64;
        term
    }
}

/// A number of three digits at most, as people read it.
fn short(number: f64) -> String {
    let (value, unit) = match number {
        n if n >= 1e6 => (n / 1e6, " M"),
        n if n >= 1e4 => (n / 1e3, " k"),
        n => (n, ""),
    };
    if !(0.05..10.0).contains(&value) { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") }
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

fn row(text: &mut String, cells: &[&dyn fmt::Display], widths: &[usize]) -> fmt::Result {
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let cell = cell.to_string();
        if index == 0 { write!(text, "{cell:<width$}")? } else { write!(text, "  {cell:>width$}")? }
    }
    writeln!(text)
}

/// All that is printed.
pub(crate) fn report() -> Result<String, fmt::Error> {
    let mut text = String::new();
    let site = SITE;
    let wanted = site.students * site.actions;
    writeln!(
        text,
        "{} students x {} actions in {DAYS} days, {} nodes x {} places, {} s an action",
        short(site.students),
        short(site.actions),
        site.nodes,
        site.places,
        site.seconds
    )?;
    let one = site.distinct(site.students, 1.0);
    let groups = site.students / GROUP;
    let group = site.distinct(GROUP, 1.0);
    writeln!(
        text,
        "wanted {}, different {}; in {groups} stores of groups {} each, {} in all without a remote\n",
        short(wanted),
        short(one),
        short(group),
        short(groups * group)
    )?;

    let widths = [46, 6, 7, 7, 8, 6];
    let head: [&dyn fmt::Display; 6] =
        [&"worst hour, of what servers answer", &"ran", &"looks", &"changes", &"backlog", &"late h"];
    let told = |text: &mut String, name: &str, term: &Term, server: Server| {
        let [looks, changes] =
            [term.peak.look / server.looks, term.peak.change / server.changes].map(percent);
        let (ran, backlog, late) = (short(term.ran), short(term.backlog), format!("{:.0}", term.late));
        row(text, &[&name, &ran, &looks, &changes, &backlog, &late], &widths)
    };
    row(&mut text, &head, &widths)?;
    let spread = Server { name: "4 NFS servers", looks: 4.0 * NFS.looks, changes: 4.0 * NFS.changes, ..NFS };
    let cases = [
        ("one store", NFS, 1.0, true),
        ("one store", LUSTRE, 1.0, true),
        ("a store per group", NFS, groups, false),
        ("a store per group, remote", NFS, groups, true),
        ("a store per group, remote", spread, groups, true),
        ("a store per group, remote", LUSTRE, groups, true),
    ];
    for (name, server, stores, remote) in cases {
        let name = format!("{name}; {}", server.name);
        told(&mut text, &name, &site.term(server, stores, remote), server)?;
    }

    writeln!(text, "\nthe same, of stores per group with a remote on 4 NFS servers, where")?;
    let changed: [(&str, Site, Server); 9] = [
        ("looks a second are halved", site, Server { looks: spread.looks / 2.0, ..spread }),
        ("changes a second are halved", site, Server { changes: spread.changes / 2.0, ..spread }),
        ("nodes are halved", Site { nodes: site.nodes / 2.0, ..site }, spread),
        ("actions take 15 s", Site { seconds: site.seconds / 2.0, ..site }, spread),
        ("actions are looked up again half as often", Site { again: site.again / 2.0, ..site }, spread),
        ("the rush is halved", Site { rush: site.rush / 2.0, ..site }, spread),
        ("the course's share is halved", Site { of_course: site.of_course / 2.0, ..site }, spread),
        ("nothing is shared", Site { of_course: 0.0, of_group: 0.0, ..site }, spread),
        ("the course's variants are halved", Site { variants: site.variants / 2.0, ..site }, spread),
    ];
    for (name, site, server) in changed {
        told(&mut text, name, &site.term(server, groups, true), server)?;
    }

    writeln!(
        text,
        "\nall at once: so many runs of one workflow wait for 100 actions each; requests a second"
    )?;
    let widths = [34, 10, 10, 12];
    row(&mut text, &[&"runs", &"as it was", &"now", &"of NFS, now"], &widths)?;
    for runs in [4.0, 40.0, 1_000.0] {
        let waits = (runs - 1.0) * 100.0;
        let [then, now] = [WAIT_THEN, WAIT_NOW].map(|wait| waits * (wait.look + wait.change));
        row(
            &mut text,
            &[&short(runs), &short(then), &short(now), &percent(waits * WAIT_NOW.look / NFS.looks)],
            &widths,
        )?;
    }

    writeln!(text, "\nfolders, lists and sweeps")?;
    let widths = [50, 12, 12];
    row(&mut text, &[&"", &"one store", &"per group"], &widths)?;
    let at_once = [site.nodes * site.places, site.nodes * site.places / groups];
    let both = [one, group];
    let rates = [site.nodes * site.places / site.seconds, site.nodes * site.places / site.seconds / groups];
    let mut pair = |name: &str, values: [f64; 2]| {
        row(&mut text, &[&name, &short(values[0]), &short(values[1])], &widths)
    };
    pair("artifacts", both)?;
    pair("names in each of 256 folders of artifacts", both.map(|count| count / 256.0))?;
    pair("names in `definitions`, listed by each plan", both)?;
    pair("  seconds for that, NFS", both.map(|count| count / NFS.names))?;
    pair("names in `scratch`, listed twice by each action", at_once)?;
    pair("  names a second for that, all nodes busy", [0, 1].map(|i| 2.0 * at_once[i] * rates[i]))?;
    pair("seconds of a sweep's walk, NFS", both.map(|count| count * (WARM.look + 3.0) / NFS.looks))?;
    pair("claims touched a second", at_once.map(|claims| claims * BEAT))?;

    writeln!(
        text,
        "\nremote: a bucket takes 3,500 writes and 5,500 reads a second for each prefix that it has split off"
    )?;
    let widths = [50, 12];
    let compute = site.nodes * site.places / site.seconds;
    let mut line = |name: &str, value: String| row(&mut text, &[&name, &value], &widths);
    line("writes a second, all nodes busy", short(compute * GIVE[1]))?;
    line("reads a second for that", short(compute * (GIVE[0] - GIVE[1])))?;
    let planned = |actions: f64| actions / (16.0 / 0.02);
    line("seconds of a plan that asks for 100,000 actions", short(planned(site.actions)))?;
    line("reads a second, all plan so within an hour", short(wanted / HOUR))?;
    line("prefixes that takes", short((wanted / HOUR / 5_500.0).ceil()))?;

    writeln!(text, "\nSlurm: a controller was validated with 500 jobs a second")?;
    let mut line = |name: &str, value: String| row(&mut text, &[&name, &value], &widths);
    line("jobs a second, one for each action, all nodes busy", short(compute))?;
    line("`squeue` a second, one per run in 30 s, 1,000 runs", short(site.students / 30.0))?;
    Ok(text)
}

#[cfg(not(test))]
fn main() -> fmt::Result {
    {
        print!("{}", report()?);
    }
    Ok(())
}
