//! Pretraining that is killed at random moments, and started again each time, ends with the same artifact as one that was not.

mod harness;

use std::time::{Duration, Instant};

use harness::{Sandbox, hosts, kill};

const KILLS: usize = 20;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.workflow_of(
        "w.yaml",
        &["stages/visium", "stages/ssl"],
        "stages:
  section: { uses: visium/simulate, with: { section: P1, seed: 7 } }
  clean: { uses: visium/qc, in: { table: section.table } }
  normalized: { uses: visium/normalize, in: { table: clean.table } }
  pretrain:
    uses: ssl/pretrain
    in: { table: normalized }
    with: { objective: gene_mask, epochs: 400, checkpoint_every: 1 }
",
    );
    sandbox
}

/// Numbers that are not the same in two runs of the test; the first one is printed.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn pretraining_that_is_killed_twenty_times_ends_as_if_it_had_not_been() {
    let undisturbed = sandbox();
    undisturbed.run(&["plan", "w.yaml"]);
    let began = Instant::now();
    assert_eq!(undisturbed.ran(&["w.yaml"]), 4);
    let whole = began.elapsed();

    let mut disturbed = sandbox();
    let seed = std::time::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_nanos() as u64 | 1);
    println!("seed {seed}, undisturbed it takes {whole:?}");
    let (mut state, mut kills) = (seed, 0);
    while kills < KILLS {
        // It goes on a little each time, at most by a twentieth of the whole.
        let moment = whole.mul_f64((random(&mut state) % 1000) as f64 / 1000.0 / KILLS as f64);
        let mut engine = disturbed.start(&["run", "w.yaml"], |engine| !hosts(engine).is_empty());
        std::thread::sleep(moment + Duration::from_millis(30));
        // Now the engine, now what it started: all of it, as each plugin has a host, and only one of them computes.
        let mut status = engine.try_wait().expect("the engine was started");
        if status.is_none() {
            kills += 1;
        }
        while status.is_none() {
            if kills % 2 == 1 {
                kill(engine.id());
            } else {
                hosts(engine.id()).into_iter().for_each(kill);
            }
            std::thread::sleep(Duration::from_millis(5));
            status = engine.try_wait().expect("the engine was started");
        }
        // How fast a machine is does not stay the same: where it was done before the last kill, another one begins.
        if status.is_some_and(|status| status.success()) {
            assert_eq!(
                disturbed.digests("w.yaml"),
                undisturbed.digests("w.yaml"),
                "seed {seed}, {kills} kills"
            );
            disturbed = sandbox();
        }
    }
    let ended = disturbed.run(&["run", "w.yaml"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    assert_eq!(disturbed.digests("w.yaml"), undisturbed.digests("w.yaml"), "seed {seed}, {kills} kills");
}
